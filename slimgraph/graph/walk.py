"""Walks over a component graph: everything in it, the modules of one class, those on a cycle."""

from __future__ import annotations

from typing import Any

from slimgraph.errors import OptionError
from slimgraph.graph.parts import GraphModule, GraphModuleBase
from slimgraph.graph.wires import GraphNode


def bag_graph(graph: Any) -> tuple[list[GraphNode], list[GraphModule]]:
    """The wires and the modules that hang together with `graph`, each once, breadth first from its inputs.

    Links are followed both ways. Holders are no modules: what they hold is found, they are not. Raises `OptionError`
    for what is no graph.

    >>> from slimgraph.graph import connect_modules
    >>> a, b = GraphModule.of_size(1, 2, name="a"), GraphModule.of_size(2, 1, name="b")
    >>> connect_modules(a, b)
    >>> nodes, modules = bag_graph(b)
    >>> len(nodes), modules
    (4, [GraphModule 'b' (2 -> 1), GraphModule 'a' (1 -> 2)])
    """
    if not isinstance(graph, GraphModuleBase):
        raise OptionError(f"a graph to walk is a GraphModule or a GraphHolder, got {type(graph).__name__}: {graph!r}")
    first = [] if graph.is_holder else [graph]
    modules: dict[int, Any] = {id(module): module for module in first}
    nodes: dict[int, GraphNode] = {}
    near: list[GraphNode] = [*graph.input_nodes, *graph.output_nodes]
    for wire in near:
        if id(wire) in nodes:
            continue
        nodes[id(wire)] = wire
        for side in (wire.source_modules, wire.sink_modules):
            for module in side:
                if id(module) not in modules:
                    modules[id(module)] = module
                    near += module.input_nodes
                    near += module.output_nodes
    return list(nodes.values()), list(modules.values())


def find_modules_of_subclass(graph: Any, cls: type | tuple[type, ...]) -> list[Any]:
    """The modules of `graph` that are a `cls`, in the order of `bag_graph`.

    >>> find_modules_of_subclass(GraphModule.of_size(1, 1, name="a"), GraphModule)
    [GraphModule 'a' (1 -> 1)]
    """
    return [module for module in bag_graph(graph)[1] if isinstance(module, cls)]


def find_recurrent_modules(graph: Any) -> list[GraphModule]:
    """The modules of `graph` that lie on a cycle of any length: that hear, through others or at once, themselves.

    >>> from slimgraph.graph import connect_modules
    >>> a, b = GraphModule.of_size(1, 1, name="a"), GraphModule.of_size(1, 1, name="b")
    >>> connect_modules(a, b)
    >>> connect_modules(b, b)
    >>> find_recurrent_modules(a)
    [GraphModule 'b' (1 -> 1)]
    """
    import networkx as nx

    nodes, modules = bag_graph(graph)
    flow: Any = nx.DiGraph()
    for module in modules:
        flow.add_edges_from((id(wire), id(module)) for wire in module.input_nodes)
        flow.add_edges_from((id(module), id(wire)) for wire in module.output_nodes)
    # A module and a wire that it both reads and writes are a cycle of two.
    cycles = (part for part in nx.strongly_connected_components(flow) if len(part) > 1)
    on_cycle = set().union(*cycles)
    return [module for module in modules if id(module) in on_cycle]
