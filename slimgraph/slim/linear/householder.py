"""Products of Householder reflections in blocked compact WY form, and the reflections of a given orthogonal matrix.

Reflections H_i = I - 2 u_i u_i^T / |u_i|^2 stand in the rows of an upper-triangular array `U`, so row i reflects the
last n - i entries. For the rows V of one block

    H_1 H_2 ... H_m = I - Y^T V,   Y = T^T V,   T = (striu(V V^T) + diag(V V^T) / 2)^-1,

so a block costs two matrix products. Each block starts further right than the one before, so that all n reflections
together cost little more than one dense product. The one-entry reflection has no free vector: it is a fixed `sign`.
Source: Schreiber and Van Loan 1989, A storage-efficient WY representation for products of Householder transformations.

The gradient is short because row i of Y is A u_i, up to its length, with A = H_1 ... H_{i-1}, and because only the skew
part of (gradient of Q) Q^T can turn an orthogonal Q: with K the gradient times Q^T, minus its transpose, it is A^T K A
u_i for row i, so for all rows at once

    dV = Z - striu(Y Z^T)^T V,   Z = Y K^T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from slimgraph.errors import OptionError, ShapeError
from slimgraph.slim.linear.functions import under_autocast

BLOCK = 32
"""Reflections per block; of 16 to 256 the best for n from 128 to 512 on a CPU."""

ONE_BLOCK = 64
"""Up to this n one block takes all reflections: calls cost more there than what is multiplied in vain."""


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
    return in_blocks(x, U, sign) if differentiated_outside() else _Reflect.apply(x, U, sign)


def product(U: Tensor, sign: Tensor) -> Tensor:
    """`H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign)`, `(n, n)`; U: `(k, n)` with k < n, sign: `(1,)`.

    Up to n = `ONE_BLOCK` also of several arrays at once; U: `(b, k, n)`, sign: `(b, 1)`, result: `(b, n, n)`.
    """
    if U.dtype.itemsize < 4:
        return product(U.float(), sign.float()).to(U.dtype)
    if U.shape[-1] > ONE_BLOCK:
        return reflect(torch.eye(U.shape[-1], dtype=U.dtype, device=U.device), U, sign)
    return in_one_block(U, sign) if differentiated_outside() else _Product.apply(U, sign)


def differentiated_outside() -> bool:
    """Whether a compiler, torch.func or forward-mode differentiation has to see the plain operations."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return forward_ad._current_level >= 0


def scaled_rows(U: Tensor) -> tuple[Tensor, Tensor]:
    """The upper triangle of `U` `(..., k, n)`, each row over its largest entry; and these entries `(..., k, 1)`."""
    V = U.triu()
    with torch.no_grad():
        largest = V.abs().amax(dim=-1, keepdim=True)
        # Below sqrt(tiny) the gradient may overflow: the row counts as zero and is moved onto its diagonal entry. The
        # graph does not see this, so the gradient still says in which direction to leave zero.
        zero = largest < math.sqrt(torch.finfo(U.dtype).tiny)
        V.diagonal(0, -2, -1).add_(zero.squeeze(-1))
        largest.add_(zero)
    # A reflection does not depend on the length of its row, so the graph may take the divisor as a constant.
    return V / largest, largest


