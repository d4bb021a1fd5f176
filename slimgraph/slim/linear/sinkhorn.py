"""Doubly stochastic matrices: `DoublyStochasticLinear`."""

from __future__ import annotations

import torch
from torch import Tensor

from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.registry import register


def rounded(F: Tensor) -> Tensor:
    """The doubly stochastic matrix near `F` >= 0 whose columns sum to 1, within twice what its rows miss of 1.

    It scales down the rows that sum to more than 1, and spreads what is missing then as a matrix of rank one.
    Source: Altschuler, Weed, Rigollet 2017, arXiv:1705.09634, algorithm 2, where the columns need no scaling down.

    >>> rounded(torch.tensor([[1., 1.], [0., 0.]]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    F = F / F.sum(1, keepdim=True).clamp(min=1)
    rows, columns = (1 - F.sum(1, keepdim=True)).clamp(min=0), (1 - F.sum(0, keepdim=True)).clamp(min=0)
    # Both miss as much in all, but for rounding, and where that is all, their ratio is anything.
    missing = torch.maximum(rows.sum(), columns.sum()).clamp(min=torch.finfo(F.dtype).tiny)
    return torch.addcmul(F, rows / missing, columns)


@register("doubly_stochastic", square=True)
class DoublyStochasticLinear(SquareLinear):
    """W = Sinkhorn scaling of exp(weight): W >= 0, every row and every column sums to 1.

    weight: `(n, n)`, normalised along the rows and then the columns, as logarithms, `n_iters` times; what is left of
    the deviation is spread so that the sums are 1 to rounding, also where the scaling has not converged. So
    |W|_2 = 1, and the permutations are the corners of the set. The logarithm of a positive member as `weight` gives
    that member. Source: Sinkhorn 1964; Altschuler, Weed, Rigollet 2017, arXiv:1705.09634.

    >>> W = DoublyStochasticLinear(3, 3).effective_W().detach()
    >>> W.sum(0).round(decimals=4), W.sum(1).round(decimals=4)
    (tensor([1., 1., 1.]), tensor([1., 1., 1.]))
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, *, n_iters: int = 10):
        super().__init__(insize, outsize, bias)
        self.n_iters = self._size("n_iters", n_iters)

    def effective_W(self) -> Tensor:
        logs = torch.log_softmax(self.weight, dim=1)
        for _ in range(self.n_iters - 1):
            logs = torch.log_softmax(torch.log_softmax(logs, dim=0), dim=1)
        return rounded(torch.softmax(logs, dim=0))

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        off = torch.maximum((W.sum(0) - 1).abs().max(), (W.sum(1) - 1).abs().max())
        return (W.min() >= -tol) & (off <= tol)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_iters={self.n_iters}"
