"""Where expressions begin: `variable` in its six forms, and constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import ExpressionError
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.walk import Operation


def variable(*args: Any, key: str | None = None, display_name: str | None = None) -> Variable:
    """A Variable, in the six forms that neuromancer's users know.

    - `variable("x")`: the input that reads data key `x`;
    - `variable()` or `variable(display_name="k")`: a trainable scalar, shape `(1,)`, normally distributed;
    - `variable(2, 3)` or `variable((2, 3))`: a trainable tensor of that size;
    - `variable(tensor)`: that tensor; trainable if it is a Parameter or requires a gradient, else constant;
    - `variable([x, y], function)`: a function of Variables or keys;
    - any of them with `display_name`, which names it in pictures, reports and the state dict.

    Raises ExpressionError for anything else, a bare float among it.

    >>> a = variable(torch.tensor([2.]), display_name="a")
    >>> variable(["x", a], lambda x, a: a * x, display_name="ax")({"x": torch.tensor([3.])})
    tensor([6.])
    """
    for name in (key, display_name, *(arg for arg in args if isinstance(arg, str))):
        if name is not None and not (isinstance(name, str) and name):
            raise ExpressionError(f"a key or display name is a text that is not empty; got {name!r}")
    if key is not None and args and isinstance(args[0], str):
        raise ExpressionError(f"variable takes one key; got {args[0]!r} and key={key!r}")
    match args:
        case [] if key is not None:
            return Variable(input_key=key, display_name=display_name)
        case [str(name)]:
            return Variable(input_key=name, display_name=display_name)
        case [Tensor() as tensor]:
            if not tensor.is_leaf:
                raise ExpressionError("variable takes a tensor that was not computed from others; write .detach()")
            trainable = tensor.requires_grad and not isinstance(tensor, nn.Parameter)
            return Variable(value=nn.Parameter(tensor) if trainable else tensor, display_name=display_name or key)
        case [list() | tuple() as inputs, function] if callable(function):
            given = tuple(v if isinstance(v, Variable) else variable(v) for v in inputs)
            return Variable(operation=Operation(function, given), display_name=display_name or key)
        case [tuple() as size] | size if all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size):
            value = nn.Parameter(torch.randn(size or (1,)))
            return Variable(value=value, display_name=display_name or key)
    raise ExpressionError(
        "variable takes a key, sizes, a tensor, or inputs and a function; got "
        f"({', '.join(map(repr, args))}). For a constant write the number itself, or variable(torch.tensor(...))"
    )


def as_expression(thing: Any) -> Variable:
    """`thing` as a Variable: itself, or a constant."""
    if isinstance(thing, Variable):
        return thing
    if isinstance(thing, Tensor):
        return Variable(value=thing)
    if hasattr(thing, "__array__"):
        return Variable(value=torch.as_tensor(thing))
    if isinstance(thing, int | float | complex):
        # A plain number, not a tensor: it takes part in torch's dtype promotion as a Python number does.
        return Variable(value=thing)
    raise ExpressionError(f"expected an expression, a tensor or a number; got {type(thing).__name__}: {thing!r}")
