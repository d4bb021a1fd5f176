"""Diagrams of anything that has a graph, charts of numbers, and what two problems differ in.

`view` chooses what of a thing is drawn, by the options of `draw`; `form` reads its one networkx form, `facts` what its
parts are; `formats` writes it, as DOT, Mermaid, SVG, PNG, PDF or a page. `charts` draws spectra and histories by
matplotlib, which is opened only when one is asked for; `difference` compares. `style` says how all of it looks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slimgraph.drawing import style
from slimgraph.drawing.charts.history import draw_history
from slimgraph.drawing.charts.spectrum import draw_spectrum
from slimgraph.drawing.difference.diff import Diff, diff
from slimgraph.drawing.form import View
from slimgraph.drawing.formats.dot import graph, to_dot
from slimgraph.drawing.formats.files import picture_path, write_picture
from slimgraph.drawing.formats.mermaid import to_mermaid
from slimgraph.drawing.formats.page import to_page, to_plan
from slimgraph.drawing.formats.render import find_renderer, to_picture
from slimgraph.drawing.view import view

__all__ = [
    "ENDINGS",
    "Diff",
    "Drawing",
    "diff",
    "draw",
    "draw_history",
    "draw_spectrum",
    "find_renderer",
    "graph",
    "to_dot",
    "to_mermaid",
]

ENDINGS = (".dot", ".mmd", ".svg", ".png", ".pdf", ".html")


class Drawing:
    """The diagram of one thing as it was when it was drawn; a notebook shows it by itself.

    >>> import networkx as nx
    >>> drawing = draw(nx.MultiDiGraph([("a", "b", "x")]))
    >>> drawing
    Drawing of a MultiDiGraph
    >>> '"a" -> "b"' in drawing.dot
    True
    """

    def __init__(self, x: Any, **options: Any) -> None:
        self.of = type(x).__name__
        form = x if isinstance(x, View) else view(x, **options)
        self.dot = to_dot(form)
        self.mermaid = to_mermaid(form)
        self._plan = to_plan(form)

    def __repr__(self) -> str:
        return f"Drawing of a {self.of}"

    def _repr_svg_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The picture as SVG text, for a file or for a web page."""
        return to_picture(self.dot, "svg").decode()

    def html(self) -> str:
        """A web page that needs nothing from outside: it pans, zooms, folds boxes and tells the facts of each part."""
        return to_page(repr(self), self.svg(), self._plan)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the diagram in the format of the ending of `path`, one of `ENDINGS`, and returns the path.

        Raises DrawingError when the ending is not known, the folder is not there, or nothing can be written; the file
        is then as it was before.
        """
        path = picture_path(path, ENDINGS, "a drawing")
        write_picture(path, self._bytes(path.suffix.lower()))
        return path

    def _bytes(self, ending: str) -> bytes:
        texts = {".dot": lambda: self.dot, ".mmd": lambda: self.mermaid, ".html": self.html}
        return texts[ending]().encode() if ending in texts else to_picture(self.dot, ending[1:])


def draw(
    x: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    shapes: Any = None,
    values: Any = None,
    depth: int | None = None,
    collapse: Any = (),
    only: Any = None,
    unroll: int | None = None,
    inside: Any = None,
) -> Drawing:
    """The diagram of `x`, a thing with `to_networkx()` or a networkx graph; written to `path` when one is given.

    The ending of `path` is the format: .dot and .mmd are text and need nothing installed; .svg, .png and .html take the
    Graphviz of the system or of the wheel graphviz-pure; .pdf needs that of the system or the extra `slimgraph[pdf]`.

    What is seen: three and more equal nodes, one behind the other, are one, `x N`, and so are equal stretches of them.

    - `shapes=batch` writes on each arrow the shape and dtype of what flows, from a run on a copy; in a System, of the
      series.
    - `values=problem.report(data)` writes into each term what it is, and shows which constraints are violated, in which
      share of the samples and by how much at most.
    - `depth` is how many boxes within boxes are open: 0 draws each System and nested Problem as one node, 1 opens
      them, 2 what is in them too. By default the Systems of a Problem are open, and nested Problems are not.
    - `collapse` names what is drawn as one node: a box or a node that would be opened, by its name or its type; many
      nodes by a pattern such as `"encoder*"`; or by a function that gives True for a thing that stays closed, or the
      title of the one node that stands for all with this answer.
    - `only=["u"]` draws what leads to these keys, or to terms of these names, and nothing else.
    - `unroll=3` draws the first three steps of each System one after the other, instead of once with its loop.
    - `inside=True` opens the maps, networks and recurrences that nodes call, down to weights and neurons; names or
      types open only these.

    Raises DrawingError when `x` has no graph or the picture cannot be made, in words that say what to do; OptionError
    for an option that makes no sense, such as the report of another problem; UnknownOptionError, with the nearest one,
    for a name that is not in the picture.

    >>> import torch
    >>> from slimgraph import Node
    >>> node = Node(torch.nn.Linear(3, 2), ["x"], ["u"], name="policy")
    >>> "(8, 3) float32" in draw(node, shapes={"x": torch.zeros(8, 3)}).dot
    True
    """
    drawing = Drawing(
        x, shapes=shapes, values=values, depth=depth, collapse=collapse, only=only, unroll=unroll, inside=inside
    )
    if path is not None:
        drawing.save(path)
    return drawing


def for_notebook(x: Any) -> str | None:
    """The SVG of `x` as a notebook shows it by itself, or None where the picture would be too large to be read."""
    form = view(x)
    # Nobody asked for this picture: it must not keep a notebook waiting.
    return draw(form)._repr_svg_() if len(form) <= style.MANY_NODES else None
