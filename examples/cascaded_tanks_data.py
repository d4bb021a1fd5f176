"""The two records of the cascaded tanks as samples for examples/cascaded_tanks.py, and the error of a run."""

from __future__ import annotations

from pathlib import Path

import torch

from slimgraph.data import read_csv

PATH = Path(__file__).parent / "data" / "cascaded_tanks" / "dataBenchmark.csv"
FITTED = 768  # samples of the estimation record; the others choose the epoch


def load(path=PATH):
    """Pump and level of both records, each `(1, 1024, 1)` in V: `{"Est": (u, y), "Val": (u, y)}`."""
    table = read_csv(path, ["uEst", "yEst", "uVal", "yVal"], dtype=torch.float64)
    return {name: tuple(table[key + name][None, :, None] for key in "uy") for name in ("Est", "Val")}


def sample(u, y, rows=None, fitted=0):
    """One free run over the first `rows` samples, of which those from `fitted` on count in the mean error."""
    u, y, y0 = u[:, :rows][:, :-1], y[:, :rows][:, 1:], y[:, 0]
    counted = (torch.arange(1, 1 + y.shape[1]) >= fitted).to(y)[None, :, None].expand_as(y)
    return {"u": u, "y": y, "y0": y0, "counted": counted / counted.mean()}


def rmse(levels, y, first=1):
    """The root mean square error in V over the samples from `first` on; sample 0 is the start."""
    return (levels[first:, 1] - y[0, first:, 0]).square().mean().sqrt().item()
