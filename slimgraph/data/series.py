"""Windows of a series, and the normaliser that is stored with a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.data.dataset import Arrays, DictDataset, as_tensor
from slimgraph.errors import DataError, MissingKeyError, OptionError, ShapeError, StrictOptions, did_you_mean


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
        return _windows(as_tensor(series, "series", "windows"), "series", nsteps, stride)
    tensors = {key: as_tensor(value, key, "windows") for key, value in series.items()}
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
        """The normaliser of each `data[key]`, `(..., features)`, over all axes but the last; by default of all keys."""
        data = data.datadict if isinstance(data, DictDataset) else data
        keys = list(keys) if keys is not None else [k for k in data if k not in (shared or {}) and k != "index"]
        tensors = {}
        for key in keys:
            if key not in data:
                raise MissingKeyError(
                    f"Normalizer.fit: no {key!r}, the data holds {list(data)}.{did_you_mean(key, data)}"
                )
            tensors[key] = as_tensor(data[key], key, "Normalizer.fit")
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

    @property
    def described(self) -> dict[str, str]:
        """For each key whose statistics it has."""
        fitted = list(self.features)
        return {key: f"statistics of {fitted[number]!r}" for key, number in self._number.items()}

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
