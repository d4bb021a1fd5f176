"""diff: nothing differs from itself, each single change is told with both values, and backwards is the mirror image."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

from slimgraph import AugmentedLagrangeLoss, BarrierLoss, Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.data import Normalizer
from slimgraph.drawing import diff
from slimgraph.errors import DrawingError

DEFAULTS: dict[str, Any] = {
    "state": "orthogonal", "n": 3, "keys": ("x", "kept"), "gain": 1.0, "nsteps": 2, "keep": None, "loss": PenaltyLoss,
    "options": {}, "bound": 1.0, "weight": 2.0, "power": 2, "reg_weight": 1.0, "extra": False, "name": "cap",
    "frozen": False, "factor": 0.5, "sign": "<=", "unnamed": (), "nonlin": nn.Tanh, "normalizer": None,
}  # fmt: skip


def scaled(gain: float):
    return lambda kept, u: gain * kept + u


def make(**given: Any) -> Problem:
    o = DEFAULTS | given
    torch.manual_seed(0)
    state = Node(nn.Sequential(slim.maps[o["state"]](o["n"], o["n"]), o["nonlin"]()), [o["keys"][0]], [o["keys"][1]],
                 name="state")  # fmt: skip
    if o["frozen"]:
        state.freeze()
    step = Node(scaled(o["gain"]), [o["keys"][1], "u"], ["x"], name="step")
    extra = [Node(torch.relu, ["x"], ["positive"], name="extra")] if o["extra"] else []
    system = System([state, step], name="loop", nsteps=o["nsteps"], keep=o["keep"])
    x = variable("x")
    cap = x <= o["bound"] if o["sign"] == "<=" else x >= o["bound"]
    constraints = [(3.0 * cap).with_name(o["name"]) ^ o["power"], *o["unnamed"]]
    objectives = [(o["factor"] * x**2).minimize(weight=o["weight"], name="size")]
    loss = o["loss"](objectives, constraints, **o["options"])
    return Problem([system, *extra], loss, reg_weight=o["reg_weight"], normalizer=o["normalizer"])


# One change at a time: what is made otherwise, the line that says which part, and the two lines of values.
CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "map": ({"state": "linear"}, ["~ node loop/state", "calls.0: OrthogonalLinear(3, 3", "calls.0: Linear(3, 3"]),
    "shape": ({"n": 4}, ["~ node loop/state", "OrthogonalLinear(3, 3", "OrthogonalLinear(4, 4"]),
    "module": ({"nonlin": nn.ReLU}, ["~ node loop/state", "calls.1: Tanh()", "calls.1: ReLU()"]),
    "closure": ({"gain": 2.0}, ["~ node loop/step", "calls: <lambda> [gain=1.0]", "calls: <lambda> [gain=2.0]"]),
    "frozen": ({"frozen": True}, ["~ node loop/state", "trained: all", "trained: nothing"]),
    "nsteps": ({"nsteps": 5}, ["~ system loop", "nsteps: 2", "nsteps: 5"]),
    "bound": ({"bound": 4.0}, ["~ constraint cap", "right: 1.0", "right: 4.0"]),
    "comparison": ({"sign": ">="}, ["~ constraint cap", "comparison: <=", "comparison: >="]),
    "norm": ({"power": 1}, ["~ constraint cap", "norm: 2", "norm: 1"]),
    "weight": ({"weight": 7.0}, ["~ objective size", "weight: 2", "weight: 7"]),
    "expression": ({"factor": 0.25}, ["~ objective size", "expression: 0.5 * x^2", "expression: 0.25 * x^2"]),
    "loss": ({"loss": BarrierLoss, "options": {"barrier": "log10"}},
             ["~ loss", "type: PenaltyLoss", "type: BarrierLoss", "+     barrier: 'log10'"]),
    "reg_weight": ({"reg_weight": 0.5}, ["~ problem", "reg_weight: 1", "reg_weight: 0.5"]),
    "normalizer": ({"normalizer": Normalizer.fit({"x": torch.rand(4, 3)})}, ["~ problem", "normalizer: Normalizer("]),
    "node": ({"extra": True}, ["+ node extra: (x) -> (positive)", "+ key written positive"]),
    "name": ({"name": "roof"}, ["- constraint cap: 3 * (x <= 1.0)^2", "+ constraint roof: 3 * (x <= 1.0)^2"]),
    "keep": ({"keep": ["x"]}, ["~ system loop", "keep: ['x', 'kept']", "- key written kept"]),
    "term": ({"unnamed": [variable("w") <= 3.0]}, ["+ constraint constraint_2: w <= 3.0", "+ key read w"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_told_with_both_values_and_nothing_else(name: str):
    given, wanted = CHANGES[name]
    found = diff(make(), make(**given))
    text = str(found).replace("['kept', 'x']", "['x', 'kept']")
    assert found and all(words in text for words in wanted), text
    titles = [line for line in text.splitlines() if not line.startswith(("-  ", "+  "))]
    # One part, and the keys that come or go with it.
    assert len(titles) == len([w for w in wanted if w[0] in "~+-" and not w.startswith("+  ")]), text


@pytest.mark.parametrize("name", CHANGES)
def test_backwards_is_the_mirror_image(name: str):
    there, back = diff(make(), make(**CHANGES[name][0])), diff(make(**CHANGES[name][0]), make())
    turned = {"+": "-", "-": "+", "~": "~"}
    mirrored = {
        (turned[c.mark], c.kind, c.name, c.text, frozenset((w, a, b) for w, b, a in c.facts)) for c in back.changes
    }
    assert mirrored == {(c.mark, c.kind, c.name, c.text, frozenset(c.facts)) for c in there.changes}


@pytest.mark.parametrize(
    "given", [{}, {"extra": True}, {"loss": AugmentedLagrangeLoss}, {"unnamed": [variable("w") <= 3.0]}]
)
def test_nothing_differs_from_itself_a_twin_a_copy_or_one_that_has_run(given: dict):
    problem = make(**given)
    twin = make(**given)
    twin({"x": torch.rand(2, 1, 3), "u": torch.rand(2, 2, 3), "w": torch.rand(2, 1)})
    for other in (problem, twin, copy.deepcopy(problem)):
        found = diff(problem, other, values=True)
        assert not found and len(found) == 0 and str(found) == "no difference"


def test_numbers_in_weights_count_only_when_they_are_asked_for():
    for key in ("linear", "learnSVD"):
        a, b = make(state=key), make(state=key)
        with torch.no_grad():
            for p in b.parameters():
                p.view(-1)[-1].add_(0.5)
        assert not diff(a, b)
        assert "calls.0." in str(diff(a, b, values=True)) and len(diff(a, b, values=True)) == 1


def test_unnamed_terms_are_found_again_where_another_one_stands_before_them():
    w, x = variable("w"), variable("x")
    first, second = make(unnamed=[w <= 3.0, x >= 0.0]), make(unnamed=[x >= -9.0, w <= 3.0, x >= 0.0])
    assert str(diff(first, second)) == "+ constraint constraint_2: x >= -9.0"
    changed = diff(first, make(unnamed=[w <= 4.0, x >= 0.0]))
    assert str(changed) == "~ constraint constraint_2\n-     right: 3.0\n+     right: 4.0"


def test_constants_that_a_text_shows_by_their_shape_alone_are_compared():
    a, b = (torch.tensor([1.0, 2.0, 3.0, last]) for last in (4.0, 5.0))
    found = diff(make(bound=a), make(bound=b))
    assert "constant 1: (4,) float32 [1, 2, 3, ...]" in str(found) and not diff(make(bound=a), make(bound=a.clone()))


def test_the_text_is_the_same_in_every_process():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_drawing_diff as t\n"
        "for given, _ in t.CHANGES.values(): print(t.diff(t.make(), t.make(**given)))\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=True).stdout
    assert told == "".join(f"{diff(make(), make(**given))}\n" for given, _ in CHANGES.values())
    assert len(told) > 1000 and " at 0x" not in told


# ---- the drawing

AT_ONCE = {"state": "linear", "extra": True, "name": "roof", "nsteps": 4, "unnamed": [variable("w") <= 3.0]}


def test_the_union_holds_both_graphs_and_marks_what_differs():
    a, b = make(), make(**AT_ONCE)
    found = diff(a, b)
    union = found.to_networkx()
    marks = {mark: {name for name, m in union.nodes(data="mark") if m == mark} for mark in ("", "+", "-", "~")}
    assert marks["~"] == {"loop/state", "reg_error"} - ({"reg_error"} - set(union))
    assert marks["-"] == {"term:1"} | ({"reg_error"} & marks["-"])
    labels = {union.nodes[name]["label"].split("\n")[0] for name in marks["+"]}
    assert labels == {"+ roof", "+ extra", "+ w", "+ positive", "+ constraint_2"}
    # Without what is new it is the first graph, without what is gone the second.
    for graph, gone in ((a.to_networkx(), "+"), (b.to_networkx(), "-")):
        left = union.copy()
        left.remove_edges_from(
            [(*ends, key) for *ends, key, mark in union.edges(keys=True, data="mark") if mark == gone]
        )
        left.remove_nodes_from(marks[gone])
        assert nx.is_isomorphic(nx.DiGraph(left), nx.DiGraph(graph))
        assert left.number_of_edges() == graph.number_of_edges()
    assert "~ system loop, nsteps: 2 -> 4" in union.graph["notes"]


def test_the_drawing_is_coloured_and_told_apart_without_colours(tmp_path):
    found = diff(make(), make(**AT_ONCE))
    svg = found._repr_svg_()
    assert svg == found.draw(tmp_path / "d.svg").svg() == (tmp_path / "d.svg").read_text()
    assert "+ added (thick)" in svg.replace("&#160;", " ").replace("\u00a0", " ") and "stroke-dasharray" in svg
    for path in (tmp_path / "d.dot", tmp_path / "d.mmd", tmp_path / "d.png"):
        assert found.save(path) == path and path.stat().st_size > 500


def test_marks_of_a_difference_never_look_alike_in_greyscale():
    from slimgraph.drawing import style

    for kind in ("node", "objective", "constraint", "data", "loss"):
        looks = [style.NODE | style.KINDS[f"{change}_{kind}"] for change in style.CHANGES]
        outlines = [(look["penwidth"], look["style"], look.get("peripheries")) for look in looks]
        assert all(one != other for one, other in itertools.combinations(outlines, 2))


def test_only_what_has_nodes_is_compared():
    with pytest.raises(DrawingError, match="diff compares Problems, Systems or Nodes; got Linear"):
        diff(make(), nn.Linear(1, 1))
    nodes = [Node(f, ["x"], ["y"], name="f") for f in (torch.relu, torch.tanh)]
    assert str(diff(*nodes)) == "~ node f\n-     calls: relu\n+     calls: tanh"
    systems = [System([Node(torch.relu, ["x"], ["x"], name="f")], nsteps=n) for n in (1, 2)]
    assert str(diff(*systems)) == "~ system system\n-     nsteps: 1\n+     nsteps: 2"


class Scale:
    def __init__(self, factor: float):
        self.factor, self.itself = factor, self

    def __call__(self, x):
        return self.factor * x


def chained(function):
    return lambda x: function(x)


def defaulted(factor: float):
    def scale(x, *, factor=factor):
        return factor * x

    return scale


@pytest.mark.parametrize(("one", "other"), [
    (Scale(2.0), Scale(3.0)), (Scale(2.0).__call__, Scale(3.0).__call__), (defaulted(2.0), defaulted(3.0)),
    (chained(lambda x: x + 1), chained(lambda x: x + 2)),
], ids=["object", "method", "default", "closure"])  # fmt: skip
def test_functions_differ_by_all_that_they_are_bound_to(one, other):
    first, second = (Node(function, ["x"], ["y"], name="n") for function in (one, other))
    assert diff(first, second) and not diff(first, Node(one, ["x"], ["y"], name="n"))


def test_the_order_of_nodes_counts_where_another_value_is_read():
    def ordered(*names: str, system: bool = False):
        keys = {"a": ("x", "y"), "b": ("x", "y"), "c": ("y", "z"), "d": ("x", "w")}
        nodes = [Node(torch.sin, [keys[n][0]], [keys[n][1]], name=n) for n in names]
        return (
            System(nodes, nsteps=2, keep=["z"]) if system else Problem(nodes, PenaltyLoss([variable("z").minimize()]))
        )

    assert str(diff(ordered("a", "b", "c"), ordered("b", "a", "c"))) == (
        "~ key written y\n-     written by: a, b\n+     written by: b, a"
    )
    # What runs does not change by the order in which nodes are declared.
    assert not diff(ordered("a", "c", "d"), ordered("d", "c", "a"))
    assert "+     reads y: of the step before" in str(
        diff(ordered("a", "c", system=True), ordered("c", "a", system=True))
    )


def test_equal_parts_of_a_difference_are_folded_and_still_coloured():
    def chain(bound: float):
        nodes = [Node(torch.sin, [f"x{n}"], [f"x{n + 1}"], name=f"n{n}") for n in range(5)]
        return Problem(nodes, PenaltyLoss([], [(variable("x5") <= bound).with_name("cap")]))

    drawing = diff(chain(1.0), chain(2.0)).draw()
    assert "n0 ... n4\\nx 5" in drawing.dot and "n0 ... n4<br>x 5" in drawing.mermaid
    assert drawing.dot.count('fillcolor="#ffe9ad"') == 1
