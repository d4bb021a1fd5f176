"""Walks over a component graph: everything in it, the modules of one class, those on a cycle."""

from __future__ import annotations

from typing import Any

from slimgraph.errors import OptionError
from slimgraph.graph.kinds import AliasConnection
from slimgraph.graph.parts import GraphModule, GraphModuleBase
from slimgraph.graph.wires import GraphNode, Members


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
    modules = Members([] if graph.is_holder else [graph])
    nodes = Members()
    near: list[GraphNode] = [*graph.input_nodes, *graph.output_nodes]
    for wire in near:
        if wire in nodes:
            continue
        nodes.add(wire)
        new = [m for side in (wire.source_modules, wire.sink_modules) for m in side if m not in modules]
        for module in new:
            if module not in modules:
                modules.add(module)
                near += [*module.input_nodes, *module.output_nodes]
    return list(nodes), list(modules)


def find_modules_of_subclass(graph: Any, cls: type | tuple[type, ...]) -> list[Any]:
    """The modules of `graph` that are a `cls`, in the order of `bag_graph`.

    >>> find_modules_of_subclass(GraphModule.of_size(1, 1, name="a"), GraphModule)
    [GraphModule 'a' (1 -> 1)]
    """
    if not all(isinstance(one, type) for one in (cls if isinstance(cls, tuple) else (cls,))):
        raise OptionError(f"find_modules_of_subclass needs a class, or a tuple of classes, got {cls!r}")
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

    _, modules = bag_graph(graph)
    flow: Any = nx.DiGraph()
    for module in modules:
        for place, wire in enumerate(module.input_nodes):
            flow.add_edge(id(wire), _inside(module, place))
        for place, wire in enumerate(module.output_nodes):
            flow.add_edge(_inside(module, place), id(wire))
    # A module and a wire that it both reads and writes are a cycle of two.
    cycles = (part for part in nx.strongly_connected_components(flow) if len(part) > 1)
    on_cycle = set().union(*cycles)
    return [m for m in modules if any(_inside(m, place) in on_cycle for place in range(max(m.size_in, 1)))]


def _inside(module: GraphModule, place: int) -> Any:
    """What the wire at `place` meets: the module, or in an alias, which keeps its wires apart, that one connection."""
    return (id(module), place) if isinstance(module, AliasConnection) else id(module)
