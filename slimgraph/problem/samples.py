"""What a dry run is given: one batch of a data set or a loader, and what is wrong with the data themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from slimgraph.data import DictDataset
from slimgraph.data.dataset import refuse_non_finite
from slimgraph.errors import DataError, DtypeError, did_you_mean
from slimgraph.node import describe

# How many samples of a data set make its first batch.
BATCH = 32


def first_batch(data: Any) -> dict[str, Any]:
    """The first batch of `data`, of which every sample was looked at.

    `data` is a batch (a dict of tensors), a DictDataset, any data set or list of dicts, a DataLoader of one, or a data
    module, of which the training data are taken. Of what can only be iterated the first batch alone is looked at.

    Raises DataError for no sample at all, for samples that differ in keys or shapes, and for NaN or infinite values;
    DtypeError for what is no tensor.
    """
    size, collate = BATCH, default_collate
    if hasattr(data, "train_dataloader"):
        # A data module of Lightning, which is not imported here.
        data.setup("fit")
        data = data.train_dataloader()
    # A loader that holds one, as that of LitDataModule does.
    held = getattr(data, "loader", None)
    data = held if isinstance(held, DataLoader) else data
    if isinstance(data, DataLoader):
        # An IterableDataset has a __getitem__ that raises.
        iterated = isinstance(data.dataset, IterableDataset) or not hasattr(data.dataset, "__getitem__")
        if data.batch_sampler is None or iterated:
            # What it gives are batches already, or can be had by iterating alone.
            return first_batch(dict(next(iter(data))))
        # Not by iterating over the loader, which would draw from its sampler and start its workers.
        size, collate, data = data.batch_size or BATCH, data.collate_fn, data.dataset
    if isinstance(data, DictDataset):
        _scanned(data.datadict, f"DictDataset {data.name!r}")
        _refuse_empty(len(data), repr(data))
        rows: Any = data.__getitems__(range(min(size, len(data))))
        batch = dict(collate(rows))
        return {key: value for key, value in batch.items() if key != "name"}
    if isinstance(data, Mapping):
        return _scanned({key: value for key, value in data.items() if key != "name"}, "the batch")
    if not isinstance(data, Dataset | Sequence) or isinstance(data, str) or not hasattr(data, "__len__"):
        raise DataError(
            "check takes a batch (a dict of tensors), a data set, a list of dicts, a DataLoader or a data module; got "
            f"{describe(data)}"
        )
    return _of_samples(data, size, collate)


def _of_samples(data: Any, size: int, collate: Callable[[Any], Any]) -> dict[str, Any]:
    """The first `size` samples, after a look at all."""
    _refuse_empty(len(data), f"the {type(data).__name__}")
    first: dict[str, Any] = {}
    for place in range(len(data)):
        who, sample = f"sample {place}", data[place]
        if not isinstance(sample, Mapping):
            raise DataError(f"{who} is a dict of tensors; got {describe(sample)}")
        first = first or dict(sample)
        if odd := sorted({*sample} ^ {*first}):
            holder, other = (who, "sample 0") if odd[0] in sample else ("sample 0", who)
            hint = did_you_mean(odd[0], odd[1:])
            raise DataError(f"{holder} holds {odd[0]!r}, {other} does not.{hint}")
        for key, value in sample.items():
            if isinstance(value, Tensor) and value.shape != first[key].shape:
                raise DataError(f"{key!r} is {describe(first[key])} in sample 0, {describe(value)} in {who}")
        _scanned({key: value for key, value in sample.items() if key != "name"}, who, numbers=True)
    return dict(collate([data[place] for place in range(min(size, len(data)))]))


def _scanned(data: Mapping[str, Any], owner: str, *, numbers: bool = False) -> dict[str, Any]:
    """`data`, all finite tensors with at least one sample."""
    for key, value in data.items():
        if numbers and isinstance(value, int | float):
            value = torch.tensor(value)
        if not isinstance(value, Tensor):
            shown = f": {value!r}" if isinstance(value, str | int | float) else ""
            raise DtypeError(
                f"{owner}: {key!r} is no tensor but {type(value).__name__}{shown}; leave it out, or make it one by "
                "torch.as_tensor"
            )
        if value.ndim and not numbers:
            _refuse_empty(len(value), f"{owner}: {key!r}, {describe(value)},")
        if value.device.type != "meta":
            refuse_non_finite(value, key, owner)
    return dict(data)


def _refuse_empty(length: int, who: str) -> None:
    if not length:
        raise DataError(f"{who} holds no sample")


def samples_of(batch: Mapping[str, Tensor], keys: Iterable[str]) -> int | None:
    """How many samples the tensors under `keys` hold; one row, or a number, holds for all.

    Raises DataError where they differ.
    """
    counts = {key: len(batch[key]) for key in keys if key in batch and batch[key].ndim}
    many = {key: count for key, count in counts.items() if count > 1}
    first = next(iter(many), None)
    for key, count in many.items():
        if count != many[first or key]:
            raise DataError(
                f"the batch holds {many[first or key]} samples of {first!r}, {describe(batch[first or key])}, and "
                f"{count} of {key!r}, {describe(batch[key])}; the first axes must be equal"
            )
    return next(iter(many.values()), next(iter(counts.values()), None))
