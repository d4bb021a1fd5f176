"""Levels of a diagram, and what is written on it: compared with graphs, runs and reports made by hand."""

from __future__ import annotations

import copy
import inspect
import os
import random
import re
import runpy
import time
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.blocks import MLP
from slimgraph.doors import Drawable
from slimgraph.drawing import draw, graph, to_dot, to_mermaid
from slimgraph.drawing.form import read_form
from slimgraph.drawing.view import view
from slimgraph.errors import DrawingError, OptionError, SlimgraphError, UnknownOptionError

FUNCTIONS = (torch.tanh, torch.sin, torch.cos)


def add(x, u):
    return x + u


def plant_loop(name="loop", nsteps=None):
    """x <- A x + u, with a map that keeps its promise by a penalty."""
    nodes = [
        Node(slim.maps["softSVD"](2, 2), ["x"], ["kept"], name="A"),
        Node(add, ["kept", "u"], ["x"], name="sum"),
    ]
    return System(nodes, name=name, nstep_key="u", nsteps=nsteps)


def controlled(name="loop", nsteps=None):
    """A start from the past, a System, an output, an objective and two bounds."""
    y, r = variable("y"), variable("r")
    nodes = [
        Node(nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (1, 2))), ["past"], ["x"], name="start"),
        plant_loop(name, nsteps),
        Node(nn.Linear(2, 2), ["x"], ["y"], name="output"),
    ]
    return Problem(nodes, PenaltyLoss([((y - r) ** 2).minimize(name="track")], [y <= -50.0, y <= 50.0]))


def batch():
    return {"past": torch.randn(4, 3), "u": torch.randn(4, 5, 2), "r": torch.randn(4, 6, 2)}


def nested():
    """A Problem in a Problem in a Problem, which gives keys other names."""
    inner = [Node(torch.tanh, ["h"], ["z"], name="squash"), Node(nn.Linear(3, 3), ["x"], ["h"], name="affine")]
    inner = Problem(inner, PenaltyLoss([variable("z").minimize()]))
    middle = [Node(inner, ["x"], ["z"], name="encoder"), Node(torch.abs, ["z"], ["size"], name="measure")]
    middle = Problem(middle, PenaltyLoss([variable("size").minimize()]))
    nodes = [
        Node(middle, {"seen": "x"}, ["z", "size"], name="perception"),
        Node(torch.sin, ["z"], ["u"], name="policy"),
    ]
    return Problem(nodes, PenaltyLoss([variable("u").minimize(name="cost")], [variable("size") <= 1]))


def labels(x, **options):
    """The first lines of the labels of what computes, in order."""
    return [shape.label.partition("\n")[0] for shape in shapes_in(x, **options) if shape.kind != "data"]


def shapes_in(x, **options):
    def inside(box):
        return [*box.shapes, *(shape for inner in box.boxes.values() for shape in inside(inner))]

    return inside(read_form(x, **options)[0])


def arrows(x, **options):
    """Tail, head, labels and whether it is fed back, of every arrow."""
    found = read_form(x, **options)[1]
    return {(a.tail.label.split("\n")[0], a.head.label.split("\n")[0], tuple(a.labels), a.feedback) for a in found}


def boxes(x, **options):
    def inside(box):
        return [text for inner in box.boxes.values() for text in (inner.label, *inside(inner))]

    return inside(read_form(x, **options)[0])


# ---- depth ----------------------------------------------------------------------------------------------------------


def test_depth_opens_and_closes_boxes():
    problem = nested()
    terms = ["cost", "constraint_1", "PenaltyLoss"]
    assert labels(problem) == labels(problem, depth=0) == ["perception", "policy", *terms]
    assert labels(problem, depth=1) == ["policy", *terms, "encoder", "measure"]
    assert labels(problem, depth=2) == labels(problem, depth=9) == ["policy", *terms, "measure", "affine", "squash"]
    assert boxes(problem, depth=2) == ["perception", "encoder"]


