"""A component graph in the one networkx form, for analysis and for pictures."""

from __future__ import annotations

from typing import Any

from slimgraph.graph.walk import bag_graph


def to_networkx(graph: Any) -> Any:
    raise NotImplementedError
