"""Non-negative maps with bounded sums: `RightStochasticLinear`, `LeftStochasticLinear`, `PerronFrobeniusLinear`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import between, between_inverse, check_bounds
from slimgraph.slim.linear.registry import register


def project_rows(W: Tensor, total: Tensor) -> Tensor:
    """The nearest non-negative matrix whose rows sum to `total` >= 0, in the Frobenius norm.

    W: `(rows, columns)`, total: `(rows, 1)`. It lowers every entry of a row by one threshold and cuts at zero.
    Source: Duchi et al. 2008, Efficient projections onto the l1-ball.

    >>> project_rows(torch.tensor([[0.9, 0.5, -1.]]), torch.ones(1, 1))
    tensor([[0.7000, 0.3000, 0.0000]])
    """
    dtype, W, total = W.dtype, W.double(), total.double()
    # A shift of a row moves its threshold alone, and the total must not drown in large entries.
    W = W - W.amax(1, keepdim=True)
    descending = W.sort(dim=1, descending=True).values
    places = torch.arange(1, W.shape[1] + 1, device=W.device, dtype=W.dtype)
    thresholds = (descending.cumsum(1) - total) / places
    kept = (descending > thresholds).sum(1, keepdim=True).clamp(min=1)
    return (W - thresholds.gather(1, kept - 1)).clamp(min=0).to(dtype)


def log_weights(P: Tensor) -> Tensor:
    """Finite `weight` with `softmax(weight, 1) == P` to rounding, for rows of P that sum to 1."""
    # log(0) would be -inf, at which the entry could never be trained again.
    return P.clamp(min=torch.finfo(P.dtype).eps / P.shape[1]).log()


@register("rstochastic")
class RightStochasticLinear(LinearBase):
    """W = softmax(weight, dim=1): W >= 0 and each row sums to 1.

    weight: `(insize, outsize)`. `from_dense` is nearest in the Frobenius norm: each row goes onto the simplex.

    >>> RightStochasticLinear(2, 3).effective_W().sum(1).detach()
    tensor([1., 1.])
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)

    def effective_W(self) -> Tensor:
        return torch.softmax(self.weight, dim=1)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return (W.min() >= -tol) & ((W.sum(1) - 1).abs().max() <= tol)

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_(log_weights(project_rows(W, W.new_ones(len(W), 1))))


@register("lstochastic")
class LeftStochasticLinear(LinearBase):
    """W = softmax(weight, dim=0): W >= 0 and each column sums to 1.

    weight: `(insize, outsize)`. `from_dense` is nearest in the Frobenius norm: each column goes onto the simplex.

    >>> LeftStochasticLinear(2, 3).effective_W().sum(0).detach()
    tensor([1., 1., 1.])
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)

    def effective_W(self) -> Tensor:
        return torch.softmax(self.weight, dim=0)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return (W.min() >= -tol) & ((W.sum(0) - 1).abs().max() <= tol)

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_(log_weights(project_rows(W.mT, W.new_ones(W.shape[1], 1))).mT)


@register("pf")
class PerronFrobeniusLinear(LinearBase):
    """W = s * softmax(weight, dim=1), entry by entry: W >= 0 and each row sums to within [sigma_min, sigma_max].

    s = sigma_max - (sigma_max - sigma_min) sigmoid(scaling). Within the bounds is the dominant eigenvalue of a square W
    too (Perron-Frobenius theorem). weight, scaling: `(insize, outsize)`; 0 <= sigma_min <= sigma_max. `from_dense` is
    nearest in the Frobenius norm. Source: Tuor, Drgona, Vrabie 2020, arXiv:2004.10883.

    >>> sums = PerronFrobeniusLinear(3, 3).effective_W().sum(1)
    >>> bool(((sums >= 0.8) & (sums <= 1.0)).all())
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.8, sigma_max: float = 1.0):
        super().__init__(insize, outsize, bias)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max, floor=0.0)
        self.scaling = nn.Parameter(torch.zeros(insize, outsize))

    def effective_W(self) -> Tensor:
        return between(-self.scaling, self.sigma_min, self.sigma_max) * torch.softmax(self.weight, dim=1)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        sums, tol = W.sum(1), tol * max(1.0, self.sigma_max)
        return (W.min() >= -tol) & (sums.min() >= self.sigma_min - tol) & (sums.max() <= self.sigma_max + tol)

    def _set_dense(self, W: Tensor) -> None:
        nearest = W.clamp(min=0)
        sums = nearest.sum(1, keepdim=True)
        total = sums.clamp(self.sigma_min, self.sigma_max)
        # A row whose sum is out of bounds is projected onto the bound it missed; a row total of zero has one member.
        moved = project_rows(W, total.clamp(min=torch.finfo(W.dtype).tiny))
        nearest = torch.where(total == sums, nearest, moved)
        self.weight.copy_(log_weights(nearest / nearest.sum(1, keepdim=True).clamp(min=torch.finfo(W.dtype).tiny)))
        self.scaling.copy_(-between_inverse(total, self.sigma_min, self.sigma_max).expand_as(W))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
