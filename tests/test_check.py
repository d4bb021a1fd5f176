"""problem.check: mistakes planted into working problems, each found by one message; and what a dry run must not do."""

from __future__ import annotations

import copy
import functools
import json
import random
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from slimgraph import (
    AugmentedLagrangeLoss,
    BarrierLoss,
    DictDataset,
    MovingHorizon,
    Node,
    PenaltyLoss,
    Problem,
    System,
    slim,
    variable,
)
from slimgraph.errors import (
    CycleError,
    DataError,
    DtypeError,
    ExpressionError,
    MissingKeyError,
    OverwriteError,
    ShapeError,
    SlimgraphError,
    WiringError,
)
from tests.helpers import keys

BATCH = 4


def policy(insize=4, outsize=1):
    """x, r -> u by a network on both."""
    net = nn.Sequential(nn.Linear(insize, 8), nn.Tanh(), nn.Linear(8, outsize))

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *inputs):
            return self.net(torch.cat(inputs, -1))

    return Policy()


def plant(x, u):
    return 0.9 * x + 0.1 * u.expand_as(x)


def closed_loop(reads=("x", "r"), insize=4, move=plant, net=None, objectives=None, constraints=None, more=()):
    """A policy that steers a plant to r in a roll-out: the working twin of the problems below."""
    net = policy(insize) if net is None else net
    nodes = [Node(net, reads, ["u"], name="policy"), Node(move, ["x", "u"], ["x"], name="plant")]
    loop = System(nodes, name="loop", nstep_key="r")
    x, u, r = variable("x"), variable("u"), variable("r")
    track = ((x[:, 1:] - r) ** 2).minimize(name="track")
    return Problem([loop, *more], PenaltyLoss(objectives or [track], constraints or [u <= 1, x >= -2]))


def tracking():
    return {"x": torch.randn(BATCH, 1, 2), "r": torch.randn(BATCH, 5, 2)}


def regression(net=None, objectives=None, constraints=(), reads=("x",), writes=("y",)):
    """y of x fitted to t: the working twin of the problems without time."""
    net = nn.Linear(3, 1) if net is None else net
    fit = ((variable("y") - variable("t")) ** 2).minimize(name="fit")
    return Problem([Node(net, reads, writes, name="net")], PenaltyLoss(objectives or [fit], [*constraints]))


def points():
    return {"x": torch.randn(BATCH, 3), "t": torch.randn(BATCH, 1)}


def frozen():
    problem = regression()
    problem.freeze()
    return problem


def with_value(data, key, place, value):
    data[key][place] = value
    return data


def on_meta():
    problem = regression()
    problem.nodes.to("meta")
    return problem


def divide(x):
    raise ZeroDivisionError("1 / 0 in the user's own code")


def named(term, name):
    term.name = name
    return term


X, Y, T, U = variable("x"), variable("y"), variable("t"), variable("u")

