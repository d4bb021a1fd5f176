"""NodeHolder: what a System, a Problem and a Subgraph do with the nodes that they hold."""

from __future__ import annotations

from typing import Any

from slimgraph import wiring


class NodeHolder:
    """Something with `nodes`, found by name, frozen and trained again together."""

    # nn.ModuleList, whose members the type checker would take for plain modules.
    nodes: Any

    def node(self, name: str) -> Any:
        """The node of that name. Raises UnknownOptionError with the nearest one."""
        return wiring.find(self.nodes, name)

    def freeze(self) -> None:
        """No parameter of the nodes is trained any more."""
        for node in self.nodes:
            node.freeze()

    def unfreeze(self) -> None:
        """Every parameter of the nodes is trained again."""
        for node in self.nodes:
            node.unfreeze()
