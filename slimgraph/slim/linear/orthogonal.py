"""`OrthogonalLinear`, and products of Householder reflections in blocked compact WY form.

Reflections H_i = I - 2 u_i u_i^T / |u_i|^2 stand in the rows of an upper-triangular array `U`, so row i reflects the
last n - i entries. For the rows V of one block, each scaled to the length sqrt 2,

    H_1 H_2 ... H_m = I - V^T T V,   T = (I + striu(V V^T))^-1,

so a block of reflections costs two matrix products. Blocks start ever further right, so that all n reflections together
cost about one dense product. Source: Schreiber and Van Loan 1989, A storage-efficient WY representation for products of
Householder transformations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError, ShapeError
from slimgraph.slim.linear.base import LinearBase, SquareLinear
from slimgraph.slim.linear.functions import full_precision, under_autocast
from slimgraph.slim.linear.registry import register

BLOCK = 64
"""Reflections per block; of 32, 64 and 128 the best for n from 64 to 512 on a CPU."""


def reflector_rows(U: Tensor) -> Tensor:
    """The upper triangle of `U` `(k, n)`, each row scaled to the length sqrt 2; a zero row reflects its first entry."""
    U = U.triu()
    with torch.no_grad():
        # Below sqrt(tiny) the squares underflow: the row counts as zero and is moved onto its diagonal entry. The graph
        # does not see this, so the gradient still says in which direction to leave zero.
        zero = torch.linalg.vector_norm(U, dim=1) < math.sqrt(torch.finfo(U.dtype).tiny)
        U.diagonal().add_(zero)
    return U * (math.sqrt(2) / torch.linalg.vector_norm(U, dim=1, keepdim=True))


def at_least_single(x: Tensor) -> Tensor:
    """`x` in float32 or better: LAPACK has no triangular solve in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def wy_blocks(U: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`(V, T)` for each block of rows of `U`: V `(m, n - start)` without its leading zero columns, T `(m, m)`."""
    eye = torch.eye(min(BLOCK, len(U)), dtype=U.dtype, device=U.device)
    blocks = []
    # An array without rows (n = 1) gives one empty block, so that it stays in the graph.
    for i, V in enumerate(reflector_rows(U).split(BLOCK)):
        V = V[:, i * BLOCK :]
        # The solver reads the strict upper triangle alone and takes the diagonal as ones.
        T = torch.linalg.solve_triangular(V @ V.mT, eye[: len(V), : len(V)], upper=True, unitriangular=True)
        blocks.append((V, T))
    return blocks


def reflect(x: Tensor, U: Tensor, sign: Tensor) -> Tensor:
    """`x @ product_of_reflections(U, sign)` without forming the matrix; x: `(..., n)`."""
    if x.shape[-1:] != U.shape[1:]:
        raise ShapeError(f"{U.shape[1]}-entry reflections need a last axis of that size, got shape {tuple(x.shape)}")
    done, rest = [], at_least_single(x).reshape(-1, x.shape[-1])
    for V, T in wy_blocks(at_least_single(U)):
        rest = torch.addmm(rest, (rest @ V.mT) @ T, V, alpha=-1)
        # Later blocks leave the first entries alone.
        first, rest = rest.split([len(V), V.shape[1] - len(V)], dim=1)
        done.append(first)
    done += [rest[:, :-1], rest[:, -1:] * sign]
    return torch.cat(done, dim=1).reshape(x.shape).to(x.dtype)


def product_of_reflections(U: Tensor, sign: Tensor) -> Tensor:
    """`H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign)`: `(n, n)`, for k < n reflections in the rows of `U` `(k, n)`."""
    signs = at_least_single(torch.cat([sign.new_ones(U.shape[1] - 1), sign]))
    *blocks, (V, T) = wy_blocks(at_least_single(U))
    # From the last block to the first, each only ever meets the lower right corner that the later ones have filled.
    signs = signs[-V.shape[1] :]
    product = torch.addmm(torch.diag(signs), V.mT @ T, V * signs, alpha=-1)
    for V, T in reversed(blocks):
        m = len(V)
        corner = torch.block_diag(torch.eye(m, dtype=V.dtype, device=V.device), product)
        product = torch.addmm(corner, V.mT @ T, torch.cat([V[:, :m], V[:, m:] @ product], dim=1), alpha=-1)
    return product.to(U.dtype)


def applies_factors(owner: LinearBase, x: Tensor, *arrays: Tensor) -> bool:
    """Whether `forward` should multiply `x` by the factors in `arrays` instead of by W; both are the same function.

    It should not with W at hand, in half precision or under autocast (the factors would be rounded), or where it costs
    more multiplications than building W and multiplying by it.
    """
    if owner.is_materialized or under_autocast(x.device) or arrays[0].dtype.itemsize < 4:
        return False
    rows = x.numel() // owner.in_features
    by_factors = by_matrix = 0.0
    for U in arrays:
        k, n = U.shape
        widths = [(min(BLOCK, k - start), n - start) for start in range(0, k, BLOCK)]
        # A quarter more, for the copies of the batch between two blocks.
        by_factors += 1.25 * rows * sum(2 * m * width for m, width in widths)
        by_matrix += sum(2 * m * width**2 for m, width in widths)
    return by_factors < by_matrix + rows * owner.in_features * owner.out_features


def reflections_of(Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`(U, sign)` with `product_of_reflections(U, sign) == Q` for an orthogonal `Q` `(n, n)` and U `(k, n)`.

    Householder QR with the target +e_i in every column. Raises `OptionError` when k reflections do not reach Q.
    """
    n = len(Q)
    rest, U = Q.double().clone(), Q.new_zeros(k, n, dtype=torch.float64)
    for i in range(k):
        x = rest[i:, i]
        tail = (x[1:] @ x[1:]).item()
        u = x.clone()
        # x[0] - |x| without cancellation, |x| being 1.
        u[0] = -tail / (1 + x[0]) if x[0] > 0 else x[0] - 1
        if tail == 0 and x[0] > 0:
            # The column is e_i already: the reflection has to leave it alone, whatever it does to the next entry.
            u = torch.zeros_like(x)
            u[1] = 1
        u /= torch.linalg.vector_norm(u)
        rest[i:] -= 2 * torch.outer(u, u @ rest[i:])
        U[i, i:] = u
    sign = rest[-1, -1].sign().reshape(1)
    left = rest - torch.diag(torch.cat([sign.new_ones(n - 1), sign]))
    if left.abs().max() > math.sqrt(torch.finfo(Q.dtype).eps):
        raise OptionError(f"{k} reflections do not reach this {n} x {n} matrix; leave the number of reflectors out")
    return U.to(Q), sign.to(Q)


def reflector_count(owner: object, word: str, count: int | None, size: int) -> int:
    """The rows that `U` needs: `count` (None: all of them), but the one-entry reflection is a sign and not a row."""
    if count is None:
        return size - 1
    if not 1 <= count <= size:
        raise OptionError(f"{type(owner).__name__} needs 1 <= {word} <= {size}, got {word}={count}")
    return min(int(count), size - 1)


def random_sign() -> Tensor:
    """+1 or -1 with even odds, `(1,)`."""
    return torch.randint(0, 2, (1,)).to(torch.get_default_dtype()) * 2 - 1


def Hprod(x: Tensor, u: Tensor, k: int) -> Tensor:
    """`x` with its last `k` entries reflected by the Householder reflector of the last `k` entries of `u`.

    x: `(batch, n)`, u: `(n,)`; a zero `u` reflects the first of those entries. Raises `ShapeError` for sizes that
    do not fit, `OptionError` for k outside 1 ... n.

    >>> Hprod(torch.tensor([[1., 2., 3.]]), torch.tensor([9., 0., 5.]), 2).round(decimals=4)
    tensor([[ 1.,  2., -3.]])
    """
    n = u.shape[-1]
    if u.ndim != 1 or x.shape[-1:] != u.shape:
        raise ShapeError(f"Hprod needs x (batch, n) and u (n,), got shapes {tuple(x.shape)} and {tuple(u.shape)}")
    if not 1 <= k <= n:
        raise OptionError(f"Hprod needs 1 <= k <= {n}, got k={k}")
    kept, moved = x.split([n - k, k], dim=-1)
    v = reflector_rows(u[n - k :].unsqueeze(0))
    return torch.cat([kept, moved - (moved @ v.mT) * v], dim=-1)


@register("orthogonal", square=True)
class OrthogonalLinear(SquareLinear):
    """A product of Householder reflections with trainable vectors: W W^T = I.

    W = H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign); U: `(k, n)` upper triangular, row i the reflector of the last n - i
    entries. `n_reflectors` is n by default, which reaches every orthogonal matrix; the one-entry reflection is the
    fixed `sign`, a buffer, so k is at most n - 1. `det` asks for the determinant +1 or -1; None draws it.

    `from_dense` is nearest in the Frobenius norm: the polar factor of W, of the determinant asked for; with fewer
    reflectors W must be one that they reach. Raises `OptionError` for options out of range.
    Source: Mhammedi et al. 2017, arXiv:1612.00188.

    >>> W = OrthogonalLinear(4, 4, det=1).effective_W()
    >>> torch.allclose(W @ W.mT, torch.eye(4), atol=1e-6)
    True
    """

    def __init__(
        self, insize: int, outsize: int, bias: bool = False, *, n_reflectors: int | None = None, det: int | None = None
    ):
        super().__init__(insize, outsize, bias, provide_weights=False)
        if det not in (None, 1, -1):
            raise OptionError(f"OrthogonalLinear needs det to be 1, -1 or None, got det={det!r}")
        k = reflector_count(self, "n_reflectors", n_reflectors, insize)
        self.det = det
        self.U = nn.Parameter(torch.randn(k, insize).triu())
        self.sign: Tensor
        # Every reflection turns the determinant's sign once.
        self.register_buffer("sign", random_sign() if det is None else torch.ones(1) * (det * (-1) ** k))

    @full_precision
    def effective_W(self) -> Tensor:
        return product_of_reflections(self.U, self.sign)

    def forward(self, x: Tensor) -> Tensor:
        if not applies_factors(self, x, self.U):
            return super().forward(x)
        self._check_input(x, self.U.dtype)
        y = reflect(x, self.U, self.sign)
        return y if self.bias is None else y + self.bias

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        orthogonal = (W @ W.mT - torch.eye(len(W), dtype=W.dtype, device=W.device)).abs().max() <= tol
        return orthogonal if self.det is None else orthogonal & (torch.linalg.slogdet(W).sign == self.det)

    def _set_dense(self, W: Tensor) -> None:
        left, _, right = torch.linalg.svd(W.double())
        if self.det is not None and torch.linalg.slogdet(left @ right).sign != self.det:
            # The smallest singular value is the cheapest to turn round.
            left[:, -1].neg_()
        U, sign = reflections_of((left @ right).to(W), len(self.U))
        self.U.copy_(U)
        self.sign.copy_(sign)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_reflectors={len(self.U)}, det={self.det}"
