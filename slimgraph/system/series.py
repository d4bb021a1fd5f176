"""Series, constants and starts: how a roll-out reads its data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, ShapeError, WiringError, did_you_mean
from slimgraph.node import describe

Data = dict[str, Tensor]


def checked(title: str, key: str, value: Any) -> Tensor:
    """`value` as it is. Raises DtypeError unless it is a tensor; `title` reads it under `key`."""
    if not isinstance(value, Tensor):
        raise DtypeError(
            f"{title} reads {key!r} as a tensor; got {type(value).__name__}. Write torch.as_tensor(data[{key!r}])"
        )
    return value


def count_steps(title: str, nstep_key: str, data: Data) -> int:
    """The length of the series under `nstep_key`."""
    if nstep_key not in data:
        raise WiringError(
            f"{title} does not know how many steps to run: give nsteps, or nstep_key a series in the data; "
            f"nstep_key is {nstep_key!r}, the data holds {sorted(data)}.{did_you_mean(nstep_key, data)}"
        )
    series = checked(title, nstep_key, data[nstep_key])
    if series.ndim not in (3, 4):
        wanted = "(batch, time, features)"
        raise ShapeError(f"{title} counts its steps on {nstep_key!r}, {wanted}; got {tuple(series.shape)}")
    if series.shape[1] == 0:
        raise ShapeError(
            f"{title} counts its steps on {nstep_key!r}, whose shape {tuple(series.shape)} has no entry in time"
        )
    return series.shape[1]


def start(title: str, key: str, value: Any) -> Tensor:
    """The start `(batch, features)` of a state, which the data give as one entry in time."""
    if checked(title, key, value).ndim != 3 or value.shape[1] != 1:
        advice = "[:, None]" if value.ndim == 2 else "[:, :1], or give what was measured another key"
        raise ShapeError(
            f"{title} produces {key!r} itself; the data give its start only, shape (batch, 1, features): "
            f"got {tuple(value.shape)}. Write data[{key!r}]{advice}"
        )
    return value[:, 0]


def check_series(title: str, key: str, value: Any, nsteps: int, deep: bool = False) -> None:
    """Raises unless it is a constant or a series of `nsteps` entries; `deep`: an entry may itself be a series."""
    if checked(title, key, value).ndim == 2:
        return
    if value.ndim != 3 and not (deep and value.ndim == 4):
        raise ShapeError(
            f"{title} reads {key!r} as (batch, time, features) or (batch, features); got {tuple(value.shape)}"
        )
    if value.shape[1] < nsteps:
        raise ShapeError(
            f"{title} runs {nsteps} steps, but {key!r} of shape {tuple(value.shape)} has {value.shape[1]} "
            f"entries in time: there is none for step {value.shape[1]}"
        )


def entries(value: Tensor, nsteps: int) -> list[Tensor]:
    """The entries in time of a series, or a constant once for each step."""
    # Indexing inside the loop would make the backward pass quadratic in the number of steps.
    return [value] * nsteps if value.ndim == 2 else list(value.unbind(1))


def entry(title: str, key: str, value: Any, wanted: str = "(batch, features)", deep: bool = False) -> Tensor:
    """The entry of one step."""
    if checked(title, key, value).ndim != wanted.count(",") + 1 and not (deep and value.ndim == 3):
        advice = f". Write data[{key!r}][:, i]" if value.ndim == wanted.count(",") + 2 else ""
        raise ShapeError(f"a step of {title} reads {key!r} as {wanted}; got {tuple(value.shape)}{advice}")
    return value


def check_batches(title: str, given: Data, states: Collection[str]) -> None:
    """Raises ShapeError where batch sizes differ; an input of batch size 1 serves every sample, a start does not."""
    if not given:
        return
    widest = next(iter(given))
    for key, value in given.items():
        # Not max(given, key=...): torch.compile cannot follow it.
        widest = key if value.shape[0] > given[widest].shape[0] else widest
    size = given[widest].shape[0]
    for key, value in given.items():
        if value.shape[0] != size and (value.shape[0] != 1 or key in states):
            raise ShapeError(
                f"{title} needs one batch size: {key!r} is {describe(value)}, {widest!r} is {describe(given[widest])}"
            )


def stacked(title: str, key: str, column: list[Tensor]) -> Tensor:
    """The entries of a column as a series."""
    try:
        return torch.stack(column, dim=1)
    except RuntimeError as error:
        shapes = list(dict.fromkeys(tuple(value.shape) for value in column))
        raise ShapeError(
            f"the entries of {key!r} in {title} have different shapes, in the order of time: {shapes}"
        ) from error
