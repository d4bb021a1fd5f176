"""Singular value decompositions with orthogonal factors: `SpectralLinear`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.functions import full_precision
from slimgraph.slim.linear.householder import reflect, reflections_of
from slimgraph.slim.linear.orthogonal import applies_factors, random_sign, reflector_count
from slimgraph.slim.linear.registry import register
from slimgraph.slim.linear.svd import BoundedSigma


@register("spectral")
class SpectralLinear(BoundedSigma):
    """W = U Sigma V with orthogonal U, V from Householder reflections: every singular value in [sigma_min, sigma_max].

    `U` `(k_U, insize)` and `V` `(k_V, outsize)` hold the reflectors as in `OrthogonalLinear`, `sign_U` and `sign_V` the
    one-entry reflections; either count may be given alone, all are used by default. `from_dense` is nearest in the
    Frobenius norm: the singular values of W clipped to the bounds; it needs all reflectors.
    Source: Zhang, Lei, Dhillon 2018, Stabilizing gradients by efficient SVD parameterization, arXiv:1803.09327.

    >>> W = SpectralLinear(3, 5, sigma_min=0.5, sigma_max=0.9).effective_W()
    >>> bool((torch.linalg.svdvals(W) < 0.9001).all())
    True
    """

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
        rows_U = reflector_count(self, "n_U_reflectors", n_U_reflectors, insize)
        rows_V = reflector_count(self, "n_V_reflectors", n_V_reflectors, outsize)
        self.U = nn.Parameter(torch.randn(rows_U, insize).triu())
        self.V = nn.Parameter(torch.randn(rows_V, outsize).triu())
        self.sign_U: Tensor
        self.sign_V: Tensor
        self.register_buffer("sign_U", random_sign())
        self.register_buffer("sign_V", random_sign())

    @full_precision
    def effective_W(self) -> Tensor:
        eye = torch.eye(self.in_features, dtype=self.U.dtype, device=self.U.device)
        return self.Vmultiply(self._stretch(self.Umultiply(eye)))

    def forward(self, x: Tensor) -> Tensor:
        if not applies_factors(self, x, self.U, self.V):
            return super().forward(x)
        self._check_input(x, self.U.dtype)
        y = self.Vmultiply(self._stretch(self.Umultiply(x)))
        return y if self.bias is None else y + self.bias

    @full_precision
    def Umultiply(self, x: Tensor) -> Tensor:
        """`x @ U`, orthogonal; x: `(..., insize)`."""
        return reflect(x, self.U, self.sign_U)

    @full_precision
    def Vmultiply(self, x: Tensor) -> Tensor:
        """`x @ V`, orthogonal; x: `(..., outsize)`."""
        return reflect(x, self.V, self.sign_V)

    def _stretch(self, x: Tensor) -> Tensor:
        """`x @ Sigma`; x: `(..., insize)`, result: `(..., outsize)`."""
        return F.pad(x[..., : len(self.p)] * self.sigma(), (0, self.out_features - len(self.p)))

    def _set_dense(self, W: Tensor) -> None:
        if len(self.U) < self.in_features - 1 or len(self.V) < self.out_features - 1:
            raise OptionError(
                "SpectralLinear.from_dense needs all reflectors; leave n_U_reflectors, n_V_reflectors out"
            )
        left, values, right = torch.linalg.svd(W.double())
        for name, factor in (("U", left), ("V", right)):
            array, sign = reflections_of(factor, len(getattr(self, name)))
            getattr(self, name).copy_(array)
            getattr(self, f"sign_{name}").copy_(sign)
        self._set_sigma(values)
