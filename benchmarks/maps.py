"""Structured maps against the dense product, the loop over reflectors and torch's parametrizations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from benchmarks.measure import Work, row, timed
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
# Those whose W is elementwise in the weights, or a softmax of them.
CHEAP = [
    "linear", "identity_init", "nneg", "rstochastic", "lstochastic", "pf", "symmetric", "skew_symmetric",
    "damp_skew_symmetric", "split", "stable_split", "l0", "lasso", "lasso_relu",
]  # fmt: skip
for key in CHEAP:
    if key in slim.maps:
        against_dense(key, 256, 2.0)
# Ten scalings of rows and columns, each a pass of exponentials over W.
against_dense("doubly_stochastic", 256, 4.0)
against_dense("symplectic", 256, 3.0)
against_dense("gershgorin", 256, 3.0)
# One product of reflections and two dense products to build W; schur_stable adds a QR factorisation.
against_dense("schur", 256, 10.0)
against_dense("hurwitz", 256, 12.0)
against_dense("schur_stable", 256, 16.0)
for key in ("psd", "softSVD", "learnSVD", "symmetric_SVD"):
    against_dense(key, 256, 3.5)
for key in ("bounded_Lp_norm", "Power_bound", "trivial_nullspace"):
    against_dense(key, 256, 1.5)
against_dense("low_rank", 256, 0.8)


@row("Power_bound n=256, reg_error / eigenvalues and their gradient", at_most=2.5)
def _() -> tuple[Work, Work]:
    m = slim.PowerBoundLinear(256, 256, max_p=0.1)
    return (lambda: m.reg_error().backward()), (lambda: m.eig(eigenvectors=False).abs().max().backward())


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


def slowest_to_construct(n: int) -> Callable[[], object]:
    """The constructor, at n x n, that takes longest of all maps; each is tried three times."""
    classes = dict.fromkeys(slim.maps.values())
    return max((lambda cls=cls: cls(n, n) for cls in classes), key=lambda make: min(timed(make, 1) for _ in range(3)))


# The aim is 50 ms. torch's own orthogonal start, a QR decomposition, is the dearest thing that a constructor has reason
# to do; it took 11 to 12 ms where the limit was set.
@row("constructing the slowest map, n=512 / torch.nn.init.orthogonal_", at_most=4.0)
def _() -> tuple[Work, Work]:
    empty = torch.empty(512, 512)
    return slowest_to_construct(512), lambda: nn.init.orthogonal_(empty)
