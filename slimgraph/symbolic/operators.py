"""What Python's operators make of a Variable: expressions, constraints, and advice where neither makes sense."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from slimgraph.errors import ExpressionError

if TYPE_CHECKING:
    from slimgraph.symbolic.constraint import Constraint
    from slimgraph.symbolic.expression import Variable


def _operand(thing: Any) -> Any:
    """`thing`, if an operator can take it; otherwise torch would refuse it too, but only when a batch comes."""
    from slimgraph.symbolic.constraint import Constraint

    if isinstance(thing, Operators | Constraint | Tensor | np.ndarray | np.generic | int | float | complex):
        return thing
    raise ExpressionError(f"expected an expression, a tensor or a number; got {type(thing).__name__}: {thing!r}")


def _infix(function: Callable[[Any, Any], Any]) -> Any:
    def method(self: Operators, other: Any) -> Variable:
        return self._expression(function, self, _operand(other))

    return method


def _reflected(function: Callable[[Any, Any], Any]) -> Any:
    def method(self: Operators, other: Any) -> Variable:
        return self._expression(function, _operand(other), self)

    return method


def _prefix(function: Callable[[Any], Any]) -> Any:
    def method(self: Operators) -> Variable:
        return self._expression(function, self)

    return method


def _attribute(name: str) -> Any:
    # getattr with its name: torch.compile cannot trace an operator.attrgetter.
    return property(lambda self: self._expression(getattr, self, name), doc=f"The expression's `.{name}`, as torch's.")


def compared(left: Any, sign: str, right: Any) -> Constraint:
    """The constraint that `left sign right` stands for."""
    from slimgraph.symbolic.comparators import GT, LT, Eq
    from slimgraph.symbolic.constraint import Constraint

    kind = {"<": LT, ">": GT, "=": Eq}[sign[0]]
    return Constraint(left, right, kind(strict=len(sign) == 1))


def _comparison(sign: str) -> Any:
    def method(self: Variable, other: Any) -> Constraint:
        return compared(self, sign, other)

    return method


def _no_number(self: Operators, *_: Any) -> Any:
    raise ExpressionError(
        f"{self!r} is no number and no list: it has a value only for a batch of data; several expressions make one by "
        "torch.stack or torch.cat, and a function that needs numbers is written variable([inputs], function)"
    )


def is_asked_by_torch_compile() -> bool:
    """Whether the truth of the caller's caller is asked by torch.compile, which asks it of whatever it compiles."""
    return sys._getframe(2).f_globals.get("__name__", "").startswith("torch._dynamo.")


class Operators:
    """Python's operators, as expressions; whoever inherits says in `_expression` how one is made."""

    def _expression(self, function: Callable[..., Any], *args: Any) -> Variable:
        raise NotImplementedError

    __add__, __radd__ = _infix(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _infix(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _infix(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _infix(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _infix(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _infix(operator.mod), _reflected(operator.mod)
    __pow__, __rpow__ = _infix(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _infix(operator.matmul), _reflected(operator.matmul)
    __and__, __rand__ = _infix(operator.and_), _reflected(operator.and_)
    __or__, __ror__ = _infix(operator.or_), _reflected(operator.or_)
    __neg__, __pos__, __abs__ = _prefix(operator.neg), _prefix(operator.pos), _prefix(operator.abs)
    __invert__ = _prefix(operator.invert)
    T, mT, H, mH = _attribute("T"), _attribute("mT"), _attribute("H"), _attribute("mH")
    __le__, __lt__ = _comparison("<="), _comparison("<")
    __ge__, __gt__ = _comparison(">="), _comparison(">")
    __eq__ = _comparison("==")
    __len__ = __float__ = __int__ = __complex__ = __contains__ = _no_number

    def __getitem__(self, place: Any) -> Variable:
        return self._expression(operator.getitem, self, place)

    def __setitem__(self, place: Any, value: Any) -> None:
        raise ExpressionError(
            f"an expression is not written into: {self!r}; put pieces together by torch.cat or torch.where"
        )

    def __ne__(self, other: Any) -> bool:
        if isinstance(other, Operators):
            return self is not other
        raise ExpressionError(
            f"{self!r} != {other!r} is no constraint; for its truth write torch.ne({self!r}, {other!r})"
        )

    def __xor__(self, other: Any) -> Variable:
        raise ExpressionError(f"a power is written {self!r} ** {other!r}; ^ is the norm of a constraint")

    # A class that defines __eq__ loses __hash__, and Variables are kept in sets and dicts.
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        if is_asked_by_torch_compile():
            return True
        raise ExpressionError(f"the expression {self!r} has no truth value; it has a value only for a batch of data")

    def __iter__(self) -> Iterator[Variable]:
        raise ExpressionError(f"the length of {self!r} is not known; write {self!r}.unpack(n) for its first n entries")
