"""Free maps with a bound that `reg_error` keeps: `BoundedNormLinear`, `PowerBoundLinear`."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.dense import Linear
from slimgraph.slim.linear.functions import at_least_single, check_bounds, check_number, full_precision
from slimgraph.slim.linear.registry import register
from slimgraph.slim.linear.stochastic import project_rows

NORMS = (1, 2, math.inf, "fro", "nuc")

INSIDE = 0.99
"""A start that has to be scaled stops short of its bound, so that another dtype's rounding does not carry it over."""


def bounded_columns(M: Tensor, low: float, high: float) -> Tensor:
    """The nearest matrix, in the Frobenius norm, whose largest sum of |entries| of a column is in [low, high].

    M: `(rows, columns)`. Columns above `high` go onto the l1 ball; if all are below `low`, the largest one is raised,
    each entry by the same amount away from zero.

    >>> bounded_columns(torch.tensor([[3., 0.1], [-2., 0.1]]), 0., 2.)
    tensor([[ 1.5000,  0.1000],
            [-0.5000,  0.1000]])
    """
    sums, signs = M.abs().sum(0), torch.where(M < 0, -1.0, 1.0).to(M)
    total = M.new_full((M.shape[1], 1), high)
    nearest = torch.where(sums > high, signs * project_rows(M.abs().mT, total).mT, M)
    if sums.max() < low:
        j = sums.argmax()
        nearest[:, j] += signs[:, j] * (low - sums[j]) / len(M)
    return nearest


@register("bounded_Lp_norm")
class BoundedNormLinear(Linear):
    """W = weight^T, free: sigma_min <= |W|_p <= sigma_max for a matrix norm p, where reg_error is 0.

    weight: `(outsize, insize)`, started as `Linear`, scaled to just inside the nearer bound if its norm is not. `p` is
    one of 1 (largest column sum of |W|), 2 (largest singular value), inf (largest row sum), 'fro' and 'nuc' (sum of
    the singular values), as in `torch.linalg.matrix_norm`. `from_dense` is nearest in the Frobenius norm. Raises
    `OptionError` for another p. The reference takes a norm of the vector of all entries.

    >>> m = BoundedNormLinear(3, 3, p='fro')
    >>> bool(m.norm() <= 1.00001), m.reg_error().item() < 1e-5
    (True, True)
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = False,
        sigma_min: float = 0.1,
        sigma_max: float = 1.0,
        p: Any = 2,
    ):
        super().__init__(insize, outsize, bias)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max, floor=0.0)
        if isinstance(p, bool) or not isinstance(p, Real | str) or p not in NORMS:
            raise OptionError(f"BoundedNormLinear needs a matrix norm p of 1, 2, inf, 'fro', 'nuc', got p={p!r}")
        # The one that it equals: torch takes no norm by the name of a numpy number.
        self.p = NORMS[NORMS.index(p)]
        with torch.no_grad():
            norm = self.norm().clamp(min=torch.finfo(self.weight.dtype).tiny)
            edge = (1 - INSIDE) * (self.sigma_max - self.sigma_min)
            legal = norm == norm.clamp(self.sigma_min, self.sigma_max)
            scale = norm.clamp(self.sigma_min + edge, self.sigma_max - edge) / norm
            self.weight.mul_(torch.where(legal, 1, scale))

    def norm(self) -> Tensor:
        """|W|_p, 0-dim."""
        return self._norm(self.effective_W())

    def _norm(self, W: Tensor) -> Tensor:
        # LAPACK has no singular values in half precision.
        return torch.linalg.matrix_norm(at_least_single(W), ord=self.p).to(W.dtype)

    @full_precision
    def reg_error(self) -> Tensor:
        norm = self.norm()
        return F.relu(norm - self.sigma_max) + F.relu(self.sigma_min - norm)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        norm, tol = self._norm(W), tol * self.sigma_max
        return (norm >= self.sigma_min - tol) & (norm <= self.sigma_max + tol)

    def _set_dense(self, W: Tensor) -> None:
        M, bounds = W.double(), (self.sigma_min, self.sigma_max)
        if self.p in (2, "nuc"):
            left, values, right = torch.linalg.svd(M, full_matrices=False)
            # Both are sums over columns: of one singular value each, or of all of them.
            values = values.unsqueeze(0 if self.p == 2 else 1)
            M = (left * bounded_columns(values, *bounds).flatten()) @ right
        elif self.p == "fro":
            norm = self._norm(M).clamp(*bounds)
            # Every matrix of the right norm is as near to zero as another.
            M = M if M.any() else torch.ones_like(M)
            M = M * (norm / self._norm(M))
        else:
            M = bounded_columns(M, *bounds) if self.p == 1 else bounded_columns(M.mT, *bounds).mT
        self.weight.copy_(M.mT)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, p={self.p!r}"


SQUARINGS = 12
"""The fewest squarings of W: from k = 4096 to 2k a Jordan block of 65 rows grows within 2 % of its eigenvalue."""

PHASES = 7
"""2^7 directions stand for all phases of a rotating dominant pair."""


def rescaled(M: Tensor) -> tuple[Tensor, Tensor]:
    """`M` divided by a power of two that brings its largest entry near 1, and the exponent, 0-dim."""
    # Powers of two scale without rounding, so that the powers of a nilpotent matrix can reach zero exactly.
    exponent = torch.frexp(M.detach().abs().amax()).exponent.clamp(-1000, 1000)
    # Not ldexp of M itself: torch 2.13 gives it the gradient 0 for whole exponents.
    return M * torch.ldexp(M.new_ones(()), -exponent), exponent


def powers(W: Tensor, squarings: int) -> tuple[list[Tensor], Tensor]:
    """W^1, W^2, W^4, ..., W^k for k = 2^squarings, each scaled, and log2 of the last one's scale divided by k."""
    B, log = rescaled(W)
    found = [B]
    for j in range(1, squarings + 1):
        B, exponent = rescaled(B @ B)
        log = log + exponent / 2**j
        found.append(B)
    return found, log


