"""A Problem as a node of another Problem or of a System: its nodes, without its loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from torch import Tensor

from slimgraph import wiring
from slimgraph.errors import OptionError
from slimgraph.node import Node
from slimgraph.system import System


class Nested:
    """What lets a Problem stand where a node stands."""

    run_order: Any

    @property
    def node_input_keys(self) -> list[str]:
        """What its nodes alone read from outside: `input_keys` without what only the terms of the loss read."""
        return wiring.read_first(self.run_order)

    @property
    def output_keys(self) -> list[str]:
        """Every key that its nodes write."""
        return list(wiring.writers(self.run_order))

    def run(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of its nodes, without the loss: what another Problem runs."""
        data = self._run_nodes(dict(data))
        return {key: data[key] for key in self.output_keys}

    def _run_nodes(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """`data`, with the outputs of all nodes added."""
        for node in self.run_order:
            data |= node.run(data)
        return data

    def as_node(self) -> Node:
        """The node that it is in a list of nodes: all that its nodes read and write, under their own keys.

        Its loss and its `reg_weight` are left out; the maps in it count in the reg_loss of the outer problem.
        """
        return Node(self, self.node_input_keys, self.output_keys)  # pyright: ignore[reportArgumentType]


def refuse_inside(nodes: Iterable[Any], keys: Collection[str], what: str) -> None:
    """Raises OptionError for one of `keys` that a nested Problem writes and reads, out of reach."""
    for node in nodes:
        for key in node.output_keys:
            if key in keys and isinstance(getattr(node, "callable", None), Nested) and reads_inside(node, key):
                raise OptionError(
                    f"{what} {key!r}, which the Problem in {node.title} writes and reads inside; "
                    "put its own nodes, *inner.nodes, in its place"
                )


def reads_inside(node: Any, key: str) -> bool:
    """Whether `key`, an output of `node`, is also read between the nodes that it holds, at any depth."""
    inner = getattr(node, "callable", None)
    if inner is not None and getattr(node, "inner_keys", None) is not None:
        if key not in node.output_keys:
            return False
        return reads_inside(inner, node.inner_keys[1][node.output_keys.index(key)])
    return any(key in part.input_keys or reads_inside(part, key) for part in getattr(node, "nodes", ()))


def refuse_hidden_derivatives(run_order: Sequence[Any], derivatives: Iterable[tuple[list[str], str]]) -> None:
    """Raises OptionError for a derivative, keys read by y and the key x, whose way from x to y lies inside one node.

    What a System, a Subgraph or a nested Problem gives under x is not what its own nodes read: the derivative by it
    would be 0 without a word. What is computed from x afterwards can be derived.
    """
    for y_keys, x in derivatives:
        writers = [node for node in run_order if x in node.output_keys]
        if not writers or not reads_inside(writers[-1], x):
            continue
        needed = {*y_keys} - {x}
        for node in reversed(run_order):
            found = sorted(needed.intersection(node.output_keys))
            if found and node is writers[-1]:
                raise OptionError(f"the loss cannot derive {found[0]!r} by {x!r}: {_why(node)}")
            if found:
                needed = (needed - {*node.output_keys}) | ({*node.input_keys} - {x})


def _why(node: Any) -> str:
    """Why no derivative leads through `node`, and what to do."""
    inner = getattr(node, "callable", None)
    kind = type(node if inner is None else inner)
    who = f"the {kind.__name__} {node.label!r}" if inner is None else f"the {kind.__name__} in {node.title}"
    # The nodes of a System see one step; outside it they would see the whole series.
    advice = (
        "write the derivative as one of its nodes, or derive by what it reads from outside"
        if issubclass(kind, System)
        else "put its own nodes, *inner.nodes, in its place"
    )
    return f"{who} writes both and leads from one to the other inside, out of reach; {advice}"
