"""An expression as one line of text, and as a networkx graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slimgraph.symbolic.walk import Operation, in_order, operands

if TYPE_CHECKING:
    import networkx as nx

    from slimgraph.symbolic.expression import Variable

# A text longer than this is of no use to a reader; an expression that uses its parts often may have an endless one.
LONGEST = 400

# Python's own binding strengths; a fraction is one in LaTeX only.
LOOSE, COMPARISON, OR, AND, SUM, PRODUCT, NEGATION, FRACTION, POWER, ATOM = range(10)
INFIX = {
    operator.le: ("<=", COMPARISON),
    operator.lt: ("<", COMPARISON),
    operator.ge: (">=", COMPARISON),
    operator.gt: (">", COMPARISON),
    operator.eq: ("==", COMPARISON),
    operator.or_: ("|", OR),
    operator.and_: ("&", AND),
    operator.add: ("+", SUM),
    operator.sub: ("-", SUM),
    operator.mul: ("*", PRODUCT),
    operator.truediv: ("/", PRODUCT),
    operator.floordiv: ("//", PRODUCT),
    operator.mod: ("%", PRODUCT),
    operator.matmul: ("@", PRODUCT),
    operator.pow: ("^", POWER),
}
PREFIX = {operator.neg: "-", operator.pos: "+", operator.invert: "~"}
# A name with a space or a sign in it shows as one by its parentheses.
_SIGNS = frozenset(" +-*/%@^<>=&|~,")

Shown = tuple[str, int]


def expression_text(root: Variable) -> str:
    """The expression in the notation it was written in, with `^` for powers.

    >>> import torch
    >>> from slimgraph import variable
    >>> x = variable("x")
    >>> expression_text(2 * (x + 1) ** 2 - torch.sin(x)[:, 0])
    '2 * (x + 1)^2 - sin(x)[:, 0]'
    """
    return _texts(root)[root][0]


def _texts(root: Variable) -> dict[Variable, Shown]:
    """Text and binding strength of every Variable under `root`."""
    texts: dict[Variable, Shown] = {}
    for variable in in_order([root]):
        text, strength = _text(variable, texts)
        texts[variable] = (text, strength) if len(text) <= LONGEST else (text[: LONGEST - 3] + "...", ATOM)
    return texts


def _text(variable: Variable, texts: dict[Variable, Shown]) -> Shown:
    if (name := variable.input_key or variable.display_name) is not None:
        return name, name_strength(name)
    if variable.operation is None:
        return leaf_text(variable.value)
    return _operation_text(variable.operation, lambda thing: _argument(thing, texts))


def _operation_text(operation: Operation, show: Callable[[Any], Shown]) -> Shown:
    function, args = operation.function, operation.args
    if function in INFIX and len(args) == 2 and not operation.kwargs:
        sign, strength = INFIX[function]
        # Everything groups from the left here; a grouping on the right shows its parentheses, so does a chain.
        chained = strength in (POWER, COMPARISON)
        left, right = _within(show(args[0]), strength + chained), _within(show(args[1]), strength + 1)
        return (f"{left}^{right}" if sign == "^" else f"{left} {sign} {right}"), strength
    if function in PREFIX:
        return PREFIX[function] + _within(show(args[0]), NEGATION), NEGATION
    if function is operator.getitem:
        return f"{_within(show(args[0]), ATOM)}[{place_text(args[1], show)}]", ATOM
    if function is getattr:
        return f"{_within(show(args[0]), ATOM)}.{args[1]}", ATOM
    shown = [show(arg)[0] for arg in args] + [f"{key}={show(value)[0]}" for key, value in operation.kwargs.items()]
    return f"{function_name(function)}({', '.join(shown)})", ATOM


def _within(shown: Shown, least: int) -> str:
    text, strength = shown
    return text if strength >= least else f"({text})"


def _argument(thing: Any, texts: dict[Variable, Shown]) -> Shown:
    from slimgraph.symbolic.expression import Variable

    if isinstance(thing, Variable):
        return texts[thing]
    return container_text(thing, lambda inner: _argument(inner, texts)) or leaf_text(thing)


def name_strength(name: str) -> int:
    """How strongly a key or a display name binds: as an atom, unless it looks like an operation."""
    return ATOM if _SIGNS.isdisjoint(name) else LOOSE


def place_text(place: Any, show: Callable[[Any], Shown]) -> str:
    """What stands between the brackets of an index."""
    return show(place)[0][1:-1] if isinstance(place, tuple) and place else show(place)[0]


def container_text(thing: Any, show: Callable[[Any], Shown]) -> Shown | None:
    """A list, a tuple, a dict, a slice or an ellipsis by what stands in it; None for anything else."""
    if isinstance(thing, slice):
        parts = ["" if part is None else show(part)[0] for part in (thing.start, thing.stop, thing.step)]
        return ":".join(parts[: 2 + (thing.step is not None)]), ATOM
    if isinstance(thing, list | tuple):
        inner = ", ".join(show(item)[0] for item in thing)
        return (f"[{inner}]" if isinstance(thing, list) else f"({inner}{',' * (len(thing) == 1)})"), ATOM
    if isinstance(thing, dict):
        return f"dict({', '.join(f'{key}={show(value)[0]}' for key, value in thing.items())})", ATOM
    return ("...", ATOM) if thing is Ellipsis else None


def leaf_text(value: Any) -> Shown:
    """A constant or parameter in a few characters: its numbers when they are few, else its shape."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            text = f"parameter{tuple(value.shape)}"
        else:
            text = str(value.tolist()) if value.numel() <= 3 else f"tensor{tuple(value.shape)}"
    elif isinstance(value, str):
        text = repr(value)
    elif callable(value) and not isinstance(value, type):
        text = function_name(value)
    else:
        # An address would differ from process to process.
        text = type(value).__name__ if " at 0x" in str(value) else str(value)
    return text, NEGATION if text.startswith("-") else ATOM


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
        graph.add_node(str(place), kind=kind, label=_own_label(variable), part=variable)
        for operand in operands(variable):
            graph.add_edge(places[operand], str(place))
    return graph


def _own_label(variable: Variable) -> str:
    """What a Variable adds to its operands: the sign or function name, or the text of a leaf."""
    if variable.operation is None or variable.display_name is not None:
        return expression_text(variable)
    function = variable.operation.function
    if function is getattr:
        return f".{variable.operation.args[1]}"
    return INFIX[function][0] if function in INFIX else PREFIX.get(function) or function_name(function)
