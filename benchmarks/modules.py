"""What a Module costs beside the torch module that does the same."""

from __future__ import annotations

import statistics

import torch
from torch import nn

from benchmarks.graphs import told
from benchmarks.measure import Work, row, timed
from slimgraph.modules import Linear


def pair(n: int, batch: int, bias: bool) -> tuple[Work, Work]:
    ours, theirs, x = Linear((n, n), has_bias=bias), nn.Linear(n, n, bias=bias), torch.randn(batch, n)
    return lambda: ours(x), lambda: theirs(x)


for bias in (False, True):
    what = f"modules.Linear{', bias' if bias else ''}"

    @row(f"{what}, n=256 batch=256 / torch.nn.Linear", 1.1)
    def _(bias: bool = bias) -> tuple[Work, Work]:
        return pair(256, 256, bias)

    @row(f"{what}, n=8 batch=1, microseconds over torch.nn.Linear / 5 microseconds", 1.0, told)
    def _(bias: bool = bias) -> tuple[Work, Work]:
        ours, theirs = pair(8, 1, bias)

        def over() -> float:
            rounds = [(timed(ours, 5000), timed(theirs, 5000)) for _ in range(9)]
            return 1e6 * statistics.median(a - b for a, b in rounds)

        return over, lambda: 5.0