def test_an_opened_node_hangs_together_as_the_closed_one():
    found = arrows(nested(), depth=2)
    assert {(tail, head) for tail, head, *_ in found} == {
        *(("seen", "affine"), ("affine", "squash"), ("squash", "measure"), ("squash", "policy")),
        *(("measure", "constraint_1"), ("policy", "cost"), ("cost", "PenaltyLoss"), ("constraint_1", "PenaltyLoss")),
    }


def test_a_closed_system_keeps_its_loop_and_its_reg_error():
    problem = controlled()
    assert boxes(problem, depth=0) == []
    found = arrows(problem, depth=0)
    assert {edge for edge in found if "loop" in edge[:2]} == {
        *(("start", "loop", ("x",), False), ("u", "loop", (), False), ("loop", "loop", ("x",), True)),
        *(("loop", "output", ("x",), False), ("loop", "reg_error of SVDLinear", (), False)),
    }
    assert found == arrows(problem, collapse="loop") == arrows(problem, collapse=System)
    assert found == arrows(problem, collapse=lambda part: isinstance(part, System))


def test_a_subgraph_and_a_system_in_a_system_are_opened():
    inner = System([Node(add, ["w", "e"], ["w"], name="fast")], name="inner", nsteps=3)
    outer = System([inner, Node(add, ["w", "u"], ["e"], name="slow")], name="outer", nstep_key="u")
    assert boxes(outer) == ["outer\nrepeats nsteps = len(u)"]
    assert boxes(outer, depth=2) == ["outer\nrepeats nsteps = len(u)", "inner\nrepeats 3 steps"]
    part = controlled().subgraph(["y"])
    problem = Problem([part, Node(torch.sin, ["y"], ["s"], name="after")], PenaltyLoss([variable("s").minimize()]))
    assert boxes(problem, depth=1) == ["Subgraph"]
    assert boxes(problem, depth=2) == ["Subgraph", "loop\nrepeats nsteps = len(u)"]


def test_an_unnamed_system_has_a_title_and_no_new_name():
    problem = controlled(name=None, nsteps=7)
    assert boxes(problem) == ["System\nrepeats 7 steps"]
    assert problem.nodes[1].name is None
    assert "node_2" not in to_mermaid(problem)


# ---- collapse -------------------------------------------------------------------------------------------------------


def chain(count, make=lambda i: FUNCTIONS[i % 3]):
    nodes = [Node(make(i), [f"k{i}"], [f"k{i + 1}"], name=f"part_{i}") for i in range(count)]
    return Problem(nodes, PenaltyLoss([variable(f"k{count}").minimize(name="cost")]))


def test_a_pattern_and_a_function_put_nodes_together():
    problem = chain(5, lambda i: (torch.tanh, torch.sin, torch.cos, torch.abs, torch.exp)[i])
    assert labels(problem, collapse="part_*")[0] == "part_*"
    by_half = labels(problem, collapse=lambda part: "front" if part.name < "part_2" else None)
    assert by_half == ["front", "part_2", "part_3", "part_4", "cost", "PenaltyLoss"]
    both = arrows(problem, collapse=["part_*"])
    assert {(tail, head) for tail, head, *_ in both} == {("k0", "part_*"), ("part_*", "cost"), ("cost", "PenaltyLoss")}


def test_what_is_collapsed_is_not_opened():
    assert labels(nested(), depth=2, collapse=["encoder"]) == labels(nested(), depth=1)
    assert boxes(controlled(), inside=True, collapse=["A", nn.Sequential])[1:] == ["output"]


# ---- folding --------------------------------------------------------------------------------------------------------


def test_a_chain_of_equal_nodes_is_one():
    maps = chain(10, lambda i: slim.maps["softSVD"](3, 3))
    assert labels(maps)[0] == "part_0 ... part_9"
    assert next(shape.label for shape in shapes_in(maps)).endswith("part_9\nx 10")
    assert arrows(maps) == {
        *(("k0", "part_0 ... part_9", (), False), ("part_0 ... part_9", "cost", ("k10",), False)),
        *(("part_0 ... part_9", "reg_error of SVDLinear", (), False), ("cost", "PenaltyLoss", (), False)),
        ("reg_error of SVDLinear", "PenaltyLoss", (), False),
    }


