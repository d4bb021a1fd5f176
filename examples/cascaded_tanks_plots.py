"""What examples/cascaded_tanks.py shows: the free run beside the measured level, what is left, and the diagram."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from cascaded_tanks_model import FULL, SAMPLE_TIME, Balance


def parameters(problem):
    """The learnt physical parameters, with their units."""
    start, tanks = problem.nodes
    told = {"x1 at the start": f"{start.callable.upper.item():.3f} V"}
    block = getattr(tanks.node("balance").callable, "block", None)
    if block is not None:
        values = block.log_k.exp().tolist()
        told |= {f"k{i}": f"{k:.4f} {unit}" for i, (k, unit) in enumerate(zip(values, Balance.UNITS, strict=True), 1)}
    share = tanks.node("overflow").callable.logit.sigmoid().item()
    return told | {"share of the overflow that falls into the lower tank": f"{share:.3f}"}


def draw_all(folder, problem, run, measured):
    """The problem's diagram and the free run, written into `folder`; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("cascaded_tanks.svg", "cascaded_tanks.png")]
    problem.draw(paths[0])
    plot_run(paths[1], run.numpy(), measured.numpy())
    return paths


def plot_run(path, run, measured):
    """The free run `(time, 2)` and the measured level `(time,)` in V, and below their difference."""
    minutes = SAMPLE_TIME / 60 * np.arange(len(run))
    error = measured - run[:, 1]
    rmse = np.sqrt((error[1:] ** 2).mean())
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(10, 6.5), layout="constrained", height_ratios=(3, 1))
    top.plot(minutes, measured, color="black", lw=2.2, label="lower tank, measured")
    top.plot(minutes, run[:, 1], color="tab:red", lw=1.2, label="lower tank, free run")
    top.plot(minutes, run[:, 0], color="tab:blue", lw=0.8, alpha=0.7, label="upper tank, not measured")
    bottom.plot(minutes, error, color="tab:red", lw=1.0)
    bottom.axhline(0.0, color="0.5", lw=0.8)
    for axis in (top, bottom):
        # Where the upper tank overflows.
        axis.fill_between(minutes, 0, 1, where=run[:, 0] >= FULL, transform=axis.get_xaxis_transform(), color="0.9")
        axis.grid(alpha=0.3)
    top.set(ylabel="level / V", title=f"Free run over the validation record, RMSE {rmse:.3f} V")
    bottom.set(ylabel="measured - run / V", xlabel="time / min (grey: the upper tank overflows)")
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
