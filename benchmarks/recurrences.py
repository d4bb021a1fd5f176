"""Recurrences on structured maps against torch's own RNN."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.measure import Work, row
from slimgraph import slim


def forward_and_backward(rnn: nn.Module, steps: int, batch: int, n: int) -> Work:
    x, g = torch.randn(steps, batch, n), torch.randn(steps, batch, n)
    return lambda: rnn(x)[0].backward(g)


def ours(n: int, hidden_map: str, nonlin=torch.tanh) -> slim.RNN:
    return slim.RNN(n, n, cell_args={"hidden_map": hidden_map, "nonlin": nonlin})


def against_torch(hidden_map: str, at_most: float, steps: int = 100, batch: int = 64, n: int = 64) -> None:
    @row(f"RNN tanh, {hidden_map} hidden map, T={steps} batch={batch} n={n} / torch.nn.RNN", at_most)
    def _() -> tuple[Work, Work]:
        return (
            forward_and_backward(ours(n, hidden_map), steps, batch, n),
            forward_and_backward(nn.RNN(n, n), steps, batch, n),
        )


against_torch("orthogonal", 1.0)
against_torch("spectral", 1.3)


@row("RNN gelu / tanh, orthogonal hidden map, T=100 batch=64 n=64", at_most=1.8)
def _() -> tuple[Work, Work]:
    gelu = ours(64, "orthogonal", torch.nn.functional.gelu)
    return forward_and_backward(gelu, 100, 64, 64), forward_and_backward(ours(64, "orthogonal"), 100, 64, 64)
