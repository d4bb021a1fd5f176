"""Where the eigenvalues and the singular values of a map may lie: `Region`, read off its promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.composition import ComposedLinear
from slimgraph.slim.linear.promises import Options, promise_of
from slimgraph.slim.linear.svd import SVDLinearLearnBounds

Interval = tuple[float, float]

ANYWHERE, ANY_SIZE, ZERO = (-math.inf, math.inf), (0.0, math.inf), (0.0, 0.0)


@dataclass(frozen=True)
class Region:
    """Intervals that hold every eigenvalue z, by `real`, `imag` and `modulus` = |z - centre|, and every singular value.

    >>> Region(real=(-math.inf, -0.5))
    Region: Re z <= -0.5
    >>> Region(real=(-math.inf, -0.5)) & Region(imag=(0.0, 0.0), singular=(0.1, 1.0))
    Region: Re z <= -0.5, Im z = 0; 0.1 <= s <= 1
    """

    real: Interval = ANYWHERE
    imag: Interval = ANYWHERE
    modulus: Interval = ANY_SIZE
    centre: float = 0.0
    singular: Interval = ANY_SIZE

    def __and__(self, other: Region) -> Region:
        """What both say; of two discs with different centres the smaller one is kept."""
        first, second = sorted((self, other), key=lambda region: region.modulus[1] - region.modulus[0])
        modulus = _both(first.modulus, second.modulus) if first.centre == second.centre else first.modulus
        real, imag, singular = (_both(getattr(self, k), getattr(other, k)) for k in ("real", "imag", "singular"))
        return Region(real, imag, modulus, first.centre, singular)

    def holds_eigenvalues(self, values: Tensor, tol: float) -> Tensor:
        """For each of the complex `values`, of any shape, whether it lies here within `tol`."""
        parts = ((values.real, self.real), (values.imag, self.imag), ((values - self.centre).abs(), self.modulus))
        return torch.stack([_inside(value, interval, tol) for value, interval in parts]).all(0)

    def holds_singular_values(self, values: Tensor, tol: float) -> Tensor:
        """For each of the real `values`, of any shape, whether it lies here within `tol`."""
        return _inside(values, self.singular, tol)

    @property
    def eigenvalue_text(self) -> str:
        """What is promised of the eigenvalues, empty for nothing."""
        disc = "|z|" if self.centre == 0 else f"|z {'-' if self.centre > 0 else '+'} {abs(self.centre):.4g}|"
        # On a known part of the real axis the disc says nothing more.
        on_axis = self.imag == ZERO and self.real != ANYWHERE
        said = (_said("Re z", self.real), _said("Im z", self.imag), "" if on_axis else _said(disc, self.modulus))
        return ", ".join(text for text in said if text)

    @property
    def singular_text(self) -> str:
        """What is promised of the singular values, empty for nothing."""
        return _said("s", self.singular)

    def __repr__(self) -> str:
        said = "; ".join(text for text in (self.eigenvalue_text, self.singular_text) if text)
        return f"Region: {said or 'everywhere'}"


def _both(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _inside(values: Tensor, interval: Interval, tol: float) -> Tensor:
    return (values >= interval[0] - tol) & (values <= interval[1] + tol)


def _said(name: str, interval: Interval) -> str:
    # Adding 0 takes the sign from a -0.
    low, high = interval[0] + 0.0, interval[1] + 0.0
    if low == high:
        return f"{name} = {low:.4g}"
    # No modulus and no singular value is negative: that need not be said.
    left = "" if low == -math.inf or (low == 0 and name[0] in "|s") else f"{low:.4g} <= "
    right = "" if high == math.inf else f" <= {high:.4g}"
    return f"{name} >= {low:.4g}" if left and not right else f"{left}{name}{right}" if left or right else ""


# The table


def _between(bounds: Options) -> Interval:
    return bounds["sigma_min"], bounds["sigma_max"]


def _ring(bounds: Options) -> Region:
    """No eigenvalue is smaller than the least singular value, or larger than the largest."""
    return Region(modulus=_between(bounds), singular=_between(bounds))


def _norm(bounds: Options) -> Region:
    """Every norm here bounds the spectral radius; the 2-norm, 'fro' and 'nuc' are functions of the singular values."""
    singular = (0.0, bounds["sigma_max"]) if bounds["p"] in (2, "fro", "nuc") else ANY_SIZE
    return Region(modulus=(0.0, bounds["sigma_max"]), singular=singular)


def _above(epsilon: float) -> Region:
    """Columns beside a symmetric block only add to its singular values."""
    return Region(real=(epsilon, math.inf), imag=ZERO, singular=(epsilon, math.inf))


def _disc(bounds: Options) -> Region:
    low, high = _between(bounds)
    return Region(modulus=(0.0, (high - low) / 2), centre=(low + high) / 2)


REGIONS: dict[str, Callable[[Options], Region]] = {
    "identity": lambda _: Region(real=(1.0, 1.0), imag=ZERO),
    "spectral": _ring,
    "softSVD": _ring,
    "bounded_Lp_norm": _norm,
    "symmetric": lambda _: Region(imag=ZERO),
    "symmetric_spectral": lambda bounds: Region(real=_between(bounds), imag=ZERO),
    "symmetric_SVD": lambda bounds: Region(real=_between(bounds), imag=ZERO),
    "psd": lambda _: Region(real=(0.0, math.inf), imag=ZERO),
    "trivial_nullspace": lambda bounds: _above(bounds["epsilon"]),
    "skew_symmetric": lambda _: Region(real=ZERO),
    "damp_skew_symmetric": lambda bounds: Region(real=(-bounds["sigma_max"], -bounds["sigma_min"])),
    "hurwitz": lambda bounds: Region(real=(-math.inf, -bounds["alpha"])),
    "schur_stable": lambda bounds: Region(modulus=(0.0, bounds["radius"])),
    "Power_bound": lambda bounds: Region(modulus=(0.0, bounds["max_p"])),
    "gershgorin": _disc,
    "pf": lambda bounds: Region(modulus=(0.0, bounds["sigma_max"])),
    "lstochastic": lambda _: Region(modulus=(0.0, 1.0)),
    # The 2-norm is at most the root of the product of the largest row and column sums.
    "doubly_stochastic": lambda _: Region(singular=(0.0, 1.0)),
}
"""By the key of the class in `maps`; what a class means (see `PROMISES`) need not be said again."""


def spectral_region(part: LinearBase) -> Region:
    """Where the promises of a map, also of a composition, keep its eigenvalues and singular values.

    Maps that keep their promise by `reg_error` are there once that is 0; bounds that are learned count as they are now.

    >>> from slimgraph import slim
    >>> spectral_region(slim.OrthogonalLinear(3, 3) @ slim.SpectralLinear(3, 3, sigma_max=0.5))
    Region: 0.1 <= |z| <= 0.5; 0.1 <= s <= 0.5
    >>> spectral_region(slim.ButterflyLinear(4, 4))
    Region: everywhere
    """
    found: dict[str, Any] = part._kept() if isinstance(part, ComposedLinear) else promise_of(part)
    if isinstance(part, SVDLinearLearnBounds):
        found = {"softSVD": {word: getattr(part, word).item() for word in ("sigma_min", "sigma_max")}}
    region = Region()
    for key, bounds in found.items():
        if key in REGIONS:
            region &= REGIONS[key](bounds)
    return region