# What is planted: how the problem is made, its data, the error, and words that its one message must hold.
MISTAKES = {
    "misspelt key in a node": (
        lambda: regression(reads=("xx",)), points, MissingKeyError,
        ["node 'net' reads 'xx'", "['t', 'x']", "Did you mean 'x'?"],
    ),
    "misspelt key in a term": (
        lambda: regression(objectives=[(variable("yy") - T).minimize(name="fit")]), points, MissingKeyError,
        ["objective 'fit' reads 'yy'", "['t', 'x']", "Did you mean 'y'?", "It comes from node 'net'."],
    ),
    "wrong in-size": (
        lambda: regression(nn.Linear(5, 1)), points, RuntimeError,
        ["4x3 and 5x1", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "wrong in-size of a map": (
        lambda: regression(slim.OrthogonalLinear(5, 5)), points, ValueError,
        ["5", "3", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "wrong size of a concatenation": (
        lambda: closed_loop(insize=6), tracking, RuntimeError,
        ["4x4 and 6x8", "in node 'policy', (x, r) -> (u)", "system 'loop'", "x (4, 2) float32, r (4, 2) float32"],
    ),
    "wrong number of outputs": (
        lambda: regression(lambda x: x.split(1, -1)[:2], writes=("y", "z", "w")), points, WiringError,
        ["node 'net' must give 3 tensors for ['y', 'z', 'w']; its callable gave 2"],
    ),
    "(B,) against (B, 1) in an objective": (
        regression, lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["objective 'fit', mean((y - t)^2), reads 'y' (4, 1), 't' (4,)", "(4, 1) against (4,)", "broadcast to (4, 4)"],
    ),
    "(B,) against (B, 1) in a constraint": (
        lambda: regression(objectives=[Y.minimize()], constraints=[named(Y <= T, "cap")]),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["constraint 'cap' compares shapes (4, 1) of ['y'] and (4,) of ['t']"],
    ),
    "(B,) against (B, 1) in one of torch's losses": (
        lambda: regression(objectives=[variable([Y, T], nn.functional.mse_loss).minimize(torch.sum, name="fit")]),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["objective 'fit'", "'y' (4, 1), 't' (4,)", "target size (torch.Size([4]))", "input size (torch.Size([4, 1]))"],
    ),
    "(B,) against (B, 1) between a node's inputs": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["y"], name="net"), Node(torch.sub, ["y", "t"], ["e"], name="error")],
            PenaltyLoss([variable("e").minimize()]),
        ),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["node 'error' reads 'y' (4, 1), 't' (4,)", "broadcast to (4, 4)"],
    ),
    "float64 data with a float32 net": (
        regression, lambda: {key: value.double() for key, value in points().items()}, DtypeError,
        ["node 'net' reads 'x', (4, 3) float64, and its parameter 'weight', (1, 3) float32"],
    ),
    "a float64 target": (
        regression, lambda: {**points(), "t": points()["t"].double()}, DtypeError,
        ["objective 'fit', mean((y - t)^2), reads 'y', (4, 1) float32, and 't', (4, 1) float64"],
    ),
    "integers where a net needs numbers with a point": (
        regression, lambda: {**points(), "x": torch.ones(BATCH, 3, dtype=torch.int64)}, RuntimeError,
        ["dtype", "in node 'net', (x) -> (y), called with x (4, 3) int64"],
    ),
    "a NaN": (
        regression, lambda: with_value(points(), "x", (2, 1), float("nan")), DataError,
        ["the batch: 'x' holds NaN in row 2, column 1"],
    ),
    "an infinity in a series": (
        closed_loop, lambda: with_value(tracking(), "r", (3, 1, 0), float("inf")), DataError,
        ["the batch: 'r' holds an infinite value in row 3, step 1, column 0"],
    ),
    "different batch sizes": (
        regression, lambda: {**points(), "t": torch.randn(7, 1)}, DataError,
        ["4 samples of 'x', (4, 3) float32, and 7 of 't', (7, 1) float32"],
    ),
    "a start without an axis of time": (
        closed_loop, lambda: {**tracking(), "x": torch.randn(BATCH, 2)}, ShapeError,
        ["system 'loop' produces 'x' itself", "got (4, 2)", "Write data['x'][:, None]"],
    ),
    "a series that is too short": (
        lambda: closed_loop(reads=("x", "r", "d"), insize=5),
        lambda: {**tracking(), "d": torch.randn(BATCH, 3, 1)}, ShapeError,
        ["system 'loop' runs 5 steps, but 'd' of shape (4, 3, 1) has 3 entries"],
    ),
    "a flat series in a System without a name": (
        lambda: Problem(
            [System([Node(nn.Linear(2, 2), ["x"], ["x"], name="f")], nstep_key="r")], PenaltyLoss([X.minimize()])
        ),
        lambda: {**tracking(), "r": torch.randn(BATCH, 5)}, ShapeError,
        ["counts its steps on 'r', (batch, time, features); got (4, 5)", "in node 'node_1'"],
    ),
    "a parameter that no term reaches": (
        lambda: closed_loop(more=[Node(nn.Linear(2, 1), ["x"], ["v"], name="value")]), tracking, WiringError,
        ["no term of the loss reaches 'value.weight', 'value.bias'", "`ddp`", "The terms read ['r', 'u', 'x']"],
    ),
    "nothing trainable": (
        frozen, points, WiringError,
        ["no trainable parameter: all 2 are frozen, 'net.weight', 'net.bias'", "problem.unfreeze()"],
    ),
    "a loss cut off from the net": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["h"], name="net"), Node(torch.detach, ["h"], ["y"], name="cut")],
            PenaltyLoss([named(Y.minimize(), "size")]),
        ), points, WiringError,
        ["the loss of ['size'] depends on no trainable parameter; these are 'net.weight', 'net.bias'", "detach"],
    ),
    "a term that is constant": (
        lambda: regression(constraints=[named(T <= X, "cap"), Y <= 1]), points, WiringError,
        ["constraint 'cap', t <= x, is constant in training: it reads ['t', 'x']"],
    ),
    "a term that is no scalar": (
        lambda: regression(objectives=[Y.minimize(torch.square, name="size")]), points, ExpressionError,
        ["objective 'size'", "'square' gives shape (4, 1)"],
    ),
    "a cycle": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["u"], ["y"], name="a"), Node(nn.Linear(1, 3), ["y"], ["u"], name="b")],
            PenaltyLoss([Y.minimize()]),
        ), points, CycleError,
        ["a -(y)-> b -(u)-> a", "System"],
    ),
    "a string in the data": (
        regression, lambda: {**points(), "house": "north"}, DtypeError,
        ["the batch: 'house' is no tensor but str: 'north'"],
    ),
    "an array in the data": (
        regression, lambda: {**points(), "t": np.zeros((BATCH, 1))}, DtypeError,
        ["the batch: 't' is no tensor but ndarray", "torch.as_tensor"],
    ),
    "an empty batch": (
        regression, lambda: {key: value[:0] for key, value in points().items()}, DataError,
        ["the batch: 'x', (0, 3) float32, holds no sample"],
    ),
    "two devices": (
        on_meta, points, DataError,
        ["'x' of the data is on cpu, parameter 'net.weight' on meta"],
    ),
    "a function that returns None": (
        lambda: regression(lambda x: None), points, WiringError,
        ["node 'net' must give tensors for ['y']; its callable gave NoneType: None"],
    ),
    "a tuple with a None": (
        lambda: regression(lambda x: (x, None), writes=("y", "z")), points, WiringError,
        ["node 'net' must give a tensor for 'z'; its callable gave NoneType"],
    ),
    "a callable that raises": (
        lambda: regression(divide), points, ZeroDivisionError,
        ["1 / 0 in the user's own code", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "a callable that raises inside a roll-out": (
        lambda: closed_loop(move=lambda x, u: divide(x)), tracking, ZeroDivisionError,
        ["1 / 0", "in node 'plant'", "at step 0 of 5 of system 'loop'", "x (4, 2) float32, u (4, 1) float32"],
    ),
    "data that a node overwrites": (
        regression, lambda: {**points(), "y": torch.randn(BATCH, 1)}, OverwriteError,
        ["key 'y' of the data is overwritten by node 'net' before anything reads it"],
    ),
    "two nodes that write one key": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["y"], name="a"), Node(nn.Linear(3, 1), ["x"], ["y"], name="b")],
            PenaltyLoss([Y.minimize()]),
        ), points, OverwriteError,
        ["key 'y' of node 'a' is overwritten by node 'b'"],
    ),
    "samples of different shapes": (
        regression, lambda: [{"x": torch.zeros(3), "t": torch.zeros(1)}, {"x": torch.zeros(2), "t": torch.zeros(1)}],
        DataError, ["'x' is (3,) float32 in sample 0, (2,) float32 in sample 1"],
    ),
    "a sample without a key": (
        regression, lambda: [{"x": torch.zeros(3), "t": torch.zeros(1)}, {"x": torch.zeros(3)}],
        DataError, ["sample 0 holds 't', sample 1 does not"],
    ),
}  # fmt: skip


