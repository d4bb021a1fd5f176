"""How an expression hangs together: operations, what stands in their arguments, and the order from leaves to result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slimgraph.symbolic.expression import Variable


@dataclass(frozen=True, slots=True)
class Operation:
    """A function and its arguments, in which Variables may stand anywhere, in lists and slices too."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


def replace(thing: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """`thing` with every instance of `kind` in it, at any depth of lists, tuples, dicts and slices, replaced."""
    if isinstance(thing, kind):
        return by(thing)
    if isinstance(thing, tuple | list):
        items = [replace(item, kind, by) for item in thing]
        return type(thing)(*items) if hasattr(thing, "_fields") else type(thing)(items)
    if isinstance(thing, dict):
        return {key: replace(value, kind, by) for key, value in thing.items()}
    if isinstance(thing, slice):
        return slice(*(replace(part, kind, by) for part in (thing.start, thing.stop, thing.step)))
    return thing


def operands(variable: Variable) -> list[Variable]:
    """The Variables that an operation is made of, in the order in which they are written; none for a leaf."""
    found: list[Variable] = []
    if variable.operation is not None:
        replace((variable.operation.args, variable.operation.kwargs), type(variable), found.append)
    return found


def in_order(roots: Sequence[Variable]) -> list[Variable]:
    """Every Variable under `roots`, once, operands before the operations on them. Not recursive: chains may be long."""
    done: dict[Variable, None] = {}
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        variable, opened = stack.pop()
        if variable in done:
            continue
        if opened:
            done[variable] = None
        else:
            stack.append((variable, True))
            stack.extend((operand, False) for operand in reversed(operands(variable)))
    return list(done)
