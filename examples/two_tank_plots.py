"""What examples/two_tank_control.py shows: levels, pump and valve of both controllers, and a table."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

NAMES = ("level 1", "level 2", "pump p", "valve v")


def draw(path, runs):
    """Levels, pump and valve for the reference that asks for most; `runs` by the controller's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    references = next(iter(runs.values()))["r"]
    sample = references.amax(dim=(1, 2)).argmax()
    r = references[sample]
    figure, axes = plt.subplots(4, sharex=True, figsize=(9, 8), layout="constrained", height_ratios=(3, 3, 2, 2))
    for (name, run), style in zip(runs.items(), ({"lw": 3.5, "color": "0.7"}, {"lw": 1.3, "color": "C0"}), strict=True):
        for place in range(2):
            axes[place].plot(run["x"][sample, :, place], label=name, **style)
            axes[2 + place].step(range(run["u"].shape[1]), run["u"][sample, :, place], where="post", **style)
    for axis, name in zip(axes, NAMES, strict=True):
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    for place in range(2):
        axes[place].step(range(len(r)), r[:, place], "k:", where="post", label="reference")
        axes[place].axhline(1.0, color="C3", lw=1, label="full")
        axes[place].set_ylim(0, 1.1)
        axes[2 + place].set_ylim(-0.05, 1.05)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    axes[-1].set_xlabel("time / s")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show(rows):
    """One row a controller, as columns by name, on standard output."""
    table = Table(title="unseen references, closed loop", title_justify="left")
    for word in rows[0]:
        table.add_column(word, justify="left" if word == "controller" else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
