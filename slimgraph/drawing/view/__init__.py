"""What of a thing is drawn: its graph, opened, cut, folded and written on as the options of `draw` ask."""

from __future__ import annotations

from typing import Any

from slimgraph.drawing.form import View, as_view, networkx_form
from slimgraph.drawing.view.choice import Choice
from slimgraph.drawing.view.fold import fold
from slimgraph.drawing.view.inside import open_insides, whole_inside
from slimgraph.drawing.view.levels import close, collapse_groups, keep_only
from slimgraph.drawing.view.opened import open_nodes
from slimgraph.drawing.view.shapes import write_shapes
from slimgraph.drawing.view.unrolled import unroll_systems
from slimgraph.drawing.view.values import write_values
from slimgraph.errors import OptionError


def view(
    x: Any,
    *,
    shapes: Any = None,
    values: Any = None,
    depth: int | None = None,
    collapse: Any = (),
    only: Any = None,
    unroll: int | None = None,
    inside: Any = None,
) -> View:
    """The graph of `x` as it is to be drawn, with the options of `draw`; `x` is not changed."""
    _check_count("depth", depth, 0)
    _check_count("unroll", unroll, 1)
    collapsed, insides = Choice("collapse", collapse), Choice("inside", inside)
    form = as_view(networkx_form(whole_inside(x) if insides else x))
    if depth is not None:
        open_nodes(form, depth, collapsed)
    if insides:
        insides.check(form)
        open_insides(form, insides, collapsed)
    collapsed.check(form)
    if shapes is not None:
        write_shapes(form, x, shapes)
    if values is not None:
        write_values(form, x, values)
    if only is not None:
        form = keep_only(form, only)
    if unroll is not None:
        form = unroll_systems(form, unroll, depth, collapsed)
    return fold(collapse_groups(close(form, depth, collapsed), collapsed))


def _check_count(word: str, number: Any, least: int) -> None:
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
        raise OptionError(f"{word} is a whole number >= {least}; got {number!r}")
