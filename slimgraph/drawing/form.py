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
    """A box with a title and maybe a note under it; the outermost one is the whole diagram and has none.

    `path` tells it apart from all others: the names of the boxes around it, and its own.
    """

    path: Titles = ()
    shapes: list[Shape] = field(default_factory=list)
    boxes: dict[str, Box] = field(default_factory=dict)
    title: str = ""
    note: str = ""
    facts: Facts = ()
    # Of the outermost one: shapes that stand one behind the other though nothing flows between them.
    order: list[tuple[Shape, Shape]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What is written in its corner."""
        return f"{self.title}\n{self.note}" if self.note else self.title


@dataclass
class Arrow:
    """What flows from `tail` to `head`: all keys between two nodes are one arrow, each with its shape, if asked."""

    tail: Shape
    head: Shape
    feedback: bool
    keys: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """What to write on it: a key that its data node already says is not said twice."""
        said = {shape.label for shape in (self.tail, self.head) if shape.kind == "data"}
        by_shape: dict[str, list[str]] = {}
        for key, shape in zip(self.keys, self.shapes, strict=True):
            by_shape.setdefault(shape, []).extend([key] if key and key not in said else [])
        plain = by_shape.pop("", [])
        # Keys of one shape share it, which is written below them.
        return [*plain, *("\n".join(part for part in (", ".join(keys), s) if part) for s, keys in by_shape.items())]


class View(nx.MultiDiGraph):
    """A graph in the networkx form, as it is to be drawn: opened, folded and written on as asked.

    Beyond the attributes of the form its edges may have the `shape` and the `dtype` of the tensor that flows. Its
    `graph["order"]` are pairs of nodes that stand one behind the other though nothing flows from one to the other.
    `reading` is what `read_form` made of it: a drawing writes it in several ways.
    """

    reading: tuple[Box, list[Arrow]] | None = None


def networkx_form(x: Any) -> nx.DiGraph:
    """The directed networkx graph of `x`: of a thing with `to_networkx()`, or `x` itself."""
    form = x if isinstance(x, nx.Graph) else getattr(x, "to_networkx", lambda: None)()
    if not isinstance(form, nx.Graph):
        raise DrawingError(
            f"{type(x).__name__} has no graph to draw; give a Problem, System, Node, Variable, map or recurrence,"
            " a torch module in a Node, anything with to_networkx(), or a networkx graph"
        )
    if not isinstance(form, nx.DiGraph):
        raise DrawingError(f"{type(form).__name__} has no directions; give a networkx DiGraph or MultiDiGraph")
    return form


def as_view(form: nx.DiGraph) -> View:
    """A copy of `form` that may be changed; the parts behind its nodes are the same."""
    view = View()
    view.graph["boxes"], view.graph["order"] = dict(form.graph.get("boxes", {})), list(form.graph.get("order", ()))
    for name, attributes in form.nodes(data=True):
        view.add_node(name, **{**attributes, "cluster": path_of(attributes)})
    for tail, head, key, attributes in _edges(form):
        view.add_edge(tail, head, key, **attributes)
    return view


def path_of(attributes: dict[str, Any]) -> Titles:
    """The boxes in which a node stands, the outermost first."""
    cluster = attributes.get("cluster") or ()
    return (cluster,) if isinstance(cluster, str) else tuple(map(str, cluster))


def _edges(form: nx.DiGraph) -> Iterable[tuple[Any, Any, Any, dict[str, Any]]]:
    if isinstance(form, nx.MultiDiGraph):
        return form.edges(keys=True, data=True)
    return ((tail, head, attributes.get("key"), attributes) for tail, head, attributes in form.edges(data=True))


def read_form(x: Any, **options: Any) -> tuple[Box, list[Arrow]]:
    """The boxes and arrows of `x`, in the order of its graph, so that a diagram never changes by itself.

    `options` are those of `view`; a View is read as it is.
    """
    from slimgraph.drawing.view import view

    form = x if isinstance(x, View) else view(x, **options)
    if form.reading is None:
        form.reading = _read(form)
    return form.reading


def _read(form: View) -> tuple[Box, list[Arrow]]:
    boxes: dict[Titles, dict[str, Any]] = form.graph.get("boxes", {})
    whole, shapes = Box(), {}
    for name, attributes in form.nodes(data=True):
        label, kind = str(attributes.get("label", name)), attributes.get("kind", "")
        shapes[name] = Shape(str(name), label, kind, facts_of(attributes.get("part")))
        box = whole
        for word in attributes["cluster"]:
            path = (*box.path, word)
            about = boxes.get(path, {})
            if word not in box.boxes:
                facts = facts_of(about.get("part"))
                box.boxes[word] = Box(path, title=about.get("title", word), note=about.get("note", ""), facts=facts)
            box = box.boxes[word]
        box.shapes.append(shapes[name])

    whole.order = [(shapes[a], shapes[b]) for a, b in form.graph.get("order", ()) if a in shapes and b in shapes]
    arrows: dict[tuple[Any, Any, bool], Arrow] = {}
    for tail, head, key, attributes in form.edges(keys=True, data=True):
        feedback = bool(attributes.get("feedback"))
        arrow = arrows.setdefault((tail, head, feedback), Arrow(shapes[tail], shapes[head], feedback))
        # networkx numbers the edges that got no key: a number is no data key.
        arrow.keys.append(key if isinstance(key, str) else "")
        arrow.shapes.append(shape_text(attributes))
    return whole, list(arrows.values())


def shape_text(attributes: dict[str, Any]) -> str:
    """`(32, 14) float32`, or nothing where it is not known."""
    shape = attributes.get("shape")
    return "" if shape is None else f"{tuple(shape)} {attributes.get('dtype', '')}".rstrip()
