"""Singular value decompositions with free factors: `SVDLinear`, `SVDLinearLearnBounds`, `SymmetricSVDLinear`."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase, SquareLinear
from slimgraph.slim.linear.factored import FactoredLinear
from slimgraph.slim.linear.functions import (
    at_least_single,
    between,
    between_inverse,
    check_bounds,
    full_precision,
    symmetric_part,
)
from slimgraph.slim.linear.registry import register


class BoundedSigma(LinearBase):
    """What both decompositions share: min(insize, outsize) singular values inside [sigma_min, sigma_max].

    sigma = sigma_min + (sigma_max - sigma_min) sigmoid(p), which is 2r (sigmoid(p) - 1/2) + (sigma_min + sigma_max)/2
    with r = (sigma_max - sigma_min)/2; p: `(min(insize, outsize),)`, started near 0. The tolerance of `contains` is
    relative to sigma_max.
    """

    floor: ClassVar[float] = 0.0
    """The least bound that is allowed."""

    # Floats here, but a subclass may learn them.
    sigma_min: Any
    sigma_max: Any

    def __init__(self, insize: int, outsize: int, bias: bool, sigma_min: float, sigma_max: float):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self._set_bounds(*check_bounds(self, sigma_min, sigma_max, floor=self.floor))
        self.p = nn.Parameter(0.1 * torch.randn(min(insize, outsize)))

    def _set_bounds(self, low: float, high: float) -> None:
        self.sigma_min, self.sigma_max = low, high

    def sigma(self) -> Tensor:
        """The diagonal of Sigma, `(min(insize, outsize),)`."""
        return between(self.p, self.sigma_min, self.sigma_max)

    def Sigma(self) -> Tensor:
        """The rectangular-diagonal matrix `(insize, outsize)` of the singular values."""
        return F.pad(torch.diag(self.sigma()), (0, self.out_features - len(self.p), 0, self.in_features - len(self.p)))

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        values, tol = torch.linalg.svdvals(W), tol * self.sigma_max
        return (values.min() >= self.sigma_min - tol) & (values.max() <= self.sigma_max + tol)

    def _set_sigma(self, values: Tensor) -> None:
        self.p.copy_(between_inverse(values.to(self.p), self.sigma_min, self.sigma_max))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"


def random_orthogonal(n: int) -> Tensor:
    """An orthogonal matrix `(n, n)` of the uniform (Haar) distribution, for less than half of what QR costs.

    Source: Stewart 1980, The efficient generation of random orthogonal matrices.
    """
    X = at_least_single(torch.randn(n, n)).tril()
    # Column i is to be the reflector that moves axis i to the direction of a normal vector in the last n - i axes.
    lengths = torch.linalg.vector_norm(X, dim=0)
    X.diagonal().add_(torch.copysign(lengths, X.diagonal()))
    X = X / X.diagonal()
    Q = torch.linalg.householder_product(X, 2 / X.square().sum(0)) * (torch.randint(0, 2, (n,)) * 2 - 1)
    return Q.to(torch.get_default_dtype()).contiguous()


@register("softSVD")
class SVDLinear(FactoredLinear, BoundedSigma):
    """W = U Sigma V, U and V free: singular values in [sigma_min, sigma_max] where U, V are orthogonal (reg_error 0).

    U: `(insize, insize)`, V: `(outsize, outsize)`, started orthogonal; `reg_error` measures how far they are from
    that. `from_dense` is nearest in the Frobenius norm: the singular values of W clipped to the bounds.
    Source: Drgona et al. 2021, arXiv:2101.01864.

    >>> svd = SVDLinear(3, 2)
    >>> bool(svd.reg_error() < 1e-5), svd.contains(svd.effective_W())
    (True, True)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.1, sigma_max: float = 1.0):
        super().__init__(insize, outsize, bias, sigma_min, sigma_max)
        self.U = nn.Parameter(random_orthogonal(insize))
        self.V = nn.Parameter(random_orthogonal(outsize))

    @property
    def inner(self) -> int:
        return len(self.p)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.U[:, : len(self.p)] * self.sigma(), self.V[: len(self.p)]

    @full_precision
    def reg_error(self) -> Tensor:
        return self.orthogonal_error(self.U) + self.orthogonal_error(self.V)

    @staticmethod
    def orthogonal_error(M: Tensor) -> Tensor:
        """|I - M M^T|_F + |I - M^T M|_F, 0-dim: 0 exactly where the square `M` is orthogonal."""
        # M M^T and M^T M have the same eigenvalues, so the two norms are equal.
        return 2 * torch.linalg.matrix_norm(torch.eye(len(M), dtype=M.dtype, device=M.device) - M @ M.mT)

    def _set_dense(self, W: Tensor) -> None:
        left, values, right = torch.linalg.svd(W.double())
        self.U.copy_(left)
        self.V.copy_(right)
        self._set_sigma(values)


