"""`ToeplitzLinear`: a convolution of two long sequences, by the fast Fourier transform where that is cheaper."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import is_traced, rounds_between
from slimgraph.slim.linear.registry import register


def fft_length(n: int) -> int:
    """The smallest even length >= n of the form c 2^k, c one of 1, 3, 5, 9, 15: transforms of these are fast.

    >>> fft_length(8191), fft_length(130)
    (8192, 144)
    """
    return min(c * max(2, 1 << (math.ceil(n / c) - 1).bit_length()) for c in (1, 3, 5, 9, 15))


def diagonal_means(W: Tensor) -> Tensor:
    """The mean of each diagonal of `W` `(n, m)`, the lowest first: `(n + m - 1,)`."""
    n, m = W.shape
    place = (torch.arange(m, device=W.device) - torch.arange(n, device=W.device)[:, None] + n - 1).flatten()
    sums = W.new_zeros(n + m - 1).index_add(0, place, W.flatten())
    return sums / W.new_zeros(n + m - 1).index_add(0, place, torch.ones_like(W).flatten())


def convolve(x: Tensor, t: Tensor, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """`x @ W` for x `(rows, n)` and the W `(n, m)` with the diagonals `t` `(n + m - 1,)`; also the spectra of both."""
    n, length = x.shape[1], fft_length(len(t))
    # With the diagonals in circular order, from 0 up and then the negative ones, the result starts at 0.
    circular = torch.cat([t[n - 1 :], t.new_zeros(length - len(t)), t[: n - 1]])
    X, T = torch.fft.rfft(x, n=length), torch.fft.rfft(circular)
    return torch.fft.irfft(X * T, n=length)[:, :m].contiguous(), X, T


class _Convolve(torch.autograd.Function):
    """`convolve` with its backward written out: autograd transforms real gradients as complex ones of full length."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, m: int) -> Tensor:  # pyright: ignore
        y, X, T = convolve(x, t, m)
        ctx.save_for_backward(x, t, X, T)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        x, t, X, T = ctx.saved_tensors
        if torch.is_grad_enabled():
            # Somebody wants the gradient of this gradient: the plain operations have one.
            wanted = [tensor for tensor in (x, t) if tensor.requires_grad]
            y = convolve(x, t, grad.shape[1])[0]
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in (x, t)), None
        n, m, length = x.shape[1], grad.shape[1], fft_length(len(t))
        G, dx, dt = torch.fft.rfft(grad, n=length), None, None
        if ctx.needs_input_grad[0]:
            dx = torch.fft.irfft(G * T.conj(), n=length)[:, :n].contiguous()
        if ctx.needs_input_grad[1]:
            circular = torch.fft.irfft((X.conj() * G).sum(0), n=length)
            dt = torch.cat([circular[length - n + 1 :], circular[:m]])
        return dx, dt, None


@register("toeplitz")
class ToeplitzLinear(LinearBase):
    """W[i, j] = t[j - i + insize - 1]: Toeplitz, each diagonal holds one number.

    t: `(insize + outsize - 1,)`, the diagonals from the lower left corner to the upper right one, started as the
    entries of a dense map. A long input is multiplied by fast Fourier transforms, in O(n log n) and to a rounding
    error relative to the largest product; elsewhere, in half precision and under autocast W is built. `from_dense` is
    nearest in the Frobenius norm: the mean of each diagonal.
    Source: Golub and Van Loan, Matrix computations, sections 4.7 and 4.8.

    >>> ToeplitzLinear.from_dense(torch.tensor([[1., 2., 3.], [0., 3., 2.]])).effective_W().detach()
    tensor([[2., 2., 3.],
            [0., 2., 2.]])
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias, provide_weights=False)
        spread = 1 / math.sqrt(insize)
        self.t = nn.Parameter(torch.empty(insize + outsize - 1).uniform_(-spread, spread))

    def effective_W(self) -> Tensor:
        return self.t.unfold(0, self.out_features, 1).flip(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self._transforms(x):
            return super().forward(x)
        self._check_input(x, self.t.dtype)
        args = x.reshape(-1, self.in_features), self.t, self.out_features
        y: Tensor = convolve(*args)[0] if is_traced() else _Convolve.apply(*args)  # pyright: ignore[reportAssignmentType]
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _transforms(self, x: Tensor) -> bool:
        """Whether `forward` should use Fourier transforms instead of W; both are the same function."""
        if rounds_between(x, self.t.dtype) or x.numel() == 0:
            return False
        # In multiplications of one dense product, measured on a CPU: a step of the transforms' n log n, the calls, W.
        rows, length = x.numel() // self.in_features, fft_length(len(self.t))
        transforms = 8 * (rows + 1) * length * math.log2(length) + 2**20
        return transforms < (rows + 10 * (not self.is_materialized)) * self.in_features * self.out_features

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        nearest = diagonal_means(W.double()).unfold(0, W.shape[1], 1).flip(0)
        return (W - nearest).abs().max() <= tol * W.abs().max()

    def _set_dense(self, W: Tensor) -> None:
        self.t.copy_(diagonal_means(W.double()))
