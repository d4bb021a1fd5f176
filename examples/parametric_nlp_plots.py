"""What examples/parametric_nlp.py shows: the landscape with the exact and the learnt path, and a table."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from parametric_nlp_functions import FUNCTIONS, GRID, P_MAX
from rich.console import Console
from rich.table import Table


def draw(path, function, exact, learnt):
    """The function over x >= y with both paths from p = 0.5 to 6, and f along them; `learnt` is rows p, f, x, y."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (axis, values) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    x, y = np.meshgrid(*2 * [np.linspace(-P_MAX, P_MAX, 400)])
    f = FUNCTIONS[function](torch.tensor(x), torch.tensor(y)).numpy()
    landscape = np.where((x >= y) & (x**2 + y**2 <= P_MAX**2), np.log10(f - f.min() + 0.1), np.nan)
    axis.contourf(x, y, landscape, levels=30, cmap="Greys", alpha=0.7)
    axis.plot(learnt[:, 2], learnt[:, 3], color="C0", label="learnt, every p")
    points = axis.scatter(exact[:, 1], exact[:, 2], c=GRID, s=25, zorder=3, edgecolors="black", label="exact, 23 p")
    figure.colorbar(points, ax=axis, label="p")
    axis.set(xlabel="x", ylabel="y", aspect="equal", title=f"{function}: log10 of f above its minimum")
    axis.legend(loc="upper left")
    values.plot(learnt[:, 0], learnt[:, 1], color="C0", label="learnt, every p")
    values.plot(GRID, exact[:, 0], "o", color="black", ms=4, label="exact, 23 p")
    values.set(xlabel="p", ylabel="f", title="the optimum as a function of p")
    values.grid(alpha=0.3)
    values.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def show(rows):
    """One row a fit, as columns by name, on standard output."""
    caption = "gap: mean of |f - f*| over 23 p, relative to the range of f*; violation: the worst of the 23"
    table = Table(title="parametric problems", caption=caption, title_justify="left", caption_justify="left")
    for word in rows[0]:
        table.add_column(word, justify="left" if word in ("function", "loss") else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