@pytest.mark.parametrize(
    ("make", "drawn"),
    [
        (lambda i: nn.Linear(3, 3, bias=i != 3), ["part_0 ... part_2", "part_3", "part_4 ... part_6", "part_7"]),
        (
            lambda i: nn.Linear(3, 3) if i < 2 else FUNCTIONS[i % 2],
            [f"part_{i}" for i in range(2)] + ["part_2", "part_3"],
        ),
        (lambda i: lambda x: i * x, [f"part_{i}" for i in range(8)]),
    ],
)
def test_only_equal_ones_fold(make, drawn):
    found = labels(chain(8, lambda i: torch.tanh if i == 7 else make(i)))
    assert found[: len(drawn)] == drawn


def test_a_key_that_is_read_elsewhere_is_not_folded_away():
    problem = chain(8, lambda i: torch.tanh)
    tapped = Problem(list(problem.nodes), PenaltyLoss([(variable("k8") - variable("k4")).minimize(name="cost")]))
    assert labels(problem)[0] == "part_0 ... part_7"
    assert labels(tapped)[:2] == ["part_0 ... part_3", "part_4 ... part_7"]


def test_stretches_that_repeat_are_one_box():
    deep = Problem(
        [Node(MLP(4, 2, nonlin=nn.ReLU, hsizes=[16] * 8), ["x"], ["u"], name="policy")],
        PenaltyLoss([variable("u").minimize(name="cost")]),
    )
    assert boxes(deep, inside=True) == ["policy", "x 7"]
    found = [(tail, head) for tail, head, *_ in arrows(deep, inside=True)]
    assert nx.is_directed_acyclic_graph(nx.DiGraph(found))
    assert len(found) == 7


# ---- only -----------------------------------------------------------------------------------------------------------


def test_only_draws_what_leads_to_a_key():
    problem = controlled()
    assert labels(problem, only=["x"]) == ["start", "A", "sum"]
    assert labels(problem, only="y") == ["start", "output", "A", "sum"]
    assert labels(problem, only=[variable("r")]) == []
    assert labels(problem, only=["track"]) == ["start", "output", "track", "A", "sum"]
    form = problem.to_networkx()
    kept = nx.ancestors(form, "node:output") | {"node:output", "result:y"}
    assert set(view(problem, only=["y"])) == kept


def test_of_a_key_written_twice_the_last_value_is_meant():
    nodes = [Node(FUNCTIONS[i], ["x"], ["x"], name=f"n{i}") for i in range(3)]
    problem = Problem(nodes, PenaltyLoss([variable("x").minimize(name="cost")]))
    assert labels(problem, only=["x"]) == ["n0", "n1", "n2"]


# ---- unrolled -------------------------------------------------------------------------------------------------------


def test_unrolled_steps_hand_the_state_on():
    problem = controlled()
    form = view(problem, unroll=3)
    assert not any(feedback for *_, feedback in form.edges(data="feedback"))
    assert nx.is_directed_acyclic_graph(form)
    for step in range(3):
        assert list(form.predecessors(f"loop/sum@{step}")) == [f"loop/A@{step}", f"data:u@{step}"]
        before = "node:start" if step == 0 else f"loop/sum@{step - 1}"
        assert list(form.predecessors(f"loop/A@{step}")) == [before]
        assert form.nodes[f"data:u@{step}"]["label"] == f"u[{step}]"
    assert {form.nodes[n]["label"] for n in form.successors("loop/sum@2")} == {"...", "x"}
    assert boxes(problem, unroll=3) == ["loop\nrepeats nsteps = len(u)", "step 0", "step 1", "step 2"]
    # reg_error counts a map once, however often it runs.
    assert form.in_degree("reg_error") == 1
    assert "data:u" not in form


def test_a_system_is_unrolled_no_further_than_it_runs():
    for nsteps, steps, goes_on in ((2, 3, False), (3, 3, False), (4, 3, True)):
        made = labels(controlled(nsteps=nsteps), unroll=steps)
        assert made.count("A") == min(nsteps, steps)
        assert ("..." in made) == goes_on


