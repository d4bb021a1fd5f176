"""The one way upwards: a method that draws opens the drawing room only when it is called.

Rooms import downwards only (see docs/architecture.md). `Problem.draw()` stands below `slimgraph.drawing`, so it
goes through this door, and `import slimgraph` stays as light as torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any

from slimgraph.errors import SlimgraphError


def open_door(room: str) -> ModuleType:
    """The module `slimgraph.<room>`, imported now.

    >>> open_door('errors').did_you_mean('hh', ['h'])
    " Did you mean 'h'?"
    """
    try:
        return import_module(f"slimgraph.{room}")
    except ModuleNotFoundError as error:
        raise SlimgraphError(
            f"slimgraph.{room} needs the package {error.name!r}, which is not installed; pip install {error.name}"
        ) from error


class Drawable:
    """Gives `.draw()`, `.show()`, `.graph()` and its picture in a notebook to anything that has `to_networkx()`."""

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        shapes: Any = None,
        values: Any = None,
        depth: int | None = None,
        collapse: Any = (),
        only: Any = None,
        unroll: int | None = None,
        inside: Any = None,
    ):
        """The diagram, written to `path` when one is given (.dot, .mmd, .svg, .png, .pdf, .html).

        `shapes=batch` and `values=report` write into it, `depth`, `collapse`, `only`, `unroll` and `inside` choose
        what is seen: see `slimgraph.drawing.draw`.
        """
        options = {"shapes": shapes, "values": values, "depth": depth, "collapse": collapse, "only": only}
        return open_door("drawing").draw(self, path, **options, unroll=unroll, inside=inside)

    def graph(self, **options: Any):
        """The picture as a `pydot.Dot`, to be changed before it is drawn; with the options of `draw`."""
        return open_door("drawing").graph(self, **options)

    def show(self, figname: str | os.PathLike[str] | None = None, **options: Any):
        """neuromancer's name for `draw`, with its options: writes the diagram to `figname`, or returns it."""
        return self.draw(figname, **options)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows; None, and so its text, where there is a formula or no picture can be made."""
        # An expression is better read as its LaTeX, which notebooks show where a thing has it.
        if hasattr(self, "_repr_latex_"):
            return None
        try:
            return open_door("drawing").for_notebook(self)
        except SlimgraphError:
            return None
