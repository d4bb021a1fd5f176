"""An expression as one line of text, and as a networkx graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slimgraph.symbolic.walk import Operation, in_order, operands

if TYPE_CHECKING:
    import networkx as nx

    from slimgraph.symbolic.expression import Variable

# A text longer than this is of no use to a reader; an expression that uses its parts often may have an endless one.
LONGEST = 400

# Python's own binding strengths.
INFIX = {
    operator.add: ("+", 1),
    operator.sub: ("-", 1),
    operator.mul: ("*", 2),
    operator.truediv: ("/", 2),
    operator.floordiv: ("//", 2),
    operator.mod: ("%", 2),
    operator.matmul: ("@", 2),
    operator.pow: ("^", 4),
    operator.le: ("<=", 0),
    operator.lt: ("<", 0),
    operator.ge: (">=", 0),
    operator.gt: (">", 0),
    operator.eq: ("==", 0),
    # `tensor - x` reaches us as a method of Tensor.
    torch.Tensor.add: ("+", 1),
    torch.Tensor.sub: ("-", 1),
    torch.Tensor.mul: ("*", 2),
    torch.Tensor.div: ("/", 2),
    torch.Tensor.matmul: ("@", 2),
}
NEGATION, ATOM = 3, 5


def expression_text(root: Variable) -> str:
    """The expression in the notation it was written in, with `^` for powers.

    >>> from slimgraph import variable
    >>> x = variable("x")
    >>> expression_text(2 * (x + 1) ** 2 - torch.sin(x)[:, 0])
    '2 * (x + 1)^2 - sin(x)[:, 0]'
    """
    return _texts(root)[root][0]


def _texts(root: Variable) -> dict[Variable, tuple[str, int]]:
    """Text and binding strength of every Variable under `root`."""
    texts: dict[Variable, tuple[str, int]] = {}
    for variable in in_order([root]):
        text, strength = _text(variable, texts)
        texts[variable] = (text if len(text) <= LONGEST else text[: LONGEST - 3] + "...", strength)
    return texts


def _text(variable: Variable, texts: dict[Variable, tuple[str, int]]) -> tuple[str, int]:
    if variable.input_key is not None:
        return variable.input_key, ATOM
    if variable.display_name is not None:
        return variable.display_name, ATOM
    if variable.operation is None:
        return leaf_text(variable.value), ATOM
    return _operation_text(variable.operation, lambda thing: _argument(thing, texts))


def _operation_text(operation: Operation, show: Callable[[Any], tuple[str, int]]) -> tuple[str, int]:
    function, args = operation.function, operation.args
    if function in INFIX and len(args) == 2 and not operation.kwargs:
        sign, strength = INFIX[function]
        (left, left_strength), (right, right_strength) = show(args[0]), show(args[1])
        power = sign == "^"
        # Everything groups from the left here; a grouping on the right shows its parentheses.
        left = f"({left})" if left_strength < strength or (power and left_strength == strength) else left
        right = f"({right})" if right_strength <= strength else right
        return (f"{left}^{right}" if power else f"{left} {sign} {right}"), strength
    if function is operator.neg:
        text, strength = show(args[0])
        return f"-{text}" if strength >= NEGATION else f"-({text})", NEGATION
    if function is operator.getitem:
        text, strength = show(args[0])
        place = args[1] if isinstance(args[1], tuple) else (args[1],)
        return f"{text if strength == ATOM else f'({text})'}[{', '.join(show(p)[0] for p in place)}]", ATOM
    if isinstance(function, operator.attrgetter):
        text, strength = show(args[0])
        return f"{text if strength == ATOM else f'({text})'}.{function.__reduce__()[1][0]}", ATOM
    shown = [show(arg)[0] for arg in args] + [f"{key}={show(value)[0]}" for key, value in operation.kwargs.items()]
    return f"{function_name(function)}({', '.join(shown)})", ATOM


def _argument(thing: Any, texts: dict[Variable, tuple[str, int]]) -> tuple[str, int]:
    from slimgraph.symbolic.expression import Variable

    if isinstance(thing, Variable):
        return texts[thing]
    if isinstance(thing, slice):
        parts = ["" if part is None else _argument(part, texts)[0] for part in (thing.start, thing.stop, thing.step)]
        return ":".join(parts[: 2 + (thing.step is not None)]), ATOM
    if isinstance(thing, list | tuple):
        inner = ", ".join(_argument(item, texts)[0] for item in thing)
        return (f"[{inner}]" if isinstance(thing, list) else f"({inner})"), ATOM
    if thing is Ellipsis:
        return "...", ATOM
    if isinstance(thing, int | float) and thing < 0:
        return str(thing), NEGATION
    return leaf_text(thing), ATOM


def leaf_text(value: Any) -> str:
    """A constant or parameter in a few characters: its numbers when they are few, else its shape."""
    if not isinstance(value, Tensor):
        return str(value)
    if value.requires_grad:
        return f"parameter{tuple(value.shape)}"
    if value.numel() <= 3:
        return str(value.tolist())
    return f"tensor{tuple(value.shape)}"


def function_name(function: Callable[..., Any]) -> str:
    """The name a reader knows a function by; a lambda is `f`, a module its class."""
    name = getattr(function, "__name__", type(function).__name__)
    return "f" if name == "<lambda>" else name.strip("_")


def expression_graph(root: Variable) -> nx.MultiDiGraph:
    """The expression as a networkx graph of leaves and operations, numbered from the leaves up."""
    import networkx as nx

    graph, places = nx.MultiDiGraph(), {}
    for place, variable in enumerate(in_order([root])):
        places[variable] = str(place)
        is_leaf = variable.operation is None
        kind = "operation" if not is_leaf else "data" if variable.input_key is not None else "variable"
        graph.add_node(str(place), kind=kind, label=_own_label(variable))
        for operand in operands(variable):
            graph.add_edge(places[operand], str(place))
    return graph


def _own_label(variable: Variable) -> str:
    """What a Variable adds to its operands: the sign or function name, or the text of a leaf."""
    if variable.operation is None or variable.display_name is not None:
        return expression_text(variable)
    function = variable.operation.function
    return INFIX[function][0] if function in INFIX else function_name(function)
