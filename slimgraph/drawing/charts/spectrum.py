"""The spectrum of maps: eigenvalues in the complex plane and singular values, over where the promises want them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slimgraph.drawing import style
from slimgraph.drawing.charts.figure import chart_style, finished, new_figure, plain
from slimgraph.errors import DrawingError
from slimgraph.slim import LinearBase
from slimgraph.slim.cells import Cell
from slimgraph.slim.linear.regions import Interval, Region, spectral_region

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 2.9
PER_ROW = 2
# Names that only say how a module holds another.
HOLDERS = {"callable", "nodes", "cells"}


def draw_spectrum(x: nn.Module, path: str | os.PathLike[str] | None = None) -> Figure:
    """The spectrum of every map in `x`: eigenvalues z on the left, singular values s on the right; a matplotlib Figure.

    `x` is a map, a recurrent cell (its hidden maps) or any module, System or Problem (every map in it, once, a
    composition as one). Green is where the promise of the map's class wants them, the thin circle has the radius 1. A
    dot keeps the promise, a cross does not, as in a map that keeps it by `reg_error` and is not yet trained. Maps of
    insize != outsize have no eigenvalues, what is NaN or infinite has no spectrum. `path` takes .svg, .png, .pdf.

    Raises DrawingError for an `x` without maps, and where matplotlib is missing: `pip install 'slimgraph[plots]'`.

    >>> from slimgraph import slim
    >>> figure = draw_spectrum(slim.OrthogonalLinear(4, 4))
    >>> [axes.get_title() for axes in figure.axes]
    ['OrthogonalLinear 4 x 4\\n|z| = 1', 'singular values\\ns = 1']
    """
    found = dict(maps_of(x))
    if not found:
        raise DrawingError(f"draw_spectrum found no structured map in {type(x).__name__}; see slimgraph.slim.maps")
    with chart_style("draw_spectrum"):
        columns = 2 * min(PER_ROW, len(found))
        rows = math.ceil(len(found) / PER_ROW)
        figure = new_figure(SIDE * columns, (SIDE + 0.35) * rows)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for place, (made, name) in enumerate(found.items()):
            _draw_map(made, name, *grid[2 * place : 2 * place + 2])
        for axes in grid[2 * len(found) :]:
            axes.set_axis_off()
        return finished(figure, path)


def maps_of(x: Any) -> Iterator[tuple[LinearBase, str]]:
    """The outermost maps at or below `x`, each with the name of its place, empty for `x` itself."""
    if not isinstance(x, nn.Module):
        raise DrawingError(f"draw_spectrum needs a map, a cell or a module; got {type(x).__name__}: {x!r}")
    if isinstance(x, Cell):
        yield from ((made, _place(x, made)) for made in x.maps()[1])
        return
    seen: set[nn.Module] = set()

    def walk(m: nn.Module, place: tuple[str, ...]) -> Iterator[tuple[LinearBase, str]]:
        if m in seen:
            return
        seen.add(m)
        if isinstance(m, LinearBase):
            yield m, " / ".join(place)
            return
        for name, child in m.named_children():
            # Nodes are known by their labels; a module of its own may call anything `label`.
            shown = getattr(child, "name", None) or name
            shown = shown if isinstance(shown, str) else name
            yield from walk(child, place if shown in HOLDERS else (*place, shown))

    yield from walk(x, ())


def _place(cell: Cell, made: LinearBase) -> str:
    return next(name for name, module in cell.named_modules() if module is made)


@torch.no_grad()
def _draw_map(made: LinearBase, name: str, left: Axes, right: Axes) -> None:
    W, region = made.effective_W().cpu(), spectral_region(made)
    title = f"{name}\n{type(made).__name__}" if name else type(made).__name__
    title = f"{plain(style.wrapped(title))} {made.in_features} x {made.out_features}"
    if not W.isfinite().all():
        _say(left, "NaN or infinite:\nno spectrum").set_title(title)
        right.set_axis_off()
        return
    rounding = made._rounding(W)
    # `double()` would take the imaginary part from a complex matrix.
    W = W.to(torch.promote_types(W.dtype, torch.float64))
    # What `contains` allows for rounding, and what eigenvalues of a matrix that is not normal lose beside.
    tol = rounding * max(1.0, float(torch.linalg.matrix_norm(W)))
    if W.shape[0] == W.shape[1]:
        values = torch.linalg.eigvals(W)
        limit = 1.12 * max(1.1, float(values.abs().max()))
        draw_plane(left, region, limit)
        _draw_kept(left, values.real, values.imag, region.holds_eigenvalues(values, tol))
    else:
        _say(left, "not square:\nno eigenvalues")
    left.set_title(f"{title}\n{region.eigenvalue_text}" if W.shape[0] == W.shape[1] else title)
    _draw_singular(right, torch.linalg.svdvals(W), region, tol)


def _say(axes: Axes, what: str) -> Axes:
    """Words instead of a chart."""
    axes.text(0.5, 0.5, what, ha="center", va="center", transform=axes.transAxes)
    axes.set_axis_off()
    return axes


def _draw_kept(axes: Axes, x: Tensor, y: Tensor, kept: Tensor) -> None:
    axes.plot(x[kept], y[kept], "o", color=style.KEPT, markersize=4.5, markeredgewidth=0, alpha=0.75)
    axes.plot(x[~kept], y[~kept], "x", color=style.BROKEN, markersize=6, markeredgewidth=1.6)


def _draw_singular(axes: Axes, values: Tensor, region: Region, tol: float) -> None:
    low, high = region.singular
    top = 1.12 * max(1.1, float(values[0]), high if high < math.inf else 0.0)
    if low == high:
        axes.axhline(low, color=style.PROMISED, alpha=0.45, linewidth=2.5, zorder=1)
    elif region.singular_text:
        axes.axhspan(low, min(high, top), color=style.PROMISED, alpha=0.16, linewidth=0, zorder=0)
    _draw_kept(axes, torch.arange(1, len(values) + 1), values, region.holds_singular_values(values, tol))
    axes.set(ylim=(-0.02 * top, top), title=f"singular values\n{region.singular_text}")
    axes.locator_params("x", integer=True)
    _finish(axes)


def draw_plane(axes: Axes, region: Region, limit: float) -> None:
    """The complex plane from -limit to limit on both axes, the unit circle, and `region` in green."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor="0.7", linewidth=0.7, zorder=1))
    _shade(axes, region, limit)
    tick = 1 if limit < 2.5 else 2 if limit < 5 else 5 if limit < 11 else 10 ** math.floor(math.log10(limit))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[-tick, 0, tick])
    axes.set_yticks([-tick, 0, tick], [f"{-tick}i", "0", f"{tick}i"])
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.tick_params(length=2, width=0.6)
    axes.spines[:].set_color("0.75")