def compact(U: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V `(blocks, m, n)`, the scaled rows of `U` and rows of zeros below the last one; Y; T; and the divisors."""
    V, largest = scaled_rows(U)
    k, n = V.shape[-2:]
    # Products of odd sizes are slow. An array without rows (n = 1) gives rows of zeros, so that it stays in the graph.
    m = 16 * max(1, math.ceil(k / 16)) if n <= ONE_BLOCK else BLOCK
    V = F.pad(V, (0, 0, 0, -k % m or m * (k == 0))).view(-1, m, n)
    gram = torch.bmm(V, V.mT)
    # The solver reads the upper triangle alone. A squared length is at least 1, that of a row of zeros 0.
    gram.diagonal(0, 1, 2).mul_(0.5).clamp_min_(0.5)
    T = torch.linalg.solve_triangular(gram, torch.eye(m, dtype=V.dtype, device=V.device), upper=True, left=False)
    return V, torch.bmm(T.mT, V), T, largest


def from_first_columns(blocks: Tensor) -> list[Tensor]:
    """Each block without the columns left of its first one, where it is zero."""
    m = blocks.shape[1]
    return [rows[:, i * m :] if i else rows for i, rows in enumerate(blocks.unbind())]


def in_blocks(x: Tensor, U: Tensor, sign: Tensor) -> Tensor:
    """`reflect` in plain operations."""
    V, Y, _, _ = compact(U)
    rest, done = x.reshape(-1, x.shape[-1]), []
    for v, y in zip(from_first_columns(V), from_first_columns(Y), strict=True):
        # A block finishes as many entries of x as it has rows.
        rest = torch.addmm(rest, rest @ y.mT, v, alpha=-1)
        done.append(rest[:, : len(v)])
        rest = rest[:, len(v) :]
    return with_sign(torch.cat([*done, rest], dim=-1), sign).reshape(x.shape)


def in_one_block(U: Tensor, sign: Tensor) -> Tensor:
    """`product` in plain operations, up to n = `ONE_BLOCK`."""
    V, Y, _, _ = compact(U)
    Q = torch.eye(U.shape[-1], dtype=V.dtype, device=V.device) - Y.mT @ V
    return with_sign(Q.reshape(*U.shape[:-2], *Q.shape[1:]), sign.unsqueeze(-1))


def first_columns(U: Tensor, sign: Tensor, p: int) -> Tensor:
    """The first `p` columns of `product`, `(n, p)`, at the price of so many; U: `(k, n)` with k <= p."""
    if U.dtype.itemsize < 4:
        return first_columns(U.float(), sign.float(), p).to(U.dtype)
    V, Y, _, _ = compact(U)
    n, m = U.shape[1], V.shape[1]
    # From the last block to the first: each takes the identity and what the blocks after it have changed in it.
    (v, y), *before = reversed(list(zip(from_first_columns(V), from_first_columns(Y), strict=True)))
    change = -(y.mT @ v[:, : v.shape[1] - (n - p)])
    for v, y in before:
        moved = v[:, : v.shape[1] - (n - p)] + F.pad(v[:, m:] @ change, (m, 0))
        change = F.pad(change, (m, 0, m, 0)) - y.mT @ moved
    Q = torch.eye(n, p, dtype=V.dtype, device=V.device) + change
    return with_sign(Q, sign) if p == n else Q


def with_sign(y: Tensor, sign: Tensor) -> Tensor:
    """`y @ diag(1, ..., 1, sign)`."""
    return torch.cat([y[..., :-1], y[..., -1:] * sign], dim=-1)


def gradients(ctx: Any, grad: Tensor, plain: Callable[..., Tensor], by_hand: Callable[..., Any]) -> tuple[Any, ...]:
    """The gradients of `ctx.inputs` tensors, by hand, or through `plain` where somebody has to see the operations."""
    # Read once: checkpointing unpacks each saved tensor a single time.
    saved = ctx.saved_tensors
    inputs, kept = saved[: ctx.inputs], saved[ctx.inputs :]
    again, inside = torch.is_grad_enabled(), torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    # The gradient of this gradient is wanted, or the gradients of many outputs at once.
    if again or inside.is_batchedtensor(grad) or inside.is_legacy_batchedtensor(grad):
        with torch.enable_grad():
            wanted = [t for t in inputs if t.requires_grad]
            found = iter(torch.autograd.grad(plain(*inputs), wanted, grad, create_graph=again))
        return tuple(next(found) if t.requires_grad else None for t in inputs)
    if not under_autocast(grad.device):
        return by_hand(inputs, kept, grad)
    # A backward pass may be called under autocast, which would round the factors.
    with torch.autocast(grad.device.type, enabled=False):
        return by_hand(inputs, kept, grad)


def rows_gradient(Z: Tensor, V: Tensor, Y: Tensor, U: Tensor, largest: Tensor) -> Tensor:
    """The gradient of `U` from Z, which is overwritten."""
    dV = Z.baddbmm_(torch.bmm(Z, Y.mT).tril_(-1), V, alpha=-1)
    return dV.view(*U.shape[:-2], -1, U.shape[-1]).narrow(-2, 0, U.shape[-2]).triu().div_(largest)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, U: Tensor, sign: Tensor) -> Tensor:  # pyright: ignore
        V, Y, _, largest = compact(U)
        n = U.shape[-1]
        Q = torch.baddbmm(torch.eye(n, dtype=V.dtype, device=V.device), Y.mT, V, alpha=-1)
        Q.select(2, n - 1).mul_(sign.view(-1, 1))
        ctx.inputs = 2
        ctx.save_for_backward(U, sign, V, Y, largest, Q)
        return Q.view(*U.shape[:-2], n, n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return gradients(ctx, grad, in_one_block, _product_by_hand)


def _product_by_hand(inputs: Any, kept: Any, grad: Tensor) -> tuple[Any, ...]:
    (U, _), (V, Y, largest, Q) = inputs, kept
    K = torch.bmm(Q, grad.reshape(Q.shape).mT)
    return rows_gradient(torch.bmm(Y, K - K.mT), V, Y, U, largest), None


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, U: Tensor, sign: Tensor) -> Tensor:  # pyright: ignore
        V, Y, T, largest = compact(U)
        block = x.reshape(-1, U.shape[1])
        rest = result = block.clone(memory_format=torch.contiguous_format)
        used: list[Tensor] = []
        for v, y in zip(from_first_columns(V), from_first_columns(Y), strict=True):
            if used:
                rest = rest[:, V.shape[1] :]
                block = rest.clone()
            P = torch.mm(block, y.mT)
            rest.addmm_(P, v, alpha=-1)
            used += block, P
        result.select(1, -1).mul_(sign)
        ctx.inputs = 3
        ctx.save_for_backward(x, U, sign, V, Y, T, largest, *used)
        return result.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return gradients(ctx, grad, in_blocks, _reflect_by_hand)


def _reflect_by_hand(inputs: Any, kept: Any, grad: Tensor) -> tuple[Any, ...]:
    (x, U, sign), (V, Y, T, largest, *used) = inputs, kept
    dx = grad.reshape(-1, U.shape[1]).clone(memory_format=torch.contiguous_format)
    dx.select(1, -1).mul_(sign)
    Z, D = torch.zeros_like(V), torch.zeros_like(V)
    parts = list(zip(*map(from_first_columns, (V, Y, Z, D)), used[::2], used[1::2], strict=True))
    # Of one block, K = x^T dx - dx^T x with the gradient dx = dy Q^T, and Y dx^T = -T V dy^T.
    for v, y, z, d, block, P in reversed(parts):
        dy = dx[:, -v.shape[1] :]
        dP = torch.mm(dy, v.mT)
        dy.addmm_(dP, y, alpha=-1)
        torch.mm(P.mT, dy, out=z)
        torch.mm(dP.mT, block, out=d)
    return dx.view(x.shape), rows_gradient(Z.baddbmm_(T, D).neg_(), V, Y, U, largest), None


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
    v, _ = scaled_rows(u[n - k :].to(torch.promote_types(u.dtype, torch.float32)).unsqueeze(0))
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
