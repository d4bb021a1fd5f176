"""System: a roll-out has the values and the gradients of the loop that one would write by hand."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimgraph import MovingHorizon, Node, PenaltyLoss, Problem, System, SystemPreview, slim, variable
from slimgraph.errors import (
    CycleError,
    DuplicateNameError,
    MissingKeyError,
    OptionError,
    OverwriteError,
    ShapeError,
    UnknownOptionError,
    WiringError,
)
from slimgraph.problem import Subgraph

f64 = torch.float64


def closed_loop(seed=0):
    """A policy and a plant, as modules and as nodes."""
    torch.manual_seed(seed)
    policy, plant = nn.Linear(3, 1, dtype=f64), nn.Linear(3, 2, dtype=f64)
    nodes = [
        Node(lambda x, r: torch.tanh(policy(torch.cat([x, r], -1))), ["x", "r"], ["u"], name="policy"),
        Node(lambda x, u: x + 0.1 * plant(torch.cat([x, u], -1)), ["x", "u"], ["x"], name="plant"),
    ]
    return policy, plant, nodes


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_values_and_gradients_equal_the_naive_loop(nsteps, batch, swapped):
    policy, plant, nodes = closed_loop()
    data = {
        "x": torch.randn(batch, 1, 2, dtype=f64, requires_grad=True),
        "r": torch.randn(batch, nsteps + 2, 1, dtype=f64),
    }
    system = System(nodes[::-1] if swapped else nodes, nsteps=nsteps)
    out = system(data)
    x, xs, us = data["x"][:, 0], [data["x"][:, 0]], []
    for i in range(nsteps):
        us.append(torch.tanh(policy(torch.cat([x, data["r"][:, i]], -1))))
        x = x + 0.1 * plant(torch.cat([x, us[-1]], -1))
        xs.append(x)
    assert torch.equal(out["x"], torch.stack(xs, 1)) and torch.equal(out["u"], torch.stack(us, 1))
    wanted = [data["x"], *policy.parameters(), *plant.parameters()]

    def slopes(x, u):
        return torch.autograd.grad((x**2).sum() + (u**3).sum(), wanted, retain_graph=True)

    for ours, theirs in zip(slopes(out["x"], out["u"]), slopes(torch.stack(xs, 1), torch.stack(us, 1)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_shapes_constants_and_longer_series():
    nodes = [Node(lambda x, p, u: (p * x + u, x), ["x", "p", "u"], ["x", "y"])]
    data = {"x": torch.ones(4, 1, 3), "p": torch.full((4, 3), 0.5), "u": torch.zeros(4, 9, 3), "note": torch.ones(4)}
    out = System(nodes, nstep_key="u", nsteps=7)(data)
    assert out["x"].shape == (4, 8, 3) and out["y"].shape == (4, 7, 3)
    assert torch.equal(out["x"][:, -1], torch.full((4, 3), 0.5**7)) and torch.equal(out["y"], out["x"][:, :-1])
    assert out["note"] is data["note"] and data["x"].shape == (4, 1, 3)
    assert System(nodes, nstep_key="u")(data)["y"].shape == (4, 9, 3)
    assert list(System(nodes, nsteps=2, keep=["y"])(data)) == ["x", "p", "u", "note", "y"]


def test_maps_are_built_once_per_roll_out():
    built = []

    class Counted(slim.Linear):
        def effective_W(self):
            built.append(1)
            return super().effective_W()

    state_map = Counted(2, 2)
    system = System([Node(state_map, ["x"], ["x"])], nsteps=50)
    system({"x": torch.ones(1, 1, 2)})["x"].sum().backward()
    assert len(built) == 1 and state_map.weight.grad is not None


def test_an_init_func_serves_in_a_problem():
    system = System([step], nstep_key="u", init_func=lambda d: {**d, "x": torch.ones(2, 1, 1)})
    out = Problem([system], PenaltyLoss([variable("x").minimize(name="mean")]))({"u": u5})
    assert out["mean"] == 1


def test_a_system_is_what_a_node_calls():
    inner = System([step], nsteps=3)
    node = Node(inner, ["start", "input"], ["path"], name="inner")
    assert torch.equal(node({"start": x0, "input": u5})["path"], inner({"x": x0, "u": u5})["x"])
    assert inner.input_keys == ["x", "u"]


def test_init_func_gives_the_start():
    system = System([Node(torch.neg, ["x"], ["x"])], nsteps=2, init_func=lambda d: {**d, "x": torch.ones(1, 1, 1)})
    assert system({})["x"].flatten().tolist() == [1, -1, 1]


def test_a_system_is_a_node_of_a_problem():
    start = Node(lambda z: z[:, None], ["z"], ["x"], name="start")
    system = System([Node(torch.neg, ["x"], ["x"], name="flip")], name="dynamics", nsteps=3)
    problem = Problem([start, system], PenaltyLoss([variable("x")[:, -1].minimize(name="end")]))
    assert problem({"z": torch.ones(2, 1)})["end"] == -1
    graph = problem.to_networkx()
    assert graph.nodes["dynamics/flip"]["cluster"] == ("dynamics",)
    assert graph.edges["dynamics/flip", "dynamics/flip", "x"]["feedback"]
    assert graph.has_edge("node:start", "dynamics/flip", "x") and graph.has_edge("dynamics/flip", "term:0", "x")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_drawn_system_gets_the_start_of_its_states_from_outside_and_nothing_else(swapped):
    _, _, nodes = closed_loop()
    start = Node(lambda z: z[:, None], ["z"], ["x"], name="start")
    system = System(nodes[::-1] if swapped else nodes, name="loop", nsteps=2)
    graph = Problem([start, system], PenaltyLoss()).to_networkx()
    assert graph.has_edge("node:start", "loop/policy", "x") and graph.has_edge("node:start", "loop/plant", "x")
    assert graph.edges["loop/plant", "loop/policy", "x"]["feedback"]
    assert not graph.edges["loop/policy", "loop/plant", "u"]["feedback"] and "data:u" not in graph
    # A state through several nodes: x -> kept -> x.
    parts = [Node(torch.neg, ["x"], ["kept"], name="map"), Node(torch.add, ["kept", "u"], ["x"], name="sum")]
    graph = Problem([start, System(parts, name="loop", nsteps=2)], PenaltyLoss()).to_networkx()
    assert graph.has_edge("node:start", "loop/map", "x") and graph.edges["loop/sum", "loop/map", "x"]["feedback"]


def test_copies_and_pickles_roll_out_the_same():
    cell = Node(slim.maps["orthogonal"](2, 2), ["x"], ["x"])
    for system in (
        System([cell], nsteps=3),
        SystemPreview([Node(torch.add, ["x", "r"], ["x"], name="a")], {"r": ["a"]}, preview_length={"r": 0}, nsteps=3),
    ):
        data = {"x": torch.ones(1, 1, 2), "r": torch.ones(1, 3, 2)}
        for twin in (copy.deepcopy(system), pickle.loads(pickle.dumps(system))):
            assert torch.equal(twin(data)["x"], system(data)["x"])


@pytest.mark.parametrize(
    ("mode", "end"),
    [("replicate", [3, 3, 3]), ("circular", [3, 0, 1]), ("constant", [3, 9, 9]), ("reflect", [3, 2, 1])],
)
def test_a_preview_shows_what_comes_and_pads_the_end(mode, end):
    seen = []
    node = Node(lambda x, r: seen.append(r.squeeze(0).tolist()) or x, ["x", "r"], ["x"], name="watch")
    other = Node(lambda r: r, ["r"], ["now"], name="other")
    data = {"x": torch.zeros(1, 1, 1), "r": torch.arange(4.0).reshape(1, 4, 1)}
    system = SystemPreview([node, other], {"r": ["watch"]}, {"r": 2}, pad_mode=mode, pad_constant=9.0, nsteps=4)
    out = system(data)
    assert seen[0] == [0, 1, 2] and seen[1] == [1, 2, 3] and seen[3] == end
    assert out["now"].flatten().tolist() == [0, 1, 2, 3]
    assert torch.equal(out["r"], data["r"])


def test_a_moving_horizon_sees_the_past_and_forgets_between_batches():
    window = MovingHorizon(Node(lambda u: u.sum(1), ["u"], ["s"], name="sum"), ndelay=3)
    system = System([window], nstep_key="u")
    data = {"u": torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(1, 4, 1)}
    for _ in range(2):
        assert system(data)["s"].flatten().tolist() == [3.0, 12.0, 111.0, 1110.0]
    assert window.window.history == {"u": []}
    with_past = MovingHorizon(window.module, ndelay=3, history={"u": [torch.full((1, 1), 5.0)] * 2})
    assert System([with_past], nstep_key="u")(data)["s"].flatten().tolist()[:2] == [11.0, 16.0]


def no_start():
    """Two nodes that wait for each other."""
    return [Node(torch.neg, ["x"], ["u"], name="policy"), Node(torch.neg, ["u"], ["x"], name="plant")]


step = Node(torch.add, ["x", "u"], ["x"], name="step")
x0, u5 = torch.zeros(2, 1, 1), torch.zeros(2, 5, 1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: System([step], nsteps=0), OptionError, "System needs nsteps >= 1, got nsteps=0"),
        (lambda: System([step], nstps=3), UnknownOptionError, "no option 'nstps'. Did you mean 'nsteps'"),
        (lambda: System([step, step]), DuplicateNameError, "two nodes are called 'step'"),
        (lambda: System([step], keep=["y"]), OptionError, r"cannot keep 'y'; its nodes give \['x'\]"),
        (lambda: System([step], name="s")({"x": x0, "u": u5}), WiringError,
         r"system 's' does not know how many steps.*nstep_key is 'X', the data holds \['u', 'x'\]"),
        (lambda: System([step], nsteps=7)({"x": x0, "u": u5}), ShapeError,
         r"runs 7 steps, but 'u' of shape \(2, 5, 1\) has 5 entries in time: there is none for step 5"),
        (lambda: System([step], nsteps=2)({"x": u5, "u": u5}), ShapeError,
         r"produces 'x' itself; the data give its start only, shape \(batch, 1, features\): got \(2, 5, 1\)"),
        (lambda: System([step], nsteps=2)({"x": x0, "u": torch.ones(3)}), ShapeError, r"reads 'u' as .*; got \(3,\)"),
        (lambda: System([step], nsteps=2)({"u": u5}), MissingKeyError, "reads 'x'.*It is a state: give its start"),
        (lambda: System([step], nsteps=2)({"x": x0}), MissingKeyError, r"'step' reads 'u', the data holds \['x'\]"),
        (lambda: System(no_start(), nsteps=2)({}), CycleError,
         r"policy -\(u\)-> plant -\(x\)-> policy. Give the data a start value, .* for one of \['u', 'x'\]"),
        (lambda: SystemPreview([step], {"r": ["step"]}), OptionError, "'r' to node 'step', which does not read it"),
        (lambda: SystemPreview([step], {"u": ["stop"]}), OptionError, "to node 'stop'.* Did you mean 'step'"),
        (lambda: SystemPreview([step], {"u": ["step"]}, pad_mode="replicat"), OptionError, "Did you mean 'replicate'"),
        (lambda: SystemPreview([step], {"u": ["step"]}, {"q": 2}), OptionError,
         r"gives 'q', preview_keys_map holds \['u'\]"),
        (lambda: SystemPreview([step], {"x": ["step"]}), OptionError, "'x' is produced by a System itself"),
        (lambda: System(step), OptionError, "takes a list of nodes; got Node"),
        (lambda: System([nn.Linear(1, 1)]), OptionError, "holds Nodes and Systems; got Linear"),
        (lambda: System([step, Node(torch.neg, ["u"], ["x"], name="other")]), OverwriteError,
         "'x' is written by node 'step' and node 'other'"),
        (lambda: System([step], nsteps=2.5), OptionError, "System needs a whole number for nsteps, got 2.5"),
        (lambda: System([step], nstep_key="u")({"x": x0, "u": torch.ones(2, 3)}), ShapeError,
         r"counts its steps on 'u', \(batch, time, features\); got \(2, 3\)"),
        (lambda: System([step], nsteps=2, init_func=lambda d: None)({}), OptionError,
         "must return the data; it gave None"),
        (lambda: System([step], nsteps=2)({"x": torch.zeros(1, 1, 1), "u": u5}), ShapeError,
         r"needs one batch size: 'x' is \(1, 1\) float32, 'u' is \(2, 5, 1\) float32"),
        (lambda: System([Node(lambda u: u[: int(u[0, 0])], ["u"], ["y"])], nsteps=2)(
            {"u": torch.tensor([[[1.0], [2.0]]] * 2)}), ShapeError,
         r"entries of 'y' in a System have different shapes, in the order of time: \[\(1, 1\), \(2, 1\)\]"),
        (lambda: System([Node(torch.neg, ["u"], ["y"])], nsteps=2)({"u": u5, "y": u5}), ShapeError,
         "produces 'y' itself"),
        (lambda: System([step], nsteps=2)(x0), OptionError, r"takes a dict of tensors; got \(2, 1, 1\) float32"),
        (lambda: MovingHorizon(nn.Linear(1, 1)), OptionError, "holds a Node; got Linear"),
        (lambda: MovingHorizon(step, history={"z": []}), OptionError, r"'z', but node 'step' reads \['x', 'u'\]"),
        (lambda: MovingHorizon(step, ndelay=0), OptionError, "MovingHorizon needs ndelay >= 1, got ndelay=0"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_error_inside_a_step_tells_node_step_and_shapes():
    fails = Node(lambda x, u: x + u @ torch.ones(2, 1), ["x", "u"], ["x"], name="plant")
    with pytest.raises(RuntimeError) as caught:
        System([fails], name="loop", nsteps=2)({"x": x0, "u": u5})
    assert caught.value.__notes__ == [
        "in node 'plant', (x, u) -> (x), at step 0 of 2 of system 'loop', "
        "called with x (2, 1) float32, u (2, 1) float32"
    ]


@pytest.mark.parametrize("hold", [System, lambda nodes: Subgraph(nodes, ["y"])], ids=["System", "Subgraph"])
def test_what_holds_nodes_freezes_lazy_and_integer_parameters_too(hold):
    lazy = torch.nn.LazyLinear(1)
    counts = torch.nn.ParameterList([torch.nn.Parameter(torch.arange(3), requires_grad=False)])
    holder = hold([Node(torch.nn.Sequential(lazy, torch.nn.Identity()), ["x"], ["y"], name="lazy")])
    holder.nodes[0].counts = counts
    holder.freeze()
    assert not any(p.requires_grad for p in holder.parameters())
    holder.unfreeze()
    assert lazy.weight.requires_grad and not counts[0].requires_grad
