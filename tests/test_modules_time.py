"""Time series and modules on a clock: round trips, numpy's and scipy's interpolation, a run cut in two."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from slimgraph.errors import DataError, DtypeError, OptionError, ShapeError, UnknownOptionError
from slimgraph.modules import Linear, Module, Rate, Sequential, State, TimedModule, TimeSeries, TSContinuous, TSEvent

DTS = [0.1, 1e-3, 1 / 3, 0.7]


def samples(n, channels=3):
    return torch.randn(n, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def told(error, words, make):
    with pytest.raises(error) as info:
        make()
    assert all(word in str(info.value) for word in words), info.value


# ---- samples


@pytest.mark.parametrize("t_start", [0.0, -3.3, 1e4])
@pytest.mark.parametrize("dt", DTS)
def test_clocked_samples_come_back_however_their_times_are_rounded(dt, t_start):
    x = samples(500)
    ts = TSContinuous.from_clocked(x, dt, t_start)
    assert isinstance(ts, TimeSeries) and len(ts) == 500 and ts.num_channels == 3
    assert ts.t_stop == t_start + 500 * dt and ts.duration == pytest.approx(500 * dt)
    k = np.arange(500)
    for times in (
        ts.times,
        t_start + k * dt,
        np.linspace(t_start, t_start + 499 * dt, 500),
        ts.times - 4e-16 * abs(t_start),
    ):
        assert torch.equal(ts(times), x)
    assert torch.equal(ts(t_start + (k + 0.99) * dt), x) and torch.equal(ts(ts.t_stop), x[-1])


def test_times_in_single_precision_are_compared_as_such():
    ts = TSContinuous(torch.arange(100) * 0.1, torch.arange(100.0), t_stop=10.0)
    assert torch.equal(ts(np.arange(100) * 0.1)[:, 0], torch.arange(100.0))
    assert torch.equal(
        TSContinuous.from_clocked(np.arange(100.0), 0.1)(torch.arange(100) * 0.1)[:, 0].float(), torch.arange(100.0)
    )
    # A list of numbers is in double precision, as Python has it.
    assert TSContinuous([0.1, 0.2], [1, 2]).times.tolist() == [0.1, 0.2]


@pytest.mark.parametrize("interp", ["previous", "linear"])
def test_values_in_between_are_scipys(interp):
    scipy_interpolate = pytest.importorskip("scipy.interpolate")
    draw = np.random.default_rng(0)
    times, x = np.sort(draw.uniform(0, 5, 40)), draw.standard_normal((40, 2))
    asked = np.r_[draw.uniform(times[0], times[-1], 300), times]
    ts = TSContinuous(times, x, interp=interp)
    wanted = scipy_interpolate.interp1d(times, x, interp, axis=0)(asked)
    np.testing.assert_allclose(ts(asked), wanted, rtol=1e-12, atol=1e-12)
    assert ts(asked.reshape(2, -1, 2)).shape == (2, 85, 2, 2) and ts(float(times[3])).shape == (2,)


@pytest.mark.parametrize("interp", ["previous", "linear"])
def test_a_periodic_series_is_three_of_it_in_a_row(interp):
    times, x = np.array([0.2, 0.5, 0.9]), samples(3)
    ts = TSContinuous(times, x, t_start=0.1, t_stop=1.1, periodic=True, interp=interp)
    row = TSContinuous(np.r_[times - 1, times, times + 1], x.repeat(3, 1), interp=interp)
    asked = np.linspace(0.1, 1.0999, 200)
    for period in (-7, 0, 1, 40):
        torch.testing.assert_close(ts(asked + period), row(asked), rtol=1e-10, atol=1e-10)
    assert torch.equal(TSContinuous.from_clocked(x, 0.1, periodic=True)(np.arange(300) * 0.1), x.repeat(100, 1))


def test_outside_its_samples_but_within_its_range_the_nearest_one_holds():
    for interp in ("previous", "linear"):
        ts = TSContinuous([1.0, 2.0], [3.0, 5.0], t_start=0.0, t_stop=4.0, interp=interp)
        assert ts([0.0, 0.9, 2.0, 4.0]).flatten().tolist() == [3, 3, 5, 5]


def test_dtypes_stay_data_is_copied_and_gradients_go_through():
    given = samples(4).half()
    ts = TSContinuous.from_clocked(given, 1.0)
    assert ts.samples.dtype == ts(1.5).dtype == torch.half
    given.zero_()
    assert ts.samples.abs().sum() > 0
    assert TSContinuous([0, 1], [1, 2]).samples.dtype == torch.float32
    x = samples(4).requires_grad_()
    TSContinuous.from_clocked(x, 1.0, interp="linear")([0.25, 3.0]).sum().backward()
    assert x.grad[:, 0].tolist() == [0.75, 0.25, 0, 1]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TSContinuous([0, 1], torch.ones(3, 2)), ShapeError, ["samples (n, channels)", "2 times", "(3, 2)"]),
        (lambda: TSContinuous([[0, 1]], [1, 2]), ShapeError, ["times of shape (n,)", "(1, 2)"]),
        (lambda: TSContinuous([0, 2, 1], [1, 2, 3]), DataError, ["times that rise", "1.0 behind 2.0"]),
        (lambda: TSContinuous([0, 1, 1], [1, 2, 3]), DataError, ["times that rise", "1.0 behind 1.0"]),
        (lambda: TSContinuous([0, float("nan")], [1, 2]), DataError, ["finite times", "nan"]),
        (lambda: TSContinuous([0, 1], [1, 2], t_stop=0.5), DataError, ["0.0 to 0.5", "sample at 1.0"]),
        (lambda: TSContinuous([0, 1], [1, 2], t_start=0.5), DataError, ["0.5 to 1.0", "sample at 0.0"]),
        (lambda: TSContinuous([0], [1], t_stop=-1), DataError, ["t_stop=-1.0", "t_start=0.0"]),
        (lambda: TSContinuous([0], [1], periodic=True), DataError, ["periodic", "0.0 for both"]),
        (lambda: TSContinuous([], []), DataError, ["at least one sample"]),
        (lambda: TSContinuous([0], [1], interp="linaer"), UnknownOptionError, ["'linaer'", "Did you mean 'linear'?"]),
        (lambda: TSContinuous([0], [1], stop=3), UnknownOptionError, ["'stop'", "Did you mean 't_stop'?"]),
        (lambda: TSContinuous(["a"], [1]), DtypeError, ["TSContinuous.times", "'a'"]),
        (lambda: TSContinuous.from_clocked([1.0], 0), OptionError, ["TSContinuous", "dt > 0", "dt=0"]),
        (lambda: TSContinuous.from_clocked(1.0, 0.1), ShapeError, ["samples (n, channels)", "got shape ()"]),
        (lambda: TSContinuous.from_clocked([1.0], 0.1)(0.2), DataError, ["0.0 to 0.1 s", "t = 0.2", "periodic"]),
        (lambda: TSContinuous.from_clocked([1.0], 0.1)([0, -0.5]), DataError, ["0.0 to 0.1 s", "t = -0.5"]),
        (lambda: TSContinuous.from_clocked([1.0], 0.1, periodic=True)(float("nan")), DataError, ["t = nan"]),
    ],
    ids=range(18),
)
def test_a_wrong_series_is_told_with_both_values(make, error, words):
    told(error, words, make)


# ---- events


@pytest.mark.parametrize("t_start", [0.0, -3.3, 1e4])
@pytest.mark.parametrize("dt", DTS)
def test_a_raster_comes_back_however_its_times_are_rounded(dt, t_start):
    counts = torch.randint(0, 3, (400, 5), generator=torch.Generator().manual_seed(0))
    for raster in (counts, counts > 0):
        ts = TSEvent.from_raster(raster, dt, t_start)
        assert ts.t_stop == t_start + 400 * dt and len(ts) == raster.sum() and ts.num_channels == 5
        assert torch.equal(ts.raster(dt, add_events=True), raster.long()) and torch.equal(ts.raster(dt), raster > 0)
    assert torch.equal(ts.raster(dt, t_start + 100 * dt, 50), raster[100:150])
    # Coarser steps hold the events of several, and an empty end is no shorter.
    assert torch.equal(ts.raster(4 * dt, add_events=True), raster.long().reshape(100, 4, 5).sum(1))
    empty = TSEvent([], [], 3.0, num_channels=2)
    assert torch.equal(empty.raster(0.1), torch.zeros(30, 2, dtype=torch.bool)) and len(empty) == 0


def test_a_raster_is_numpys_histogram():
    draw = np.random.default_rng(0)
    times, channels = draw.uniform(1, 3, 500), draw.integers(0, 4, 500)
    ts = TSEvent(times, channels, 3.0, t_start=1.0)
    wanted = np.histogram2d(times, channels, [np.linspace(1, 3, 41), np.arange(5)])[0]
    assert np.array_equal(ts.raster(0.05, add_events=True), wanted)
    assert np.array_equal(ts.times, np.sort(times)) and np.array_equal(ts.channels, channels[np.argsort(times)])
    chosen, on = ts(1.5, 2.0)
    assert len(chosen) == wanted[10:20].sum() and chosen.min() >= 1.5 and chosen.max() < 2.0 and len(on) == len(chosen)
    # Just before the end is in the last step.
    assert TSEvent([1.0 - 1e-9], 0, 1.0).raster(0.1)[-1].item()
    assert TSEvent([0.1, 0.2], 3, 1.0).channels.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: TSEvent([0.1], [0, 1], 1.0), ShapeError, ["each of 1 times", "(2,)"]),
        (lambda: TSEvent([0.1], [0.5], 1.0), DtypeError, ["whole numbers for channels", "torch.float32"]),
        (lambda: TSEvent([0.1], [-1], 1.0), DataError, ["channels >= 0", "-1"]),
        (lambda: TSEvent([0.1], [3], 1.0, num_channels=3), DataError, ["3 channels", "channel 3"]),
        (lambda: TSEvent([1.0], [0], 1.0), DataError, ["not at, 1.0 s", "event at 1.0"]),
        (lambda: TSEvent([0.5], [0], 2.0, 1.0), DataError, ["from 1.0", "event at 0.5"]),
        (lambda: TSEvent([0.5], [0], None), OptionError, ["TSEvent needs t_stop", "None"]),
        (lambda: TSEvent([0.5], [0]), TypeError, ["t_stop"]),
        (lambda: TSEvent([0.5], [0], 1.0).raster(0), OptionError, ["dt > 0", "dt=0"]),
        (
            lambda: TSEvent([0.5], [0], 1.0).raster(0.1, 0.5, 6),
            DataError,
            ["from 0 to 1 s", "6 steps of 0.1 s from 0.5"],
        ),
        (lambda: TSEvent([0.5], [0], 1.0).raster(0.1, -0.5), DataError, ["from 0 to 1 s", "-0.5 to 1.0"]),
        (lambda: TSEvent([0.5], [2], 1.0).raster(0.1, num_channels=2), ShapeError, ["2 channels", "3 channels"]),
        (lambda: TSEvent.from_raster([[0.5]], 0.1), DataError, ["whole numbers >= 0", "0.5"]),
        (lambda: TSEvent.from_raster([[-1]], 0.1), DataError, ["whole numbers >= 0", "-1"]),
        (lambda: TSEvent.from_raster([1, 0], 0.1), ShapeError, ["(steps, channels)", "(2,)"]),
    ],
    ids=range(15),
)
def test_wrong_events_are_told_with_both_values(make, error, words):
    told(error, words, make)


# ---- a module on a clock


def rates(dt=0.01):
    torch.manual_seed(0)
    return Sequential(Linear((3, 4)), Rate(4, has_rec=True, activation_func="tanh", dt=dt), Linear((4, 2))).double()


def test_a_timed_module_is_the_module_over_its_samples():
    net, x = rates(), samples(100)
    timed = net.timed()
    assert isinstance(timed, TimedModule) and (timed.dt, timed.t) == (0.01, 0.0)
    wanted, end, record = net(x, record=True)
    output, new_state, recorded = timed(TSContinuous.from_clocked(x, 0.01), record=True)
    assert isinstance(output, TSContinuous) and (output.t_start, output.t_stop) == (0.0, 1.0)
    assert torch.equal(output.samples, wanted) and torch.equal(new_state["1_Rate"]["x"], end["1_Rate"]["x"])
    assert torch.equal(net[1].x, end["1_Rate"]["x"])
    states = recorded["1_Rate"]["x"]
    assert isinstance(states, TSContinuous) and torch.equal(states(output.times), record["1_Rate"]["x"])
    assert torch.equal(recorded["0_Linear_output"].samples, record["0_Linear_output"])


@pytest.mark.parametrize("cut", [1, 37, 99])
def test_a_run_cut_in_two_is_one_run_and_the_clock_goes_on(cut):
    net, ts = rates(), TSContinuous.from_clocked(samples(100), 0.01)
    whole = copy.deepcopy(net).timed()(ts)[0]
    timed = net.timed()
    one = timed(ts, num_timesteps=cut)[0]
    assert timed.t == one.t_stop == cut * 0.01
    two, state, _ = timed(ts)
    assert two.t_start == cut * 0.01 and two.t_stop == 1.0 == timed.t
    assert torch.equal(torch.cat([one.samples, two.samples]), whole.samples)
    # The second half may be a series of its own, and to write the state once more changes nothing.
    net.reset_state()
    timed.reset_time()
    timed(TSContinuous.from_clocked(samples(100)[:cut], 0.01))
    net.set_attributes(timed(TSContinuous.from_clocked(samples(100)[cut:], 0.01, t_start=timed.t))[1])
    assert torch.equal(net[1].x, state["1_Rate"]["x"])


def test_a_stateless_module_starts_anew_with_its_clock():
    timed, ts = Linear((3, 2)).double().timed(dt=0.1), TSContinuous.from_clocked(samples(20), 0.1)
    first = timed(ts)[0].samples
    assert timed.t == 2.0 and timed.reset_time() is timed and timed.t == 0.0
    assert torch.equal(timed(ts)[0].samples, first)


def test_a_clock_that_runs_long_keeps_its_steps():
    timed = Linear((1, 1)).timed(dt=0.1)
    ts = TSContinuous.from_clocked(torch.arange(7.0), 0.1, periodic=True)
    timed.module.weight = torch.ones(1, 1)
    parts = [timed(ts, duration=0.3)[0].samples for _ in range(1000)]
    assert timed.t == 3000 * 0.1 and torch.equal(torch.cat(parts)[:, 0].long(), torch.arange(3000) % 7)


@pytest.mark.parametrize("interp", ["previous", "linear"])
@pytest.mark.parametrize("dt", [0.004, 0.01, 0.03])
def test_an_input_of_another_dt_is_read_at_the_steps_of_the_clock(dt, interp):
    layer = Linear((3, 2)).double()
    ts = TSContinuous.from_clocked(samples(100), 0.01, interp=interp)
    output = layer.timed(dt=dt)(ts)[0]
    times = np.arange(int(1 / dt + 1e-9)) * dt
    assert len(output) == len(times) and output.t_stop == pytest.approx(len(times) * dt)
    torch.testing.assert_close(output.samples, layer(ts(times))[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("add_events", [False, True])
def test_events_arrive_as_their_raster_in_the_modules_dtype(add_events):
    ts = TSEvent([0.01, 0.02, 0.31, 0.39], [0, 0, 1, 1], t_stop=0.5)
    layer = Linear((3, 3), weight=torch.eye(3).double())
    output = layer.timed(dt=0.1, add_events=add_events)(ts)[0]
    assert torch.equal(output.samples, ts.raster(0.1, num_channels=3, add_events=add_events).double())
    assert output.samples.max() == (2 if add_events else 1) and output.samples.dtype == torch.float64


def test_a_run_of_events_cut_in_two_is_one_run():
    draw = np.random.default_rng(0)
    ts = TSEvent(draw.uniform(0, 1, 300), draw.integers(0, 3, 300), 1.0)
    net = rates()
    whole = copy.deepcopy(net).timed(add_events=True)(ts)[0]
    timed = net.timed(add_events=True)
    parts = [timed(ts, duration=seconds)[0].samples for seconds in (0.3, 0.41, 0.29)]
    assert torch.equal(torch.cat(parts), whole.samples)


def test_the_wrapped_module_gets_nothing():
    net = rates()
    before = set(vars(net)), set(vars(net[1])), net.name, repr(net), list(net.state_dict())
    timed = net.timed()
    timed(TSContinuous.from_clocked(samples(10), 0.01))
    assert (set(vars(net)), set(vars(net[1])), net.name, repr(net), list(net.state_dict())) == before
    assert "dt=0.01 s, t=0.1 s" in repr(timed)


def test_gradients_go_through_and_the_state_that_is_kept_has_no_history():
    net = rates()
    timed, x = net.timed(), samples(10).requires_grad_()
    timed(TSContinuous.from_clocked(x, 0.01))[0].samples.sum().backward()
    assert x.grad.abs().sum() > 0 and net[1].x.grad_fn is None
    timed.reset_time()
    timed(TSContinuous.from_clocked(x, 0.01))[0].samples.sum().backward()


class Both(Module):
    """Gives what comes in and its double, or a broken output."""

    def __init__(self, broken=False):
        super().__init__((2, 2))
        self.count, self.broken = State(torch.zeros(())), broken

    def evolve(self, input_data, record=False):
        output = input_data[0] if self.broken else (input_data, 2 * input_data)
        return output, {"count": self.count + 1}, {}


def test_one_of_several_outputs_is_chosen():
    ts = TSContinuous.from_clocked(samples(5, 2), 0.1)
    assert torch.equal(Both().timed(output_num=1, dt=0.1)(ts)[0].samples, 2 * ts.samples)
    assert torch.equal(TimedModule(nn.Tanh(), dt=0.1)(ts)[0].samples, ts.samples.tanh())


def two_clocks():
    return Sequential(Rate(2, dt=0.01), Rate(2, dt=0.02))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Linear((2, 2)).timed(), ["TimedModule of Linear needs a dt", "timed(dt=...)"]),
        (lambda: Linear((2, 2)).timed(dt=-1), ["dt > 0", "dt=-1"]),
        (lambda: Rate(2, dt=0.01).timed(dt=0.02), ["dt=0.02", "Rate in it has dt=0.01"]),
        (lambda: two_clocks().timed(), ["0_Rate has dt=0.01", "1_Rate has dt=0.02"]),
        (lambda: Linear((2, 2)).timed(outputnum=1), ["outputnum"]),
    ],
    ids=range(5),
)
def test_a_wrong_clock_is_told_with_both_values(make, words):
    told((OptionError, TypeError), words, make)


CLOCKED = TSContinuous.from_clocked(samples(10, 2), 0.1)


@pytest.mark.parametrize(
    ("module", "call", "error", "words"),
    [
        (
            Both,
            lambda m: m(CLOCKED, duration=1.0, num_timesteps=10),
            OptionError,
            ["duration or num_timesteps", "1.0", "10"],
        ),
        (Both, lambda m: m(CLOCKED, duration=0.25), OptionError, ["dt=0.1 s", "duration of 0.25 s"]),
        (Both, lambda m: m(CLOCKED, duration=0.04), OptionError, ["dt=0.1 s", "duration of 0.04 s"]),
        (Both, lambda m: m(CLOCKED, num_timesteps=0), OptionError, [">= 1", "0"]),
        (Both, lambda m: m(CLOCKED, duration=1.1), DataError, ["0.3 to 1.4 s", "from 0 to 1 s", "reset_time()"]),
        (Both, lambda m: m(CLOCKED, num_timesteps=8), DataError, ["0.3 to 1.1 s", "from 0 to 1 s"]),
        (Both, lambda m: m(TSContinuous.from_clocked([1.0], 0.1)), DataError, ["0.3 to 0.4 s", "0 to 0.1 s"]),
        (Both, lambda m: m(TSContinuous.from_clocked([1.0], 1.0, 2.0)), DataError, ["0.3 to 3 s", "from 2 to 3 s"]),
        (Both, lambda m: m(TSContinuous([0, 1], [0, 1], periodic=True)), OptionError, ["duration", "never ends"]),
        (Both, lambda m: m(torch.ones(10, 2)), OptionError, ["TSContinuous or a TSEvent", "Tensor", "from_clocked"]),
        (
            lambda: Linear((2, 2)).double(),
            lambda m: m(TSContinuous.from_clocked(samples(10), 0.1)),
            ShapeError,
            ["size 2", "3"],
        ),
        (lambda: Linear((2, 2)), lambda m: m(CLOCKED), DtypeError, ["torch.float32", "torch.float64"]),
        (Both, lambda m: m(TSEvent([0.1], [4], 1.0)), ShapeError, ["2 channels", "5 channels"]),
        (lambda: Both(broken=True), lambda m: m(CLOCKED), ShapeError, ["(7, channels)", "shape (2,)"]),
    ],
    ids=range(14),
)
def test_a_wrong_call_is_told_with_both_values_before_anything_moves(module, call, error, words):
    timed = module().timed(dt=0.1)
    timed._steps = 3
    state = copy.deepcopy(timed.module.state())
    told(error, words, lambda: call(timed))
    assert timed.t == 3 * 0.1 and timed.module.state() == state


def test_a_series_that_ends_a_rounding_before_the_first_step_is_too_short():
    timed, end = Linear((1, 1)).timed(dt=0.1), 0.1 - 1e-7
    for _ in range(4):
        end = float(np.nextafter(end, 0))
        ts = TSContinuous([0.0], [1.0], t_stop=end)
        with pytest.raises(DataError, match=r"0 to 0\.1 s at least"):
            timed(ts)


def test_an_output_that_is_not_there_is_told_before_anything_moves():
    timed = Both().timed(output_num=2, dt=0.1)
    told(OptionError, ["output_num=2", "2 outputs"], lambda: timed(CLOCKED))
    assert timed.t == 0 and timed.module.count == 0
