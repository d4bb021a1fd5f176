"""Variable: an expression over the keys of a batch, written like torch and evaluated later.

An expression is a plain graph of Variables. A leaf reads a data key, holds a trainable parameter or a constant; any
other Variable is an operation: a function with arguments among which stand further Variables. Nothing is computed and
nothing is registered anywhere until a `Plan` is made of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.doors import Drawable
from slimgraph.errors import ExpressionError
from slimgraph.symbolic.arrays import advice, operator_of, plain
from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.text import expression_text
from slimgraph.symbolic.walk import Operation, in_order, replace

if TYPE_CHECKING:
    from slimgraph.symbolic.constraint import Constraint
    from slimgraph.symbolic.objective import Objective


def symbolic_function(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Variable:
    """The expression `function(*args, **kwargs)`; a Constraint among the arguments stands for its comparison."""
    from slimgraph.symbolic.constraint import Constraint

    arguments = replace((args, kwargs or {}), Constraint, lambda constraint: constraint.truth)
    # Before numpy meets a tensor: `array - tensor` would be numpy's, and fail.
    arguments = replace(arguments, np.ndarray, torch.as_tensor)
    # As leaves, tensors follow the device and dtype of the problem, and parameters among them are trained.
    return Variable(operation=Operation(function, *replace(arguments, Tensor, lambda t: Variable(value=t))))


def _infix(function: Callable[[Any, Any], Any]) -> Any:
    def method(self: Variable, other: Any) -> Variable:
        return symbolic_function(function, (self, other), None)

    return method


def _reflected(function: Callable[[Any, Any], Any]) -> Any:
    def method(self: Variable, other: Any) -> Variable:
        return symbolic_function(function, (other, self), None)

    return method


def _prefix(function: Callable[[Any], Any]) -> Any:
    def method(self: Variable) -> Variable:
        return symbolic_function(function, (self,), None)

    return method


def _comparison(sign: str) -> Any:
    def method(self: Variable, other: Any) -> Constraint:
        from slimgraph.symbolic.constraint import compare

        return compare(self, sign, other)

    return method


# What a comparison with a tensor on the left means for the Variable on its right.
_TENSOR_COMPARISONS = {
    torch.Tensor.le: ">=",
    torch.Tensor.lt: ">",
    torch.Tensor.ge: "<=",
    torch.Tensor.gt: "<",
    torch.Tensor.eq: "==",
}


class Variable(Drawable):
    """An expression over the keys of a batch; `variable` makes the leaves, torch functions and operators the rest.

    Its value for a batch is exactly that of the torch code it was written as. Comparing makes a `Constraint`,
    `minimize` an `Objective`.

    >>> from slimgraph import variable
    >>> x, y = variable("x"), variable("y")
    >>> f = (1 - x) ** 2 + torch.sub(y, 2.)
    >>> f
    (1 - x)^2 + sub(y, 2.0)
    >>> f({"x": torch.tensor([3.]), "y": torch.tensor([5.])})
    tensor([7.])
    >>> f <= 2
    (1 - x)^2 + sub(y, 2.0) <= 2
    """

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # `array * variable` arrives here; it means the operator.
        if method == "__call__" and not kwargs and (meant := operator_of(ufunc.__name__)) is not None:
            return meant(*map(plain, inputs))
        raise ExpressionError(f"{advice(ufunc.__name__)} for {self!r}")

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise ExpressionError(f"{advice(func.__name__)} for {self!r}")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise ExpressionError(f"{self!r} is no array: it has a value only for a batch of data")

    def __init__(
        self,
        *,
        input_key: str | None = None,
        value: Tensor | complex | None = None,
        operation: Operation | None = None,
        display_name: str | None = None,
    ) -> None:
        self.input_key = input_key
        self.value = value
        self.operation = operation
        self.display_name = display_name
        self._identity = _Identity()

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The data key it reads, its display name, or the text of the expression: the same in every process."""
        return self.input_key or self.display_name or expression_text(self)

    @property
    def keys(self) -> list[str]:
        """The data keys that its value depends on, in the order in which they are written."""
        return list(dict.fromkeys(v.input_key for v in in_order([self]) if v.input_key is not None))

    def __repr__(self) -> str:
        return expression_text(self)

    def __call__(self, data: dict[str, Tensor]) -> Tensor:
        """Its value for a batch; nothing is written into `data`. Raises MissingKeyError for a key that is not there."""
        if not isinstance(data, Mapping):
            raise ExpressionError(f"{self!r} takes a dict of tensors; got {type(data).__name__}")
        return self._plan(data)[0]

    @property
    def _plan(self) -> Any:
        # No cached_property: Python 3.11's takes a lock, which torch.compile cannot trace.
        if "_made_plan" not in self.__dict__:
            from slimgraph.symbolic.plan import Plan

            if torch.compiler.is_compiling():
                raise ExpressionError("torch.compile takes Plan([expression]), or an expression that was called before")
            self.__dict__["_made_plan"] = Plan([self])
        return self.__dict__["_made_plan"]

    def to_networkx(self) -> Any:
        """The expression as a networkx MultiDiGraph from leaves to result."""
        from slimgraph.symbolic.text import expression_graph

        return expression_graph(self)

    # ---- what can be made of it -------------------------------------------------------------------------------------

    def minimize(
        self, metric: Callable[..., Tensor] = torch.mean, weight: float = 1.0, name: str | None = None
    ) -> Objective:
        """The objective `weight * metric(self)`."""
        from slimgraph.symbolic.objective import Objective

        return Objective(self, metric, weight, name)

    def grad(self, other: Variable) -> Variable:
        """The gradient of its sum with respect to `other`: an expression of `other`'s shape, to be derived again."""
        if not isinstance(other, Variable):
            raise ExpressionError(f"{self!r} can be derived by a Variable; got {type(other).__name__}: {other!r}")
        return Variable(operation=Operation(gradient, (self, other)))

    def with_name(self, name: str) -> Variable:
        """The same expression under `name`, which then stands for it in texts, reports and pictures."""
        if not (isinstance(name, str) and name):
            raise ExpressionError(f"a name is a text that is not empty; got {name!r}")
        if self.input_key is not None:
            raise ExpressionError(
                f"{self!r} is read from the data under that key; write variable({name!r}) for another"
            )
        return Variable(value=self.value, operation=self.operation, display_name=name)

    def _repr_latex_(self) -> str:
        from slimgraph.symbolic.latex import latex

        return f"${latex(self)}$"

    def between(self, lower: Any, upper: Any) -> tuple[Constraint, Constraint]:
        """The two constraints `self >= lower` and `self <= upper`."""
        return self >= lower, self <= upper

    def unpack(self, count: int | Sequence[str]) -> tuple[Variable, ...]:
        """The entries `self[0] ... self[count - 1]` of a tuple or of the first axis, named if names are given."""
        names = [None] * count if isinstance(count, int) else count
        return tuple(
            Variable(operation=Operation(operator.getitem, (self, place)), display_name=name)
            for place, name in enumerate(names)
        )

    # ---- torch and Python on it -------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        # `tensor <= x` reaches us here, as a method of Tensor; it means the same as `x >= tensor`.
        if (sign := _TENSOR_COMPARISONS.get(func)) is not None:
            return _comparison(sign)(args[1], args[0])
        name = getattr(func, "__name__", "")
        # torch's own Python functions hand on out=None.
        writes = kwargs and (kwargs.get("inplace") or kwargs.get("out") is not None)
        if writes or (name.endswith("_") and not name.endswith("__")):
            raise ExpressionError(
                f"{name} changes a tensor in place, and an expression has no tensor yet; write a = a + x instead of "
                f"a += x, and torch.{name.rstrip('_')} instead of {name}"
            )
        return symbolic_function(operator.pow if name == "pow" and not kwargs else func, args, kwargs)

    __add__, __radd__ = _infix(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _infix(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _infix(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _infix(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _infix(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _infix(operator.mod), _reflected(operator.mod)
    __pow__, __rpow__ = _infix(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _infix(operator.matmul), _reflected(operator.matmul)
    __getitem__ = _infix(operator.getitem)
    __neg__, __abs__ = _prefix(operator.neg), _prefix(operator.abs)
    T, mT = property(_prefix(operator.attrgetter("T"))), property(_prefix(operator.attrgetter("mT")))
    __le__, __lt__ = _comparison("<="), _comparison("<")
    __ge__, __gt__ = _comparison(">="), _comparison(">")
    __eq__ = _comparison("==")

    def __ne__(self, other: Any) -> bool:
        if isinstance(other, Variable):
            return self is not other
        raise ExpressionError(
            f"{self!r} != {other!r} is no constraint; for its truth write torch.ne({self!r}, {other!r})"
        )

    def __xor__(self, other: Any) -> Variable:
        raise ExpressionError(f"a power is written {self!r} ** {other!r}; ^ is the norm of a constraint")

    # A class that defines __eq__ loses __hash__, and Variables are kept in sets and dicts.
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise ExpressionError(f"the expression {self!r} has no truth value; it has a value only for a batch of data")

    def __iter__(self) -> Iterator[Variable]:
        raise ExpressionError(f"the length of {self!r} is not known; write {self!r}.unpack(n) for its first n entries")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a Variable has no attribute {name!r}")
        if callable(getattr(torch, name, None)):
            raise AttributeError(f"a Variable has no method {name!r}; write torch.{name}({self!r})")
        raise AttributeError(f"{self!r} has no {name!r}: it has a value only for a batch of data")

    # ---- copies and pickles -----------------------------------------------------------------------------------------

    def __copy__(self) -> Variable:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # As a flat table: a nested pickle of a long expression would end in a RecursionError.
        order = in_order([self])
        place = {variable: _Place(i) for i, variable in enumerate(order)}
        table = [
            (
                v._identity,
                v.input_key,
                v.value,
                v.display_name,
                replace(_parts(v.operation), Variable, place.__getitem__),
            )
            for v in order
        ]
        return _from_table, (table,)


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands in a pickled table for the Variable of that row."""

    row: int


class _Identity:
    """What tells, in a copy of several expressions, that a Variable of one is also a Variable of another."""

    copy: Variable | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Identity, ()


def _parts(operation: Operation | None) -> Any:
    return None if operation is None else (operation.function, operation.args, operation.kwargs)


def _from_table(table: list[tuple[Any, ...]]) -> Variable:
    rows: list[Variable] = []
    for identity, input_key, value, display_name, parts in table:
        if identity.copy is None:
            operation = None if parts is None else Operation(*replace(parts, _Place, lambda place: rows[place.row]))
            made = Variable(input_key=input_key, value=value, operation=operation, display_name=display_name)
            made._identity, identity.copy = identity, made
        rows.append(identity.copy)
    return rows[-1]