class FiniteGrad(torch.autograd.Function):
    """The identity, with a gradient of finite entries: a defective eigenvalue has an infinite derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Where the derivative exists it is the condition of the eigenvalue, at least 1 and free of the scale of W.
        largest = min(1e6, torch.finfo(grad.dtype).max)
        return grad.nan_to_num(0.0).clamp(-largest, largest)


def unit_columns(M: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of `M` with length 1, zero ones left, and log2 of their lengths, 0 for those."""
    lengths = torch.linalg.vector_norm(M, dim=0)
    # The logarithm of zero would give NaN gradients, even where nobody reads it.
    lengths = torch.where(lengths > 0, lengths, 1)
    return M / lengths, lengths.log2()


@register("Power_bound", square=True)
class PowerBoundLinear(SquareLinear):
    """W = weight, free: its spectral radius rho is at most max_p, where reg_error = relu(rho - max_p) is 0.

    weight: `(n, n)`, started as every map, and scaled down where a norm of W^8 cannot tell that rho <= max_p. rho comes
    from norms of the k-th power of W, reached by squaring, k >= `pwr_iters` and >= 4096: within 2 % of the eigenvalues'
    largest modulus, be they complex, negative, equal or defective, and 0 for a nilpotent W; in float64 where the device
    has it. Powers of a Jordan block of more than about 40 rows can leave the range of float64: it is missed by up to
    17 %, or taken for nilpotent. `contains` takes the eigenvalues, with a tolerance relative to |W|_F. `from_dense`
    scales a W with rho > max_p by max_p/rho: that keeps the eigenvectors, and is not the nearest. The reference
    compares the square of a random estimate with max_p.
    Source: Gelfand's formula, Horn and Johnson, Matrix Analysis, corollary 5.6.14.

    >>> m = PowerBoundLinear.from_dense(torch.tensor([[0., -3.], [3., 0.]]))
    >>> m.effective_W().detach()
    tensor([[ 0., -1.],
            [ 1.,  0.]])
    """

    def __init__(self, insize: int, outsize: int, max_p: float = 1, pwr_iters: int = 200, bias: bool = False):
        super().__init__(insize, outsize, bias)
        self.max_p = check_number(self, "max_p", max_p, floor=0.0)
        self.pwr_iters = self._size("pwr_iters", pwr_iters)
        self._scale_down()

    @torch.no_grad()
    @full_precision
    def _scale_down(self) -> None:
        found, log = powers(at_least_single(self.weight), 3)
        bound = torch.linalg.vector_norm(found[-1]).pow(1 / 8) * log.exp2()
        self.weight.mul_((INSIDE * self.max_p / bound.clamp(min=torch.finfo(bound.dtype).tiny)).clamp(max=1))

    def effective_W(self) -> Tensor:
        return self.weight

    @full_precision
    def spectral_radius(self) -> Tensor:
        """rho(W), the largest modulus of an eigenvalue, 0-dim and differentiable, always the same for the same W."""
        found, log = self._powers()
        with torch.no_grad():
            directions = self._dominant(found[-1])
            for B in found[:PHASES]:
                directions = torch.cat([directions, unit_columns(B @ directions)[0]], dim=1)
        # How much W^k stretches a dominant direction depends on the phase at which a complex pair arrives, and so would
        # the gradient; the mean over the directions z, W z, W^2 z, ... does not.
        stretch = unit_columns(found[-1] @ directions)[1].mean() / 2 ** (len(found) - 1)
        return torch.where(found[-1].any(), (stretch + log).exp2(), 0).to(self.weight.dtype)

    @full_precision
    def reg_error(self) -> Tensor:
        return F.relu(self.spectral_radius() - self.max_p)

    @torch.no_grad()
    def eig_v_estimate(self) -> list[Tensor]:
        """Two columns `[a, b]`, each `(n, 1)`, in the dominant invariant subspace: W a = |W a| b/|b|.

        They span it if it has at most two dimensions: one real eigenvalue, two of opposite signs, or a complex pair.
        |a|^2 + |b|^2 = 1; both are zero for a nilpotent W. As for `eig`, those of `x @ W` belong to W^T.
        """
        W = self._wide()
        a = self._dominant(self._powers()[0][-1])
        b = unit_columns(W @ a)[0]
        return [(column / math.sqrt(2)).to(self.weight.dtype) for column in (a, b)]

    def _dominant(self, power: Tensor) -> Tensor:
        """The longest column of a high power of W, `(n, 1)`, of length 1: W^k turns every vector into the dominant."""
        longest = torch.linalg.vector_norm(power, dim=0).argmax(keepdim=True)
        return unit_columns(power.index_select(1, longest))[0]

    def _wide(self) -> Tensor:
        # Apple's GPUs have no float64; in float32 a badly conditioned W is judged less exactly.
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        return FiniteGrad.apply(self.weight).to(wide)  # pyright: ignore[reportOptionalMemberAccess]

    @full_precision
    def _powers(self) -> tuple[list[Tensor], Tensor]:
        return powers(self._wide(), max(SQUARINGS, (self.pwr_iters - 1).bit_length()))

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        rho = torch.linalg.eigvals(W.double()).abs().max()
        return rho <= self.max_p + tol * torch.linalg.vector_norm(W)

    def _set_dense(self, W: Tensor) -> None:
        rho = torch.linalg.eigvals(W.double()).abs().max()
        self.weight.copy_(W * self.max_p / rho if rho > self.max_p else W)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, max_p={self.max_p}, pwr_iters={self.pwr_iters}"
