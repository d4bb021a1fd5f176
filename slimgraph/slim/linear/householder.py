"""Products of Householder reflections, and the reflections of a given orthogonal matrix.

Reflections H_i = I - 2 u_i u_i^T / |u_i|^2 stand in the rows of an upper-triangular array `U`, so row i reflects the
last n - i entries. The one-entry reflection has no free vector: it is a fixed `sign`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slimgraph.errors import OptionError, ShapeError
from slimgraph.slim.linear import compact_wy as wy
from slimgraph.slim.linear.functions import is_traced


def reflect(x: Tensor, U: Tensor, sign: Tensor) -> Tensor:
    """`x @ H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign)`, without forming the matrix.

    x: `(..., n)`, U: `(k, n)` with k < n, sign: `(1,)`. A zero row of U reflects its first entry. Raises `ShapeError`
    for a last axis that is not n.
    """
    if x.shape[-1:] != U.shape[1:]:
        raise ShapeError(f"{U.shape[1]}-entry reflections need a last axis of that size, got shape {tuple(x.shape)}")
    if U.dtype.itemsize < 4:
        # LAPACK has no triangular solve in half precision.
        return reflect(x.float(), U.float(), sign.float()).to(x.dtype)
    return wy.in_blocks(x, U, sign) if is_traced() else wy.Reflect.apply(x, U, sign)


def product(U: Tensor, sign: Tensor) -> Tensor:
    """`H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign)`, `(n, n)`; U: `(k, n)` with k < n, sign: `(1,)`.

    Up to n = `ONE_BLOCK` also of several arrays at once; U: `(b, k, n)`, sign: `(b, 1)`, result: `(b, n, n)`.
    """
    if U.dtype.itemsize < 4:
        return product(U.float(), sign.float()).to(U.dtype)
    if U.shape[-1] > wy.ONE_BLOCK:
        return reflect(torch.eye(U.shape[-1], dtype=U.dtype, device=U.device), U, sign)
    return wy.in_one_block(U, sign) if is_traced() else wy.Product.apply(U, sign)


def decomposition(U: Tensor, V: Tensor, sign_U: Tensor, sign_V: Tensor, sigma: Tensor) -> Tensor:
    """`product(U, sign_U) @ diag(sigma) @ product(V, sign_V)`; U, V: `(k, n)` with k < n <= `ONE_BLOCK`."""
    if U.dtype.itemsize < 4:
        return decomposition(*(t.float() for t in (U, V, sign_U, sign_V, sigma))).to(U.dtype)
    factors = U, V, sign_U, sign_V, sigma
    return wy.between_two(*factors) if is_traced() else wy.Decomposition.apply(*factors)


def first_columns(U: Tensor, sign: Tensor, p: int) -> Tensor:
    """The first `p` columns of `product`, `(n, p)`, at the price of so many; U: `(k, n)` with k <= p."""
    if U.dtype.itemsize < 4:
        return first_columns(U.float(), sign.float(), p).to(U.dtype)
    V, Y, _, _ = wy.compact(U)
    n, m = U.shape[1], V.shape[1]
    # From the last block to the first: each takes the identity and what the blocks after it have changed in it.
    (v, y), *before = reversed(list(zip(wy.from_first_columns(V), wy.from_first_columns(Y), strict=True)))
    change = -(y.mT @ v[:, : v.shape[1] - (n - p)])
    for v, y in before:
        moved = v[:, : v.shape[1] - (n - p)] + F.pad(v[:, m:] @ change, (m, 0))
        change = F.pad(change, (m, 0, m, 0)) - y.mT @ moved
    Q = torch.eye(n, p, dtype=V.dtype, device=V.device) + change
    return wy.with_sign(Q, sign) if p == n else Q


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
    v, _ = wy.scaled_rows(u[n - k :].to(torch.promote_types(u.dtype, torch.float32)).unsqueeze(0))
    moved = moved.to(v)
    return torch.cat([kept, (moved - (moved @ v.mT) * (2 / v.square().sum()) * v).to(x.dtype)], dim=-1)


def reflections_of(Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`(U, sign)` whose product has the first columns `Q` `(n, p)`, orthonormal; U: `(k, n)`.

    Householder QR with the target +e_i in every column; k is min(p, n - 1), which reaches every Q.
    """
    n, p = Q.shape
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
    sign = rest[-1, -1:].sign() if p == n else torch.ones_like(rest[-1, -1:])
    return U.to(Q), sign.to(Q)
