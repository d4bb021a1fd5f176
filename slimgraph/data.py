"""Data: sets of samples under string keys, windows of a series, normalisers, and files of columns.

A batch is a dict of tensors whose first axis counts samples; a series is `(batch, time, features)`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from slimgraph.errors import DataError, MissingKeyError, OptionError, ShapeError, StrictOptions, did_you_mean

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
    return collate([dict(sample) for sample in batch], collate_fn_map=collate_fn_map)


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
        self.datadict = {key: _as_tensor(value, key, name) for key, value in datadict.items()}
        first, n = next((key, len(value)) for key, value in self.datadict.items())
        for key, value in self.datadict.items():
            if len(value) != n:
                raise DataError(
                    f"DictDataset {name!r} needs equal first axes: {first!r} holds {n} samples, {key!r} {len(value)}"
                )
            _refuse_non_finite(value, key, name)
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
        return {**default_collate(batch), "name": self.name}

    def __repr__(self) -> str:
        shapes = ", ".join(f"{k} ({', '.join(map(str, v.shape[1:]))})" for k, v in self.datadict.items())
        return f"DictDataset({self.name!r}, {len(self)} samples: {shapes})"


def windows(series: Arrays | Any, nsteps: int, stride: int = 1) -> Any:
    """Every stretch of `nsteps` steps of a series, `stride` steps apart: `(windows, nsteps, features)`.

    `series` is one array or a dict of them, each `(time,)`, `(time, features)` or `(batch, time, features)`. The
    result is a view where it can be: overlapping windows share memory, so index it, do not write into it.

    Raises ShapeError for a series that is shorter than `nsteps`, DataError for series of unequal length.

    >>> windows(torch.arange(5.0), nsteps=3, stride=2).squeeze(-1)
    tensor([[0., 1., 2.],
            [2., 3., 4.]])
    """
    for option, value in (("nsteps", nsteps), ("stride", stride)):
        if value < 1:
            raise OptionError(f"windows needs {option} >= 1, got {value}")
    if not isinstance(series, Mapping):
        return _windows(_as_tensor(series, "series", "windows"), "series", nsteps, stride)
    tensors = {key: _as_tensor(value, key, "windows") for key, value in series.items()}
    lengths = {key: value.shape[0 if value.ndim == 1 else -2] for key, value in tensors.items()}
    first = next(iter(lengths), "")
    for key, length in lengths.items():
        if length != lengths[first]:
            raise DataError(
                f"windows needs series of one length: {first!r} has {lengths[first]} steps, {key!r} {length}"
            )
    return {key: _windows(value, key, nsteps, stride) for key, value in tensors.items()}


def _windows(x: Tensor, key: str, nsteps: int, stride: int) -> Tensor:
    if x.ndim > 3:
        raise ShapeError(f"windows needs (time, features) or (batch, time, features), {key!r} is {tuple(x.shape)}")
    x = x.unsqueeze(-1) if x.ndim == 1 else x
    if x.shape[-2] < nsteps:
        raise ShapeError(f"windows of {nsteps} steps do not fit into {key!r}, which has {x.shape[-2]} steps")
    cut = x.unfold(-2, nsteps, stride).mT
    return cut if cut.ndim == 3 else cut.flatten(0, 1)


class Normalizer(nn.Module, metaclass=StrictOptions):
    """Subtracts a mean and divides by a standard deviation, per key and feature: `z = (x - mean) / std`.

    Made by `Normalizer.fit(data)`; `Normalizer({"x": 3})` with the number of features of each key is the identity,
    ready for `load_state_dict`. `shared={"x0": "x"}` lets `x0` use the statistics of `x`. The statistics are
    buffers, so that they are saved and moved with the model that holds the normaliser, and follow each tensor's
    dtype and device. Keys that were not fitted pass through; a constant feature has std 1.

    >>> scale = Normalizer.fit({"x": torch.tensor([[1.0, 5.0], [3.0, 5.0]])})
    >>> scale({"x": torch.tensor([[3.0, 5.0]])})["x"]
    tensor([[1., 0.]])
    >>> scale.inverse({"x": torch.tensor([[1.0, 0.0]])})["x"]
    tensor([[3., 5.]])
    """

    def __init__(self, features: Mapping[str, int], *, shared: Mapping[str, str] | None = None):
        super().__init__()
        self.features = dict(features)
        # A buffer's name may hold no dot, a key may: the buffers are numbered in the order of the keys.
        self._number = {key: i for i, key in enumerate(self.features)}
        for key, other in (shared or {}).items():
            if other not in self.features:
                raise MissingKeyError(
                    f"Normalizer: {key!r} shares the statistics of {other!r}, which is not fitted; fitted are"
                    f" {list(self.features)}.{did_you_mean(other, self.features)}"
                )
            self._number[key] = self._number[other]
        for i, size in enumerate(self.features.values()):
            self.register_buffer(f"mean_{i}", torch.zeros(size))
            self.register_buffer(f"std_{i}", torch.ones(size))

    @classmethod
    def fit(cls, data: Arrays, keys: Iterable[str] | None = None, *, shared: Mapping[str, str] | None = None):
        """The normaliser of each `data[key]` `(..., features)`, over all axes but the last; `keys` are all by default."""
        data = data.datadict if isinstance(data, DictDataset) else data
        keys = list(keys) if keys is not None else [k for k in data if k not in (shared or {}) and k != "index"]
        tensors = {}
        for key in keys:
            if key not in data:
                raise MissingKeyError(
                    f"Normalizer.fit: no {key!r}, the data holds {list(data)}.{did_you_mean(key, data)}"
                )
            tensors[key] = _as_tensor(data[key], key, "Normalizer.fit")
        self = cls({key: 1 if x.ndim == 1 else x.shape[-1] for key, x in tensors.items()}, shared=shared)
        for i, (key, x) in enumerate(tensors.items()):
            rows = x.reshape(-1, self.features[key]).double()
            mean, std = rows.mean(0), rows.std(0, correction=0)
            # What is left of a constant column is rounding: it must not be blown up to a signal.
            std = torch.where(std <= 1e-7 * mean.abs(), torch.ones_like(std), std)
            dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
            self.register_buffer(f"mean_{i}", mean.to(dtype))
            self.register_buffer(f"std_{i}", std.to(dtype))
        return self

    def forward(self, data: Arrays) -> dict[str, Any]:
        """A new dict in which every fitted key is normalised."""
        return {key: self._apply_to(key, x, inverse=False) for key, x in data.items()}

    def inverse(self, data: Arrays) -> dict[str, Any]:
        """A new dict in which every fitted key is back in its own units: `x = z * std + mean`."""
        return {key: self._apply_to(key, z, inverse=True) for key, z in data.items()}

    def _apply_to(self, key: str, x: Any, *, inverse: bool) -> Any:
        if key not in self._number:
            return x
        i = self._number[key]
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        mean, std = self.get_buffer(f"mean_{i}").to(x), self.get_buffer(f"std_{i}").to(x)
        if mean.numel() > 1 and (x.ndim == 0 or x.shape[-1] != mean.numel()):
            raise ShapeError(f"Normalizer: {key!r} was fitted with {mean.numel()} features, got {tuple(x.shape)}")
        return x * std + mean if inverse else (x - mean) / std

    def extra_repr(self) -> str:
        return ", ".join(self._number)


def read_csv(
    path: str | Path, columns: Sequence[str] | None = None, *, dtype: torch.dtype | None = None, delimiter: str = ","
) -> dict[str, Tensor]:
    """The columns of a file with a header line, each as a tensor `(rows,)`; all named columns by default.

    Columns that were not asked for may hold anything, and so may columns without a name and blank lines. Raises
    DataError with the path for a file that is not there, with the nearest name for a wrong column, with the column,
    the row (as in the tensor, from 0) and the line for a cell that is empty, no number, NaN or infinite.
    """
    path = _existing(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(lines, [])]
        # A row of a file may span lines inside quotes, so the number of the line is the reader's, not the row's.
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    named = [name for name in header if name]
    result = {}
    for column in named if columns is None else columns:
        if column not in named:
            raise DataError(f"{path} has no column {column!r}, it has {named}.{did_you_mean(column, named)}")
        at = header.index(column)
        cells = [_number(row[at] if at < len(row) else "", path, column, r, line) for r, (line, row) in enumerate(rows)]
        result[column] = torch.tensor(cells, dtype=dtype or torch.get_default_dtype())
    return result


def _number(cell: str, path: Path, column: str, row: int, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = None
    if value is None or not np.isfinite(value):
        what = "an empty cell" if not cell.strip() else f"{cell!r}, which is no finite number,"
        raise DataError(f"{path}: column {column!r} holds {what} in row {row} (line {line})")
    return value


def read_npz(path: str | Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arrays of a NumPy archive as tensors; raises DataError as `read_csv` does."""
    with np.load(_existing(path), allow_pickle=False) as archive:
        return _selected(archive, list(archive.files), keys, path)


def read_mat(path: str | Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arrays of a MATLAB file (up to version 7) as tensors; needs scipy; raises DataError as `read_csv` does."""
    from scipy.io import loadmat

    content = loadmat(_existing(path))
    return _selected(content, [key for key in content if not key.startswith("__")], keys, path)


def _selected(content: Any, there: list[str], keys: Sequence[str] | None, path: str | Path) -> dict[str, Tensor]:
    for key in keys or ():
        if key not in there:
            raise DataError(f"{path} holds no {key!r}, it holds {there}.{did_you_mean(key, there)}")
    return {key: _as_tensor(content[key], key, str(path)) for key in (there if keys is None else keys)}


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no file {path}.{did_you_mean(path.name, beside)}")
    return path


def _as_tensor(value: Any, key: str, owner: str) -> Tensor:
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{owner}: {key!r} cannot be made a tensor from {type(value).__name__}: {error}") from error
    if tensor.ndim == 0:
        raise DataError(f"{owner}: {key!r} is a single number; it needs a first axis that counts samples or steps")
    return tensor


def _refuse_non_finite(value: Tensor, key: str, owner: str) -> None:
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
    raise DataError(f"DictDataset {owner!r}: {key!r} holds {kind} in {place}")