def check(make, data, **options):
    return make().check(data(), **options)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_by_one_message(mistake):
    make, data, kind, words = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        check(make, data)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert not [word for word in words if word not in text], text
    assert text.count("in node") <= 1 and text.count("would broadcast") <= 1


@pytest.mark.parametrize("make", [closed_loop, regression])
def test_the_problems_without_a_mistake_pass(make):
    data = tracking() if make is closed_loop else points()
    run = make().check(data)
    assert not [note for note in run.notes if "real samples" in note]


def test_torch_writes_nothing_beside_the_message(capfd, caplog):
    with pytest.raises(RuntimeError):
        regression(nn.Linear(5, 1)).check(points())
    assert not caplog.records and capfd.readouterr() == ("", "")


# ---- what it says ---------------------------------------------------------------------------------------------------


def test_the_table_says_every_key_in_order():
    run = closed_loop().check(tracking())
    assert [(row.key, row.given_by, row.shape, row.axes) for row in run.rows[:4]] == [
        ("x", "the data", (4, 1, 2), ("batch", "time", "features")),
        ("r", "the data", (4, 5, 2), ("batch", "time", "features")),
        ("u", "node 'loop'", (4, 5, 1), ("batch", "time", "features")),
        ("x", "node 'loop'", (4, 6, 2), ("batch", "time", "features")),
    ]
    assert [row.key for row in run.rows[4:]] == ["track", "constraint_1", "constraint_2", "loss"]
    assert {row.dtype for row in run.rows} == {"float32"}
    assert run.parameters == sum(p.numel() for p in policy().parameters())
    assert run.notes == [f"{run.parameters} parameters, all reached by the loss."]
    assert re.split("  +", str(run).splitlines()[4]) == ["x", "node 'loop'", "float32", "(batch 4, time 6, features 2)"]


