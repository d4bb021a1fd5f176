"""A Problem as a node: its nodes without its loss."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from slimgraph import MovingHorizon, Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import CycleError, MissingKeyError, OptionError, ShapeError

x = torch.arange(6.0).reshape(2, 3)


def inner():
    """A problem that reads x, and for its loss alone t; gives h and y."""
    nodes = [Node(nn.Tanh(), ["h"], ["y"], name="squash"), Node(slim.maps["softSVD"](3, 3), ["x"], ["h"], name="map")]
    return Problem(nodes, PenaltyLoss([((variable("y") - variable("t")) ** 2).minimize(name="fit")]), reg_weight=7.0)


def outer(part):
    return Problem([Node(nn.Linear(3, 1), ["y"], ["z"], name="head"), part], PenaltyLoss([variable("z").minimize()]))


def test_its_outputs_are_those_of_its_nodes_and_its_loss_is_left_out():
    part = inner()
    problem = outer(part)
    flat = Problem([*part.nodes, problem.node("head")], problem.loss)
    result, expected = problem({"x": x}), flat({"x": x})
    assert result.keys() == expected.keys() and "fit" not in result
    assert all(torch.equal(result[key], expected[key]) for key in expected)
    assert problem.input_keys == ["x"] and part.input_keys == ["x", "t"]


def test_each_map_counts_once_in_the_reg_error_of_the_outer_problem():
    part = inner()
    problem = Problem([part, Node(part.node("map").callable, ["y"], ["z"], name="again")], PenaltyLoss())
    (svd,) = [m for m in part.modules() if isinstance(m, slim.maps["softSVD"])]
    assert list(problem.reg_errors()) == ["node_1.nodes.1"]
    assert torch.equal(problem({"x": x})["reg_loss"], svd.reg_error())


def test_a_node_around_it_chooses_and_renames():
    part = inner()
    y = part.step({"x": x, "t": x})["y"]
    assert list(Node(part, ["x"], ["y"])({"x": x})) == ["y"]
    out = Node(part, ["a"], ["_", "b"], name="net")({"a": x})
    assert list(out) == ["b"] and torch.equal(out["b"], y)
    assert torch.equal(Node(part, {"a": "x"}, ["y"])(x), y)
    twice = Problem(
        [Node(part, ["y"], ["_", "z"], name="second"), Node(part, ["x"], ["y"], name="first")], PenaltyLoss()
    )
    assert torch.equal(twice({"x": x})["z"], part.step({"x": y, "t": x})["y"])


def test_names_within_may_be_those_outside():
    problem = Problem([inner(), Node(torch.neg, ["y"], ["z"], name="squash")], PenaltyLoss())
    assert repr(problem.node("squash")) == "squash: (y) -> (z)"
    assert "Problem: (x) -> (h, y)" in repr(problem)


def test_freezing_it_reaches_its_parameters():
    problem = outer(inner())
    problem.freeze()
    assert not any(p.requires_grad for p in problem.parameters())
    problem.unfreeze()
    assert all(p.requires_grad for p in problem.parameters())


def test_state_copies_and_pickles():
    problem, other = outer(inner()), outer(inner())
    other.load_state_dict(problem.state_dict())
    for twin in (other, copy.deepcopy(problem), pickle.loads(pickle.dumps(problem))):
        assert torch.equal(twin({"x": x})["loss"], problem({"x": x})["loss"])


def test_its_picture_shows_what_it_reads_and_gives():
    graph = outer(inner()).to_networkx()
    assert {place for place, kind in graph.nodes(data="kind") if kind == "node"} == {"node:head", "node:node_2"}
    assert set(graph.edges(keys=True)) >= {("data:x", "node:node_2", "x"), ("node:node_2", "node:head", "y")}
    assert ("node:node_2", "reg_error", "") in graph.edges(keys=True)
    assert "Problem" in outer(inner()).graph().to_string()


def test_it_takes_part_in_a_roll_out():
    part = inner()
    system = System([part, Node(torch.add, ["x", "y"], ["x"], name="move")], nsteps=3)
    state = x
    for _ in range(3):
        state = state + part.step({"x": state, "t": x})["y"]
    # A roll-out builds the map's matrix once, which rounds otherwise than its factors one by one.
    torch.testing.assert_close(system({"x": x[:, None]})["x"][:, -1], state)


def test_a_window_within_forgets_between_batches():
    window = MovingHorizon(Node(lambda v: v.mean(1), ["x"], ["m"]), ndelay=2)
    problem = Problem([Problem([window], PenaltyLoss())], PenaltyLoss())
    assert torch.equal(problem({"x": x})["m"], x)
    assert torch.equal(problem({"x": 3 * x})["m"], 3 * x)
    system = System([Problem([window], PenaltyLoss())], nsteps=2)
    series = torch.stack([x, 3 * x], 1)
    assert torch.equal(system({"x": series})["m"], torch.stack([x, 2 * x], 1))


def test_what_is_wrong_with_it_is_told():
    with pytest.raises(OptionError, match=r"the Problem that node 'n' calls gives \['h', 'y'\]; got \['b'\]"):
        Node(inner(), ["x"], ["b"], name="n")
    with pytest.raises(OptionError, match=r"the Problem that node 'n' calls reads \['x'\]; got \['a', 'b'\]"):
        Node(inner(), ["a", "b"], ["y"], name="n")
    with pytest.raises(CycleError, match=r"node_1 -\(y\)-> back -\(x\)-> node_1"):
        Problem([inner(), Node(torch.neg, ["y"], ["x"], name="back")], PenaltyLoss())
    with pytest.raises(MissingKeyError, match=r"node 'node_2' reads 'x', the data holds \['xx'\]"):
        outer(inner())({"xx": x})
    with pytest.raises(ShapeError) as caught:
        outer(inner())({"x": x[:, :2]})
    assert [note[: note.index(",")] for note in caught.value.__notes__] == ["in node 'map'", "in node 'Problem'"]


def test_a_derivative_by_what_it_writes_and_reads_inside_is_refused():
    loss = PenaltyLoss([variable("y").grad(variable("h")).minimize()])
    part = inner()
    with pytest.raises(OptionError, match=r"cannot derive 'y' by 'h': the Problem in node 'Problem' writes both"):
        Problem([part], loss)
    assert Problem([*part.nodes], loss)({"x": x})["loss"] != 0
    by_x = PenaltyLoss([variable("y").grad(variable("x")).minimize()])
    assert torch.equal(Problem([part], by_x)({"x": x})["loss"], Problem([*part.nodes], by_x)({"x": x})["loss"])


def test_a_key_within_is_not_held_in_part():
    problem = outer(inner())
    held = {"h": x, "y": x}
    assert torch.equal(problem.step({"x": x, **held}, held=frozenset(held))["z"], problem.node("head")(x))
    with pytest.raises(
        OptionError, match="a step cannot hold 'h', which the Problem in node 'Problem' writes and reads"
    ):
        problem.step({"x": x, "h": x}, held=frozenset("h"))


def composites():
    """What gives h and y, and leads from h to y inside."""
    part = inner()
    return {
        "problem": part,
        "two deep": Problem([part], PenaltyLoss()),
        "renamed": Node(part, ["x"], ["h", "y"]),
        "subgraph": part.subgraph(["h", "y"]),
        "system": System([*inner().nodes], nsteps=1, name="s"),
        "system in a node": Node(System([*inner().nodes], nsteps=1), ["x"], ["h", "y"]),
    }


@pytest.mark.parametrize("kind", composites())
def test_no_derivative_leads_through_a_node_that_holds_nodes(kind):
    h, y, z = variable("h"), variable("y"), variable("z")
    head = Node(torch.square, ["y"], ["z"], name="head")
    for one in (y, z, torch.sin(y) + h):
        with pytest.raises(OptionError, match=r"cannot derive 'y' by 'h': the .* out of reach; (put its|write the)"):
            Problem([head, composites()[kind]], PenaltyLoss([one.grad(h).minimize()]))


@pytest.mark.parametrize("kind", composites())
def test_what_is_computed_afterwards_is_derived(kind):
    h, z = variable("h"), variable("z")
    square = Node(torch.square, ["h"], ["z"], name="square")
    problem = Problem([square, composites()[kind]], PenaltyLoss([z.grad(h).minimize(name="slope", metric=torch.sum)]))
    output = problem({"x": x[:, None] if "system" in kind else x})
    torch.testing.assert_close(output["slope"], 2 * output["h"].sum())
