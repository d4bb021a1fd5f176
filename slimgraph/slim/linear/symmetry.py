"""Square maps with a symmetry: `SymmetricLinear`, `PSDLinear`, `SkewSymmetricLinear`, `DampedSkewSymmetricLinear`.

The tolerance of `contains` is relative to the largest entry of W, however small that is; for positive semidefinite
maps to the largest eigenvalue.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.factored import FactoredLinear
from slimgraph.slim.linear.functions import (
    above_zero,
    between,
    between_inverse,
    check_bounds,
    full_precision,
    symmetric_part,
)
from slimgraph.slim.linear.registry import register


def largest(W: Tensor) -> Tensor:
    """The largest absolute entry: the scale to which a tolerance on entries is relative."""
    return W.abs().max()


@register("symmetric", square=True)
class SymmetricLinear(SquareLinear):
    """W = (weight + weight^T)/2: symmetric, so its eigenvalues are real.

    weight: `(n, n)`. `from_dense` is nearest in the Frobenius norm: the symmetric part of W.

    >>> W = SymmetricLinear(3, 3).effective_W()
    >>> torch.equal(W, W.mT)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)

    def effective_W(self) -> Tensor:
        return symmetric_part(self.weight)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return (W - W.mT).abs().max() <= tol * largest(W)

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_(symmetric_part(W))


@register("psd", square=True)
class PSDLinear(FactoredLinear, SquareLinear):
    """W = weight^T weight: symmetric, every eigenvalue >= 0.

    weight: `(n, n)`. `from_dense` is nearest in the Frobenius norm: the symmetric part of W, its negative eigenvalues
    set to zero, or rather to rounding, so that training can raise them again.

    >>> W = PSDLinear.from_dense(torch.tensor([[2., 0.], [0., -3.]])).effective_W()
    >>> torch.allclose(W, torch.tensor([[2., 0.], [0., 0.]]), atol=1e-6)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)

    @property
    def inner(self) -> int:
        return self.in_features

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.weight.mT, self.weight

    @full_precision
    def effective_W(self) -> Tensor:
        # A product with its own transpose is symmetric only to rounding.
        return symmetric_part(super().effective_W())

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        values = torch.linalg.eigvalsh(symmetric_part(W))
        symmetric = (W - W.mT).abs().max() <= tol * largest(W)
        return symmetric & (values.min() >= -tol * values.abs().max())

    def _set_dense(self, W: Tensor) -> None:
        values, vectors = torch.linalg.eigh(symmetric_part(W.double()))
        roots = above_zero(values.clamp(min=0).to(W)).sqrt()
        # Of all roots the symmetric one: its rows stand for no eigenvector alone.
        self.weight.copy_((vectors * roots) @ vectors.mT)


@register("skew_symmetric", "skew_symetric", square=True)
class SkewSymmetricLinear(SquareLinear):
    """W = A - A^T with A strictly upper triangular: W = -W^T, every eigenvalue on the imaginary axis.

    weight: `(n(n-1)/2,)`, the rows of A one after the other. `from_dense` is nearest in the Frobenius norm: the
    skew-symmetric part of W. The reference's misspelt key `skew_symetric` is an alias.

    >>> W = SkewSymmetricLinear(3, 3).effective_W()
    >>> torch.equal(W, -W.mT)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias, provide_weights=False)
        spread = 1 / math.sqrt(insize)
        self.weight = nn.Parameter(torch.empty(insize * (insize - 1) // 2).uniform_(-spread, spread))

    def effective_W(self) -> Tensor:
        A = self.weight.new_zeros(self.in_features**2).index_put((self._positions(),), self.weight)
        A = A.view(self.in_features, self.in_features)
        return A - A.mT

    def _positions(self) -> Tensor:
        """Where the strictly upper entries stand in the flattened matrix."""
        n = self.in_features
        rows, columns = torch.triu_indices(n, n, offset=1, device=self.weight.device)
        return rows * n + columns

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return (W + W.mT).abs().max() <= tol * largest(W)

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_((W / 2 - W.mT / 2).reshape(-1)[self._positions()])


@register("damp_skew_symmetric", square=True)
class DampedSkewSymmetricLinear(SkewSymmetricLinear):
    """W = A - A^T - gamma I: every eigenvalue has the real part -gamma, gamma in [sigma_min, sigma_max].

    A is strictly upper triangular as in `SkewSymmetricLinear`; gamma = sigma_min + (sigma_max - sigma_min) sigmoid(p),
    p: `(1,)`. `from_dense` is nearest in the Frobenius norm: the skew-symmetric part of W, and minus the mean of its
    diagonal, clipped to the bounds. The reference adds gamma instead.
    Source: Chang et al. 2019, AntisymmetricRNN, arXiv:1902.09689.

    >>> DampedSkewSymmetricLinear(2, 2, sigma_min=0.3, sigma_max=0.3).eig(eigenvectors=False).real
    tensor([-0.3000, -0.3000], grad_fn=<SelectBackward0>)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.1, sigma_max: float = 0.5):
        super().__init__(insize, outsize, bias)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max)
        self.p = nn.Parameter(torch.zeros(1))

    @property
    def gamma(self) -> Tensor:
        """The damping, `(1,)`."""
        return between(self.p, self.sigma_min, self.sigma_max)

    def effective_W(self) -> Tensor:
        return super().effective_W() - torch.diag(self.gamma.expand(self.in_features))

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        damping, entry = -W.diagonal(), tol * largest(W)
        # A gamma near zero between large bounds is known to the rounding of the bounds.
        edge = entry.clamp(min=tol * max(abs(self.sigma_min), abs(self.sigma_max)))
        inside = (damping >= self.sigma_min - edge) & (damping <= self.sigma_max + edge)
        skew = (W + W.mT + 2 * torch.diag(damping)).abs().max() <= entry
        return inside.all() & (damping.max() - damping.min() <= entry) & skew

    def _set_dense(self, W: Tensor) -> None:
        super()._set_dense(W)
        self.p.copy_(between_inverse(-W.diagonal().mean(), self.sigma_min, self.sigma_max))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
