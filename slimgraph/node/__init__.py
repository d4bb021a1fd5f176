"""Nodes: a callable with named inputs and outputs, the unit that computation graphs are made of."""

from __future__ import annotations

from slimgraph.node.keys import describe, key_names, node_list
from slimgraph.node.node import Node

__all__ = ["Node", "describe", "key_names", "node_list"]
