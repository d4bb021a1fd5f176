"""The component graph: modules and the wires between them, down to the weights; `as_graph()` gives it everywhere."""

from __future__ import annotations

from slimgraph.graph.connect import connect_modules, replace_module
from slimgraph.graph.convert import chain, dense, module_graph, rename, wires
from slimgraph.graph.kinds import AliasConnection, GenericNeurons, LinearWeights, RateNeurons
from slimgraph.graph.parts import GraphHolder, GraphModule, GraphModuleBase, as_GraphHolder
from slimgraph.graph.walk import bag_graph, find_modules_of_subclass, find_recurrent_modules
from slimgraph.graph.wires import GraphNode

__all__ = [
    "AliasConnection",
    "GenericNeurons",
    "GraphHolder",
    "GraphModule",
    "GraphModuleBase",
    "GraphNode",
    "LinearWeights",
    "RateNeurons",
    "as_GraphHolder",
    "bag_graph",
    "chain",
    "connect_modules",
    "dense",
    "find_modules_of_subclass",
    "find_recurrent_modules",
    "module_graph",
    "rename",
    "replace_module",
    "wires",
]
