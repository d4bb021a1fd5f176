"""Square maps stable by a Lyapunov function: `HurwitzLinear` in continuous, `SchurStableLinear` in discrete time.

Both are W = L C L^-1 in the coordinates y = x L, in which C shrinks |y| at every moment; so x L L^T x^T is a Lyapunov
function of W, and as every stable matrix has one, every stable matrix has this form. L = V diag(d) with orthogonal V,
so that L^-1 is known without a solve and entries of C are scaled one by one.

What C keeps exactly, W keeps to rounding, and rounding moves an eigenvalue by up to cond(L) times itself. Each map
therefore keeps a margin of `ROUNDING` * cond(L) * |W|_F, which pays for float32 at any size of the weights.
So they reach the stable matrices that keep this margin with some cond(L) up to 10^4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.functions import at_least_single, check_number, full_precision, upper_triangle
from slimgraph.slim.linear.householder import reflect
from slimgraph.slim.linear.registry import register

ROUNDING = 2.0**-20
"""8 roundings of float32, of which maps of 1 to 512 rows were seen to use less than half."""

SPREAD = math.log(1e4)
"""The logarithm of the largest cond(L); beyond it float32 cannot tell most W from unstable ones."""


class Lyapunov(SquareLinear):
    """What both maps share: W = L C L^-1 with L = V diag(d), V orthogonal.

    `U`: `(n-1, n)`, the reflectors of V^T as in `OrthogonalLinear`; `stretch`: `(n,)`, started at 0, where L is V.
    """

    def __init__(self, insize: int, outsize: int, bias: bool):
        super().__init__(insize, outsize, bias)
        self.U = nn.Parameter(torch.randn(insize - 1, insize).triu())
        self.stretch = nn.Parameter(torch.zeros(insize))

    def _similar(self, C: Tensor, offset: float = 0.0) -> tuple[Tensor, Tensor]:
        """A = L C L^-1 `(n, n)`, and how far rounding may move the eigenvalues of A - offset I, 0-dim."""
        # Both ends of tanh are half the spread away from the middle, where it has the slope 1.
        log_d = SPREAD / 2 * torch.tanh(self.stretch.to(C) / (SPREAD / 2))
        condition = (log_d.amax() - log_d.amin()).exp()
        # A column of V that is turned round turns signs of C round and no more: one determinant is enough.
        VT = reflect(torch.eye(len(C), dtype=C.dtype, device=C.device), self.U.to(C), C.new_ones(1))
        scaled = C * (log_d.unsqueeze(1) - log_d).exp()
        return VT.mT @ scaled @ VT, ROUNDING * condition * (torch.linalg.matrix_norm(scaled) + abs(offset))


@register("hurwitz", square=True)
class HurwitzLinear(Lyapunov):
    """W = L (S - Q) L^-1 - (alpha + m) I, S = -S^T, Q = weight^T weight: every eigenvalue has a real part < -alpha.

    For `dx/dt = x W` (an input of an ODE solver, not a recurrence). In y = x L, d|y|^2/dt = -2 y Q y^T -
    2 (alpha + m) |y|^2, so |y| falls at least as fast as exp(-alpha t). With P = (L L^T)^-1, positive definite, this is
    W = (S' - Q') P - alpha I with a skew S' and a symmetric Q' >= m P^-1.
    weight: `(n, n)`; skew: `(n(n-1)/2,)`, the upper triangle of S; `U`, `stretch`: L = V diag(d), cond(L) <= 10^4.
    The margin m = 2^-20 cond(L) (|L (S - Q) L^-1|_F + |alpha|) keeps the promise in float32; only W = 0 has none.

    Raises `OptionError` for an alpha that is not finite.
    Source: Lyapunov's theorem; Gillis, Sharma 2017, On computing the distance to stability, arXiv:1611.00595.

    >>> bool((HurwitzLinear(5, 5, alpha=0.1).eig(eigenvectors=False).real < -0.1).all())
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, alpha: float = 0.0):
        super().__init__(insize, outsize, bias)
        self.alpha = check_number(self, "alpha", alpha)
        spread = 1 / math.sqrt(insize)
        self.skew = nn.Parameter(torch.empty(insize * (insize - 1) // 2).uniform_(-spread, spread))

    @full_precision
    def effective_W(self) -> Tensor:
        weight = at_least_single(self.weight)
        S = upper_triangle(self.skew.to(weight), len(weight), diagonal=1)
        A, margin = self._similar(S - S.mT - weight.mT @ weight, self.alpha)
        return (A - torch.diag((self.alpha + margin).expand(len(A)))).to(self.weight.dtype)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        W = W.double()
        return torch.linalg.eigvals(W).real.max() <= -self.alpha + tol * torch.linalg.matrix_norm(W, 2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}"


@register("schur_stable", square=True)
class SchurStableLinear(Lyapunov):
    """W = radius L Z L^-1 / (1 + m) with |Z|_2 < 1: the spectral radius is < radius, and W need not be normal.

    For `x[t+1] = x[t] W`. In y = x L, |y[t+1]| <= radius |y[t]|, so |x| falls like radius^t after growing by at most
    cond(L). Z = weight (I + weight^T weight)^(-1/2), up to the choice of that root: every Z with |Z|_2 < 1.
    weight: `(n, n)`; `U`, `stretch`: L = V diag(d), cond(L) <= 10^4. The margin m = 2^-20 cond(L) |L Z L^-1|_F keeps
    the promise in float32.

    Raises `OptionError` for a radius that is not positive and finite.
    Source: Gillis, Karow, Sharma 2019, Approximating the nearest stable discrete-time system, arXiv:1802.08033.

    >>> bool((SchurStableLinear(5, 5, radius=0.9).eig(eigenvectors=False).abs() < 0.9).all())
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, radius: float = 1.0):
        super().__init__(insize, outsize, bias)
        self.radius = check_number(self, "radius", radius, above=0.0)

    @full_precision
    def effective_W(self) -> Tensor:
        A, margin = self._similar(self._contraction(at_least_single(self.weight)))
        return (self.radius / (1 + margin) * A).to(self.weight.dtype)

    def _contraction(self, Y: Tensor) -> Tensor:
        """Y R^-1 with R^T R = I + Y^T Y, the upper rows of an orthonormal basis of the columns of [Y; I]."""
        Q, R = torch.linalg.qr(torch.cat([Y, torch.eye(len(Y), dtype=Y.dtype, device=Y.device)]))
        # LAPACK leaves the signs of R's diagonal to chance; positive ones make Z a smooth function of Y.
        return Q[: len(Y)] * R.diagonal().sign()

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        W = W.double()
        return torch.linalg.eigvals(W).abs().max() <= self.radius + tol * torch.linalg.matrix_norm(W, 2)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, radius={self.radius}"
