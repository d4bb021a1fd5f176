"""Masks: samples of unequal length in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import MissingKeyError, ShapeError, did_you_mean
from slimgraph.system.series import checked


class Mask:
    """Which steps of which sample count: `(batch, time)` or `(batch, time, 1)`, 1 up to a sample's length, 0 after it.

    Raises ShapeError for another shape, for fewer entries than steps, and for a 1 that follows a 0.
    """

    def __init__(self, title: str, key: str, data: Mapping[str, Any], nsteps: int) -> None:
        self.key = key
        if key not in data:
            hint = did_you_mean(key, data)
            raise MissingKeyError(f"{title} has no mask {key!r} in the data {sorted(data)}.{hint}")
        value = checked(title, key, data[key])
        shape = tuple(value.shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 1):
            raise ShapeError(f"{title} reads its mask {key!r} as (batch, time) or (batch, time, 1); got {shape}")
        if shape[1] < nsteps:
            raise ShapeError(f"{title} runs {nsteps} steps, but its mask {key!r} of shape {shape} has {shape[1]}")
        counts = value.reshape(shape[:2]) != 0
        if not torch.compiler.is_compiling() and bool((counts[:, 1:] > counts[:, :-1]).any()):
            raise ShapeError(
                f"{title} reads its mask {key!r} as 1 up to each sample's length and 0 after it; here a 1 follows a 0"
            )
        self.counts = counts
        self.columns = list(counts.unsqueeze(-1).unbind(1))

    def held(self, series: Tensor) -> Tensor:
        """A series `(batch, time, ...)` in which each sample stays at its last entry that counts; a constant as it is.

        What stands in the padding, even NaN, is never read: a sample without steps sees the longest one's first entry.
        """
        if series.ndim == 2:
            return series
        counts = self.counts[:, : series.shape[1]]
        place = torch.arange(counts.shape[1], device=counts.device) * counts
        last = place.cummax(1).values.reshape(*counts.shape, *[1] * (series.ndim - 2))
        # Not take_along_dim, which would fix the batch size of an export.
        held = series.gather(1, last.expand(*counts.shape, *series.shape[2:]))
        if not counts.shape[0]:
            return held
        # Zeros would not do: a root or a division has no slope there, and 0 times that is NaN.
        longest = held.detach().index_select(0, counts.sum(1).argmax(0, True))
        return torch.where(counts[:, :1].reshape(-1, *[1] * (series.ndim - 1)), held, longest[:, :1])


def masked(counts: Tensor, value: Tensor, state: Tensor | None) -> Tensor:
    """`value` where the step counts, `(batch, 1)`; elsewhere the state as it was, or 0 for what is no state."""
    # Not len(), which would fix the batch size of an export.
    counts = counts.reshape(counts.shape[0], *[1] * (value.ndim - 1))
    return torch.where(counts, value, value.new_zeros(()) if state is None else state)


class MaskedWrite:
    """Appends to a column what the mask leaves of each value."""

    def __init__(self, column: Any, counts: list[Tensor], is_state: bool) -> None:
        self.column, self.counts, self.is_state, self.step = column, counts, is_state, 0

    def __call__(self, value: Tensor) -> None:
        state = self.column[self.step] if self.is_state else None
        self.column.append(masked(self.counts[self.step], value, state))
        self.step += 1
