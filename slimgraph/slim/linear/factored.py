"""Maps made of factors that are cheaper to multiply by than W: `LowRankLinear`, `TrivialNullSpaceLinear`."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import above_zero, check_number, full_precision, rounds_between, symmetric_part
from slimgraph.slim.linear.registry import register


def cheaper_by_factors(owner: LinearBase, x: Tensor, dtype: torch.dtype, per_row: int, build: int) -> bool:
    """Whether `forward` should multiply `x` by factors of `dtype` instead of by W; both are the same function.

    The factors cost `per_row` multiplications for each row of x, and W `build` before the first. They are not for W at
    hand, half precision or autocast, which would round them.
    """
    if rounds_between(x, dtype) or owner.is_materialized:
        return False
    rows = x.numel() // owner.in_features
    return rows * per_row < build + rows * owner.in_features * owner.out_features


class FactoredLinear(LinearBase):
    """A map with W = A B; `forward` multiplies by A and then by B where that costs less than W does."""

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """A: `(insize, inner)`, B: `(inner, outsize)`."""

    @property
    @abstractmethod
    def inner(self) -> int:
        """The size between A and B."""

    @full_precision
    def effective_W(self) -> Tensor:
        A, B = self.factors()
        return A @ B

    def forward(self, x: Tensor) -> Tensor:
        n, k, m = self.in_features, self.inner, self.out_features
        if not cheaper_by_factors(self, x, self._anchor().dtype, per_row=k * (n + m), build=n * k * m):
            return super().forward(x)
        A, B = self.factors()
        self._check_input(x, A.dtype)
        y = x @ A @ B
        return y if self.bias is None else y + self.bias


@register("low_rank")
class LowRankLinear(FactoredLinear):
    """W = A B with A (insize, rank) and B (rank, outsize): the rank of W is at most `rank`.

    `rank` is a quarter of the smaller size by default, at least 1: a square map then has half the parameters and half
    the work of a dense one. The entries of W start with the variance of a dense map's, A and B with equal singular
    values on average. `from_dense` is nearest in the Frobenius norm: the truncated singular value decomposition,
    shared evenly between A and B. Raises `OptionError` for a rank above min(insize, outsize).
    Source: Eckart and Young 1936, The approximation of one matrix by another of lower rank.

    >>> m = LowRankLinear(6, 4, rank=2)
    >>> torch.linalg.matrix_rank(m.effective_W()).item()
    2
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, rank: int | None = None):
        super().__init__(insize, outsize, bias, provide_weights=False)
        least = min(insize, outsize)
        self.rank = max(1, least // 4) if rank is None else self._size("rank", rank)
        if self.rank > least:
            raise OptionError(
                f"LowRankLinear needs rank <= min(insize, outsize) = {least}, got rank={rank}; a free map is 'linear'"
            )
        # The variances s/insize of A and s/outsize of B make rank s^2/(insize outsize) = 1/(3 insize) for W, and those
        # of a uniform number in +-h are h^2/3.
        s = math.sqrt(outsize / (3 * self.rank))
        h_A, h_B = math.sqrt(3 * s / insize), math.sqrt(3 * s / outsize)
        self.A = nn.Parameter(torch.empty(insize, self.rank).uniform_(-h_A, h_A))
        self.B = nn.Parameter(torch.empty(self.rank, outsize).uniform_(-h_B, h_B))

    @property
    def inner(self) -> int:
        return self.rank

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.B

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        values = torch.linalg.svdvals(W)
        return (values[self.rank :] <= tol * values[0]).all()

    def _set_dense(self, W: Tensor) -> None:
        left, values, right = torch.linalg.svd(W.double(), full_matrices=False)
        roots = above_zero(values[: self.rank].to(W)).sqrt()
        self.A.copy_(left[:, : self.rank] * roots)
        self.B.copy_(roots.unsqueeze(1) * right[: self.rank])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


@register("trivial_nullspace", tall=True)
class TrivialNullSpaceLinear(LinearBase):
    """W = [G1^T G1 + epsilon I ; G2]^T with insize <= outsize: x W = 0 only for x = 0.

    G1: `(rank, insize)`, rank (insize + 1)//2 by default; G2: `(outsize - insize, insize)`; epsilon > 0. The first
    insize columns of W are symmetric with eigenvalues >= epsilon, and this is what `contains` checks, relative to the
    largest eigenvalue. Raises `OptionError` for `bias=True`, which could take a nonzero x to zero, for a rank above
    insize, and for insize > outsize. Source: eq. 2 of Karami et al. 2018, arXiv:1808.00924.

    >>> m = TrivialNullSpaceLinear(2, 3, epsilon=0.5)
    >>> bool(torch.linalg.eigvalsh(m.effective_W()[:, :2]).min() > 0.499)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, rank: int | None = None, epsilon: float = 0.1):
        super().__init__(insize, outsize, bias, provide_weights=False)
        if insize > outsize:
            raise OptionError(
                "TrivialNullSpaceLinear needs insize <= outsize, for more inputs than outputs leave a null space;"
                f" got insize={insize} and outsize={outsize}"
            )
        if bias:
            raise OptionError(
                "TrivialNullSpaceLinear takes no bias, got bias=True: x W + bias could be zero for a nonzero x"
            )
        self.rank = (insize + 1) // 2 if rank is None else self._size("rank", rank)
        if self.rank > insize:
            raise OptionError(f"TrivialNullSpaceLinear needs rank <= insize = {insize}, got rank={rank}")
        self.epsilon = check_number(self, "epsilon", epsilon, above=0.0)
        spread = 1 / math.sqrt(insize)
        self.G1 = nn.Parameter(torch.empty(self.rank, insize).uniform_(-spread, spread))
        self.G2 = nn.Parameter(torch.empty(outsize - insize, insize).uniform_(-spread, spread))

    @full_precision
    def effective_W(self) -> Tensor:
        eye = torch.eye(self.in_features, dtype=self.G1.dtype, device=self.G1.device)
        return torch.cat([symmetric_part(self.G1.mT @ self.G1) + self.epsilon * eye, self.G2.mT], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        n = self.in_features
        per_row = 2 * self.rank * n + n * (self.out_features - n)
        if not cheaper_by_factors(self, x, self.G1.dtype, per_row, build=self.rank * n * n):
            return super().forward(x)
        self._check_input(x, self.G1.dtype)
        return torch.cat([x @ self.G1.mT @ self.G1 + self.epsilon * x, x @ self.G2.mT], dim=-1)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        block = W[:, : self.in_features]
        values = torch.linalg.eigvalsh(symmetric_part(block))
        symmetric = (block - block.mT).abs().max() <= tol * block.abs().max()
        return symmetric & (values.min() >= self.epsilon - tol * values.max())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, epsilon={self.epsilon}"
