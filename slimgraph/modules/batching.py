"""A series, or a batch of them, and the states, brought to one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import ShapeError


def auto_batch(
    data: Any, states: Sequence[Tensor], target_shapes: Sequence[Sequence[int]] | None, size_in: int | None, title: str
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`data` as `(batch, time, Nin)` and each state as `(batch, *shape)`; see `Module._auto_batch`."""
    data = torch.as_tensor(np.asarray(data)) if not isinstance(data, Tensor) else data
    if data.ndim not in (1, 2, 3):
        raise ShapeError(
            f"{title} takes a series (time,), (time, {size_in}) or (batch, time, {size_in}),"
            f" got shape {tuple(data.shape)}"
        )
    given = data.shape
    if data.ndim == 1:
        data = data.unsqueeze(-1)
    if data.ndim == 2:
        data = data.unsqueeze(0)
    if size_in is not None and data.shape[-1] != size_in:
        if data.shape[-1] != 1:
            raise ShapeError(
                f"{title} needs a last axis of size {size_in} (or 1), got {data.shape[-1]} (shape {tuple(given)})"
            )
        data = data.expand(-1, -1, size_in)
    states = tuple(torch.as_tensor(state) for state in states)
    targets = [tuple(state.shape) for state in states] if target_shapes is None else [tuple(t) for t in target_shapes]
    if len(targets) != len(states):
        raise ShapeError(f"{title} needs one target shape for each of {len(states)} states, got {len(targets)}")
    return data, tuple(
        _repeated(state, (data.shape[0], *target), title) for state, target in zip(states, targets, strict=True)
    )


def _repeated(state: Tensor, shape: tuple[int, ...], title: str) -> Tensor:
    try:
        return state.expand(shape)
    except RuntimeError:
        raise ShapeError(
            f"{title} cannot repeat a state of shape {tuple(state.shape)} to (batch, ...) = {shape}"
        ) from None
