"""Variable: an expression over the keys of a batch, written like torch and evaluated later.

An expression is a plain graph of Variables. A leaf reads a data key, holds a trainable parameter or a constant; any
other Variable is an operation: a function with arguments among which stand further Variables. Nothing is computed and
nothing is registered anywhere until a `Plan` is made of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.doors import Drawable
from slimgraph.errors import ExpressionError, OptionError, did_you_mean
from slimgraph.symbolic.arrays import advice, operator_of, plain
from slimgraph.symbolic.copies import Identity, as_table, from_table
from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.operators import Operators, compared
from slimgraph.symbolic.planned import Planned
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


# What a comparison with a tensor on the left means for the Variable on its right.
_TENSOR_COMPARISONS = {
    torch.Tensor.le: ">=",
    torch.Tensor.lt: ">",
    torch.Tensor.ge: "<=",
    torch.Tensor.gt: "<",
    torch.Tensor.eq: "==",
}
# `tensor + x` reaches us as a method of Tensor; it means the operator.
_TENSOR_OPERATORS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.add: operator.add,
    torch.Tensor.sub: operator.sub,
    torch.Tensor.mul: operator.mul,
    torch.Tensor.div: operator.truediv,
    torch.Tensor.__floordiv__: operator.floordiv,
    torch.Tensor.remainder: operator.mod,
    torch.Tensor.pow: operator.pow,
    torch.Tensor.__pow__: operator.pow,
    torch.pow: operator.pow,
    torch.Tensor.matmul: operator.matmul,
    torch.Tensor.__and__: operator.and_,
    torch.Tensor.__or__: operator.or_,
    torch.Tensor.__getitem__: operator.getitem,
}


class Variable(Operators, Planned, Drawable):
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
        self._identity = Identity()

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
        return self._values(data)[0]

    @property
    def expressions(self) -> list[Variable]:
        return [self]

    @property
    def _who(self) -> str:
        return f"expression {self!r}"

    def _expression(self, function: Callable[..., Any], *args: Any) -> Variable:
        return symbolic_function(function, args, None)

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
        if isinstance(lower, int | float) and isinstance(upper, int | float) and not lower <= upper:
            raise OptionError(f"{self!r}.between(lower, upper) needs lower <= upper; got {lower} and {upper}")
        return self >= lower, self <= upper

    def unpack(self, count: int | Sequence[str]) -> tuple[Variable, ...]:
        """The entries `self[0] ... self[count - 1]` of a tuple or of the first axis, named if names are given."""
        names: Any = count
        if isinstance(count, int) and not isinstance(count, bool):
            names = [None] * count
        elif not (isinstance(count, list | tuple) and all(isinstance(name, str) and name for name in count)):
            names = None
        if not names:
            raise ExpressionError(f"{self!r} is unpacked by a count >= 1 or a list of names; got {count!r}")
        return tuple(
            Variable(operation=Operation(operator.getitem, (self, place)), display_name=name)
            for place, name in enumerate(names)
        )

    # ---- torch and Python on it -------------------------------------------------------------------------------------

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        # `tensor <= x` reaches us here, as a method of Tensor; it means the same as `x >= tensor`.
        if (sign := _TENSOR_COMPARISONS.get(func)) is not None:
            return compared(args[1], sign, args[0])
        name = getattr(func, "__name__", "")
        # torch's own Python functions hand on out=None.
        writes = name == "__setitem__" or (kwargs and (kwargs.get("inplace") or kwargs.get("out") is not None))
        if writes or (name.endswith("_") and not name.endswith("__")):
            raise ExpressionError(
                f"{name} changes a tensor in place, and an expression has no tensor yet; write "
                + (
                    "torch.where or torch.cat instead of a[i] = x"
                    if name == "__setitem__"
                    else f"a = a + x instead of a += x, and torch.{name.rstrip('_')} instead of {name}"
                )
            )
        return symbolic_function(func if kwargs else _TENSOR_OPERATORS.get(func) or func, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"a Variable has no attribute {name!r}")
        if not hasattr(torch.Tensor, name):
            hint = did_you_mean(name, (own for own in dir(type(self)) if not own.startswith("_")))
            raise AttributeError(f"a Variable has no attribute {name!r}.{hint}")
        if callable(getattr(torch, name, None)):
            raise AttributeError(f"a Variable has no method {name!r}; write torch.{name}({self!r})")
        if name in ("values", "indices"):
            raise AttributeError(f"{self!r} has no {name!r}; write [0] and [1], or .unpack(2), for torch's pairs")
        raise AttributeError(
            f"{self!r} has no {name!r}: it has a value only for a batch of data; a function or module that needs it is "
            "written variable([inputs], function)"
        )

    # ---- copies and pickles -----------------------------------------------------------------------------------------

    def __copy__(self) -> Variable:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return from_table, (as_table(self),)
