"""Subgraph: just the nodes that some keys need, with the problem's own parameters."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from slimgraph import MovingHorizon, Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import MissingKeyError, OptionError, UnknownOptionError
from slimgraph.problem import Subgraph

loss = PenaltyLoss([variable("cost").minimize()])


def node(reads, writes, function=None, name=None):
    return Node(function or (lambda *values: sum(values)), reads.split(), writes.split(), name=name or f"{writes}_of")


def control() -> Problem:
    """Encoder, policy and cost, declared from the end."""
    cost = node("u x", "cost", lambda u, x: (u + x).square(), "cost")
    policy = Node(nn.Sequential(slim.OrthogonalLinear(2, 2), nn.Tanh()), ["x"], ["u"], name="policy")
    encoder = Node(nn.Linear(3, 2), ["p"], ["x"], name="encoder")
    return Problem([cost, policy, encoder], loss)


def test_it_runs_what_the_outputs_need_and_returns_nothing_else():
    problem = control()
    subgraph = problem.subgraph(outputs=["u"])
    batch = {"p": torch.randn(5, 3), "unused": torch.randn(5)}
    output = subgraph(batch)
    assert list(output) == ["u"] and torch.equal(output["u"], problem(batch)["u"])
    assert list(batch) == ["p", "unused"]
    assert [each.name for each in subgraph.nodes] == ["encoder", "policy"]
    assert subgraph.input_keys == ["p"] and subgraph.output_keys == ["u"]
    assert repr(subgraph) == "Subgraph: (p) -> (u)\n  encoder: (p) -> (x)\n  policy: (x) -> (u)"


@pytest.mark.parametrize(
    ("nodes", "outputs", "kept"),
    [
        (["a b", "b c", "a d"], ["c"], [0, 1]),
        (["a b", "b c", "a d"], ["d", "b"], [0, 2]),
        (["a x", "b x", "x y"], ["y"], [1, 2]),
        (["a x", "x x", "x y"], ["y"], [0, 1, 2]),
        (["a x", "x y", "b x"], ["y"], [0, 1]),
        (["a x", "x y", "b x"], ["x"], [2]),
        (["a x", "x y", "b x"], ["x", "y"], [0, 1, 2]),
    ],
    ids=["chain", "branches", "last writer", "reads what it writes", "written later", "its last value", "both"],
)
def test_of_an_overwritten_key_the_value_that_counts_is_kept(nodes, outputs, kept):
    made = [node(*text.split(), lambda v, n=n: v * (n + 2), name=str(n)) for n, text in enumerate(nodes)]
    problem = Problem(made, PenaltyLoss([variable(outputs[0]).minimize()]))
    subgraph = problem.subgraph(outputs)
    assert [made.index(each) for each in subgraph.nodes] == kept
    batch = {"a": torch.randn(3), "b": torch.randn(3)}
    whole = problem(batch)
    output = subgraph({key: batch[key] for key in subgraph.input_keys})
    assert all(torch.equal(output[key], whole[key]) for key in outputs)


def test_it_is_trained_with_the_problem():
    problem = control()
    subgraph = problem.subgraph(["u"])
    batch = {"p": torch.randn(5, 3)}
    before = subgraph(batch)["u"]
    problem(batch)["loss"].backward()
    torch.optim.SGD(subgraph.parameters(), lr=0.1).step()
    assert not torch.allclose(before, subgraph(batch)["u"])
    assert torch.equal(problem(batch)["u"], subgraph(batch)["u"])
    subgraph.freeze()
    assert not any(p.requires_grad for p in problem.node("policy").parameters())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"])
def test_copies_and_pickles_give_the_same_numbers(again):
    subgraph, batch = control().subgraph(["u"]), {"p": torch.randn(5, 3)}
    assert torch.equal(again(subgraph)(batch)["u"], subgraph(batch)["u"])


def test_it_is_a_node_of_another_problem_and_inside_a_node_of_a_system():
    problem, batch = control(), {"p": torch.randn(5, 3)}
    subgraph = problem.subgraph(["u"])
    outer = Problem([subgraph, node("u", "cost", torch.square, "outer")], loss)
    assert torch.equal(outer(batch)["u"], problem(batch)["u"])
    assert set(outer.parameters()) == set(subgraph.parameters()) | set(outer.loss.parameters())
    assert [each.label for each in outer.subgraph(["u"]).nodes] == ["Subgraph"]
    step = Node(subgraph, ["p"], ["u"], name="policy")
    series = {"p": torch.randn(5, 4, 3)}
    rolled = System([step], nsteps=4)(series)["u"]
    torch.testing.assert_close(rolled[:, 2], subgraph({"p": series["p"][:, 2]})["u"])


def plant(**options) -> System:
    """x' = x/2 + u, y = x' + 1, over time."""
    step = Node(lambda x, u: 0.5 * x + u, ["x", "u"], ["x"], name="step")
    return System([step, Node(lambda x: x + 1, ["x"], ["y"], name="sensor")], name="plant", **options)


def test_a_system_keeps_those_that_give_its_start_and_count_its_steps():
    start, count = node("x0", "x", lambda x: x[:, None]), node("r", "T", torch.neg)
    problem = Problem([start, count, plant(nstep_key="T"), node("y", "cost", torch.square, "cost")], loss)
    subgraph = problem.subgraph(["y"])
    assert [each.name for each in subgraph.nodes] == ["x_of", "T_of", "plant"]
    batch = {"x0": torch.randn(3, 1), "r": torch.zeros(3, 4, 1), "u": torch.randn(3, 6, 1)}
    assert torch.equal(subgraph(batch)["y"], problem(batch)["y"]) and problem(batch)["y"].shape == (3, 4, 1)
    assert problem.subgraph(["T"]).input_keys == ["r"]


def test_a_start_of_a_loop_over_two_nodes_may_come_from_a_node():
    loop = System([node("b", "a", torch.neg, "first"), node("a", "b", torch.exp, "second")], nsteps=3, name="loop")
    problem = Problem([node("p", "b", lambda p: p[:, None], "start"), loop], PenaltyLoss([variable("a").minimize()]))
    assert [each.name for each in problem.subgraph(["a"]).nodes] == ["start", "loop"]


def test_what_an_init_function_may_read_is_kept():
    system = plant(nsteps=2, init_func=lambda data: {**data, "x": data["z"][:, None]})
    problem = Problem([node("p", "z", torch.neg, "encoder"), system], PenaltyLoss([variable("y").minimize()]))
    subgraph = problem.subgraph(["y"])
    batch = {"p": torch.randn(3, 1), "u": torch.randn(3, 2, 1)}
    assert torch.equal(subgraph(batch)["y"], problem(batch)["y"])
    assert subgraph.optional_keys is None


def test_what_a_system_does_not_keep_is_not_given():
    with pytest.raises(MissingKeyError, match="no node gives 'x'; the nodes give \\['y'\\]"):
        Subgraph([plant(nsteps=2, keep=["y"])], ["x"])


def test_a_moving_horizon_forgets_between_batches():
    window = MovingHorizon(node("x", "s", lambda x: x.sum(1), "sum"), ndelay=2)
    subgraph = Problem([window], PenaltyLoss([variable("s").minimize()])).subgraph(["s"])
    assert subgraph({"x": torch.ones(2, 1)})["s"].tolist() == [[2.0], [2.0]]
    assert window.window.history == {"x": []}
    window({"x": torch.ones(1, 1)})
    assert subgraph({"x": torch.full((1, 1), 10.0)})["s"].tolist() == [[20.0]]


def test_it_is_drawn_from_its_inputs_to_its_outputs():
    subgraph = control().subgraph(["u"])
    assert dict(subgraph.to_networkx().nodes(data="kind")) == {
        "node:encoder": "node",
        "data:p": "data",
        "node:policy": "node",
        "result:u": "data",
    }
    outer = Problem([subgraph, node("u", "cost", torch.square, "outer")], loss).to_networkx()
    assert outer.nodes["node:node_1"]["label"] == "Subgraph"
    assert "policy" in subgraph.draw().svg()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: control().subgraph(["uu"]), MissingKeyError, "no node gives 'uu'.*'cost', 'u', 'x'.*mean 'u'"),
        (lambda: control().subgraph(["p"]), MissingKeyError, "no node gives 'p'.*The data hold it already"),
        (lambda: control().subgraph("u"), OptionError, r"outputs of a Subgraph is a list.*Write \['u'\]"),
        (lambda: control().subgraph([]), OptionError, "outputs is empty"),
        (lambda: control().subgraph([3]), OptionError, "outputs of a Subgraph holds strings.*int: 3"),
        (lambda: control().subgraph(["u"])({"P": torch.ones(1)}), MissingKeyError, r"'encoder' reads 'p'.*\['P'\]"),
        (lambda: control().subgraph(["u"])(torch.ones(1)), OptionError, r"takes a dict of tensors; got \(1,\)"),
        (lambda: control().subgraph(["u"]).node("polcy"), UnknownOptionError, "Did you mean 'policy'"),
        (lambda: Subgraph([nn.Linear(1, 1)], ["u"]), OptionError, "holds Nodes and Systems.*Wrap it in a Node"),
        (lambda: Subgraph([], ["u"], nam="a"), UnknownOptionError, "Did you mean 'name'"),
    ],
    ids=["mistyped", "an input", "a string", "empty", "no key", "missing", "no dict", "node", "no node", "option"],
)
def test_wrong_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
