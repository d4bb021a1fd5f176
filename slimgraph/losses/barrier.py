"""BarrierLoss: inequalities that cost something before they are violated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean
from slimgraph.losses.penalty import PenaltyLoss
from slimgraph.slim.linear.functions import check_number
from slimgraph.symbolic import Constraint, Objective

Barrier = Callable[[Tensor], Tensor]


# Each is a function of the signed value z <= 0, of `shift` and `alpha`, rising towards the bound at 0.
# log and inverse: https://en.wikipedia.org/wiki/Barrier_function; softexp and softlog: the soft exponential of Godfrey
# and Gashler 2015 with positive and negative alpha.
def _log10(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log10(-z)


def _log(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log(-z)


def _inverse(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -1 / z


def _softexp(z: Tensor, shift: float, alpha: float) -> Tensor:
    return torch.expm1(alpha * z) / alpha + alpha


def _softlog(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log1p(-alpha * (z + alpha)) / alpha


def _expshift(z: Tensor, shift: float, alpha: float) -> Tensor:
    return torch.exp(z + shift)


BARRIERS = {
    "log10": _log10,
    "log": _log,
    "inverse": _inverse,
    "softexp": _softexp,
    "softlog": _softlog,
    "expshift": _expshift,
}


class BarrierLoss(PenaltyLoss):
    """A penalty that inequalities begin to pay before they are violated.

    With z the signed value (z <= 0 holds), an inequality pays its penalty and weight * mean(b(z)), where b is the
    `barrier` (log10, log, inverse, softexp, softlog, expshift, or a callable of z), never below 0, up to `upper_bound`;
    from there on it is its own tangent, so that value and gradient are finite on the bound and beyond. Equalities pay
    their penalty, from both sides. `shift` belongs to expshift, `alpha` to softexp and softlog.

    Raises UnknownOptionError for an unknown barrier, OptionError for one that does not rise to a finite value below 0.

    >>> from slimgraph import variable
    >>> loss = BarrierLoss([], [variable("x") <= 1.])
    >>> [round(loss({"x": torch.tensor([[x]])})["loss"].item(), 3) for x in (0., 0.5, 1., 1.5)]
    [0.0, 0.301, 1.434, 4.106]
    """

    def __init__(
        self,
        objectives: Sequence[Objective] = (),
        constraints: Sequence[Constraint] = (),
        barrier: str | Barrier = "log10",
        upper_bound: float = 1.0,
        shift: float = 1.0,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(objectives, constraints)
        if not callable(barrier) and not (isinstance(barrier, str) and barrier in BARRIERS):
            hint = did_you_mean(barrier, BARRIERS) if isinstance(barrier, str) else ""
            raise UnknownOptionError(
                f"there is no barrier {barrier!r}.{hint} There are {', '.join(BARRIERS)}, or a callable of a tensor"
            )
        self.barrier = barrier
        self.upper_bound = check_number(self, "upper_bound", upper_bound, above=0.0)
        self.shift = check_number(self, "shift", shift)
        self.alpha = check_number(self, "alpha", alpha, above=0.0)
        self._end, self._slope = self._tangent()

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("barrier", "upper_bound", "shift", "alpha")}

    def _barrier(self, z: Tensor) -> Tensor:
        return BARRIERS[self.barrier](z, self.shift, self.alpha) if isinstance(self.barrier, str) else self.barrier(z)

    def _tangent(self) -> tuple[float, float]:
        """Where the barrier reaches `upper_bound`, or the bound itself if it never does, and its slope there."""
        self._refuse_what_is_no_function_of_z()
        low, high = -1e6, 0.0
        for _ in range(100):
            middle = (low + high) / 2
            value = self._barrier(torch.tensor(middle, dtype=torch.float64)).item()
            low, high = (middle, high) if value <= self.upper_bound else (low, middle)
        z = torch.tensor(low, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            value = self._barrier(z)
            slope = torch.autograd.grad(value, z)[0].item()
        if not (math.isfinite(value.item()) and math.isfinite(slope) and slope > 0):
            raise OptionError(
                f"the barrier {self.barrier!r} must rise to upper_bound={self.upper_bound} below 0; "
                f"at {low:.3g} it is {value.item():.3g} with slope {slope:.3g}"
            )
        return low, slope

    def _refuse_what_is_no_function_of_z(self) -> None:
        z = torch.full((2, 3), -0.5, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            value: Any = self._barrier(z)
        needed = "a barrier gives for each entry of a tensor of signed values its cost, one that can be derived"
        if not isinstance(value, Tensor):
            raise OptionError(f"{needed}; {self.barrier!r} gave {value!r}")
        if value.shape != z.shape or not value.requires_grad:
            state = "with" if value.requires_grad else "without"
            raise OptionError(f"{needed}; {self.barrier!r} gave {tuple(value.shape)} for (2, 3), {state} a gradient")

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        total = super().penalty(output, penalties, data)
        for name, constraint in zip(self.names()[len(self.objectives) :], self.constraints, strict=True):
            if not constraint.is_equality:
                z = output[f"{name}_value"]
                inside = torch.relu(self._barrier(z.clamp(max=self._end)))
                total = total + constraint.weight * (inside + self._slope * torch.relu(z - self._end)).mean()
        return total
