"""Differences of two non-negative matrices: `SplitLinear`, `StableSplitLinear`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.dense import NonNegativeLinear
from slimgraph.slim.linear.functions import between, check_bounds
from slimgraph.slim.linear.registry import register


@register("split")
class SplitLinear(LinearBase):
    """W = B - C, both non-negative: every matrix can be written so.

    `B` and `C` are `NonNegativeLinear` without a bias of their own. `from_dense` is exact: B = max(W, 0) and
    C = max(-W, 0).

    >>> m = SplitLinear.from_dense(torch.tensor([[2., -3.]]))
    >>> [part.detach().round().tolist() for part in m.parts()]
    [[[2.0, 0.0]], [[0.0, 3.0]]]
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.B = NonNegativeLinear(insize, outsize)
        self.C = NonNegativeLinear(insize, outsize)

    def parts(self) -> tuple[Tensor, Tensor]:
        """The two non-negative matrices B and C, `(insize, outsize)`."""
        return self.B.effective_W(), self.C.effective_W()

    def effective_W(self) -> Tensor:
        B, C = self.parts()
        return B - C

    def _set_dense(self, W: Tensor) -> None:
        self.B._set_dense(W)
        self.C._set_dense(-W)


@register("stable_split")
class StableSplitLinear(LinearBase):
    """W = B - C, both non-negative: row sums of W in [sigma_min, sigma_max], infinity norm at most sigma_max.

    A row of C sums to c = (sigma_max - sigma_min)/2 sigmoid(p), the same row of B to sigma_max - c; p: `(insize, 1)`.
    Along the row each is a softmax, of `weight_B` and `weight_C` `(insize, outsize)`; 0 <= sigma_min <= sigma_max. No
    eigenvalue of a square B, C or W is larger than sigma_max. The reference lets the rows of B sum to sigma_max and
    those of C to up to sigma_max - sigma_min, so that the norm of W can be larger than sigma_max.

    >>> B, C = StableSplitLinear(2, 3, sigma_min=0.5).parts()
    >>> (B + C).sum(1).detach().round(decimals=4)
    tensor([1., 1.])
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.1, sigma_max: float = 1.0):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max, floor=0.0)
        spread = insize**-0.5
        self.weight_B = nn.Parameter(torch.empty(insize, outsize).uniform_(-spread, spread))
        self.weight_C = nn.Parameter(torch.empty(insize, outsize).uniform_(-spread, spread))
        self.p = nn.Parameter(torch.zeros(insize, 1))

    def parts(self) -> tuple[Tensor, Tensor]:
        """The two non-negative matrices B and C, `(insize, outsize)`."""
        c = between(self.p, 0.0, (self.sigma_max - self.sigma_min) / 2)
        return (self.sigma_max - c) * torch.softmax(self.weight_B, dim=1), c * torch.softmax(self.weight_C, dim=1)

    def effective_W(self) -> Tensor:
        B, C = self.parts()
        return B - C

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        # These two are all that can be read off W: a W that has them is B - C, with what is left to sigma_max in both.
        sums, tol = W.sum(1), tol * max(1.0, self.sigma_max)
        inside = (sums.min() >= self.sigma_min - tol) & (sums.max() <= self.sigma_max + tol)
        return inside & (W.abs().sum(1).max() <= self.sigma_max + tol)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
