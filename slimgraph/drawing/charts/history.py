"""What a fit has logged, as a chart: the loss and each term on a logarithmic axis, the violations below."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgraph.drawing import style
from slimgraph.drawing.charts.figure import chart_style, finished, new_figure, plain
from slimgraph.errors import DrawingError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Series = dict[str, tuple[list[float], list[float]]]
"""By name the places on the x axis and the values there."""

# The stages that log, and how their lines are drawn: training lies behind, what counts in front.
STAGES: dict[str, Any] = {"train": "--", "val": "-", "test": ":"}
# They are sums of what is drawn, but for `loss` itself, which is drawn, and `reg_loss`, which has no other name.
SUMS = ("objective_loss", "penalty_loss")
VIOLATION = "/max"
# The legend: lines that a figure has room for, and letters of a line.
LEGEND_ROWS, LEGEND_LETTERS = 12, 28


def draw_history(source: Any, path: str | os.PathLike[str] | None = None, *, x: str = "step") -> Figure:
    """A fit as a matplotlib Figure: loss and each term on a logarithmic axis, the largest violations below.

    `source` is the `metrics.csv` of Lightning's CSVLogger or its folder, that logger itself, or a dict of lists of
    equal length, with None or NaN where nothing was logged. Above are the series `train_...`, dashed, and `val_...`,
    solid, of one name in one colour, without their sums (`objective_loss`, `penalty_loss`) and what is 0 throughout;
    below `val/<constraint>/max` of `FeasibilityCallback`. `x` is the column of the horizontal axis, such as "step" or
    "epoch". Where a term falls below zero, the axis is linear around zero and says so; zeros on a logarithmic axis
    stand at its foot. `path` takes .svg, .png, .pdf.

    Raises DrawingError where nothing was logged, for a column `x` that is not there, a file that cannot be read, and
    where matplotlib is missing: `pip install 'slimgraph[plots]'`.

    >>> rows = {"step": [0, 1, 2], "train_loss": [4.0, 2.0, 1.0], "val_loss": [None, None, 1.5]}
    >>> [line.get_label() for line in draw_history(rows).axes[0].lines]
    ['loss, train', 'loss, val']
    """
    series = read_series(_columns(source), x)
    drawn = {name: points for name, points in series.items() if _split(name)}
    violations = {name: drawn[name] for name in drawn if name.endswith(VIOLATION)}
    # What stays 0, such as the reg_loss of a problem without one, has no place on a logarithmic axis.
    losses = {name: points for name, points in drawn.items() if name not in violations and any(points[1])}
    if not losses and not violations:
        there = ", ".join(series) or "nothing"
        raise DrawingError(f"draw_history found no train_..., val_... or val/<constraint>/max; there is {there}")
    with chart_style("draw_history"):
        parts = [part for part in (losses, violations) if part]
        # A legend of many terms needs a higher figure, or it would be cut off.
        more = max(0, max(len({_split(name) for name in part}) for part in parts) - LEGEND_ROWS)
        figure = new_figure(7.5, (4.0 if len(parts) == 1 else 5.6) + 0.2 * more * len(parts))
        ratios = [3, 2] if len(parts) == 2 else [1]
        grid = figure.subplots(len(parts), sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, part in zip(grid, parts, strict=True):
            _draw_series(axes, part, "loss and terms" if part is losses else "largest violation")
        grid[-1].set_xlabel(plain(x))
        grid[-1].locator_params("x", integer=True)
        return finished(figure, path)


# Reading


def read_series(columns: Mapping[str, Iterable[Any]], x: str = "step") -> Series:
    """The values of every column that are there and numbers, over those of the column `x`."""
    for name, column in columns.items():
        if not isinstance(column, Iterable) or getattr(column, "ndim", 1) == 0:
            raise DrawingError(f"draw_history needs a list in column {name!r}; got {type(column).__name__}: {column!r}")
    columns = {name: [_number(value) for value in column] for name, column in columns.items()}
    if x not in columns:
        there = ", ".join(columns) or "nothing, as where nothing was logged"
        raise DrawingError(
            f"draw_history has no column {x!r} for its x axis; there is {there}.{did_you_mean(x, columns)}"
        )
    places, series = columns.pop(x), {}
    for name, values in columns.items():
        if len(values) != len(places):
            raise DrawingError(
                f"draw_history needs columns of equal length; {x!r} has {len(places)} rows and {name!r} {len(values)}"
            )
        points = [(a, b) for a, b in zip(places, values, strict=True) if math.isfinite(a) and not math.isnan(b)]
        if points:
            series[name] = tuple(map(list, zip(*points, strict=True)))
    return series


def _columns(source: Any) -> Mapping[str, Iterable[Any]]:
    if isinstance(source, Mapping):
        return source
    if hasattr(source, "log_dir") and hasattr(source, "save"):
        # What the logger still holds in memory.
        source.save()
        source = source.log_dir
    if not isinstance(source, str | os.PathLike):
        raise DrawingError(
            "draw_history takes the metrics.csv of a CSVLogger, its folder, the logger, or a dict of lists; got "
            f"{type(source).__name__}: {source!r}"
        )
    file = Path(source)
    file = file / "metrics.csv" if file.is_dir() else file
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            lines = csv.DictReader(opened)
            rows, names = list(lines), lines.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        below = sorted(Path(source).glob("**/metrics.csv")) if Path(source).is_dir() else []
        hint = f"; there is {', '.join(map(str, below))}" if below else ""
        raise DrawingError(f"draw_history cannot read {str(file)!r}: {error}{hint}") from error
    return {name: [row[name] for row in rows] for name in names}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _split(name: str) -> tuple[str, str] | None:
    """The stage and the term of `train_fit` or `val/bound/max`, None for what is not drawn."""
    stage, slash, rest = name.partition("/")
    if slash:
        return (stage, rest.removesuffix(VIOLATION)) if stage in STAGES and rest.endswith(VIOLATION) else None
    stage, _, term = name.partition("_")
    # What Lightning logs at each step stands beside its mean over the epoch.
    return (stage, term) if stage in STAGES and term not in ("", *SUMS) and not term.endswith("_step") else None


# Drawing


def _draw_series(axes: Axes, series: Series, title: str) -> None:
    from matplotlib.lines import Line2D

    labels = {name: _split(name) or ("", name) for name in series}
    # The loss is drawn first and so lies below its parts.
    terms = sorted(dict.fromkeys(term for _, term in labels.values()), key=lambda term: term != "loss")
    looks = {term: _look(term, number) for number, term in enumerate(terms, "loss" not in terms)}
    foot = _scale(axes, [value for _, values in series.values() for value in values], title)
    for name in sorted(series, key=lambda name: terms.index(labels[name][1])):
        (places, values), (stage, term) = series[name], labels[name]
        shown = [max(value, foot) for value in values]
        line = axes.plot(places, shown, STAGES[stage], label=plain(f"{term}, {stage}"), **looks[term])[0]
        if len(values) == 1:
            line.set_marker("o")
    if foot > 0:
        axes.set_ylim(bottom=foot)
    axes.grid(alpha=0.25)
    stages = [stage for stage in STAGES if stage in {stage for stage, _ in labels.values()}]
    told = [Line2D([], [], label=plain(_short(term)), **look) for term, look in looks.items()]
    told += [Line2D([], [], color="0.4", label=stage, ls=STAGES[stage]) for stage in stages]
    axes.legend(handles=told, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _short(term: str) -> str:
    return term if len(term) <= LEGEND_LETTERS else f"{term[: LEGEND_LETTERS - 3]}..."


def _look(term: str, number: int) -> dict[str, Any]:
    """The loss in black; where the colours that can be told apart have been used up, a marker tells."""
    if term == "loss":
        return {"color": style.INK, "linewidth": 2.4}
    turn, place = divmod(number - 1, len(style.SERIES))
    return {
        "color": style.SERIES[place],
        "linewidth": 1.4,
        "marker": ("", "s", "^", "x")[turn % 4],
        "markersize": 4,
        "markevery": 0.1,
    }


def _scale(axes: Axes, values: list[float], title: str) -> float:
    """A logarithmic axis, or one that is linear around zero where a value is negative; its foot."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)] or [1.0]
    # Three decades below the largest are enough to see a sign, nine to see a size; what is less may be a rounding.
    depth = 1e-3 if min(values) < 0 else 1e-9
    # A whole decade that is less than the least value, so that no value stands where the zeros do.
    lowest = 10.0 ** (math.ceil(math.log10(max(min(sizes), depth * max(sizes)))) - 1)
    axes.set_ylabel(title)
    if min(values) < 0:
        axes.set_yscale("symlog", linthresh=lowest, linscale=0.5)
        axes.set_ylabel(f"{title}\n(linear within {lowest:g} of 0)")
        return -math.inf
    axes.set_yscale("log")
    return lowest
