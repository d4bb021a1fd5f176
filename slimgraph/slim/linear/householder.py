"""Products of Householder reflections in blocked compact WY form, and the reflections of a given orthogonal matrix.

Reflections H_i = I - 2 u_i u_i^T / |u_i|^2 stand in the rows of an upper-triangular array `U`, so row i reflects the
last n - i entries. For the rows V of one block, each scaled to the length sqrt 2,

    H_1 H_2 ... H_m = I - V^T T V,   T = (I + striu(V V^T))^-1,

so a block costs two matrix products. Each block starts further right than the one before, so that all n reflections
together cost little more than one dense product. The one-entry reflection has no free vector: it is a fixed `sign`.
Source: Schreiber and Van Loan 1989, A storage-efficient WY representation for products of Householder transformations.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import OptionError, ShapeError

BLOCK = 32
"""Reflections per block; of 16 to 256 the best for n from 64 to 512 on a CPU."""


def reflect(x: Tensor, U: Tensor, sign: Tensor) -> Tensor:
    """`x @ H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign)`, without forming the matrix.

    x: `(..., n)`, U: `(k, n)` with k < n, sign: `(1,)`. A zero row of U reflects its first entry. Raises `ShapeError`
    for a last axis that is not n.
    """
    if x.shape[-1:] != U.shape[1:]:
        raise ShapeError(f"{U.shape[1]}-entry reflections need a last axis of that size, got shape {tuple(x.shape)}")
    args = at_least_single(x).reshape(-1, x.shape[-1]), at_least_single(U), sign
    # Compilers and torch.func differentiate the plain operations themselves.
    plain = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    y = in_blocks(*args)[0] if plain else _Reflect.apply(*args)
    return y.reshape(x.shape).to(x.dtype)


def at_least_single(x: Tensor) -> Tensor:
    """`x` in float32 or better: LAPACK has no triangular solve in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(U: Tensor) -> tuple[Tensor, Tensor]:
    """The upper triangle of `U` `(k, n)` with each row scaled to the length sqrt 2, and the scale `(k, 1)`."""
    U = U.triu()
    with torch.no_grad():
        # Below sqrt(tiny) the squares underflow: the row counts as zero and is moved onto its diagonal entry. The graph
        # does not see this, so the gradient still says in which direction to leave zero.
        zero = torch.linalg.vector_norm(U, dim=1) < math.sqrt(torch.finfo(U.dtype).tiny)
        U.diagonal().add_(zero)
    scale = math.sqrt(2) / torch.linalg.vector_norm(U, dim=1, keepdim=True)
    return U * scale, scale


def in_blocks(x: Tensor, U: Tensor, sign: Tensor, y: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """`reflect` of x `(rows, n)` in plain operations; also the scaled rows, their scale and what each block used.

    A `y` that starts as a copy of x takes the result, for a caller who differentiates by hand: there is less to copy.
    """
    V, scale = unit_rows(U)
    minus_eye = -torch.eye(BLOCK, dtype=V.dtype, device=V.device)
    done, used = [], [V, scale]
    # An array without rows (n = 1) gives one empty block, so that it stays in the graph.
    for i, rows in enumerate(V.split(BLOCK)):
        # What stands left of a block's first column is zero, and those entries of x are finished.
        rows = rows[:, i * BLOCK :]
        m = len(rows)
        # The solver reads the strict upper triangle alone and takes the diagonal as ones.
        gram = rows @ rows.mT
        T = torch.linalg.solve_triangular(gram, minus_eye[:m, :m], upper=True, unitriangular=True, left=False)
        projected, TV = x @ rows.mT, T @ rows
        used += [x, projected, rows, T, TV]
        if y is None:
            first, x = torch.addmm(x, projected, TV).split([m, rows.shape[1] - m], dim=1)
            done.append(first)
        else:
            x = y[:, i * BLOCK :].addmm_(projected, TV)[:, m:].clone()
    if y is None:
        return torch.cat([*done, x[:, :-1], x[:, -1:] * sign], dim=1), used
    y[:, -1:] *= sign
    return y, used


class _Reflect(torch.autograd.Function):
    """`in_blocks` with its backward written out: a quarter faster than what autograd makes of the operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, U: Tensor, sign: Tensor) -> Tensor:  # pyright: ignore
        y, used = in_blocks(x, U, sign, x.clone(memory_format=torch.contiguous_format))
        ctx.save_for_backward(x, U, sign, *used)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        # A backward pass may be called under autocast, which would round the factors.
        with torch.autocast(grad.device.type, enabled=False):
            return _reflect_backward(ctx, grad)


def _reflect_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, U, sign, V, scale, *used = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Somebody wants the gradient of this gradient: the plain operations have one.
        wanted = [t for t in (x, U) if t.requires_grad]
        found = iter(torch.autograd.grad(in_blocks(x, U, sign)[0], wanted, grad, create_graph=True))
        return *(next(found) if t.requires_grad else None for t in (x, U)), None
    dx, dV = grad.clone(), torch.empty_like(V)
    dx[:, -1:] *= sign
    for i in reversed(range(len(used) // 5)):
        x, projected, rows, T, TV = used[5 * i : 5 * i + 5]
        dy, d_rows = dx[:, i * BLOCK :], dV[i * BLOCK : i * BLOCK + len(rows), i * BLOCK :]
        # y = x + P (T V) with P = x V^T and T = -(I + N)^-1, N = striu(V V^T): so dN = T^T dT T^T. Its diagonal is
        # kept, as if I were the half squared lengths: it takes away what only changes the length of a row, and
        # that changes no reflection.
        dP = dy @ TV.mT
        torch.mm(T.mT, projected.mT @ dy, out=d_rows)
        dN = d_rows @ TV.mT
        d_rows.addmm_(dN.triu() + dN.triu(1).mT, rows).addmm_(dP.mT, x)
        dy.addmm_(dP, rows)
    # The blocks have filled the upper triangle; what lies below it was never set.
    return dx, dV.triu_().mul_(scale), None


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
    v = unit_rows(at_least_single(u[n - k :]).unsqueeze(0))[0]
    moved = at_least_single(moved)
    return torch.cat([kept, (moved - (moved @ v.mT) * v).to(x.dtype)], dim=-1)


def reflections_of(Q: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`(U, sign)` with `reflect(eye, U, sign) == Q` for an orthogonal `Q` `(n, n)` and U `(k, n)`.

    Householder QR with the target +e_i in every column; k is n - 1, which reaches every Q.
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
    return U.to(Q), sign.to(Q)
