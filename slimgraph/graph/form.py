"""A component graph in the one networkx form, for analysis and for pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from slimgraph.graph.kinds import AliasConnection, GenericNeurons, LinearWeights
from slimgraph.graph.walk import bag_graph
from slimgraph.graph.wires import GraphNode, Members

KINDS = ((LinearWeights, "weights"), (GenericNeurons, "operation"), (AliasConnection, "operation"))


def to_networkx(graph: Any) -> Any:
    """The whole graph of a module or a holder as a networkx MultiDiGraph, a node a module.

    All wires from one module to another are one edge: `count` says how many, and so does its key where they are
    several. What nobody writes and nobody reads stands as data. A module whose name has dots stands in boxes, and
    `feedback=True` marks the edges that close a loop.

    >>> from slimgraph.graph import GraphModule, connect_modules
    >>> a, b = GraphModule.of_size(1, 3, name="a"), GraphModule.of_size(3, 1, name="b")
    >>> connect_modules(a, b)
    >>> list(to_networkx(a).edges(keys=True))
    [('in:0', '0', ''), ('0', '1', '3 wires'), ('1', 'out:1', '')]
    """
    import networkx as nx

    diagram: Any = nx.MultiDiGraph()
    wires, modules = bag_graph(graph)
    place = {id(module): str(i) for i, module in enumerate(modules)}
    shown = (Members(graph.input_nodes), Members(graph.output_nodes)) if graph.is_holder else (Members(), Members())
    counts: Counter[tuple[str, str]] = Counter()
    sizes: Counter[str] = Counter()
    for wire in wires:
        tails, heads = _ends(wire, place, shown)
        sizes.update((*tails, *heads))
        counts.update((tail, head) for tail in tails for head in heads)
    data = [(end, end.partition(":")[0], size) for end, size in sizes.items() if not end.isdecimal()]
    diagram.add_nodes_from((end, {"kind": "data", "label": f"input ({n})"}) for end, side, n in data if side == "in")
    diagram.add_nodes_from((place[id(module)], _look(module)) for module in modules)
    diagram.add_nodes_from((end, {"kind": "data", "label": f"output ({n})"}) for end, side, n in data if side == "out")
    for (tail, head), count in counts.items():
        diagram.add_edge(tail, head, key=f"{count} wires" if count > 1 else "", count=count)
    for tail, head, key in _closing(diagram):
        diagram.edges[tail, head, key]["feedback"] = True
    return diagram


def _ends(wire: GraphNode, place: dict[int, str], shown: tuple[Members, Members]) -> tuple[list[str], list[str]]:
    """The nodes of the diagram between which `wire` leads: modules, or data where it comes in or goes out."""
    tails = [place[id(module)] for module in wire.source_modules]
    heads = [place[id(module)] for module in wire.sink_modules]
    if wire in shown[0]:
        tails.insert(0, "in")
    elif not tails:
        # Loose wires of one module come from one place.
        tails = ["in:" + ",".join(heads)]
    if wire in shown[1]:
        heads.append("out")
    elif not heads:
        heads = ["out:" + ",".join(end for end in tails)]
    return tails, heads


def _look(module: Any) -> dict[str, Any]:
    kind = next((kind for cls, kind in KINDS if isinstance(module, cls)), "module")
    *boxes, name = (module.name or "").split(".")
    # What computes it says more than the kind of module, which is seen by the shape.
    function = module.computational_module
    what = type(module).__name__ if function is None else getattr(function, "__name__", type(function).__name__)
    title = name if what in ("GraphModule", *name.split("_")) else f"{name}: {what}"
    label = f"{title if name else what}\n{module.size_in} -> {module.size_out}"
    look: dict[str, Any] = {"kind": kind, "label": label, "part": module}
    return look | ({"cluster": tuple(boxes)} if boxes else {})


def _closing(diagram: Any) -> list[tuple[str, str, str]]:
    """The edges that lead back to a node from which a search, begun at the inputs, is still on its way."""
    closing: list[tuple[str, str, str]] = []
    on_way: dict[str, bool] = {}
    first = [node for node in diagram if not diagram.in_degree(node)]
    for start in (*first, *diagram):
        if start in on_way:
            continue
        on_way[start] = True
        trail: list[tuple[str, Iterator[Any]]] = [(start, iter(diagram.out_edges(start, keys=True)))]
        while trail:
            node, edges = trail[-1]
            edge = next(edges, None)
            if edge is None:
                on_way[node] = False
                trail.pop()
            elif edge[1] not in on_way:
                on_way[edge[1]] = True
                trail.append((edge[1], iter(diagram.out_edges(edge[1], keys=True))))
            elif on_way[edge[1]]:
                closing.append(edge)
    return closing
