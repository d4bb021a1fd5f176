"""What examples/burgers_pinn.py shows: the network's solution, how far it is off, and slices beside the reference."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

SLICES = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw(path, t, x, u, reference):
    """The network and the reference on a regular grid, each `(times, places)`, as a picture at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    (solution, off), (slices, shock) = axes
    shown = solution.pcolormesh(t, x, u, cmap="RdBu_r", vmin=-1, vmax=1, rasterized=True)
    figure.colorbar(shown, ax=solution)
    solution.set(title="the network, u(t, x)")
    shown = off.pcolormesh(t, x, abs(u - reference), cmap="viridis", norm=LogNorm(1e-5, 1e-1), rasterized=True)
    figure.colorbar(shown, ax=off)
    off.set(title="its distance from the Cole-Hopf integral")
    for axis in (solution, off):
        axis.set(xlabel="t", ylabel="x")
    for color, time in enumerate(SLICES):
        row = int(np.abs(t[:, 0] - time).argmin())
        for axis in (slices, shock):
            axis.plot(x[row], reference[row], color=f"C{color}", lw=4, alpha=0.35)
            axis.plot(x[row], u[row], "--", color=f"C{color}", lw=1.3, label=f"t = {t[row, 0]:.2f}")
    slices.set(xlabel="x", ylabel="u", title="slices, the integral as broad lines")
    shock.set(xlabel="x", xlim=(-0.12, 0.12), title="the same near the shock")
    slices.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"picture: {path}")