@pytest.mark.parametrize("make", [closed_loop, regression])
def test_shapes_and_dtypes_are_those_of_a_real_forward(make):
    data = tracking() if make is closed_loop else points()
    problem = make().double()
    data = {key: value.double() for key, value in data.items()}
    run, output = problem.check(data), problem(data)
    told = {row.key: (row.shape, row.dtype) for row in run.rows}
    for key, (shape, dtype) in told.items():
        assert (tuple(output[key].shape), str(output[key].dtype)) == (shape, f"torch.{dtype}")
    assert set(told) == {key for key in output if key in told}
    assert not {*data, "loss", *problem.loss.names()} - set(told)


def test_the_table_fits_into_100_columns_and_into_json():
    long = "a_key_that_is_longer_than_anybody_would_write_it_" * 2
    net = Node(nn.Linear(3, 1), ["x"], [long], name=f"node_of_{long}")
    problem = Problem([net], PenaltyLoss([(variable(long) - T).minimize()]))
    run = problem.check(points())
    assert max(map(len, str(run).splitlines())) <= 100
    assert json.loads(json.dumps(run.as_dict()))["rows"][0] == {
        "key": "x", "given_by": "the data", "shape": [4, 3], "axes": ["batch", "features"], "dtype": "float32",
    }  # fmt: skip


def test_an_overwritten_and_an_idle_key_are_noted():
    nodes = [Node(nn.Linear(3, 3), ["x"], ["x"], name="lift"), Node(nn.Linear(3, 1), ["x"], ["y"], name="net")]
    run = Problem(nodes, PenaltyLoss([Y.minimize()])).check(points())
    assert run.notes[1:] == ["node 'lift' overwrites 'x' of the data.", "Nothing reads 't' of the data."]


def test_first_entries_of_a_roll_out_are_not_overwritten():
    problem, data = closed_loop(), tracking()
    shapes = {row.key: row.shape for row in problem.check({**data, "u": torch.zeros(BATCH, 1, 1)}).rows}
    assert shapes["u"] == (BATCH, 6, 1)


def test_what_no_term_reaches_can_be_allowed():
    problem = closed_loop(more=[Node(nn.Linear(2, 1), ["x"], ["v"], name="value")])
    run = problem.check(tracking(), allow_unused=True)
    assert run.notes[0].endswith("parameters; no term of the loss reaches 'value.weight', 'value.bias'.")


def test_what_only_reg_error_moves_is_reached():
    other = Node(slim.maps["softSVD"](3, 2), ["x"], ["z"], name="other")
    problem = Problem([Node(nn.Linear(3, 1), ["x"], ["y"], name="net"), other], PenaltyLoss([Y.minimize()]))
    with pytest.raises(WiringError, match="no term of the loss reaches .*'node_3.weight'"):
        Problem([*problem.nodes, Node(nn.Linear(3, 1), ["x"], ["w"])], problem.loss).check(points())
    run = problem.check(points(), allow_unused=True)
    reached = [name for name, _ in other.callable.named_parameters() if f"other.{name}" not in run.notes[0]]
    other.callable.reg_error().backward()
    assert reached == [name for name, p in other.callable.named_parameters() if p.grad is not None]


# ---- what it does not do --------------------------------------------------------------------------------------------


