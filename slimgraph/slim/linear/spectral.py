"""Singular value decompositions with orthogonal factors: `SpectralLinear`, `SymmetricSpectralLinear`."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase, SquareLinear
from slimgraph.slim.linear.compact_wy import ONE_BLOCK
from slimgraph.slim.linear.functions import full_precision
from slimgraph.slim.linear.householder import decomposition, product, reflect, reflections_of
from slimgraph.slim.linear.orthogonal import applies_factors, random_sign, reflector_count, register_sign
from slimgraph.slim.linear.registry import register
from slimgraph.slim.linear.svd import BoundedSigma


@register("spectral")
class SpectralLinear(BoundedSigma):
    """W = U Sigma V with U, V products of Householder reflections: every singular value in [sigma_min, sigma_max].

    `U` `(k_U, insize)` and `V` `(k_V, outsize)` hold the reflectors as in `OrthogonalLinear`, `sign_U` and `sign_V` the
    one-entry reflections; either count may be given alone, all are used by default. `from_dense` is nearest in the
    Frobenius norm: the singular values of W clipped to the bounds; it needs all reflectors.
    Source: Zhang, Lei, Dhillon 2018, Stabilizing gradients by efficient SVD parameterization, arXiv:1803.09327.

    >>> W = SpectralLinear(3, 5, sigma_min=0.5, sigma_max=0.9).effective_W()
    >>> bool((torch.linalg.svdvals(W) < 0.9001).all())
    True
    """

    U: nn.Parameter
    V: nn.Parameter
    sign_U: Tensor
    sign_V: Tensor

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = False,
        n_U_reflectors: int | None = None,
        n_V_reflectors: int | None = None,
        sigma_min: float = 0.1,
        sigma_max: float = 1.0,
    ):
        super().__init__(insize, outsize, bias, sigma_min, sigma_max)
        self._add_reflectors("U", "n_U_reflectors", n_U_reflectors, insize)
        self._add_reflectors("V", "n_V_reflectors", n_V_reflectors, outsize)

    def _add_reflectors(self, name: str, word: str, count: int | None, size: int) -> None:
        rows = reflector_count(self, word, count, size)
        self.register_parameter(name, nn.Parameter(torch.randn(rows, size).triu()))
        register_sign(self, f"sign_{name}", random_sign())

    @full_precision
    def effective_W(self) -> Tensor:
        if self.U.shape == self.V.shape and self.in_features <= ONE_BLOCK:
            return decomposition(self.U, self.V, self.sign_U, self.sign_V, self.sigma())
        return reflect(self._stretch(product(self._left(), self.sign_U)), self.V, self.sign_V)

    def forward(self, x: Tensor) -> Tensor:
        if not applies_factors(self, x, self._left(), self.V):
            return super().forward(x)
        self._check_input(x, self.U.dtype)
        y = reflect(self._stretch(reflect(x, self._left(), self.sign_U)), self.V, self.sign_V)
        return y if self.bias is None else y + self.bias

    @full_precision
    def Umultiply(self, x: Tensor) -> Tensor:
        """`x @ U`, orthogonal; x: `(..., insize)`."""
        return reflect(x, self.U, self.sign_U)

    @full_precision
    def Vmultiply(self, x: Tensor) -> Tensor:
        """`x @ V`, orthogonal; x: `(..., outsize)`."""
        return reflect(x, self.V, self.sign_V)

    def _left(self) -> Tensor:
        """The reflectors of U that move a column which Sigma keeps."""
        return self.U if len(self.U) <= self.out_features else self.U[: self.out_features]

    def _stretch(self, x: Tensor) -> Tensor:
        """`x @ Sigma`; x: `(..., insize)`, result: `(..., outsize)`."""
        return F.pad(x[..., : len(self.p)] * self.sigma(), (0, self.out_features - len(self.p)))

    def _set_dense(self, W: Tensor) -> None:
        if len(self.U) < self.in_features - 1 or len(self.V) < self.out_features - 1:
            raise OptionError(
                "SpectralLinear.from_dense needs all reflectors; leave n_U_reflectors, n_V_reflectors out"
            )
        left, values, right = torch.linalg.svd(W.double())
        self._set_factor("U", left)
        self._set_factor("V", right)
        self._set_sigma(values)

    def _set_factor(self, name: str, Q: Tensor) -> None:
        array, sign = reflections_of(Q, len(getattr(self, name)))
        getattr(self, name).copy_(array)
        getattr(self, f"sign_{name}").copy_(sign)


@register("symmetric_spectral", square=True)
class SymmetricSpectralLinear(SpectralLinear, SquareLinear):
    """W = U Sigma U^T, U a product of Householder reflections: symmetric, eigenvalues in [sigma_min, sigma_max].

    `U` `(k, n)` and `sign_U` as in `SpectralLinear`; V = U^T has no parameters of its own, and the product is
    symmetrised in the last step. Eigenvalues may be negative, so sigma_min may be, too; the singular values are their
    absolute values. `from_dense` is nearest in the Frobenius norm: the symmetric part of W with its eigenvalues clipped
    to the bounds; it needs all reflectors.

    >>> W = SymmetricSpectralLinear(3, 3, sigma_min=-0.5, sigma_max=0.5).effective_W()
    >>> torch.equal(W, W.mT), bool(torch.linalg.eigvalsh(W).abs().max() <= 0.5)
    (True, True)
    """

    floor: ClassVar[float] = -math.inf

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = False,
        n_reflectors: int | None = None,
        sigma_min: float = 0.1,
        sigma_max: float = 1.0,
    ):
        # The base's own constructor would add a V.
        BoundedSigma.__init__(self, insize, outsize, bias, sigma_min, sigma_max)
        self._add_reflectors("U", "n_reflectors", n_reflectors, insize)

    @full_precision
    def effective_W(self) -> Tensor:
        U = product(self.U, self.sign_U)
        W = (U * self.sigma()) @ U.mT
        return (W + W.mT) / 2

    def forward(self, x: Tensor) -> Tensor:
        return LinearBase.forward(self, x)

    @full_precision
    def Vmultiply(self, x: Tensor) -> Tensor:
        """`x @ U^T`, orthogonal; x: `(..., n)`."""
        return x @ product(self.U, self.sign_U).mT

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        tol = tol * max(1.0, abs(self.sigma_min), abs(self.sigma_max))
        values = torch.linalg.eigvalsh(W)
        inside = (values.min() >= self.sigma_min - tol) & (values.max() <= self.sigma_max + tol)
        return inside & ((W - W.mT).abs().max() <= tol)

    def _set_dense(self, W: Tensor) -> None:
        if len(self.U) < self.in_features - 1:
            raise OptionError("SymmetricSpectralLinear.from_dense needs all reflectors; leave n_reflectors out")
        values, vectors = torch.linalg.eigh((W.double() + W.double().mT) / 2)
        self._set_factor("U", vectors)
        self._set_sigma(values)
