"""Householder products in blocked compact WY form, with their gradients written out.

For the rows V of one block of reflectors

    H_1 H_2 ... H_m = I - Y^T V,   Y = T^T V,   T = (striu(V V^T) + diag(V V^T) / 2)^-1,

so a block costs two matrix products. Each block starts further right than the one before, so that all n reflections
together cost little more than one dense product.
Source: Schreiber and Van Loan 1989, A storage-efficient WY representation for products of Householder transformations.

Row i of Y is (2 / |v_i|^2) A v_i with A = H_1 ... H_{i-1}, and of the gradient G of an orthogonal Q only the skew part
of G Q^T can turn Q. So the gradient of v_i is A^T K y_i with K = G Q^T - Q G^T, and that of all rows at once

    dV = Z - striu(Y Z^T)^T V,   Z = Y K^T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from slimgraph.slim.linear.functions import under_autocast

BLOCK = 32
"""Reflections per block; of 16 to 256 the best for n from 128 to 512 on a CPU."""

ONE_BLOCK = 64
"""Up to this n one block takes all reflections: calls cost more there than what is multiplied in vain."""


def scaled_rows(U: Tensor, more: int = 0) -> tuple[Tensor, Tensor]:
    """The upper triangle of `U` `(..., k, n)`, each row over its largest entry, then `more` zeros; and the divisors."""
    k = U.shape[-2]
    V = (F.pad(U, (0, 0, 0, more)) if more else U).triu()
    with torch.no_grad():
        largest = V.abs().amax(dim=-1, keepdim=True)
        # Below sqrt(tiny) the gradient may overflow: the row counts as zero and is moved onto its diagonal entry. The
        # graph does not see this, so the gradient still says in which direction to leave zero.
        zero = largest < math.sqrt(torch.finfo(U.dtype).tiny)
        V.diagonal(0, -2, -1).narrow(-1, 0, k).add_(zero.squeeze(-1).narrow(-1, 0, k))
        largest.add_(zero)
    # A reflection does not depend on the length of its row, so the graph may take the divisor as a constant.
    return V.div_(largest), largest


def padded(U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V `(blocks, m, n)`, the scaled rows of `U` and rows of zeros below the last one; T^-1; and the divisors."""
    k, n = U.shape[-2:]
    # Products of odd sizes are slow. An array without rows (n = 1) gets rows of zeros, so that it stays in the graph.
    m = 16 * max(1, math.ceil(k / 16)) if n <= ONE_BLOCK else BLOCK
    V, largest = scaled_rows(U, -k % m or m * (k == 0))
    V = V.view(-1, m, n)
    inverse = torch.bmm(V, V.mT)
    # Solvers read the upper triangle alone. A squared length is at least 1, that of a row of zeros 0.
    inverse.diagonal(0, 1, 2).mul_(0.5).clamp_min_(0.5)
    return V, inverse, largest