def test_a_key_that_is_called_like_an_entry_of_a_series_stays():
    loop = System([Node(torch.add, ["x", "u"], ["x"], name="n")], name="loop", nsteps=3)
    other = Node(torch.sin, ["u@0"], ["w"], name="other")
    problem = Problem([loop, other], PenaltyLoss([(variable("w") + variable("x")).minimize()]))
    form = view(problem, unroll=2)
    assert [form.nodes[place]["label"] for place in form.predecessors("node:other")] == ["u@0"]
    assert "u[0]" in [form.nodes[place]["label"] for place in form.predecessors("loop/n@0")]


def test_a_system_that_depth_closes_has_no_steps():
    problem = controlled()
    assert "step 2" in labels(problem, depth=1, unroll=3)
    with pytest.raises(OptionError, match="unroll=3 needs a System that is drawn open"):
        view(problem, depth=0, unroll=3)


# ---- inside ---------------------------------------------------------------------------------------------------------


def test_inside_is_the_component_graph_of_what_a_node_calls():
    rnn = slim.RNN(3, 8, num_layers=2, batch_first=True)
    problem = Problem([Node(rnn, ["u"], ["y", "_"], name="rnn")], PenaltyLoss([variable("y").minimize(name="cost")]))
    form, own = view(problem, inside=True), rnn.as_graph().to_networkx()
    inside = [place for place, a in form.nodes(data=True) if a["cluster"]]
    parts = [place for place, kind in own.nodes(data="kind") if kind != "data"]
    assert nx.is_isomorphic(form.subgraph(inside), own.subgraph(parts))
    assert boxes(problem, inside="rnn") == ["rnn", "layer 0", "layer 1"]
    assert boxes(problem, inside=slim.RNN, depth=1) == ["rnn"]
    assert labels(rnn, inside=True) == labels(rnn.as_graph())


def test_functions_stay_closed_and_say_so_when_they_are_named():
    problem = controlled()
    assert "sum" in labels(problem, inside=True)
    assert boxes(problem, inside=["A", "output"])[1:] == ["A", "output"] or "A" in boxes(
        problem, inside=["A", "output"]
    )
    with pytest.raises(
        OptionError, match=r"^inside names 'sum', which calls add: that has no component graph to open; a map"
    ):
        draw(problem, inside="sum")


# ---- shapes and values ----------------------------------------------------------------------------------------------


def test_shapes_are_those_of_a_run():
    problem, data = controlled(), batch()
    loop = problem.nodes[1]
    run = problem.step(data)
    series = loop.trace({"x": problem.nodes[0](data)["x"], "u": data["u"]})
    wanted = {("past", "start"): data["past"], ("u", "sum"): data["u"], ("output", "track"): run["y"]}
    wanted |= {("A", "sum"): series["kept"], ("sum", "A"): series["x"], ("start", "A"): problem.nodes[0](data)["x"]}
    found = {edge[:2]: edge[2] for edge in arrows(problem, shapes=data)}
    for edge, value in wanted.items():
        assert found[edge][-1].endswith(f"{tuple(value.shape)} float32"), edge
    assert {key for key, text in found.items() if not text} == {
        *((term, "PenaltyLoss") for term in ("track", "constraint_1", "constraint_2", "reg_error of SVDLinear")),
        ("A", "reg_error of SVDLinear"),
    }


def test_keys_of_one_shape_share_it():
    node = Node(lambda x: (x, x), ["p"], ["a", "b"], name="two")
    problem = Problem([node], PenaltyLoss([(variable("a") + variable("b")).minimize(name="cost")]))
    assert ("two", "cost", ("a, b\n(4, 1) float64",), False) in arrows(
        problem, shapes={"p": torch.zeros(4, 1, dtype=torch.float64)}
    )


def test_shapes_of_nested_and_renamed_keys_nodes_terms_and_expressions():
    data = {"seen": torch.zeros(8, 3)}
    found = {edge[:2]: edge[2] for edge in arrows(nested(), shapes=data, depth=2)}
    assert found["seen", "affine"] == ("(8, 3) float32",)
    assert found["squash", "policy"] == ("z\n(8, 3) float32",)
    x = variable("x")
    one = {"x": torch.zeros(8, 3)}
    for thing in (Node(nn.Linear(3, 3), ["x"], ["y"], name="n"), torch.sin(x) + 1, x.minimize(name="m")):
        assert any("(8, 3) float32" in text for *_, texts, _ in arrows(thing, shapes=one) for text in texts), thing
    unrolled = {edge[:2]: edge[2] for edge in arrows(controlled(), shapes=batch(), unroll=2)}
    assert unrolled["u[0]", "sum"] == ("(4, 2) float32",)


