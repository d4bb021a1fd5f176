"""TimedModule: a Module run over time series in seconds, with a clock of its own."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor, nn

from slimgraph.errors import DataError, OptionError, ShapeError, StrictOptions
from slimgraph.modules.events import TSEvent
from slimgraph.modules.module import Module
from slimgraph.modules.series import TimeSeries, TSContinuous
from slimgraph.slim.linear.functions import check_number, whole_number

# By how much of a step a series may miss the clock: k dt is rounded.
SLACK = 1e-6


class TimedModule(nn.Module, metaclass=StrictOptions):
    """`module.timed()`: the module, called with a time series, from where its clock `t` stands, in steps of `dt`.

    `dt`, in seconds, is by default that of the module; a module without one needs it. `output_num` chooses among the
    outputs of a module that gives several. `add_events` sums the events that fall into one step instead of keeping one.

    A call `(ts, duration=None, num_timesteps=None, record=False)` gives `(output, new_state, record)`: the output, and
    what was recorded for each step, as TSContinuous of `dt`. A TSContinuous is read at t + k dt, so that one of another
    dt is resampled by its own interpolation; a TSEvent becomes its raster. Without `duration` or `num_timesteps` it
    runs for as many whole steps as the series has. Then the new state is written into the module and the clock goes on,
    so two calls are one long one.

    Raises `OptionError` for a dt that is missing or not the module's, for a duration that is not whole steps, or with
    `num_timesteps` too, `DataError` for a series that does not last from t on; the clock and the state stay then.

    >>> from slimgraph.modules import Linear
    >>> timed = Linear((2, 3)).timed(dt=0.01)
    >>> output, state, record = timed(TSContinuous.from_clocked(torch.ones(100, 2), dt=0.01), duration=0.5)
    >>> output, timed.t
    (TSContinuous from 0 to 0.5 s, 50 samples on 3 channels, 0.5)
    """

    def __init__(self, module: Any, output_num: int = 0, dt: float | None = None, add_events: bool = False) -> None:
        super().__init__()
        self.module = Module.from_torch(module)
        self.output_num, self.add_events = output_num, bool(add_events)
        self._dt = _step(self, self.module, dt)
        self._steps = 0

    @property
    def dt(self) -> float:
        """Seconds a step."""
        return self._dt

    @property
    def t(self) -> float:
        """Where the clock stands, in seconds."""
        return self._steps * self._dt

    def reset_time(self) -> Self:
        """Put the clock back to 0; the state is the module's, and `reset_state()` there puts it back."""
        self._steps = 0
        return self

    def forward(
        self, ts: TimeSeries, duration: float | None = None, num_timesteps: int | None = None, record: bool = False
    ) -> tuple[TSContinuous, dict[str, Any], dict[str, Any]]:
        """Run the module over the series from t on; see the class."""
        if not isinstance(ts, TimeSeries):
            raise OptionError(
                f"{self._title} takes a TSContinuous or a TSEvent, got {type(ts).__name__};"
                " write TSContinuous.from_clocked(samples, dt)"
            )
        steps = self._count(ts, duration, num_timesteps)
        t = self.t
        module: Any = self.module
        output, new_state, recorded = module(self._read(ts, t, steps), record=record)
        answer = self._series(self._chosen(output), t, steps)
        recorded = self._wrapped(module._wrap_recorded_state(recorded, t), t, steps)
        module.set_attributes(new_state)
        self._steps += steps
        return answer, new_state, recorded

    def _count(self, ts: TimeSeries, duration: float | None, num_timesteps: int | None) -> int:
        """The number of steps to run, which the series has."""
        if duration is not None and num_timesteps is not None:
            raise OptionError(f"{self._title} takes duration or num_timesteps, got {duration} and {num_timesteps}")
        if num_timesteps is not None:
            steps = whole_number(self, "num_timesteps", num_timesteps)
        elif duration is not None:
            steps = round(check_number(self, "duration", duration, above=0) / self.dt)
            if steps < 1 or abs(steps * self.dt - duration) > SLACK * self.dt:
                raise OptionError(f"{self._title} runs whole steps of dt={self.dt} s, got a duration of {duration} s")
        elif ts.periodic:
            raise OptionError(f"{self._title} needs duration or num_timesteps for a periodic series: it never ends")
        else:
            steps = math.floor((ts.t_stop - self.t) / self.dt + SLACK)
        slack, until = SLACK * self.dt, (self._steps + max(steps, 1)) * self.dt
        if steps < 1 or not ts.contains(self.t + slack, until - slack):
            raise DataError(
                f"{self._title} needs a series from {self.t:g} to {until:g} s at least, got {ts!r};"
                " reset_time() puts the clock back to 0"
            )
        return steps

    def _read(self, ts: TimeSeries, t: float, steps: int) -> Tensor:
        """What goes into the module: `(steps, channels)`."""
        if isinstance(ts, TSEvent):
            raster = ts.raster(self.dt, max(t, ts.t_start), steps, self.module.size_in, self.add_events)
            like = next((p for p in (*self.module.parameters(), *self.module.buffers()) if p.is_floating_point()), None)
            return raster.to(torch.get_default_dtype()) if like is None else raster.to(like)
        times = (self._steps + torch.arange(steps, dtype=torch.float64)) * self.dt
        # Within the slack of the ends of the series counts as there.
        return ts(times if ts.periodic else times.clamp(ts.t_start, ts.t_stop))  # pyright: ignore

    def _chosen(self, output: Any) -> Tensor:
        """The output by its number."""
        outputs = list(output) if isinstance(output, tuple | list) else [output]
        if not 0 <= self.output_num < len(outputs):
            raise OptionError(
                f"{self._title} has output_num={self.output_num}, its module gives {len(outputs)} outputs"
            )
        return outputs[self.output_num]

    def _series(self, output: Any, t: float, steps: int) -> TSContinuous:
        series = self._as_series(output, t, steps)
        if not isinstance(series, TSContinuous):
            got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ShapeError(f"{self._title} needs an output ({steps}, channels), a row for each step; got {got}")
        return series

    def _as_series(self, value: Any, t: float, steps: int) -> Any:
        """A TSContinuous of a tensor that has a row for each step; anything else as it is."""
        if isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == (1, steps):
            value = value[0]
        if isinstance(value, Tensor) and value.ndim in (1, 2) and len(value) == steps:
            return TSContinuous.from_clocked(value, self.dt, t)
        return value

    def _wrapped(self, recorded: Any, t: float, steps: int) -> Any:
        if isinstance(recorded, dict):
            return {name: self._wrapped(value, t, steps) for name, value in recorded.items()}
        return self._as_series(recorded, t, steps)

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} of {self.module._title}"

    def extra_repr(self) -> str:
        return f"dt={self.dt:g} s, t={self.t:g} s"


def _step(timed: TimedModule, module: Module, dt: float | None) -> float:
    """The one dt of a module, what is below it, and what was given."""
    found = {}
    for name, below in module.named_modules():
        own = getattr(below, "dt", None)
        if isinstance(own, Real) or (isinstance(own, Tensor) and own.numel() == 1):
            found[name or below._get_name()] = float(own)
    names = list(found)
    for name in names[1:]:
        if found[name] != found[names[0]]:
            raise OptionError(f"{timed._title}: {names[0]} has dt={found[names[0]]}, {name} has dt={found[name]}")
    if dt is None:
        if not found:
            raise OptionError(f"{timed._title} needs a dt in seconds, since the module has none: timed(dt=...)")
        return found[names[0]]
    dt = check_number(timed, "dt", dt, above=0)
    if found and dt != found[names[0]]:
        raise OptionError(f"{timed._title} has dt={dt}, but {names[0]} in it has dt={found[names[0]]}; leave dt out")
    return dt