def compact(U: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V and Y `(blocks, m, n)`, T `(blocks, m, m)` and the divisors of the rows; U: `(k, n)`."""
    V, inverse, largest = padded(U)
    eye = torch.eye(V.shape[1], dtype=V.dtype, device=V.device)
    T = torch.linalg.solve_triangular(inverse, eye, upper=True, left=False)
    return V, torch.bmm(T.mT, V), T, largest


def compact_one(U: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V and Y `(b, m, n)`, the products without their signs `(b, n, n)` and the divisors; U: `(b, k, n)`."""
    V, inverse, largest = padded(U)
    Y = torch.linalg.solve_triangular(inverse, V.mT, upper=True, left=False).mT
    eye = torch.eye(V.shape[2], dtype=V.dtype, device=V.device)
    return V, Y, torch.baddbmm(eye, Y.mT, V, alpha=-1), largest


def from_first_columns(blocks: Tensor) -> list[Tensor]:
    """Each block without the columns left of its first one, where it is zero."""
    m = blocks.shape[1]
    return [rows[:, i * m :] if i else rows for i, rows in enumerate(blocks.unbind())]


def with_sign(y: Tensor, sign: Tensor) -> Tensor:
    """`y @ diag(1, ..., 1, sign)`."""
    return torch.cat([y[..., :-1], y[..., -1:] * sign], dim=-1)


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
    Q = compact_one(U)[2]
    return with_sign(Q.reshape(*U.shape[:-2], *Q.shape[1:]), sign.unsqueeze(-1))


def between_two(U: Tensor, V: Tensor, sign_U: Tensor, sign_V: Tensor, sigma: Tensor) -> Tensor:
    """`decomposition` in plain operations, up to n = `ONE_BLOCK`."""
    left, right = in_one_block(torch.stack([U, V]), torch.stack([sign_U, sign_V])).unbind()
    return (left * sigma) @ right


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


def rows_gradient(minus_Z: Tensor, V: Tensor, Y: Tensor, U: Tensor, largest: Tensor) -> Tensor:
    """The gradient of `U` from -Z, which is overwritten."""
    dV = minus_Z.baddbmm_(torch.bmm(minus_Z, Y.mT).tril_(-1), V, alpha=-1)
    # What lies below the upper triangle and what the rows of zeros got is no gradient.
    dV = dV.view(*largest.shape[:-1], -1).triu_().div_(-largest)
    return dV.narrow(-2, 0, U.shape[-2])


class Product(torch.autograd.Function):
    """`in_one_block` with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, U: Tensor, sign: Tensor) -> Tensor:  # pyright: ignore
        V, Y, Q, largest = compact_one(U)
        Q.select(2, -1).mul_(sign.view(-1, 1))
        ctx.inputs = 2
        ctx.save_for_backward(U, sign, V, Y, largest, Q)
        # A view, or what is kept for the backward pass, could not be changed in place by the caller.
        return Q.view(*U.shape[:-2], *Q.shape[1:]).clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return gradients(ctx, grad, in_one_block, _product_by_hand)


def _product_by_hand(inputs: Any, kept: Any, grad: Tensor) -> tuple[Any, ...]:
    (U, _), (V, Y, largest, Q) = inputs, kept
    K = torch.bmm(grad.reshape(Q.shape), Q.mT)
    return rows_gradient(torch.bmm(Y, K - K.mT), V, Y, U, largest), None


class Decomposition(torch.autograd.Function):
    """`between_two` with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, U: Tensor, V: Tensor, sign_U: Tensor, sign_V: Tensor, sigma: Tensor) -> Tensor:  # pyright: ignore
        rows, Y, Q, largest = compact_one(torch.stack([U, V]))
        left, right = Q.unbind()
        left.select(1, -1).mul_(sign_U)
        right.select(1, -1).mul_(sign_V)
        W = torch.mm(left * sigma, right)
        ctx.inputs = 5
        ctx.save_for_backward(U, V, sign_U, sign_V, sigma, rows, Y, largest, Q, W)
        return W.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return gradients(ctx, grad, between_two, _decomposition_by_hand)


def _decomposition_by_hand(inputs: Any, kept: Any, grad: Tensor) -> tuple[Any, ...]:
    (U, *_, sigma), (rows, Y, largest, Q, W) = inputs, kept
    left, right = Q.unbind()
    # The gradients of the left and the right factor are dW V^T Sigma and Sigma U^T dW.
    inner = torch.mm(torch.mm(left.mT, grad), right.mT)
    K = torch.stack([torch.mm(grad, W.mT), sigma.unsqueeze(1) * inner])
    dU, dV = rows_gradient(torch.bmm(Y, K - K.mT), rows, Y, U.expand(2, *U.shape), largest).unbind()
    return dU, dV, None, None, inner.diagonal()


class Reflect(torch.autograd.Function):
    """`in_blocks` with its gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, U: Tensor, sign: Tensor) -> Tensor:  # pyright: ignore
        V, Y, T, largest = compact(U)
        n, m = U.shape[1], V.shape[1]
        y = x.clone(memory_format=torch.contiguous_format)
        block, rest = x.reshape(-1, n), y.view(-1, n)
        used: list[Tensor] = []
        for v, turned in zip(from_first_columns(V), from_first_columns(Y), strict=True):
            if used:
                rest = rest[:, m:]
                block = rest.clone()
            P = torch.mm(block, turned.mT)
            rest.addmm_(P, v, alpha=-1)
            used += block, P, v, turned
        y.narrow(-1, n - 1, 1).mul_(sign)
        ctx.inputs = 3
        ctx.save_for_backward(x, U, sign, V, Y, T, largest, *used)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore
        return gradients(ctx, grad, in_blocks, _reflect_by_hand)


def _reflect_by_hand(inputs: Any, kept: Any, grad: Tensor) -> tuple[Any, ...]:
    (x, U, sign), (V, Y, T, largest, *used) = inputs, kept
    dx = grad.reshape(-1, U.shape[1]).clone(memory_format=torch.contiguous_format)
    dx.select(1, -1).mul_(sign)
    minus_Z = torch.zeros_like(V)
    parts = list(zip(*(used[i::4] for i in range(4)), T.unbind(), from_first_columns(minus_Z), strict=True))
    # Of one block G Q^T = x^T dx with dx = dy Q^T, and as Y Q = -T V, -Z = Y x^T dx - Y dx^T x = P^T dx + T dP^T x.
    for block, P, v, turned, t, z in reversed(parts):
        dy = dx[:, -v.shape[1] :]
        dP = torch.mm(dy, v.mT)
        dy.addmm_(dP, turned, alpha=-1)
        torch.mm(P.mT, dy, out=z).addmm_(torch.mm(t, dP.mT), block)
    return dx.view(x.shape), rows_gradient(minus_Z, V, Y, U, largest), None
