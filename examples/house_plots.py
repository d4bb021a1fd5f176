"""What examples/twin_house.py shows: a table of errors, the temperatures, and the eigenvalues of the state maps."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from house_data import DAY, TEST, ZONES

COLOURS = ["0.7", "tab:olive", "tab:blue", "tab:red", "tab:green", "tab:purple", "tab:orange"]


def draw_all(folder, problem, curves, eigenvalues):
    """The problem's diagram and both plots, written into `folder`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("problem.svg", "problem.png", "temperatures.png", "eigenvalues.png")]
    for path in paths[:2]:
        problem.draw(path)
    plot_temperatures(paths[2], curves)
    plot_eigenvalues(paths[3], eigenvalues)
    return paths


def error_table(curves, eigenvalues, reports):
    """Mean absolute error per zone, its mean and the RMSE over all zones in K; for models what they promise."""
    measured = curves["measured"]
    lines = [f"{'free run, days 30-41':<22}" + "".join(f"{zone:>10}" for zone in [*ZONES, "MAE / K", "RMSE / K"])]
    for name, curve in curves.items():
        if name != "measured":
            error = curve - measured
            numbers = [*error.abs().mean(0).tolist(), error.abs().mean().item(), error.square().mean().sqrt().item()]
            lines.append(f"{name:<22}" + "".join(f"{number:>10.3f}" for number in numbers))
    for name, values in eigenvalues.items():
        lines += ["", f"{name}: dominant eigenvalue {values.abs().max():.4f}", str(reports[name])]
    return "\n".join(lines)


def plot_temperatures(path, curves):
    """Seven zones below each other; `curves` gives `(time, 7)` in °C by name, the measured ones among them."""
    days = np.arange(TEST.start, TEST.stop) / DAY
    figure, axes = plt.subplots(len(ZONES), sharex=True, figsize=(10, 13), layout="constrained")
    for place, (zone, axis) in enumerate(zip(ZONES, axes, strict=True)):
        for (name, curve), colour in zip(curves.items(), ["black", *COLOURS], strict=False):
            mae = (curve - curves["measured"]).abs().mean()
            label, width = (name, 2.2) if name == "measured" else (f"{name}, {mae:.2f} K", 1.2)
            axis.plot(days, curve[:, place], color=colour, label=label, lw=width)
        axis.set_ylabel(f"{zone} / °C")
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("day of the experiment")
    axes[0].set_title("Free run over the last eleven days, and its mean absolute error")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_eigenvalues(path, eigenvalues):
    """`eigenvalues` by name in the complex plane, with the unit circle, and a closer look at those near 1."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 400))
    for axis in axes:
        axis.plot(circle.real, circle.imag, color="0.7", lw=1)
        for (name, values), marker, colour in zip(eigenvalues.items(), "oxsd^", COLOURS[2:], strict=False):
            axis.scatter(values.real, values.imag, s=45, marker=marker, color=colour, label=name, alpha=0.8)
        axis.set_xlabel("real part")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("imaginary part")
    axes[0].set(aspect="equal", xticks=[-1, -0.5, 0, 0.5, 1])
    axes[0].legend(loc="upper left")
    axes[1].set(xlim=(0.7, 1.02), ylim=(-0.16, 0.16), title="closer: 0.99 loses half its heat in 34 hours, 0.9 in 3")
    figure.suptitle("Eigenvalues of the state maps; stable inside the circle")
    figure.savefig(path, dpi=120)
    plt.close(figure)
