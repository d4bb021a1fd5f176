"""Square maps whose eigenvalues are parameters or stand in a disc: `SchurDecompositionLinear`, `GershgorinLinear`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError, ShapeError
from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.functions import (
    at_least_single,
    between,
    check_bounds,
    check_even,
    check_number,
    full_precision,
    upper_triangle,
)
from slimgraph.slim.linear.householder import reflect
from slimgraph.slim.linear.orthogonal import random_sign
from slimgraph.slim.linear.registry import register
from slimgraph.slim.linear.symmetry import largest


@register("schur", square=True, even=True)
class SchurDecompositionLinear(SquareLinear):
    """W = P (D + N) P^T, D of 2 x 2 blocks gamma_k R(theta_k): the eigenvalues are gamma_k exp(+-i theta_k).

    P is orthogonal: `U` and `sign` hold the reflectors of P^T as in `OrthogonalLinear`. gamma, theta: `(n/2,)`,
    started at 1 and anywhere on the circle, R a rotation. N: `(n/2 (n/2 - 1)/2, 2, 2)`, the blocks above the diagonal
    row by row, started at 0, so W starts orthogonal. `reg_error` is l2 * mean((gamma - 1)^2).

    `contains`: the complex eigenvalues of any real matrix are conjugate; the real ones come in equal pairs, or would
    after a change of W within rounding, which splits them by far more.

    Raises `OptionError` for an odd size or a negative l2. The reference builds no matrix without a bias.
    Source: Kerg et al. 2019, Non-normal recurrent neural network (nnRNN), NeurIPS, arXiv:1905.12080.

    >>> W = SchurDecompositionLinear(4, 4)
    >>> torch.allclose(W.eig(eigenvectors=False).abs(), torch.ones(4), atol=1e-5)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, l2: float = 1e-2):
        super().__init__(insize, outsize, bias, provide_weights=False)
        check_even(self)
        self.l2 = check_number(self, "l2", l2, floor=0.0)
        pairs = insize // 2
        self.U = nn.Parameter(torch.randn(insize - 1, insize).triu())
        self.gamma = nn.Parameter(torch.ones(pairs))
        self.theta = nn.Parameter(torch.empty(pairs).uniform_(-math.pi, math.pi))
        self.N = nn.Parameter(torch.zeros(pairs * (pairs - 1) // 2, 2, 2))
        self.sign: Tensor
        self.register_buffer("sign", random_sign())

    def build_T(self, T: Tensor | None = None) -> Tensor:
        """D + N, `(n, n)`; written into `T` if given. Raises `ShapeError` for a T of another shape."""
        n, pairs = self.in_features, len(self.gamma)
        a, b = self.gamma * self.theta.cos(), self.gamma * self.theta.sin()
        D = torch.stack([a, -b, b, a], dim=1).view(pairs, 2, 2)
        rows, columns = torch.triu_indices(pairs, pairs, offset=1, device=D.device)
        diagonal = torch.arange(pairs, device=D.device) * (pairs + 1)
        where = torch.cat([diagonal, rows * pairs + columns])
        blocks = D.new_zeros(pairs**2, 2, 2).index_copy(0, where, torch.cat([D, self.N]))
        built = blocks.view(pairs, pairs, 2, 2).transpose(1, 2).reshape(n, n)
        if T is None:
            return built
        if T.shape != built.shape:
            raise ShapeError(f"SchurDecompositionLinear.build_T needs a T of shape ({n}, {n}), got {tuple(T.shape)}")
        return T.copy_(built)

    @full_precision
    def effective_W(self) -> Tensor:
        T = at_least_single(self.build_T())
        PT = reflect(torch.eye(self.in_features, dtype=T.dtype, device=T.device), self.U, self.sign)
        return (PT.mT @ T @ PT).to(self.U.dtype)

    @full_precision
    def reg_error(self) -> Tensor:
        return self.l2 * (self.gamma - 1).square().mean()

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        W = W.double()
        values = torch.linalg.eigvals(W)
        # det(z - W) is a square where the promise holds, so it is nowhere negative. Where it is, between the first and
        # the second real eigenvalue and so on, every path from W to such a matrix passes a singular one: W is no
        # nearer to the promise than the least singular value there.
        first, second = values.real[values.imag == 0].sort().values.view(-1, 2).unbind(1)
        middle = (first + second).view(-1, 1, 1) / 2
        gaps = torch.linalg.svdvals(W - middle * torch.eye(len(W), dtype=W.dtype, device=W.device))[:, -1]
        return (gaps <= tol * torch.linalg.matrix_norm(W, 2)).all()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, l2={self.l2}"


@register("gershgorin", square=True)
class GershgorinLinear(SquareLinear):
    """W = diag(lambda) + diag(t r / s) M: every eigenvalue in the disc with the diameter [sigma_min, sigma_max].

    With its centre c and radius r, row i has a Gershgorin disc of radius t_i r round lambda_i = c + (1 - t_i) r
    (2 sigmoid(centre_i) - 1), which lies inside; t = sigmoid(share), s_i the absolute row sum of M, whose diagonal is
    zero. share, centre: `(n,)`. weight, M's other entries row by row: `(n, n - 1)`, or its upper triangle
    `(n(n-1)/2,)` with `real`: then M is symmetric, an entry takes the smaller of its two rows' scales, and W is
    symmetric with eigenvalues in [sigma_min, sigma_max].

    Raises `OptionError` for bounds out of order or a `real` that is no bool. The reference has nothing to train.
    Source: Gershgorin circle theorem; arXiv:2011.13492.

    >>> values = torch.linalg.eigvalsh(GershgorinLinear(5, 5, sigma_min=-0.5, sigma_max=0.5).effective_W())
    >>> bool(values.abs().max() <= 0.5)
    True
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = 1.0,
        real: bool = True,
    ):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max)
        if not isinstance(real, bool):
            raise OptionError(f"GershgorinLinear needs real to be True or False, got real={real!r}")
        self.real = real
        shape = (insize * (insize - 1) // 2,) if real else (insize, insize - 1)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-1, 1))
        self.share = nn.Parameter(torch.randn(insize))
        self.centre = nn.Parameter(torch.randn(insize))

    def effective_W(self) -> Tensor:
        c, r = (self.sigma_min + self.sigma_max) / 2, (self.sigma_max - self.sigma_min) / 2
        M = self._off_diagonal()
        t = torch.sigmoid(self.share)
        # A row of zeros stays one: only entries too small to matter are not brought up to the sum t r.
        scale = (t * r / M.abs().sum(1).clamp(min=torch.finfo(M.dtype).eps)).unsqueeze(1)
        if self.real:
            scale = torch.minimum(scale, scale.mT)
        return scale * M + torch.diag(c + (1 - t) * between(self.centre, -r, r))

    def _off_diagonal(self) -> Tensor:
        """M, `(n, n)` with a zero diagonal."""
        n = self.in_features
        if self.real:
            upper = upper_triangle(self.weight, n, diagonal=1)
            return upper + upper.mT
        # One zero before each row of n entries, the flattened matrix cut after n^2, is the diagonal.
        between_zeros = torch.cat([self.weight.new_zeros(n - 1, 1), self.weight.reshape(n - 1, n)], dim=1)
        return torch.cat([between_zeros.reshape(-1), self.weight.new_zeros(1)]).view(n, n)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        c, r = (self.sigma_min + self.sigma_max) / 2, (self.sigma_max - self.sigma_min) / 2
        scale = max(1.0, abs(self.sigma_min), abs(self.sigma_max))
        W = W.double()
        if not self.real:
            return (torch.linalg.eigvals(W) - c).abs().max() <= r + tol * scale
        symmetric = (W - W.mT).abs().max() <= tol * largest(W)
        return symmetric & ((torch.linalg.eigvalsh((W + W.mT) / 2) - c).abs().max() <= r + tol * scale)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, real={self.real}"