def _shade(axes: Axes, region: Region, limit: float) -> None:
    """An area where the region has one, else a line, else a dot."""
    from matplotlib.patches import Circle, Rectangle, Wedge

    line = {"color": style.PROMISED, "alpha": 0.45, "zorder": 1}
    (a, b), (c, d) = _cut(region.real, limit), _cut(region.imag, limit)
    low, high = region.modulus
    if not region.eigenvalue_text:
        return
    if a == b and c == d:
        axes.plot([a], [c], "s", markersize=11, markeredgewidth=0, **line)
    elif a == b or c == d:
        axes.plot([a, b], [c, d], linewidth=4, solid_capstyle="butt", **line)
    elif low == high:
        axes.add_patch(Circle((region.centre, 0), high, fill=False, edgecolor=style.PROMISED, alpha=0.45, lw=2.5))
    else:
        soft = {"facecolor": style.PROMISED, "alpha": 0.16, "edgecolor": "none", "zorder": 0}
        window = Rectangle((a, c), b - a, d - c, transform=axes.transData)
        if high < math.inf:
            disc = axes.add_patch(Wedge((region.centre, 0), high, 0, 360, width=high - low, **soft))
            disc.set_clip_path(window)
        else:
            axes.add_patch(Rectangle((a, c), b - a, d - c, **soft))


def _cut(interval: Interval, limit: float) -> Interval:
    return max(interval[0], -limit), min(interval[1], limit)
