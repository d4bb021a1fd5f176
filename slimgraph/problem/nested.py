"""A Problem as a node of another Problem or of a System: its nodes, without its loss."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

from slimgraph import wiring
from slimgraph.errors import OptionError
from slimgraph.node import Node


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
        inner = getattr(node, "callable", None)
        if not isinstance(inner, Nested):
            continue
        for key, own in zip(node.output_keys, node.inner_keys[1], strict=True):
            if key in keys and any(own in part.input_keys for part in inner.run_order):
                raise OptionError(
                    f"{what} {key!r}, which the Problem in {node.title} writes and reads inside; "
                    "put its own nodes, *inner.nodes, in its place"
                )
