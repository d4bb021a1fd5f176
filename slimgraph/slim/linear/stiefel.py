"""`StiefelLinear`: orthonormal rows or columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import full_precision
from slimgraph.slim.linear.householder import first_columns, reflections_of
from slimgraph.slim.linear.orthogonal import random_sign, register_sign
from slimgraph.slim.linear.registry import register


@register("stiefel")
class StiefelLinear(LinearBase):
    """W = the first columns of H_0 H_1 ... H_{k-1}, or their transpose: W W^T = I or W^T W = I, whichever fits.

    With p and n the smaller and the larger of insize and outsize, the p columns `(n, p)` are W where insize >= outsize,
    and W^T elsewhere; lengths are kept by x W in the second case and by W x in the first. U: `(min(p, n - 1), n)` upper
    triangular, row i the Householder reflector of the last n - i entries: as many as reach every such W. A square W has
    a `sign` too, as in `OrthogonalLinear`, drawn at the start.

    `from_dense` is nearest in the Frobenius norm: the polar factor of W.
    Source: Mhammedi et al. 2017, arXiv:1612.00188; Edelman, Arias, Smith 1998, arXiv:physics/9806030.

    >>> W = StiefelLinear(3, 5).effective_W()
    >>> torch.allclose(W @ W.mT, torch.eye(3), atol=1e-6)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias, provide_weights=False)
        n, self.columns = max(insize, outsize), min(insize, outsize)
        self.U = nn.Parameter(torch.randn(min(self.columns, n - 1), n).triu())
        self.sign: Tensor
        register_sign(self, "sign", random_sign() if insize == outsize else torch.ones(1))

    @full_precision
    def effective_W(self) -> Tensor:
        Q = first_columns(self.U, self.sign, self.columns)
        return Q if self.in_features >= self.out_features else Q.mT

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        gram = W.mT @ W if self.in_features >= self.out_features else W @ W.mT
        return (gram - torch.eye(self.columns, dtype=W.dtype, device=W.device)).abs().max() <= tol

    def _set_dense(self, W: Tensor) -> None:
        left, _, right = torch.linalg.svd(W.double(), full_matrices=False)
        Q = (left @ right).to(W)
        U, sign = reflections_of(Q if self.in_features >= self.out_features else Q.mT, len(self.U))
        self.U.copy_(U)
        self.sign.copy_(sign)
