"""`SymplecticLinear`: a product of unit triangular factors that preserves the symplectic form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import SquareLinear
from slimgraph.slim.linear.factored import cheaper_by_factors
from slimgraph.slim.linear.functions import at_least_single, check_even, full_precision, upper_triangle
from slimgraph.slim.linear.registry import register

FACTORS = 5
"""As many unit triangular factors as every symplectic matrix has."""


@register("symplectic", square=True, even=True)
class SymplecticLinear(SquareLinear):
    """W = L_1 L_2 L_3 L_4 L_5, alternating [[I, S], [0, I]] and [[I, 0], [S, I]] with S = S^T: W^T J W = J.

    J = [[0, I], [-I, 0]], so `x = [q, p]` of even size 2n keeps the area of every pair of increments: one step of a
    Hamiltonian system, with determinant 1 and eigenvalues in pairs z, 1/z. Every symplectic matrix is such a product.
    weight: `(5, n(n+1)/2)`, the upper triangle of each S, started small: W starts near the identity.

    `contains` measures W^T J W - J against the products of W's entries that it is the difference of.
    Raises `OptionError` for an odd size. The reference's matrix is only skew-symmetric.
    Source: Jin, Lin, Xiao 2021, Optimal unit triangular factorization of symplectic matrices.

    >>> W = SymplecticLinear(4, 4).effective_W()
    >>> J = torch.tensor([[0., 1.], [-1., 0.]]).kron(torch.eye(2))
    >>> torch.allclose(W.mT @ J @ W, J, atol=1e-6)
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias, provide_weights=False)
        check_even(self)
        n = insize // 2
        spread = 0.1 / math.sqrt(n)
        self.weight = nn.Parameter(torch.empty(FACTORS, n * (n + 1) // 2).uniform_(-spread, spread))

    @full_precision
    def effective_W(self) -> Tensor:
        weight = at_least_single(self.weight)
        eye = torch.eye(self.in_features, dtype=weight.dtype, device=weight.device)
        return self._shear(eye, weight).to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        per_row = FACTORS * (self.in_features // 2) ** 2
        if not cheaper_by_factors(self, x, self.weight.dtype, per_row, build=per_row * self.in_features):
            return super().forward(x)
        self._check_input(x, self.weight.dtype)
        y = self._shear(x, self.weight)
        return y if self.bias is None else y + self.bias

    def _shear(self, x: Tensor, weight: Tensor) -> Tensor:
        """`x @ W`, factor by factor; x: `(..., 2n)`."""
        half = self.in_features // 2
        upper = upper_triangle(weight, half)
        q, p = x.split(half, dim=-1)
        for i, S in enumerate((upper + upper.triu(1).mT).unbind()):
            if i % 2 == 0:
                p = p + q @ S
            else:
                q = q + p @ S
        return torch.cat([q, p], dim=-1)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        half = len(W) // 2
        upper, lower = W.double().split(half)
        J = torch.eye(half, dtype=upper.dtype, device=W.device)
        J = torch.cat([torch.cat([0 * J, J], 1), torch.cat([-J, 0 * J], 1)])
        form = upper.mT @ lower
        size = upper.abs().mT @ lower.abs()
        return (form - form.mT - J).abs().max() <= tol * (size + size.mT).max().clamp(min=1)
