"""How expressions are copied and pickled: as a flat table, since a nested pickle of a long one would never end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slimgraph.symbolic.walk import Operation, in_order, replace

if TYPE_CHECKING:
    from slimgraph.symbolic.expression import Variable


@dataclass(frozen=True, slots=True)
class _Place:
    """Stands in a pickled table for the Variable of that row."""

    row: int


class Identity:
    """What tells, in a copy of several expressions, that a Variable of one is also a Variable of another."""

    copy: Variable | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Identity, ()


def as_table(root: Variable) -> list[tuple[Any, ...]]:
    """Every Variable under `root` as a row, operands before the operations on them."""
    order = in_order([root])
    place = {variable: _Place(row) for row, variable in enumerate(order)}
    return [
        (v._identity, v.input_key, v.value, v.display_name, replace(_parts(v.operation), type(root), place.__getitem__))
        for v in order
    ]


def _parts(operation: Operation | None) -> Any:
    return None if operation is None else (operation.function, operation.args, operation.kwargs)


def from_table(table: list[tuple[Any, ...]]) -> Variable:
    """The expression of that table; what another table of the same copy made already is taken from there."""
    from slimgraph.symbolic.expression import Variable

    rows: list[Variable] = []
    for identity, input_key, value, display_name, parts in table:
        if identity.copy is None:
            operation = None if parts is None else Operation(*replace(parts, _Place, lambda place: rows[place.row]))
            made = Variable(input_key=input_key, value=value, operation=operation, display_name=display_name)
            made._identity, identity.copy = identity, made
        rows.append(identity.copy)
    return rows[-1]