def magnitude(p: Tensor) -> Tensor:
    """|p| with the slope 1 at zero, so that a bound that starts at zero can be learned."""
    return torch.where(p < 0, -p, p)


@register("learnSVD")
class SVDLinearLearnBounds(SVDLinear):
    """W = U Sigma V as softSVD, the bounds learned too: singular values in their interval where reg_error is 0.

    sigma_min = |lower| and sigma_max = |lower| + |width|, so that the interval is never inside out nor negative;
    `sigma_min` and `sigma_max` read the current bounds, `(1,)`, and `contains` takes them. `from_dense` clips the
    singular values to the bounds that it is given. Source: Drgona et al. 2021, arXiv:2101.01864.

    >>> SVDLinearLearnBounds(3, 2, sigma_min=0.0, sigma_max=0.5).sigma_max
    tensor([0.5000], grad_fn=<AddBackward0>)
    """

    def _set_bounds(self, low: float, high: float) -> None:
        self.lower, self.width = nn.Parameter(torch.full((1,), low)), nn.Parameter(torch.full((1,), high - low))

    @property
    def sigma_min(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The lower bound, `(1,)`."""
        return magnitude(self.lower)

    @property
    def sigma_max(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The upper bound, `(1,)`."""
        return magnitude(self.lower) + magnitude(self.width)

    def extra_repr(self) -> str:
        low, high = ("?" if bound.is_meta else f"{bound.item():.4g}" for bound in (self.sigma_min, self.sigma_max))
        return f"{LinearBase.extra_repr(self)}, sigma_min={low}, sigma_max={high}"


@register("symmetric_SVD", square=True)
class SymmetricSVDLinear(SVDLinear, SquareLinear):
    """W = U Sigma U^T: symmetric; eigenvalues in [sigma_min, sigma_max] where the free U is orthogonal (reg_error 0).

    U: `(n, n)`, started orthogonal; W is symmetric to the last bit whatever U is. `from_dense` is nearest in the
    Frobenius norm: the eigenvalues of the symmetric part clipped to the bounds.
    Source: Drgona et al. 2021, arXiv:2101.01864.

    >>> W = SymmetricSVDLinear(3, 3, sigma_min=0.5).effective_W()
    >>> torch.equal(W, W.mT), bool(torch.linalg.eigvalsh(W).min() > 0.499)
    (True, True)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.1, sigma_max: float = 1.0):
        # Past SVDLinear's own constructor, which would make a second factor.
        super(SVDLinear, self).__init__(insize, outsize, bias, sigma_min, sigma_max)
        self.U = nn.Parameter(random_orthogonal(insize))

    @property
    def V(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """U^T, no parameter of its own."""
        return self.U.mT

    @full_precision
    def effective_W(self) -> Tensor:
        return symmetric_part(super().effective_W())

    @full_precision
    def reg_error(self) -> Tensor:
        return self.orthogonal_error(self.U)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        values, tol = torch.linalg.eigvalsh(symmetric_part(W)), tol * self.sigma_max
        inside = (values.min() >= self.sigma_min - tol) & (values.max() <= self.sigma_max + tol)
        return inside & ((W - W.mT).abs().max() <= tol)

    def _set_dense(self, W: Tensor) -> None:
        values, vectors = torch.linalg.eigh(symmetric_part(W.double()))
        self.U.copy_(vectors)
        self._set_sigma(values)
