"""Singular value decompositions with free factors: `SVDLinear`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import between, between_inverse, check_bounds, full_precision
from slimgraph.slim.linear.registry import register


class BoundedSigma(LinearBase):
    """What both decompositions share: min(insize, outsize) singular values inside [sigma_min, sigma_max].

    sigma = sigma_min + (sigma_max - sigma_min) sigmoid(p), which is 2r (sigmoid(p) - 1/2) + (sigma_min + sigma_max)/2
    with r = (sigma_max - sigma_min)/2; p: `(min(insize, outsize),)`, started near 0.
    """

    def __init__(self, insize: int, outsize: int, bias: bool, sigma_min: float, sigma_max: float):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.sigma_min, self.sigma_max = check_bounds(self, sigma_min, sigma_max, floor=0.0)
        self.p = nn.Parameter(0.1 * torch.randn(min(insize, outsize)))

    def sigma(self) -> Tensor:
        """The diagonal of Sigma, `(min(insize, outsize),)`."""
        return between(self.p, self.sigma_min, self.sigma_max)

    def Sigma(self) -> Tensor:
        """The rectangular-diagonal matrix `(insize, outsize)` of the singular values."""
        return F.pad(torch.diag(self.sigma()), (0, self.out_features - len(self.p), 0, self.in_features - len(self.p)))

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        values, tol = torch.linalg.svdvals(W), tol * max(1.0, self.sigma_max)
        return (values.min() >= self.sigma_min - tol) & (values.max() <= self.sigma_max + tol)

    def _set_sigma(self, values: Tensor) -> None:
        self.p.copy_(between_inverse(values.to(self.p), self.sigma_min, self.sigma_max))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"


@register("softSVD")
class SVDLinear(BoundedSigma):
    """W = U Sigma V with free square U `(insize, insize)` and V `(outsize, outsize)`, started orthogonal.

    The singular values of W are inside [sigma_min, sigma_max] where U and V are orthogonal; `reg_error` measures how
    far they are from that. `from_dense` is nearest in the Frobenius norm: the singular values of W clipped to the
    bounds.
    Source: Drgona et al. 2021, arXiv:2101.01864.

    >>> svd = SVDLinear(3, 2)
    >>> bool(svd.reg_error() < 1e-5), svd.contains(svd.effective_W())
    (True, True)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, sigma_min: float = 0.1, sigma_max: float = 1.0):
        super().__init__(insize, outsize, bias, sigma_min, sigma_max)
        self.U = nn.Parameter(nn.init.orthogonal_(torch.empty(insize, insize)))
        self.V = nn.Parameter(nn.init.orthogonal_(torch.empty(outsize, outsize)))

    @full_precision
    def effective_W(self) -> Tensor:
        return (self.U[:, : len(self.p)] * self.sigma()) @ self.V[: len(self.p)]

    @full_precision
    def reg_error(self) -> Tensor:
        return self.orthogonal_error(self.U) + self.orthogonal_error(self.V)

    @staticmethod
    def orthogonal_error(M: Tensor) -> Tensor:
        """|I - M M^T|_F + |I - M^T M|_F, 0-dim: 0 exactly where the square `M` is orthogonal."""
        eye = torch.eye(len(M), dtype=M.dtype, device=M.device)
        return torch.linalg.matrix_norm(eye - M @ M.mT) + torch.linalg.matrix_norm(eye - M.mT @ M)

    def _set_dense(self, W: Tensor) -> None:
        left, values, right = torch.linalg.svd(W.double())
        self.U.copy_(left)
        self.V.copy_(right)
        self._set_sigma(values)
