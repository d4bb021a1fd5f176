"""Diagrams as a web page: one file with the picture, its facts, and a script that pans, zooms and folds."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from slimgraph.drawing.form import Box, read_form


def to_plan(x: Any) -> str:
    """How the parts of the diagram hang together, as JSON, by the numbers that Graphviz gives them in its SVG.

    `nodes` has the box in which each node stands (-1 for none), `boxes` for each box the one round it, its title and
    how many nodes it holds, `edges` tail, head, whether it closes a loop, and labels.

    >>> import networkx as nx
    >>> g = nx.MultiDiGraph()
    >>> g.add_node("a", cluster=("box",))
    >>> _ = g.add_edge("b", "a", key="x")
    >>> to_plan(g)
    '{"nodes": [-1, 0], "boxes": [[-1, "box", 1]], "edges": [[0, 1, false, ["x"]]]}'
    """
    whole, arrows = read_form(x)
    boxes = list(_inside(whole))
    number = {box.path: i for i, box in enumerate(boxes, -1)}
    # Graphviz counts nodes and boxes as they come in the DOT text: a box before what stands in it.
    places = [(shape.name, number[box.path]) for box in boxes for shape in box.shapes]
    place = {name: i for i, (name, _) in enumerate(places)}
    plan = {
        "nodes": [box for _, box in places],
        "boxes": [[number[box.path[:-1]], box.title, _size(box)] for box in boxes[1:]],
        "edges": [
            [place[a.tail.name], place[a.head.name], a.feedback, [" ".join(label.split("\n")) for label in a.labels]]
            for a in arrows
        ],
    }
    # In a script no text may look like its end; ASCII holds the half surrogates of hostile names too.
    return json.dumps(plan).replace("<", "\\u003c")


def _inside(box: Box) -> Iterator[Box]:
    yield box
    for inner in box.boxes.values():
        yield from _inside(inner)


def _size(box: Box) -> int:
    return len(box.shapes) + sum(map(_size, box.boxes.values()))


def to_page(title: str, svg: str, plan: str) -> str:
    """The page that shows `svg` and asks for nothing from outside; without its script the picture stands still."""
    # Only the element itself may stand in a page, not the lines before it that make a file.
    start, _, rest = svg[svg.index("<svg") :].partition(">")
    parts = json.loads(plan)
    counts = f"{len(parts['nodes'])} parts, {len(parts['boxes'])} boxes, {len(parts['edges'])} arrows"
    title = html.escape(title)
    named = f'{start} role="group" aria-labelledby="name counts"><title id="name">{title}</title>'
    svg = f'{named}<desc id="counts">{counts}</desc>{rest}'
    return _asset("page.html").format(
        title=title, style=_asset("page.css"), script=_asset("page.js"), folding=_asset("fold.js"), svg=svg, plan=plan
    )


@cache
def _asset(name: str) -> str:
    return (files("slimgraph.drawing.formats") / name).read_text(encoding="utf-8")
