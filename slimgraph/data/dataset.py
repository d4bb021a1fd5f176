"""DictDataset: samples under string keys, handed to a DataLoader one slice a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from slimgraph.errors import DataError, StrictOptions

Arrays: TypeAlias = Mapping[str, Any]


class Sample(dict):
    """One sample of a DictDataset: a dict that torch's collate knows, so that a whole batch passes it in one piece."""


class Rows(Sequence[Any]):
    """The samples of one batch: a sequence of `Sample`s, and `whole`, the dict of tensors that they are rows of."""

    def __init__(self, whole: dict[str, Tensor], length: int):
        self.whole = whole
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        if not -self.length <= i < self.length:
            raise IndexError(i)
        return Sample({key: value[i] for key, value in self.whole.items()})


def _collate_samples(batch, *, collate_fn_map=None) -> dict[str, Tensor]:
    if isinstance(batch, Rows):
        return batch.whole
    result: Any = collate([dict(sample) for sample in batch], collate_fn_map=collate_fn_map)
    return result


# torch documents this table as the way to teach its default collate a new type.
default_collate_fn_map[Sample] = _collate_samples


class DictDataset(Dataset, metaclass=StrictOptions):
    """Samples under keys: each tensor or array of `datadict` is `(samples, ...)`.

    `index=True` adds the key `index`, the number of each sample, for losses that keep something per sample. A
    DataLoader gets each batch as one slice, with torch's own collate and with `collate_fn`; the latter also adds
    `name`, which makes a Problem prefix its outputs.

    Raises DataError for unequal first axes and for NaN or infinite values, with the key, the row and the column.

    >>> data = DictDataset({"x": torch.arange(6.0).reshape(3, 2), "u": torch.ones(3, 1)})
    >>> data
    DictDataset('train', 3 samples: x (2), u (1))
    >>> batch = next(iter(torch.utils.data.DataLoader(data, batch_size=2)))
    >>> batch["x"].shape
    torch.Size([2, 2])
    """

    def __init__(self, datadict: Arrays, name: str = "train", *, index: bool = False):
        if not datadict:
            raise DataError(f"DictDataset {name!r} holds no key; give it a dict of tensors")
        self.name = name
        self.datadict = {key: as_tensor(value, key, name).detach() for key, value in datadict.items()}
        first, n = next((key, len(value)) for key, value in self.datadict.items())
        for key, value in self.datadict.items():
            if len(value) != n:
                raise DataError(
                    f"DictDataset {name!r} needs equal first axes: {first!r} holds {n} samples, {key!r} {len(value)}"
                )
            refuse_non_finite(value, key, f"DictDataset {name!r}")
        self.length = n
        if index:
            if "index" in self.datadict:
                raise DataError(f"DictDataset {name!r} already holds the key 'index'; leave out index=True")
            self.datadict["index"] = torch.arange(n)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Sample:
        return Sample({key: value[i] for key, value in self.datadict.items()})

    def __getitems__(self, indices: Sequence[int] | Tensor) -> Rows:
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Rows({key: value[index] for key, value in self.datadict.items()}, len(index))

    def collate_fn(self, batch: Rows | Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """The batch as a dict of tensors `(batch, ...)` with the set's `name` under 'name'."""
        whole: dict[str, Any] = collate(batch, collate_fn_map=default_collate_fn_map)
        return {**whole, "name": self.name}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k} ({', '.join(map(str, v.shape[1:]))})" for k, v in self.datadict.items())
        return f"DictDataset({self.name!r}, {len(self)} samples: {shapes})"


def as_tensor(value: Any, key: str, owner: str) -> Tensor:
    """`value` as a tensor with at least one axis. Raises DataError with the name of its owner and the key."""
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{owner}: {key!r} cannot be made a tensor from {type(value).__name__}: {error}") from error
    if tensor.ndim == 0:
        raise DataError(f"{owner}: {key!r} is a single number; it needs a first axis that counts samples or steps")
    return tensor


def refuse_non_finite(value: Tensor, key: str, owner: str) -> None:
    """Raises DataError for a NaN or an infinity in `value`, with its owner, the key, the row and the column."""
    if not (value.is_floating_point() or value.is_complex()) or torch.isfinite(value).all():
        return
    where = (~torch.isfinite(value)).nonzero()[0].tolist()
    axes = (
        ["row"]
        if len(where) == 1
        else ["row", *(["step"] if len(where) == 3 else [f"axis {i}" for i in range(1, len(where) - 1)]), "column"]
    )
    place = ", ".join(f"{axis} {i}" for axis, i in zip(axes, where, strict=True))
    kind = "NaN" if torch.isnan(value[tuple(where)]) else "an infinite value"
    raise DataError(f"{owner}: {key!r} holds {kind} in {place}")
