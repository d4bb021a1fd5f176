"""TSEvent: events at moments in time, each on a channel, and its raster."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from slimgraph.errors import DataError, DtypeError, OptionError, ShapeError
from slimgraph.modules.attributes import to_tensor
from slimgraph.modules.series import TimeSeries, moments
from slimgraph.slim.linear.functions import check_number, whole_number


class TSEvent(TimeSeries):
    """Events from `t_start` up to, but not at, `t_stop`: the time of each, in any order, and its channel.

    times: `(n,)` seconds; channels: `(n,)` whole numbers >= 0, or one for all. `num_channels` is by default one more
    than the largest. Raises `ShapeError` for times and channels that do not fit, `DtypeError` for channels that are no
    whole numbers, `DataError` for events outside the range or on a channel that is not there.

    >>> ts = TSEvent([0.01, 0.25, 0.3], [0, 1, 1], t_stop=0.4)
    >>> ts.raster(dt=0.1).int().tolist()
    [[1, 0], [0, 0], [0, 1], [0, 1]]
    """

    channels: Tensor

    def __init__(
        self, times: Any, channels: Any, t_stop: float, t_start: float = 0.0, num_channels: int | None = None
    ) -> None:
        times = moments(times, "TSEvent.times")
        if t_stop is None:
            raise OptionError("TSEvent needs t_stop, a moment after its last event; got None")
        self._span(times, t_start, t_stop)
        self.channels = self._channels(channels)
        self.times, order = self.times.sort(stable=True)
        self.channels = self.channels[order]
        count = int(self.channels.max()) + 1 if len(self) else 1
        self._num_channels = count if num_channels is None else whole_number(self, "num_channels", num_channels)
        if self._num_channels < count:
            raise DataError(f"TSEvent of {self._num_channels} channels got an event on channel {count - 1}")
        for t in self.times[[0, -1]].tolist() if len(self) else ():
            if t < self.t_start - self.tolerance or t >= self.t_stop:
                raise DataError(
                    f"TSEvent goes from {self.t_start} up to, but not at, {self.t_stop} s, got an event at {t}"
                )

    def _channels(self, channels: Any) -> Tensor:
        given = to_tensor(channels, "TSEvent.channels").cpu()
        if not given.numel() and not len(self):
            return given.long().flatten()
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise DtypeError(f"TSEvent needs whole numbers for channels, got {given.dtype}")
        given = given.expand(self.times.shape) if given.ndim == 0 else given
        if given.shape != self.times.shape:
            raise ShapeError(
                f"TSEvent needs one channel for each of {len(self.times)} times, got shape {tuple(given.shape)}"
            )
        if len(given) and int(given.min()) < 0:
            raise DataError(f"TSEvent needs channels >= 0, got {int(given.min())}")
        return given.long()

    @property
    def num_channels(self) -> int:
        """How many channels there are, those without an event too."""
        return self._num_channels

    def __call__(self, t_start: float | None = None, t_stop: float | None = None) -> tuple[Tensor, Tensor]:
        """Times and channels of the events from `t_start` up to, but not at, `t_stop`."""
        first, last = self._bounds(t_start, t_stop)
        chosen = (self.times >= first - self.tolerance) & (self.times < last - self.tolerance)
        return self.times[chosen], self.channels[chosen]

    def raster(
        self,
        dt: float,
        t_start: float | None = None,
        num_timesteps: int | None = None,
        num_channels: int | None = None,
        add_events: bool = False,
    ) -> Tensor:
        """Steps of `dt` seconds by channels: whether there is an event, `(steps, channels)` of bools.

        With `add_events` how many there are, of ints. Without `num_timesteps` there are as many steps as hold all that
        is between `t_start` and t_stop. Raises `DataError` for steps outside the range.
        """
        dt = check_number(self, "dt", dt, above=0)
        first, _ = self._bounds(t_start, None)
        # An event on the border of two steps belongs to the second, however k dt was rounded.
        early = 1e-6 + self.tolerance / dt
        if num_timesteps is None:
            steps = max(math.ceil((self.t_stop - first) / dt - early), 0)
        else:
            steps = whole_number(self, "num_timesteps", num_timesteps)
            if (self.t_stop - first) / dt + early < steps:
                raise DataError(f"{self!r} ends before {steps} steps of {dt} s from {first} s on")
        count = self.num_channels if num_channels is None else whole_number(self, "num_channels", num_channels)
        if count < self.num_channels:
            raise ShapeError(f"a raster of {count} channels cannot hold the {self.num_channels} of {self!r}")
        step = ((self.times - first) / dt + early).floor().long()
        if first + steps * dt > self.t_stop - early * dt:
            # Behind the last step there is none, so what lies just before its end is in it.
            step = step.clamp(max=steps - 1)
        inside = (step >= 0) & (step < steps)
        counts = torch.zeros(steps, count, dtype=torch.long)
        places = step[inside], self.channels[inside]
        counts.index_put_(places, torch.ones_like(places[0]), accumulate=True)
        return counts if add_events else counts > 0

    @classmethod
    def from_raster(cls, raster: Any, dt: float, t_start: float = 0.0) -> Self:
        """As many events at t_start + k dt as row k of a raster `(steps, channels)` says: bools, or whole numbers >= 0.

        `t_stop` is t_start + steps dt, so `TSEvent.from_raster(raster, dt).raster(dt)` is the raster.

        >>> TSEvent.from_raster([[True, False], [False, True]], dt=0.1).times
        tensor([0.0000, 0.1000], dtype=torch.float64)
        """
        owner = cls.__new__(cls)
        dt = check_number(owner, "dt", dt, above=0)
        t_start = check_number(owner, "t_start", t_start)
        given = to_tensor(raster, "TSEvent: raster").cpu()
        if given.ndim != 2 or 0 in given.shape:
            raise ShapeError(f"TSEvent needs a raster (steps, channels), got shape {tuple(given.shape)}")
        counts = given.long()
        if bool((counts != given).any()) or bool((counts < 0).any()):
            wrong = given[(counts != given) | (counts < 0)][0].item()
            raise DataError(f"TSEvent needs a raster of bools or whole numbers >= 0, got {wrong}")
        steps, channels = counts.nonzero(as_tuple=True)
        often = counts[steps, channels]
        times = t_start + steps.repeat_interleave(often).to(torch.float64) * dt
        t_stop = t_start + len(counts) * dt
        return cls(times, channels.repeat_interleave(often), t_stop, t_start, counts.shape[1])

    def _bounds(self, t_start: float | None, t_stop: float | None) -> tuple[float, float]:
        first = self.t_start if t_start is None else check_number(self, "t_start", t_start)
        last = self.t_stop if t_stop is None else check_number(self, "t_stop", t_stop)
        if not self.contains(first, last):
            raise DataError(f"{self!r} was asked for {first} to {last} s")
        return first, last

    def __repr__(self) -> str:
        return self._says(f"{len(self)} events")
