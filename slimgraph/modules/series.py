"""Time series: `TimeSeries`, what they share, and `TSContinuous`, samples with values in between."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from slimgraph.errors import DataError, ShapeError, StrictOptions, UnknownOptionError, did_you_mean
from slimgraph.modules.attributes import to_tensor
from slimgraph.slim.linear.functions import check_number

INTERPOLATIONS = ("previous", "linear")

# How far apart two numbers may be that mean one moment: k dt is rounded in one way here and in another there.
ROUNDING = 16


class TimeSeries(metaclass=StrictOptions):
    """A series over the seconds from `t_start` to `t_stop`: `times`, float64 `(n,)`, and what there is at each.

    `tolerance`: moments that are no further apart are one, 16 roundings of the dtype in which the times were given.
    """

    times: Tensor
    t_start: float
    t_stop: float
    tolerance: float
    periodic: bool = False
    _rounding: float

    def _span(self, times: Any, t_start: Any, t_stop: Any) -> None:
        """Set times, range and tolerance. Raises for times that are not numbers in one row within the range."""
        name = type(self).__name__
        given = moments(times, f"{name}.times")
        if given.ndim != 1:
            raise ShapeError(f"{name} needs times of shape (n,), got shape {tuple(given.shape)}")
        self.times = given.to("cpu", torch.float64)
        if not bool(self.times.isfinite().all()):
            raise DataError(f"{name} needs finite times, got {self.times[~self.times.isfinite()][0].item()}")
        first, last = (self.times[0].item(), self.times[-1].item()) if len(self.times) else (0.0, 0.0)
        self.t_start = first if t_start is None else check_number(self, "t_start", t_start)
        self.t_stop = last if t_stop is None else check_number(self, "t_stop", t_stop)
        if self.t_stop < self.t_start:
            raise DataError(f"{name} needs t_stop >= t_start, got t_stop={self.t_stop} and t_start={self.t_start}")
        self._rounding = rounding(given)
        self.tolerance = self._rounding * max(abs(self.t_start), abs(self.t_stop))

    @property
    def duration(self) -> float:
        """`t_stop - t_start`, in seconds."""
        return self.t_stop - self.t_start

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """How many channels there are at each moment."""

    def contains(self, t_start: float, t_stop: float | None = None) -> bool:
        """Whether the series says something of a moment, or of all from `t_start` to `t_stop`."""
        t_stop = t_start if t_stop is None else t_stop
        return self.periodic or (self.t_start - self.tolerance <= t_start and t_stop <= self.t_stop + self.tolerance)

    def __len__(self) -> int:
        return len(self.times)

    def _says(self, what: str) -> str:
        channels = f"{self.num_channels} channel" + "s" * (self.num_channels != 1)
        return f"{type(self).__name__} from {self.t_start:g} to {self.t_stop:g} s, {what} on {channels}"


class TSContinuous(TimeSeries):
    """Samples at given moments, and values in between: called with times it gives the values there.

    times: `(n,)` seconds, rising; samples: `(n, channels)`, or `(n,)` for one channel, in their own dtype. `t_start`
    and `t_stop` are by default the first and the last time; before the first sample and behind the last one that
    sample holds. `interp`: "previous" holds each sample up to the next, "linear" goes straight to it. A `periodic`
    series repeats for ever, with the period t_stop - t_start.

    Raises `ShapeError` for times and samples that do not fit, `DataError` for times that do not rise or lie outside
    t_start to t_stop, `OptionError` for an unknown `interp`.

    >>> ts = TSContinuous([0.0, 0.5, 1.0], [[0.0], [1.0], [4.0]], t_stop=2.0)
    >>> ts([0.25, 0.5, 2.0]).flatten()
    tensor([0., 1., 4.])
    >>> ts(2.5)
    Traceback (most recent call last):
    slimgraph.errors.DataError: TSContinuous goes from 0.0 to 2.0 s, asked for t = 2.5; a periodic one repeats
    """

    def __init__(
        self,
        times: Any,
        samples: Any,
        *,
        t_start: float | None = None,
        t_stop: float | None = None,
        periodic: bool = False,
        interp: str = "previous",
    ) -> None:
        self._span(times, t_start, t_stop)
        # A tensor keeps its history: gradients go through a series.
        samples = samples.clone() if isinstance(samples, Tensor) else to_tensor(samples, "TSContinuous.samples")
        samples = samples.unsqueeze(-1) if samples.ndim == 1 else samples
        if samples.ndim != 2 or len(samples) != len(self.times):
            raise ShapeError(
                f"TSContinuous needs samples (n, channels) for its {len(self.times)} times,"
                f" got shape {tuple(samples.shape)}"
            )
        floats = samples.is_floating_point() or samples.is_complex()
        self.samples = samples if floats else samples.to(torch.get_default_dtype())
        if not len(samples):
            raise DataError("TSContinuous needs at least one sample, got none")
        if interp not in INTERPOLATIONS:
            hint = did_you_mean(str(interp), INTERPOLATIONS) or f" There are {', '.join(INTERPOLATIONS)}."
            raise UnknownOptionError(f"TSContinuous has no interp {interp!r}.{hint}")
        self.interp, self.periodic = interp, bool(periodic)
        self._check_order()

    def _check_order(self) -> None:
        falls = (self.times.diff() <= 0).nonzero()
        if len(falls):
            before, after = self.times[falls[0, 0] : falls[0, 0] + 2].tolist()
            raise DataError(f"TSContinuous needs times that rise, got {after} behind {before}")
        for t in (self.times[0].item(), self.times[-1].item()):
            if not self.t_start - self.tolerance <= t <= self.t_stop + self.tolerance:
                raise DataError(f"TSContinuous goes from {self.t_start} to {self.t_stop} s, got a sample at {t}")
        if self.periodic and not self.duration:
            raise DataError(f"TSContinuous needs t_stop > t_start to be periodic, got {self.t_stop} for both")

    @classmethod
    def from_clocked(
        cls, samples: Any, dt: float, t_start: float = 0.0, *, periodic: bool = False, interp: str = "previous"
    ) -> Self:
        """Samples at t_start + k dt; each counts for one dt, so that t_stop = t_start + n dt.

        >>> TSContinuous.from_clocked(torch.zeros(100, 2), dt=0.01)
        TSContinuous from 0 to 1 s, 100 samples on 2 channels
        """
        owner = cls.__new__(cls)
        dt = check_number(owner, "dt", dt, above=0)
        t_start = check_number(owner, "t_start", t_start)
        samples = samples if isinstance(samples, Tensor) else to_tensor(samples, "TSContinuous.samples")
        n = len(samples) if samples.ndim else 1
        times = t_start + torch.arange(n, dtype=torch.float64) * dt
        return cls(times, samples, t_start=t_start, t_stop=t_start + n * dt, periodic=periodic, interp=interp)

    @property
    def num_channels(self) -> int:
        """The size of the last axis of the samples."""
        return self.samples.shape[1]

    def __call__(self, times: Any) -> Tensor:
        """The values at `times`, of any shape: `(*shape, channels)`. Raises `DataError` outside the range."""
        given = moments(times, "TSContinuous: times")
        asked = given.to("cpu", torch.float64).flatten()
        # Two moments are compared: the coarser of both dtypes says how well.
        span = max(abs(self.t_start), abs(self.t_stop))
        tolerance = max(self._rounding, rounding(given)) * asked.abs().clamp(min=span)
        self._check_range(asked, tolerance)
        known, places = self.times, torch.arange(len(self))
        if self.periodic:
            period = self.duration
            asked = self.t_start + torch.remainder(asked - self.t_start, period)
            known = torch.cat([known[-1:] - period, known, known[:1] + period])
            places = torch.cat([places[-1:], places, places[:1]])
        last = len(known) - 1
        i = (torch.searchsorted(known, asked + tolerance, right=True) - 1).clamp(0, last)
        values = self._at(places[i])
        if self.interp == "linear":
            j = (i + 1).clamp(max=last)
            way = torch.where(j > i, known[j] - known[i], torch.inf)
            share = ((asked - known[i]) / way).clamp(0, 1)[:, None].to(values)
            values = values + share * (self._at(places[j]) - values)
        return values.unflatten(0, given.shape) if given.ndim else values[0]

    def _at(self, places: Tensor) -> Tensor:
        return self.samples[places.to(self.samples.device)]

    def _check_range(self, asked: Tensor, tolerance: Tensor) -> None:
        outside = ~asked.isfinite()
        if not self.periodic:
            outside |= (asked < self.t_start - tolerance) | (asked > self.t_stop + tolerance)
        if bool(outside.any()):
            t = asked[outside][0].item()
            raise DataError(
                f"TSContinuous goes from {self.t_start} to {self.t_stop} s, asked for t = {t}; a periodic one repeats"
            )

    def __repr__(self) -> str:
        return self._says(f"{len(self)} samples")


def moments(times: Any, label: str) -> Tensor:
    """Times as a tensor of their own dtype; numbers and lists are float64."""
    given = to_tensor(times, label)
    return given if hasattr(times, "dtype") else torch.as_tensor(times, dtype=torch.float64)


def rounding(times: Tensor) -> float:
    """How far apart, relative to their size, numbers of this dtype may be that mean one moment."""
    return ROUNDING * torch.finfo(times.dtype if times.is_floating_point() else torch.float64).eps
