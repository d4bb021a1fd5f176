"""The one networkx form, read for drawing: its nodes, the boxes they stand in, and its arrows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from slimgraph.drawing.facts import Facts, facts_of
from slimgraph.errors import DrawingError

Titles = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """A node of the diagram: `name` is its id, `label` what is written in it, `facts` what a tooltip adds."""

    name: str
    label: str
    kind: str
    facts: Facts = ()


@dataclass
class Box:
    """A box with a title; the outermost one is the whole diagram and has no title."""

    path: Titles = ()
    shapes: list[Shape] = field(default_factory=list)
    boxes: dict[str, Box] = field(default_factory=dict)


@dataclass
class Arrow:
    """What flows from `tail` to `head`: all keys between two nodes are one arrow."""

    tail: Shape
    head: Shape
    feedback: bool
    keys: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The keys to write on it: a key that its data node already says is not said twice."""
        said = {shape.label for shape in (self.tail, self.head) if shape.kind == "data"}
        return [key for key in self.keys if key and key not in said]


def networkx_form(x: Any) -> nx.DiGraph:
    """The directed networkx graph of `x`: of a thing with `to_networkx()`, or `x` itself."""
    form = x if isinstance(x, nx.Graph) else getattr(x, "to_networkx", lambda: None)()
    if not isinstance(form, nx.Graph):
        raise DrawingError(
            f"{type(x).__name__} has no graph to draw; give a Problem, System, Node, Variable, map or module,"
            " anything with to_networkx(), or a networkx graph"
        )
    if not isinstance(form, nx.DiGraph):
        raise DrawingError(f"{type(form).__name__} has no directions; give a networkx DiGraph or MultiDiGraph")
    return form


def read_form(x: Any) -> tuple[Box, list[Arrow]]:
    """The boxes and arrows of `x`, in the order of its graph, so that a diagram never changes by itself."""
    form = networkx_form(x)
    whole, shapes = Box(), {}
    for name, attributes in form.nodes(data=True):
        label, kind = str(attributes.get("label", name)), attributes.get("kind", "")
        shapes[name] = Shape(str(name), label, kind, facts_of(attributes.get("part")))
        cluster = attributes.get("cluster") or ()
        box = whole
        for title in (cluster,) if isinstance(cluster, str) else map(str, cluster):
            box = box.boxes.setdefault(title, Box((*box.path, title)))
        box.shapes.append(shapes[name])

    arrows: dict[tuple[Any, Any, bool], Arrow] = {}
    for tail, head, key, attributes in _edges(form):
        feedback = bool(attributes.get("feedback"))
        arrow = arrows.setdefault((tail, head, feedback), Arrow(shapes[tail], shapes[head], feedback))
        # networkx numbers the edges that got no key: a number is no data key.
        arrow.keys.append(key if isinstance(key, str) else "")
    return whole, list(arrows.values())


def _edges(form: nx.DiGraph) -> Iterable[tuple[Any, Any, Any, dict[str, Any]]]:
    if isinstance(form, nx.MultiDiGraph):
        return form.edges(keys=True, data=True)
    return ((tail, head, attributes.get("key"), attributes) for tail, head, attributes in form.edges(data=True))
