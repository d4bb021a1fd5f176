"""What examples/neural_ode.py shows: the free run beside scipy's trajectory."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np


def draw(path, h, truth, learnt):
    """The test, `(time, 2)` in steps of `h` seconds, in the plane of the states and over time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, (plane, series) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", width_ratios=(2, 3))
    seconds = h * np.arange(len(truth))
    plane.plot(*truth.T, color="0.6", lw=4, label="scipy")
    plane.plot(*learnt.T, "k--", lw=1.2, label="learnt, free run")
    plane.plot(*truth[0], "ko")
    plane.set(xlabel="x1", ylabel="x2", title="from an unseen start (dot)")
    plane.legend()
    for place, color in enumerate(("C0", "C1")):
        series.plot(seconds, truth[:, place], color=color, lw=4, alpha=0.4, label=f"x{place + 1}, scipy")
        series.plot(seconds, learnt[:, place], "--", color=color, lw=1.2, label=f"x{place + 1}, learnt")
    series.set(xlabel="time [s]", title="a free run of 10 s")
    series.legend(ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
