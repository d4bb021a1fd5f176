"""Wiring: the order of nodes, and what is told when there is none."""

from __future__ import annotations

import pytest
import torch

from slimgraph import Node, PenaltyLoss, Problem, variable, wiring
from slimgraph.errors import CycleError, DuplicateNameError, MissingKeyError, OverwriteError


def node(reads, writes, name=None):
    return Node(lambda *v: tuple(sum(v) for _ in writes.split()), reads.split(), writes.split(), name=name)


def test_independent_nodes_run_in_declared_order():
    assert wiring.order([node("c", "d"), node("a", "b"), node("a", "c")]) == [1, 2, 0]


def test_an_overwritten_key_keeps_the_declared_order():
    nodes = [node("x", "x", "add"), node("x", "y", "read"), node("x", "x", "again")]
    assert wiring.order(nodes) == [0, 1, 2]
    with pytest.warns(UserWarning, match="key 'x' is overwritten by node 'add' and node 'again'"):
        wiring.order(nodes, check_overwrite=True)
    with pytest.raises(OverwriteError, match="'x' is overwritten by node 'add' and node 'again'"):
        wiring.order(nodes, check_overwrite="error")


def test_a_node_that_overwrites_what_it_reads_is_no_cycle():
    problem = Problem([node("x", "x", "add"), node("x", "x", "again"), node("x", "y", "read")], PenaltyLoss())
    problem.nodes[0].callable = lambda x: x + 1
    problem.nodes[1].callable = lambda x: 10 * x
    assert problem.step({"x": torch.zeros(1)})["y"] == 10
    with pytest.warns(UserWarning, match="key 'x' is overwritten by node 'add', which reads it"):
        wiring.order([problem.nodes[0]], check_overwrite=True)


def test_an_overwritten_key_binds_those_that_touch_it_alone():
    move = Node(torch.add, ["x", "u"], ["x"], name="move")
    assert wiring.order([move, node("r", "u")]) == [1, 0]
    assert wiring.order([node("x", "early"), move, node("x", "late"), node("r", "u")]) == [0, 3, 1, 2]
    first, second = node("x", "x", "first"), node("x", "x", "second")
    assert wiring.order([node("z", "y"), second, first, node("x", "z")]) == [1, 2, 3, 0]
    # Where the order of one key stands against that of another, the declared one holds.
    assert wiring.order([move, node("x", "u")]) == [0, 1]


def test_discarded_results_overwrite_nothing():
    nodes = [Node(lambda x: (x, x), ["x"], [key, "_"], name=key) for key in ("a", "b")]
    assert wiring.order(nodes, check_overwrite="error") == [0, 1]
    assert wiring.writers(nodes) == {"a": [0], "b": [1]}


def test_names_are_stable_and_the_nodes_keep_theirs():
    nodes = [node("a", "b"), node("b", "c", "head"), node("c", "d")]
    assert wiring.names(nodes) == ["node_1", "head", "node_3"]
    assert [n.name for n in nodes] == [None, "head", None]


def test_unnamed_nodes_are_numbered_as_declared_everywhere():
    problem = Problem([node("b", "c"), node("a", "b")], PenaltyLoss())
    assert repr(problem.node("node_2")).endswith("(a) -> (b)")
    with pytest.raises(MissingKeyError, match="node 'node_2' reads 'a'"):
        problem({"z": torch.ones(1)})
    assert ("data:a", "node:node_2", "a") in problem.to_networkx().edges(keys=True)


def test_two_nodes_of_one_name_are_refused():
    with pytest.raises(DuplicateNameError, match=r"called 'f': number 1, \(a\) -> \(b\), and number 3, \(c\) -> \(d\)"):
        Problem([node("a", "b", "f"), node("b", "c"), node("c", "d", "f")], PenaltyLoss())


def test_a_cycle_is_shown_as_a_path_with_advice():
    with pytest.raises(CycleError, match=r"policy -\(u\)-> plant -\(x\)-> policy. .*belongs into a System"):
        Problem([node("r", "z", "free"), node("x z", "u", "policy"), node("u", "x", "plant")], PenaltyLoss())


def test_a_missing_key_names_reader_nearest_key_and_its_producer():
    problem = Problem([node("x", "hidden", "body"), node("hiden", "y", "head")], PenaltyLoss())
    with pytest.raises(
        MissingKeyError,
        match=r"node 'head' reads 'hiden', the data holds \['x'\] and the nodes give \['hidden', 'y'\]."
        r" Did you mean 'hidden'\? It comes from node 'body'",
    ):
        problem({"x": torch.ones(1)})


def test_a_missing_key_is_told_before_any_node_runs():
    ran = []
    body = Node(lambda x: ran.append(1) or x, ["x"], ["h"], name="body")
    problem = Problem([body], PenaltyLoss([], [variable("goal") <= 1]))
    with pytest.raises(MissingKeyError, match=r"constraint 'goal <= 1' reads 'goal', the data holds \['x'\]"):
        problem({"x": torch.ones(1)})
    assert not ran


def test_the_graph_holds_data_nodes_terms_and_keys_on_its_edges():
    problem = Problem([node("x r", "u", "policy")], PenaltyLoss([variable("u").minimize(name="effort")]))
    graph = problem.to_networkx()
    kinds = {place: graph.nodes[place]["kind"] for place in graph}
    assert kinds == {
        "data:x": "data", "data:r": "data", "node:policy": "node", "term:0": "objective", "loss": "loss",
    }  # fmt: skip
    assert set(graph.edges(keys=True)) == {
        ("data:x", "node:policy", "x"), ("data:r", "node:policy", "r"),
        ("node:policy", "term:0", "u"), ("term:0", "loss", ""),
    }  # fmt: skip


def test_a_diagram_writes_long_numbers_in_six_digits_and_leaves_names_alone():
    x = variable("x1.123456789")
    term = (0.003183098861837907 * x).minimize(name="fit")
    problem = Problem([Node(abs, ["p"], ["x1.123456789"], name="abs")], PenaltyLoss([term]))
    label = problem.to_networkx().nodes["term:0"]["label"]
    assert "0.0031831 * x1.123456789" in label
    assert "0.003183098861837907" in str(term)
