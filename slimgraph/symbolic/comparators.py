"""How the two sides of a constraint are compared, and what that costs.

A comparison has a *value* (signed, <= 0 holds), a *violation* (>= 0) and a *loss* (the violation's mean in its norm).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import OptionError


class Comparator:
    """How two sides are compared; `comparator(left, right)` gives `(loss, value, violation)`.

    `value` is signed, <= 0 where it holds; `violation` >= 0; `loss` its mean, or the mean of its square for `norm=2`.
    `strict` tells `<` from `<=`: one to a penalty, but not where the comparison's truth is asked for.
    """

    sign = "<="

    def __init__(self, norm: int = 1, *, strict: bool = False) -> None:
        if isinstance(norm, bool) or not isinstance(norm, int | float | np.integer) or norm not in (1, 2):
            raise OptionError(f"the norm of a constraint is 1 or 2; got {norm!r}")
        self.norm = int(norm)
        if strict:
            self.sign = self.sign[0]

    def value(self, left: Any, right: Any) -> Tensor:
        return left - right

    def violation(self, value: Tensor) -> Tensor:
        return torch.relu(value)

    def __call__(self, left: Any, right: Any) -> tuple[Tensor, Tensor, Tensor]:
        value = self.value(left, right)
        violation = self.violation(value)
        return (violation if self.norm == 1 else violation.square()).mean(), value, violation

    def __repr__(self) -> str:
        return f"{type(self).__name__}(norm={self.norm}{', strict=True' if self.sign in '<>' else ''})"

    def with_norm(self, norm: int) -> Comparator:
        """The same comparison in another norm."""
        return type(self)(norm, strict=self.sign in "<>")


class LT(Comparator):
    """`left <= right`.

    >>> LT()(torch.tensor([1., 3.]), 2.)
    (tensor(0.5000), tensor([-1.,  1.]), tensor([0., 1.]))
    """


class GT(Comparator):
    """`left >= right`."""

    sign = ">="

    def value(self, left: Any, right: Any) -> Tensor:
        return right - left


class Eq(Comparator):
    """`left == right`; the value is the difference, the violation its absolute value."""

    sign = "=="

    def violation(self, value: Tensor) -> Tensor:
        return value.abs()
