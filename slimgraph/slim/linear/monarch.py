"""`MonarchLinear`, and what it shares with butterflies: a product of two block-diagonal matrices, block by block.

A matrix W with rows i = q p + r and columns o = k l + j is such a product where each block (q, j), with its rows r and
columns k, has rank one: W[i, o] = first[q, r, j] second[j, q, k].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import full_precision, is_traced, rounds_between
from slimgraph.slim.linear.registry import register


def two_products(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Both block-diagonal products, the axes exchanged between them: `(h, b, rows)`.

    x: `(g, a, rows)`, first: `(g, a, c h)`, second: `(h, g c, b)`, where c is 2 for a complex product as real pairs and
    1 otherwise. The rows stand last, so that neither product has to copy what it reads.
    """
    h = len(second)
    between = torch.bmm(first.mT, x).view(-1, h, x.shape[2])
    product = torch.bmm(second.mT, between.transpose(0, 1))
    return product if is_traced() else _ContiguousGrad.apply(product)  # pyright: ignore[reportReturnType]


class _ContiguousGrad(torch.autograd.Function):
    """The identity, whose gradient is laid out once: both products of the backward pass would copy it in pieces."""

    @staticmethod
    def forward(y: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return y.view_as(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.contiguous()


def pays(owner: LinearBase, x: Tensor, dtype: torch.dtype, per_row: int, building: int, folding: int = 0) -> bool:
    """Whether `forward` should use `two_products`, of `per_row` multiplications, instead of W; both are one function.

    It should not in half precision or under autocast, which would round the factors. `building` counts the entries that
    are made from the factors on the way to W, `folding` those that are made on the way to both.
    """
    if rounds_between(x, dtype) or x.numel() == 0:
        return False
    # In multiplications of one large product, measured on a CPU: those in small blocks, the axes exchanged, the calls.
    rows, exchanged = x.numel() // owner.in_features, owner.in_features + owner.out_features
    by_factors = rows * (2 * per_row + 40 * exchanged) + 2**19
    by_W = rows * owner.in_features * owner.out_features
    # A W at hand costs nothing any more, but the factors would be folded again.
    return by_factors + 100 * folding < by_W if owner.is_materialized else by_factors < by_W + 30 * building


def have_rank(blocks: Tensor, rank: int, tol: float) -> Tensor:
    """Whether every block `(..., r, k)` is within `tol` of rank `rank`, singular values against 1."""
    if min(blocks.shape[-2:]) <= rank:
        return blocks.new_ones((), dtype=torch.bool)
    return torch.linalg.svdvals(blocks)[..., rank:].max() <= tol


def normalised(W: Tensor) -> Tensor:
    """`W` in float64, scaled to the Frobenius norm 1 (a zero matrix stays zero): a rank is that of every multiple."""
    W = W.double() / W.abs().max().double().clamp(min=torch.finfo(torch.float64).tiny)
    return W / torch.linalg.matrix_norm(W).clamp(min=1)


@register("monarch")
class MonarchLinear(LinearBase):
    """W = L P R P^T with block-diagonal L, R and a fixed permutation P: every strided block of W has rank one.

    L has `nblocks` blocks of p rows and l columns (p = insize / nblocks, l = outsize / nblocks, both rounded up), R has
    l blocks with `nblocks` rows: W[i, o] = left[i, o mod l] right[i div p, o]; left: `(insize, l)`, right:
    `(nblocks, outsize)`. `nblocks` is about sqrt(insize) by default, where there are fewest parameters; 1 gives every
    matrix. `from_dense` is nearest in the Frobenius norm: each block's first singular pair. Raises `OptionError` for
    nblocks outside 1 ... insize.
    Source: Dao et al. 2022, Monarch: expressive structured matrices for efficient and accurate training,
    arXiv:2204.00595.

    >>> m = MonarchLinear(64, 64)
    >>> m.left.shape, m.right.shape, m.contains(m.effective_W())
    (torch.Size([64, 8]), torch.Size([8, 64]), True)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, nblocks: int | None = None):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.nblocks = round(math.sqrt(insize)) if nblocks is None else self._size("nblocks", nblocks)
        if self.nblocks > insize:
            raise OptionError(f"MonarchLinear needs nblocks <= insize, got nblocks={nblocks} and insize={insize}")
        self.rows, self.strides = -(-insize // self.nblocks), -(-outsize // self.nblocks)
        # Two factors of this spread give W's entries the variance of a dense start.
        spread = math.sqrt(3 / math.sqrt(3 * insize))
        self.left = nn.Parameter(torch.empty(insize, self.strides).uniform_(-spread, spread))
        self.right = nn.Parameter(torch.empty(self.nblocks, outsize).uniform_(-spread, spread))

    @full_precision
    def effective_W(self) -> Tensor:
        columns = -(-self.out_features // self.strides)
        left = self.left.repeat(1, columns)[:, : self.out_features]
        return left * self.right.repeat_interleave(self.rows, 0)[: self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        per_row = self.left.numel() + self.right.numel()
        if not pays(self, x, self.left.dtype, per_row, self.in_features * self.out_features):
            return super().forward(x)
        self._check_input(x, self.left.dtype)
        more = self.nblocks * self.rows - self.in_features
        first = F.pad(self.left, (0, 0, 0, more)).view(self.nblocks, self.rows, self.strides)
        cut = -self.out_features % self.strides
        second = F.pad(self.right, (0, cut)).view(self.nblocks, -1, self.strides).permute(2, 0, 1)
        rows = F.pad(x.reshape(-1, self.in_features), (0, more)).mT.reshape(self.nblocks, self.rows, -1)
        y = two_products(rows, first, second).permute(2, 1, 0).flatten(1)[:, : self.out_features]
        y = y.reshape(*x.shape[:-1], self.out_features).contiguous()
        return y if self.bias is None else y + self.bias

    def _blocks(self, W: Tensor) -> Tensor:
        """The blocks of `W`, zeros where they reach beyond it: `(nblocks, l, p, columns)`."""
        more = self.nblocks * self.rows - self.in_features, -self.out_features % self.strides
        padded = F.pad(W, (0, more[1], 0, more[0]))
        return padded.view(self.nblocks, self.rows, -1, self.strides).permute(0, 3, 1, 2)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return have_rank(self._blocks(normalised(W)), 1, tol)

    def _set_dense(self, W: Tensor) -> None:
        u, sigma, vh = torch.linalg.svd(self._blocks(W.double()), full_matrices=False)
        u, sigma, vh = u[..., 0], sigma[..., :1], vh[..., 0, :]
        # A zero block with both factors zero could never be trained again.
        zero = sigma <= torch.finfo(W.dtype).tiny
        left = torch.where(zero, 1 / math.sqrt(self.rows), u * sigma.sqrt())
        right = torch.where(zero, 0.0, vh * sigma.sqrt())
        self.left.copy_(left.mT.flatten(0, 1)[: self.in_features])
        self.right.copy_(right.mT.flatten(1)[:, : self.out_features])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, nblocks={self.nblocks}"
