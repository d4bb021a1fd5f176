"""What has to hold: `Constraint`, a comparison of two expressions.

It has a *value* (signed, <= 0 holds), a *violation* (>= 0) and a *loss* (the violation's mean in its norm).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, ExpressionError, OptionError, ShapeError
from slimgraph.symbolic.broadcasts import widens_the_batch
from slimgraph.symbolic.comparators import Comparator, Eq
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.latex import latex
from slimgraph.symbolic.leaves import as_expression
from slimgraph.symbolic.operators import is_asked_by_torch_compile
from slimgraph.symbolic.planned import constant_when_compiled
from slimgraph.symbolic.term import Term, weight_latex, weight_text
from slimgraph.symbolic.walk import Operation

_TRUTHS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}


class Constraint(Term):
    """`left <= right`, `left >= right` or `left == right`, made by comparing expressions.

    `weight * c` weighs it, `c ^ 2` penalises the square of the violation. Its outputs are its loss under its name, the
    signed value (<= 0 holds) under `<name>_value` and the violation (>= 0) under `<name>_violation`.

    Two sides that read data must not broadcast one batch along another axis, as `(batch,)` against `(batch, 1)` or
    `(batch, 1)` against `(1, batch)`: that is a ShapeError. An objective, whose value is torch's, warns instead.

    >>> from slimgraph import variable
    >>> x = variable("x")
    >>> c = 10. * (x <= 1.) ^ 2
    >>> c.update_name("bound")
    >>> c({"x": torch.tensor([[0.], [3.]])})["bound"]
    tensor(20.)
    >>> 0 <= x <= 1
    Traceback (most recent call last):
    slimgraph.errors.ExpressionError: the constraint 'x >= 0' has no truth value; write 0 <= x <= 1 as x.between...
    """

    kind = "constraint"
    advice = "weigh it by 2 * c, square its violation by c ^ 2, list several; torch functions take its truth"

    def __init__(
        self, left: Any, right: Any, comparator: Comparator, weight: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(weight, name)
        if not isinstance(comparator, Comparator):
            raise OptionError(f"a Constraint needs a comparator, LT(), GT() or Eq(); got {comparator!r}")
        for side in (left, right):
            if isinstance(side, Constraint):
                raise ExpressionError(
                    f"a constraint compares expressions; got the constraint '{side}' as a side. Write "
                    "x.between(lower, upper) for both bounds, torch.where(c, 1.0, 0.0) for its truth as numbers"
                )
        self._of_variables = isinstance(left, Variable) and isinstance(right, Variable)
        self.left, self.right = as_expression(left), as_expression(right)
        self.comparator = comparator

    @property
    def expressions(self) -> list[Variable]:
        return [self.left, self.right]

    @property
    def is_equality(self) -> bool:
        """Whether both sides must be equal."""
        return isinstance(self.comparator, Eq)

    @property
    def truth(self) -> Variable:
        """The comparison as an expression that is true or false entry by entry, as torch functions take it."""
        return Variable(operation=Operation(_TRUTHS[self.comparator.sign], (self.left, self.right)))

    @property
    def output_keys(self) -> list[str]:
        return [self.label, f"{self.label}_value", f"{self.label}_violation"]

    def losses(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        left, right = values
        if _widens(left, right) and self._both_read_data():
            raise ShapeError(
                f"{self._sides(left, right)}, which would broadcast; give both the same axes, as by x[:, None]"
            )
        try:
            loss, value, violation = self.comparator(left, right)
        except (RuntimeError, TypeError) as error:
            kind = ShapeError if "size" in str(error) else DtypeError
            raise kind(f"{self._sides(left, right)}, which torch refuses: {error}") from error
        return self.weighed(loss), value, violation

    # torch.compile lets Python answer this, as it cannot trace a walk over the expressions.
    @constant_when_compiled
    def _both_read_data(self) -> bool:
        return bool(self.left.keys and self.right.keys)

    def _sides(self, *values: Any) -> str:
        """Who compares what, for an error."""
        sides = [tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
        return (
            f"constraint {self.label!r} compares shapes {sides[0]} of {self.left.keys or self.left} and "
            f"{sides[1]} of {self.right.keys or self.right}"
        )

    def _scaled(self, weight: float) -> Constraint:
        return Constraint(self.left, self.right, self.comparator, weight, self.name)

    def __mul__(self, other: Any) -> Any:
        # A weight; but times an expression it is the truth that counts.
        return self.truth * other if isinstance(other, Variable | Constraint) else super().__mul__(other)

    __rmul__ = __mul__

    def with_name(self, name: str) -> Constraint:
        """The same constraint under `name`."""
        return Constraint(self.left, self.right, self.comparator, self.weight, name)

    def __and__(self, other: Any) -> Variable:
        return self.truth & other

    def __rand__(self, other: Any) -> Variable:
        return other & self.truth

    def __or__(self, other: Any) -> Variable:
        return self.truth | other

    def __ror__(self, other: Any) -> Variable:
        return other | self.truth

    def __invert__(self) -> Variable:
        return ~self.truth

    def __xor__(self, norm: int) -> Constraint:
        return Constraint(self.left, self.right, self.comparator.with_norm(norm), self.weight, self.name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        # `tensor * constraint` is its weight; torch.mul is the product with its truth.
        if func is torch.Tensor.mul and isinstance(args[1], Constraint):
            return args[1] * args[0]
        return Variable.__torch_function__(func, types, args, kwargs)

    def __bool__(self) -> bool:
        if self.is_equality and self._of_variables:
            # What sets, dicts and `in` ask: are these two the same Variable?
            return self.left is self.right
        if is_asked_by_torch_compile():
            return True
        raise ExpressionError(
            f"the constraint '{self}' has no truth value; write 0 <= x <= 1 as x.between(0, 1), "
            "or as two constraints, (0 <= x) and (x <= 1)"
        )

    def __str__(self) -> str:
        text = repr(self.truth)
        if self.comparator.norm == 1 and self.weight == 1:
            return text
        return f"{weight_text(self.weight)}({text}){'^2' if self.comparator.norm == 2 else ''}"

    def _repr_latex_(self) -> str:
        text = latex(self.truth)
        if self.comparator.norm == 2 or self.weight != 1:
            weight = weight_latex(self.weight)
            text = rf"{weight}\left({text}\right){'^{2}' if self.comparator.norm == 2 else ''}"
        return f"${text}$"

    def __repr__(self) -> str:
        return f"{self.name}: {self}" if self.name else str(self)


def _widens(left: Any, right: Any) -> bool:
    """Whether comparing two batches gives shapes that neither has: (B,) against (B, 1), or (1, B) against (B, 1)."""
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)) or left.shape == right.shape:
        return False
    if left.ndim * right.ndim == 0 or left.shape[0] == right.shape[0]:
        return widens_the_batch(left, right)
    sizes = zip(reversed(left.shape), reversed(right.shape), strict=False)
    # Where one side is longer it alone has the axes in front; beyond that each side may have the larger sizes.
    larger = [(a > b, b > a) for a, b in sizes]
    by_left = left.ndim > right.ndim or any(pair[0] for pair in larger)
    by_right = right.ndim > left.ndim or any(pair[1] for pair in larger)
    return by_left and by_right
