"""Diagrams of anything that has a graph: DOT and Mermaid text, SVG, PNG, PDF, HTML, and the notebook.

`form` reads the one networkx form, `style` says how it looks, `dot` and `mermaid` write it, `render` makes pictures.
Charts of numbers, `spectrum` and `history`, are drawn by matplotlib, which is opened only when one is asked for.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from slimgraph.drawing.diff import Diff, diff
from slimgraph.drawing.dot import graph, to_dot
from slimgraph.drawing.files import picture_path, write_picture
from slimgraph.drawing.history import draw_history
from slimgraph.drawing.mermaid import to_mermaid
from slimgraph.drawing.render import find_renderer, to_picture
from slimgraph.drawing.spectrum import draw_spectrum

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
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ margin: 1rem; }} svg {{ display: block; margin: auto; max-width: 100%; height: auto; }}</style>
</head>
<body>
{svg}
</body>
</html>
"""


class Drawing:
    """The diagram of one thing as it was when it was drawn; a notebook shows it by itself.

    >>> import networkx as nx
    >>> drawing = draw(nx.MultiDiGraph([("a", "b", "x")]))
    >>> drawing
    Drawing of a MultiDiGraph
    >>> '"a" -> "b"' in drawing.dot
    True
    """

    def __init__(self, x: Any) -> None:
        self.of = type(x).__name__
        self.dot = to_dot(x)
        self.mermaid = to_mermaid(x)

    def __repr__(self) -> str:
        return f"Drawing of a {self.of}"

    def _repr_svg_(self) -> str:
        return self.svg()

    def svg(self) -> str:
        """The picture as SVG text, for a file or for a web page."""
        return to_picture(self.dot, "svg").decode()

    def html(self) -> str:
        """A web page that holds the picture and needs nothing from outside."""
        svg = self.svg()
        # Only the element itself may stand in a page, not the lines before it that make a file.
        return PAGE.format(title=html.escape(self.of), svg=svg[svg.index("<svg") :])

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


def draw(x: Any, path: str | os.PathLike[str] | None = None) -> Drawing:
    """The diagram of `x`, a thing with `to_networkx()` or a networkx graph; written to `path` when one is given.

    The ending of `path` is the format: .dot and .mmd are text and need nothing installed; .svg, .png and .html take the
    Graphviz of the system or of the wheel graphviz-pure; .pdf needs that of the system or the extra `slimgraph[pdf]`.

    Raises DrawingError when `x` has no graph or the picture cannot be made, in words that say what to do.
    """
    drawing = Drawing(x)
    if path is not None:
        drawing.save(path)
    return drawing
