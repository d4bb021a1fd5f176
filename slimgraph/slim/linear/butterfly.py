"""`ButterflyLinear`: a product of log2(n) sparse factors, as the fast Fourier transform is one.

The factor of stride d mixes, for each pair of places d apart, two numbers by a 2 x 2 block; the strides are 1, 2, ...,
n/2. Exactly one path leads from a row to a column, so every entry of the product is a product of log2(n) numbers, and
any consecutive factors are folded into their product by elementwise multiplications alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import at_least_single, full_precision
from slimgraph.slim.linear.monarch import have_rank, normalised, pays, two_products
from slimgraph.slim.linear.registry import register


def fold(factors: list[Tensor]) -> Tensor:
    """The product of the factors of strides 1, 2, ..., s/2 as dense blocks on its diagonal: `(..., g, s, s)`.

    The factor of stride d: `(..., g, d, 2, 2)` with one block for each group of 2d places and each place in its half,
    rows the input; g is 1 where the groups share their blocks.
    """
    done = factors[0].squeeze(-3)
    for factor in factors[1:]:
        groups = factor.shape[-4]
        halves = done.unflatten(-3, (groups, done.shape[-3] // groups)).unsqueeze(-2)
        # (..., g, half in, place in, half out, place out): the last factor leaves the place within the half alone.
        done = (halves * factor.movedim(-3, -1).unsqueeze(-3)).flatten(-2).flatten(-3, -2)
    return done


def as_real(M: Tensor) -> Tensor:
    """`M` with a last axis of its real and imaginary part, or of its one real part."""
    return torch.view_as_real(M.resolve_conj()) if M.is_complex() else M.unsqueeze(-1)


def is_folded(W: Tensor, rows: int, rank: int, tied: bool, tol: float) -> bool:
    """Whether the square `W`, of which only the first `rows` are known and the others zero, has a butterfly's ranks.

    Folded at any stride p, W[q p + r, k p + j] = low[q, r, j] high[j, q, k]. `tied`: low is the same for every q.
    """
    n, kept = len(W), []
    for p in (1 << level for level in range(1, n.bit_length() - 1)):
        blocks = W.view(n // p, p, n // p, p).permute(3, 0, 1, 2)
        if not tied:
            kept.append(have_rank(blocks, rank, tol))
            continue
        whole, part = divmod(rows, p)
        for groups, r in ((whole, p), (whole + 1, part)):
            if groups and r:
                kept.append(have_rank(blocks[:, :groups, :r].transpose(1, 2).flatten(2), rank, tol))
    return all(map(bool, kept))


@register("butterfly")
class ButterflyLinear(LinearBase):
    """W = B_1 B_2 B_4 ... B_{n/2}, butterfly factors, cut to size: each strided block has rank one, two if complex.

    n is the power of two at or above insize, at least 2; the input is padded with zeros to n, for outsize > n as many
    independent products as needed stand side by side, and the output is cut to outsize. `twiddle` holds the 2 x 2
    blocks, rows the input: `(stacks, n - 1, 2, 2)`, one for each place in each stride, when `tied_weight`, otherwise
    `(stacks, log2 n, n/2, 2, 2)`. `increasing_stride` multiplies by stride 1 first, otherwise by stride n/2. `complex`:
    a last axis of real and imaginary parts, W is the real part of the product and `complex_W()` the whole.
    `ortho_init` starts each block orthogonal (unitary if complex), and so the n x n product. For large sizes `forward`
    multiplies by the factors, folded into two block-diagonal groups.

    `contains` checks the ranks at every stride. Real products that are not cut have them and no other matrices do; for
    complex or cut ones they are necessary. With n = 2, or n = 4 if complex, every matrix is such a product.
    The reference adds one number as bias, and averages the outputs that an outsize of at most n/2 leaves over.
    Raises `OptionError` for an option that is not True or False.
    Source: Dao et al. 2019, Learning fast algorithms for linear transforms using butterfly factorizations,
    arXiv:1903.05895; the ranks: Zheng, Riccietti, Gribonval 2023, arXiv:2110.01230.

    >>> m = ButterflyLinear(8, 8, ortho_init=True)
    >>> torch.allclose(m.effective_W() @ m.effective_W().mT, torch.eye(8), atol=1e-6)
    True
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = False,
        complex: bool = False,
        tied_weight: bool = True,
        increasing_stride: bool = True,
        ortho_init: bool = False,
    ):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.complex, self.tied_weight = self._flag("complex", complex), self._flag("tied_weight", tied_weight)
        self.increasing_stride = self._flag("increasing_stride", increasing_stride)
        self.ortho_init = self._flag("ortho_init", ortho_init)
        levels = max(1, (self.in_features - 1).bit_length())
        self.n = 2**levels
        self.stacks = -(-outsize // self.n)
        places = (self.n - 1,) if tied_weight else (levels, self.n // 2)
        shape = (self.stacks, *places, 2, 2, *[2] * complex)
        # An entry of W is a product of one entry of each factor; this gives it the variance of a dense start.
        parts = 1 + complex
        spread = math.sqrt(3 / parts * (parts / (3 * insize)) ** (1 / levels))
        start = self._unitary(torch.randn(shape)) if ortho_init else torch.empty(shape).uniform_(-spread, spread)
        self.twiddle = nn.Parameter(start.contiguous())

    def _flag(self, word: str, flag: bool) -> bool:
        if not isinstance(flag, bool):
            raise OptionError(f"ButterflyLinear needs {word} to be True or False, got {word}={flag!r}")
        return flag

    def _unitary(self, blocks: Tensor) -> Tensor:
        """The unitary factors of Gaussian blocks, evenly distributed."""
        M = at_least_single(blocks)
        Q, R = torch.linalg.qr(torch.view_as_complex(M) if self.complex else M)
        Q = Q * R.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)
        return (torch.view_as_real(Q) if self.complex else Q).to(blocks.dtype)

    def _factors(self) -> list[Tensor]:
        """The factors of strides 1, 2, ... as `fold` takes them; of W^T, per stack, for decreasing strides."""
        twiddle, strides = at_least_single(self.twiddle), [1 << k for k in range(self.n.bit_length() - 1)]
        if self.complex:
            # Not view_as_complex: where parameters are views of one vector, pairs may start at an odd place.
            twiddle = torch.complex(*twiddle.unbind(-1))
        if self.tied_weight:
            factors = [T.unsqueeze(1) for T in twiddle.split(strides, dim=1)]
        else:
            factors = [T.unflatten(1, (-1, d)) for T, d in zip(twiddle.unbind(1), strides, strict=True)]
        return factors if self.increasing_stride else [T.mT for T in factors]

    @full_precision
    def effective_W(self) -> Tensor:
        W = self._product()
        return (W.real if self.complex else W).to(self.twiddle.dtype)

    @full_precision
    def complex_W(self) -> Tensor:
        """The product before its imaginary part is dropped, complex: `(insize, outsize)`."""
        W = self._product()
        return W if self.complex else torch.complex(W, torch.zeros_like(W))

    def _groups(self) -> tuple[Tensor, Tensor]:
        """The strides below p, about sqrt(n), as blocks `(stacks, n/p or 1, p, p)`, the others `(stacks, p, n/p, n/p)`.

        W[q p + r, k p + j] = low[q, r, j] high[j, q, k] for increasing strides; for decreasing ones this is W^T.
        """
        factors, levels = self._factors(), (self.n.bit_length() - 1) // 2
        high = [T.unflatten(2, (-1, 1 << levels)).movedim(3, 1) for T in factors[levels:]]
        high = fold(high).squeeze(2)
        return fold(factors[:levels]) if levels else high.new_ones(1, 1, 1, 1), high

    def _product(self) -> Tensor:
        low, high = self._groups()
        products = low.unsqueeze(3) * high.permute(0, 2, 3, 1).contiguous().unsqueeze(2)
        products = products.reshape(self.stacks, self.n, self.n)
        products = products if self.increasing_stride else products.mT
        return products.transpose(0, 1).flatten(1)[: self.in_features, : self.out_features]

    def forward(self, x: Tensor) -> Tensor:
        p, parts = 1 << (self.n.bit_length() - 1) // 2, 1 + self.complex
        per_row = parts * self.stacks * self.n * (p + self.n // p)
        if p == 1 or not pays(self, x, self.twiddle.dtype, per_row, parts * self.stacks * self.n**2, per_row):
            return super().forward(x)
        self._check_input(x, self.twiddle.dtype)
        y = self._multiply(x.reshape(-1, self.in_features)).reshape(*x.shape[:-1], self.out_features).contiguous()
        return y if self.bias is None else y + self.bias

    def _multiply(self, x: Tensor) -> Tensor:
        """`x @ W` for x `(rows, insize)`, by the two groups."""
        low, high = self._groups()
        p = low.shape[-1]
        x = F.pad(x, (0, self.n - self.in_features)).mT.reshape(-1, p, len(x))
        # Over real and imaginary parts, Re(u v) is the sum of u times conj(v); a real group is its own conjugate.
        if self.increasing_stride:
            low, high = as_real(low), as_real(high.conj())
            first, second = low.permute(1, 2, 4, 0, 3), high.permute(0, 1, 2, 4, 3)
            first = first.expand(len(x), -1, -1, -1, -1)
        else:
            low, high, x = as_real(low.conj()), as_real(high), x.transpose(0, 1)
            first, second = high.permute(1, 3, 4, 0, 2), low.permute(0, 1, 3, 4, 2)
            second = second.expand(-1, self.n // p, -1, -1, -1)
        y = two_products(x, first.flatten(2), second.flatten(0, 1).flatten(1, 2)).unflatten(0, (self.stacks, -1))
        y = y.transpose(1, 2) if self.increasing_stride else y
        return y.flatten(0, 2).mT[:, : self.out_features]

    def _contains(self, W: Tensor, tol: float) -> bool:
        rank, missing = 1 + self.complex, self.stacks * self.n - self.out_features
        whole = F.pad(normalised(W), (0, missing, 0, self.n - self.in_features))
        products = whole.split(self.n, dim=1)
        if self.increasing_stride:
            return all(is_folded(M, self.in_features, rank, self.tied_weight, tol) for M in products)
        known = [self.n] * (self.stacks - 1) + [self.n - missing]
        return all(
            is_folded(M.mT.contiguous(), rows, rank, self.tied_weight, tol)
            for M, rows in zip(products, known, strict=True)
        )

    def extra_repr(self) -> str:
        options = ("complex", "tied_weight", "increasing_stride", "ortho_init")
        return ", ".join([super().extra_repr(), *(f"{word}={getattr(self, word)}" for word in options)])
