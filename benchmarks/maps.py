"""Structured maps against the dense product, the loop over reflectors and torch's parametrizations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.measure import Work, row
from slimgraph import slim


def forward_and_backward(call: Callable[[Tensor], Tensor], n: int, batch: int) -> Work:
    """One training step's share of a map: `call` on a batch that wants its gradient, then backward."""
    x, g = torch.randn(batch, n, requires_grad=True), torch.randn(batch, n)
    return lambda: call(x).backward(g)


def dense(n: int, batch: int) -> Work:
    W = nn.Parameter(torch.randn(n, n))
    return forward_and_backward(lambda x: x @ W, n, batch)


def reflector_loop(n: int, batch: int) -> Work:
    """The same map, one `Hprod` after the other."""
    U = nn.Parameter(torch.randn(n, n).triu())

    def loop(x: Tensor) -> Tensor:
        for i, u in enumerate(U):
            x = slim.Hprod(x, u, n - i)
        return x

    return forward_and_backward(loop, n, batch)


def parametrized(n: int, batch: int, kind: str) -> Work:
    linear = parametrizations.orthogonal(nn.Linear(n, n, bias=False), orthogonal_map=kind)
    return forward_and_backward(linear, n, batch)


def against_dense(key: str, n: int, at_most: float, batch: int = 256, **options) -> None:
    @row(f"{key} n={n} batch={batch} / dense product", at_most)
    def _() -> tuple[Work, Work]:
        return forward_and_backward(slim.maps[key](n, n, **options), n, batch), dense(n, batch)


for n, at_most in ((64, 4.0), (256, 6.0), (512, 9.0)):
    against_dense("orthogonal", n, at_most)
    against_dense("spectral", n, at_most)
for key in ("stiefel", "symmetric_spectral"):
    against_dense(key, 256, 6.0)
for key in ("linear", "nneg", "rstochastic", "lstochastic", "pf", "symmetric", "skew_symmetric", "damp_skew_symmetric"):
    against_dense(key, 256, 2.0)


def against_the_loop(n: int) -> None:
    @row(f"orthogonal n={n} batch=256 / loop over reflectors", at_most=1 / 30)
    def _() -> tuple[Work, Work]:
        return forward_and_backward(slim.OrthogonalLinear(n, n), n, 256), reflector_loop(n, 256)


for n in (64, 128, 256):
    against_the_loop(n)


@row("orthogonal n=256 batch=256 / torch's parametrization, householder", at_most=1 / 8)
def _() -> tuple[Work, Work]:
    return forward_and_backward(slim.OrthogonalLinear(256, 256), 256, 256), parametrized(256, 256, "householder")


@row("orthogonal n=256 batch=256 / torch's parametrization, matrix_exp", at_most=1 / 8)
def _() -> tuple[Work, Work]:
    return forward_and_backward(slim.OrthogonalLinear(256, 256), 256, 256), parametrized(256, 256, "matrix_exp")


@row("orthogonal n=512 with 64 reflectors / with all", at_most=1 / 3)
def _() -> tuple[Work, Work]:
    few = slim.OrthogonalLinear(512, 512, n_reflectors=64)
    return forward_and_backward(few, 512, 256), forward_and_backward(slim.OrthogonalLinear(512, 512), 512, 256)