class Counting(nn.Module):
    """Draws numbers, counts its calls and keeps a running mean: all that a run could leave behind."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(2), 0

    def forward(self, x):
        self.calls += 1
        return self.norm(x + torch.rand_like(x) * random.random())


def test_drawing_changes_nothing_in_the_problem():
    held = nn.BatchNorm1d(2)
    nodes = [Node(Counting(), ["x"], ["h"], name="drawn"), Node(lambda h: held(h), ["h"], ["y"])]
    problem = Problem([*nodes, plant_loop()], PenaltyLoss([variable("y").minimize()], [variable("y") <= 1]))
    data = {"x": torch.randn(4, 2), "u": torch.randn(4, 3, 2)}
    start = {**data, "x": torch.randn(4, 1, 2)}
    problem = Problem([nodes[0], nodes[1]], problem.loss)
    report = problem.report(data)
    before = (
        copy.deepcopy(problem.state_dict()),
        copy.deepcopy(held.state_dict()),
        torch.get_rng_state(),
        random.getstate(),
    )
    calls, given, text = problem.nodes[0].callable.calls, {k: v.clone() for k, v in start.items()}, repr(problem)
    draw(problem, shapes=data, values=report, depth=2, collapse="drawn", only=["constraint_1"], inside=True)
    for one, other in zip(before[:2], (problem.state_dict(), held.state_dict()), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(before[2], torch.get_rng_state())
    assert before[3] == random.getstate()
    assert (problem.nodes[0].callable.calls, repr(problem), problem.training) == (calls, text, True)
    assert all(torch.equal(given[key], start[key]) for key in given)
    assert [node.name for node in problem.nodes] == ["drawn", None]


def test_values_tell_what_is_violated_where_and_how_much():
    problem, data = controlled(), batch()
    report = problem.report(data)
    broken, kept = report.constraints
    assert (broken.satisfied, kept.satisfied) == (0, 1)
    shapes = {shape.label.split("\n")[0]: shape for shape in shapes_in(problem, values=report)}
    assert shapes["constraint_1"].kind == "violated"
    assert shapes["constraint_1"].label.split("\n")[2:] == ["violated in 100 %", f"by up to {broken.max_violation:.3g}"]
    assert (shapes["constraint_2"].kind, shapes["constraint_2"].label.split("\n")[2:]) == ("constraint", ["held"])
    assert shapes["track"].label.split("\n")[2:] == [f"= {report.objectives['track']:.4g}"]
    (error,) = report.reg_errors.values()
    assert shapes["reg_error of SVDLinear"].label.split("\n")[1:] == [f"= {error:.4g}"]
    look = graph(problem, values=report)
    fills = [look.get_subgraphs() and node.get("fillcolor") for node in look.get_nodes() if "constraint_" in str(node)]
    assert len(set(fills)) == 2


# ---- bad input ------------------------------------------------------------------------------------------------------

BAD = {
    "no graph": ((3, {"depth": 1}), DrawingError, "int has no graph to draw; give a Problem"),
    "collapse": ((controlled, {"collapse": "lop"}), UnknownOptionError, "Did you mean 'loop'?"),
    "collapse a type": ((controlled, {"collapse": [nn.LSTM]}), UnknownOptionError, "names the type LSTM, of"),
    "collapse a pattern": ((controlled, {"collapse": "enc*"}), UnknownOptionError, "collapse names 'enc*', which"),
    "collapse a number": ((controlled, {"collapse": 3}), OptionError, "collapse takes names, types or a function"),
    "only": ((controlled, {"only": ["z"]}), UnknownOptionError, "only names 'z', which nothing gives; there are"),
    "only, nearly": ((controlled, {"only": "trck"}), UnknownOptionError, "Did you mean 'track'?"),
    "only nothing": ((controlled, {"only": []}), OptionError, "only is a list of keys; it is empty"),
    "only a number": ((controlled, {"only": [3]}), OptionError, "only takes keys, or names of terms; got int: 3"),
    "only one number": ((controlled, {"only": 3}), OptionError, "only takes keys, or names of terms; got int: 3"),
    "inside": ((controlled, {"inside": "outptu"}), UnknownOptionError, "Did you mean 'output'?"),
    "depth": ((controlled, {"depth": -1}), OptionError, "depth is a whole number >= 0; got -1"),
    "unroll": ((controlled, {"unroll": 0}), OptionError, "unroll is a whole number >= 1; got 0"),
    "unroll nothing": ((nested, {"unroll": 2}), OptionError, "needs a System that is drawn open"),
    "shapes": ((controlled, {"shapes": 3}), OptionError, "shapes takes a batch, a dict of tensors"),
    "shapes of a map": ((slim.Linear(2, 2), {"shapes": {"u": torch.ones(1)}}), OptionError, "Linear takes none"),
    "a missing key": ((controlled, {"shapes": {"u": torch.zeros(2, 3, 2)}}), SlimgraphError, "reads 'past'"),
    "values": ((controlled, {"values": {"y": 3}}), OptionError, "values takes what problem.report(data) gives"),
    "values of a System": ((plant_loop, {"values": controlled}), OptionError, "are told of a Problem"),
    "another report": (
        (nested, {"values": controlled}),
        OptionError,
        "is the report of another problem: 'constraint_1'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_sentence(case):
    (thing, options), kind, words = BAD[case]
    if options.get("values") is controlled:
        options = {"values": controlled().report(batch())}
    with pytest.raises(kind, match=re.escape(words)) as error:
        draw(thing() if thing in (controlled, nested, plant_loop) else thing, **options)
    assert len(str(error.value).splitlines()) == 1


# ---- the page -----------------------------------------------------------------------------------------------------


def test_the_code_of_the_page_draws_its_pictures(tmp_path):
    docs = Path(__file__).parent.parent / "docs"
    runpy.run_path(str(docs / "make_diagrams.py"))["main"](tmp_path)
    page = (docs / "diagrams.md").read_text()
    shown = re.findall(r"\(pictures/(\S+)\)", page)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shown)
    assert all((docs / "pictures" / name).is_file() for name in shown)


# ---- size -----------------------------------------------------------------------------------------------------------


def test_large_problems_are_drawn_quickly():
    """500 nodes in 50 boxes as a picture in two seconds, 5000 as text in one; a fold would make them few."""
    loops = []
    for c in range(50):
        keys = [f"s{c}", *(f"s{c}_{i}" for i in range(9)), f"s{c}"]
        inner = [Node(FUNCTIONS[i % 2], [keys[i]], [keys[i + 1]], name=f"part {i}") for i in range(10)]
        loops.append(
            System(
                [*inner[:5], Node(torch.abs, [keys[5]], [keys[6]], name="abs"), *inner[6:]], name=f"box {c}", nsteps=3
            )
        )
    problem = Problem(loops, PenaltyLoss([variable("s0").minimize()]))
    assert len(labels(problem)) > 500
    before = os.times()
    start = time.process_time()
    draw(problem).svg()
    spent = os.times()
    assert time.process_time() - start + spent.children_user - before.children_user < 2
    form = chain(5000, lambda i: (torch.tanh, torch.sin, torch.cos, torch.abs, torch.exp, torch.neg, torch.relu)[i % 7])
    # A machine that does much else may need a second try.
    assert any(seconds_for_text(form) < 1 for _ in range(3))


def seconds_for_text(problem):
    start = time.process_time()
    assert to_dot(problem).count("part_") >= 5000
    return time.process_time() - start


def test_the_method_and_the_function_take_the_same_options():
    method, function, seen = (inspect.signature(f).parameters for f in (Drawable.draw, draw, view))
    assert [*method][1:] == [*function][1:]
    assert all(method[name].default == function[name].default for name in [*function][1:])
    assert [*seen][1:] == [name for name in function if name not in ("x", "path")]