class NeedsNumbers(nn.Module):
    """A map that looks at the numbers, which fake tensors do not have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x) if x.sum().item() > 0 else -self.linear(x)


def with_state(first=None):
    """Everything that a forward pass in training moves: running statistics, drawn gates, noise, multipliers."""
    net = nn.Sequential(
        first or nn.Identity(), nn.BatchNorm1d(3), slim.maps["l0"](3, 3), nn.Dropout(0.5), nn.Linear(3, 1)
    )
    loss = AugmentedLagrangeLoss([((Y - T) ** 2).minimize(name="fit")], [Y <= 0.0])
    window = MovingHorizon(Node(lambda y: y.mean(1), ["y"], ["mean"], name="window"), ndelay=2)
    return Problem([Node(net, ["x"], ["y"], name="net"), window], loss)


def noise(x):
    return x + torch.as_tensor(np.random.rand() + random.random())


@pytest.mark.parametrize("first", [None, NeedsNumbers()], ids=["fake", "real"])
def test_nothing_is_changed(first):
    problem, data = with_state(first), points()
    problem.nodes[0].callable[1].eval()
    data["x"].requires_grad_()
    before, kept = copy.deepcopy(problem.state_dict()), {key: value.clone() for key, value in data.items()}
    modes = [module.training for module in problem.modules()]
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    run = problem.check(data)
    assert bool([note for note in run.notes if "real samples were run" in note]) is (first is not None)
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == random_states[1:]
    assert [module.training for module in problem.modules()] == modes
    after = problem.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert problem.loss.multipliers is None and all(p.grad is None for p in problem.parameters())
    assert list(data) == list(kept) and all(torch.equal(data[key], kept[key]) for key in kept)
    assert data["x"].grad is None


def test_generators_of_python_and_numpy_go_on_as_before():
    problem = Problem([Node(noise, ["x"], ["z"]), Node(nn.Linear(3, 1), ["z"], ["y"])], PenaltyLoss([Y.minimize()]))
    np.random.seed(1)
    random.seed(1)
    wanted = np.random.rand(), random.random()
    np.random.seed(1)
    random.seed(1)
    problem.check(points())
    assert (np.random.rand(), random.random()) == wanted


@pytest.mark.parametrize(
    "double", [lambda x: x.mul_(2.0), lambda x: x.mul_(2.0 + 0 * x.sum().item())], ids=["fake", "real"]
)
def test_a_node_that_writes_into_its_input_cannot_reach_the_batch(double):
    data = points()
    kept = data["x"].clone()
    problem = Problem(
        [Node(double, ["x"], ["z"], name="double"), Node(nn.Linear(3, 1), ["z"], ["y"])],
        PenaltyLoss([Y.minimize()]),
    )
    problem.check(data)
    assert torch.equal(data["x"], kept)


def test_a_node_that_needs_numbers_runs_on_a_few_real_samples():
    data = {"x": torch.randn(50, 3), "t": torch.randn(50, 1)}
    run = regression(nn.Sequential(NeedsNumbers(), nn.Linear(3, 1))).check(data)
    assert run.notes[0].startswith("node 'net' needs numbers (it asks for the value of a tensor)")
    assert run.notes[0].endswith("): 8 real samples were run.")
    with pytest.raises(RuntimeError, match="8x3 and 5x1") as caught:
        regression(nn.Linear(5, 1)).check(data)
    assert caught.value.__notes__[-1] == "check ran it on the first 8 of 50 samples"


def test_a_module_from_outside_a_node_is_noted_and_left_alone():
    outside, own = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.Linear(3, 3)
    before = copy.deepcopy(outside.state_dict())
    nodes = [
        Node(lambda x: outside(x), ["x"], ["z"], name="lift"),
        Node(lambda z: own(z), ["z"], ["w"], name="own"),
        Node(own, ["w"], ["y"], name="net"),
    ]
    run = Problem(nodes, PenaltyLoss([Y.minimize()])).check(points())
    assert [note for note in run.notes if "calls" in note] == [
        "node 'lift' calls a Sequential that is no part of it and is not trained; give the Node the module."
    ]
    assert all(torch.equal(value, before[key]) for key, value in outside.state_dict().items())


class Calls:
    """An object, no module, that calls what it holds."""

    def __init__(self, held):
        self.held = held

    def __call__(self, x):
        return self.held(x)


W, LISTED = nn.Parameter(torch.ones(3, 1)), [nn.Linear(3, 1)]


@pytest.mark.parametrize(
    ("callable", "kind"),
    [
        (lambda x: x @ W, "Parameter"),
        (lambda x: LISTED[0](x), "Linear"),
        (Calls(LISTED[0]), "Linear"),
        (Calls(LISTED[0]).__call__, "Linear"),
        (functools.partial(lambda net, x: net(x), LISTED[0]), "Linear"),
    ],
    ids=["parameter", "list", "object", "method", "partial"],
)
def test_an_error_that_nothing_is_trained_says_what_stands_outside(callable, kind):
    with pytest.raises(WiringError, match="no trainable parameter") as caught:
        Problem([Node(callable, ["x"], ["y"], name="net")], PenaltyLoss([Y.minimize()])).check(points())
    assert caught.value.__notes__ == [
        f"node 'net' calls a {kind} that is no part of it and is not trained; give the Node the module."
    ]


class Stream(IterableDataset):
    """Samples without an end."""

    def __iter__(self):
        while True:
            yield {"x": torch.randn(3), "t": torch.randn(1)}


def test_of_a_stream_the_first_batch_is_run():
    assert regression().check(DataLoader(Stream(), batch_size=7)).rows[0].shape == (7, 3)


def test_the_data_of_a_fit_are_those_it_trains_on():
    from slimgraph.training import LitDataModule

    data, later = SETS["DictDataset"](None), []
    module = LitDataModule(setup_function=lambda: {"train": data, "val": later.append(1) or data})
    assert regression().check(module).rows[0].shape == (32, 3)
    assert later == [1] and len(module.loader("val")) == 2
    spoilt(data, 41)
    for one in (module, module.loader("train")):
        with pytest.raises(DataError, match="'x' holds NaN in row 41"):
            regression().check(one)


def test_warnings_are_left_as_they_were():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        regression().check(points())
        warnings.warn("still heard", stacklevel=1)
    assert [str(w.message) for w in seen] == ["still heard"]


def test_lightning_stays_closed(monkeypatch):
    # None in the table of modules makes every import of it fail.
    monkeypatch.setitem(sys.modules, "lightning", None)
    regression().check(points())


# ---- what it takes --------------------------------------------------------------------------------------------------


class Squares(Dataset):
    """A data set that is no DictDataset."""

    def __init__(self, samples=50, bad=None):
        self.x, self.bad = torch.randn(samples, 3), bad

    def __len__(self):
        return len(self.x)

    def __getitem__(self, place):
        x = self.x[place] * float("nan") if place == self.bad else self.x[place]
        return {"x": x, "t": x[:1] ** 2}


SETS = {
    "DictDataset": lambda bad: spoilt(DictDataset({"x": torch.randn(50, 3), "t": torch.randn(50, 1)}), bad),
    "Dataset": lambda bad: Squares(bad=bad),
    "list of dicts": lambda bad: [Squares(bad=bad)[place] for place in range(50)],
    "DataLoader": lambda bad: DataLoader(Squares(bad=bad), batch_size=32, shuffle=True),
    "DataLoader of a DictDataset": lambda bad: DataLoader(SETS["DictDataset"](bad), batch_size=32, shuffle=True),
    "DataLoader that names": lambda bad: DataLoader(
        SETS["DictDataset"](bad), 32, collate_fn=DictDataset({"x": torch.zeros(1)}, "dev").collate_fn
    ),
}


def spoilt(data, bad):
    if bad is not None:
        data.datadict["x"][bad, 1] = float("nan")
    return data


@pytest.mark.parametrize("kind", SETS)
def test_a_data_set_is_run_by_its_first_batch_and_scanned_whole(kind):
    assert regression().check(SETS[kind](None)).rows[0].shape == (32, 3)
    with pytest.raises(DataError, match="41") as caught:
        regression().check(SETS[kind](41))
    assert "'x' holds NaN" in str(caught.value)


@pytest.mark.parametrize("data", [[], DictDataset({"x": torch.zeros(0, 3), "t": torch.zeros(0, 1)})])
def test_an_empty_set_is_told(data):
    with pytest.raises(DataError, match="holds no sample"):
        regression().check(data)


@pytest.mark.parametrize("data", ["x", 3, torch.zeros(3)])
def test_what_is_no_data_is_told(data):
    with pytest.raises(DataError, match="check takes a batch .a dict of tensors., a data set"):
        regression().check(data)


def test_the_name_of_a_batch_is_no_key():
    assert [row.key for row in regression().check({**points(), "name": "train"}).rows][:3] == ["x", "t", "y"]


def test_integers_are_run_with_their_values():
    words = nn.Sequential(nn.Embedding(10, 3), nn.Linear(3, 1))
    data = {"x": torch.tensor([1, 2, 3]), "t": torch.zeros(3, 1)}
    assert regression(words).check(data).notes[0] == (
        "'x' of the data holds integers, whose values count: 3 real samples were run."
    )
    with pytest.raises(IndexError) as caught:
        regression(words).check({**data, "x": torch.tensor([1, 2, 10])})
    assert caught.value.__notes__ == ["in node 'net', (x) -> (y), called with x (3,) int64"]


@pytest.mark.parametrize("key", keys())
def test_every_map_passes_and_is_reached(key):
    made = slim.maps[key](4, 4)
    problem = Problem([Node(made, ["x"], ["y"], name="map")], PenaltyLoss([(Y**2).minimize()], [Y <= 1]))
    data = {"x": torch.randn(BATCH, 4)}
    if not list(made.parameters()):
        with pytest.raises(WiringError, match="the problem has no trainable parameter: there is none"):
            problem.check(data)
        return
    run = problem.check(data)
    assert not [note for note in run.notes if "real samples" in note]
    problem(data)["loss"].backward()
    assert run.parameters == sum(p.numel() for p in made.parameters() if p.grad is not None)


def test_derivatives_pass_in_every_grad_mode():
    net = Node(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), ["x"], ["y"])
    problem = Problem([net], PenaltyLoss([((Y.grad(X).grad(X) + Y) ** 2).minimize(name="pde")], [Y <= 1]))
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert problem.check({"x": torch.rand(7, 1)}).notes == ["25 parameters, all reached by the loss."]


@pytest.mark.parametrize(
    "kind", [PenaltyLoss, BarrierLoss, AugmentedLagrangeLoss, "per sample"], ids=lambda k: getattr(k, "__name__", k)
)
def test_every_loss_passes(kind):
    objectives, constraints, data = [(Y**2).minimize()], [Y <= 1, T == Y], DictDataset(points(), index=True)
    if kind == "per sample":
        loss = AugmentedLagrangeLoss(objectives, constraints, data, per_sample=True)
    else:
        loss = kind(objectives, constraints)
    run = Problem([Node(nn.Linear(3, 1), ["x"], ["y"])], loss).check(data)
    assert run.notes[-1] == "4 parameters, all reached by the loss."


def test_trainable_variables_count_as_parameters():
    a = variable(2, display_name="a")
    loss = PenaltyLoss([(torch.sum(a * X, -1) - T).minimize(torch.var, name="fit")])
    run = Problem([Node(torch.neg, ["x"], ["z"], name="minus")], loss).check(
        {"x": torch.randn(4, 2), "t": torch.randn(4)}
    )
    assert run.parameters == 2
    with pytest.raises(DtypeError, match=r"'x', \(4, 2\) float64, and the trainable a, \(2,\) float32"):
        Problem([Node(torch.neg, ["x"], ["z"])], loss).check(
            {"x": torch.randn(4, 2).double(), "t": torch.randn(4).double()}
        )


def test_a_deliberate_broadcast_passes():
    x, y = variable("x"), variable("y")
    terms = [(y - x).minimize(name="over features"), ((y[:, None] - y[None]) ** 2).minimize(name="pairs")]
    weights = torch.rand(BATCH)
    nodes = [
        Node(nn.Linear(BATCH, 1), ["x"], ["y"]),
        Node(nn.Linear(BATCH, BATCH), ["x"], ["z"]),
        Node(lambda y: y * weights, ["y"], ["spread"]),
    ]
    terms += [(variable("z") * weights).minimize(name="as many features as samples"), variable("spread").minimize()]
    Problem(nodes, PenaltyLoss(terms)).check({"x": torch.randn(BATCH, BATCH)})


def test_slimgraph_errors_are_slimgraph_errors():
    ours = [kind for _, _, kind, _ in MISTAKES.values() if issubclass(kind, SlimgraphError)]
    assert len(ours) > 25
