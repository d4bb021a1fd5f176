"""Nodes and terms between their keys, as a networkx graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slimgraph.wiring.keys import names

if TYPE_CHECKING:
    import networkx as nx

_LONG_NUMBER = re.compile(r"(?<![\w.])\d+\.\d{6,}(e[-+]?\d+)?(?![\w.])")


def to_networkx(
    nodes: Sequence[Any],
    terms: Sequence[Any] = (),
    term_names: Sequence[str] = (),
    labels: Sequence[str] | None = None,
) -> nx.MultiDiGraph:
    """Keys, nodes in run order and the terms that read them, as a networkx MultiDiGraph.

    `labels` are the nodes' names in that order, for nodes that were declared in another.

    A node that can be opened, such as a System, stands as a cluster of its own nodes: `inner_graph(label)` gives them
    with the readers of each key that comes from outside and the writer of each that goes out.
    """
    diagram = _Diagram()
    for label, node in zip(names(nodes) if labels is None else labels, nodes, strict=True):
        diagram.add_node(label, node)
    for number, (term, name) in enumerate(zip(terms, term_names, strict=True)):
        diagram.graph.add_node(f"term:{number}", kind=term.kind, label=f"{name}\n{_short(str(term))}", part=term)
        diagram.connect({key: [f"term:{number}"] for key in term.keys})
    diagram.add_unread_results()
    return diagram.graph


def inner_graph(
    nodes: Sequence[Any], labels: Sequence[str]
) -> tuple[nx.MultiDiGraph, dict[str, list[str]], dict[str, str]]:
    """Nodes in run order as a graph, the readers of each key that comes from outside, the last writer of each other."""
    diagram = _Diagram()
    for label, node in zip(labels, nodes, strict=True):
        diagram.add_node(label, node)
    data = [place for place, kind in diagram.graph.nodes(data="kind") if kind == "data"]
    readers = {diagram.graph.nodes[place]["label"]: list(diagram.graph.successors(place)) for place in data}
    diagram.graph.remove_nodes_from(data)
    written = {key: place for key, place in diagram.sources.items() if place in diagram.graph}
    return diagram.graph, readers, written


def _short(text: str) -> str:
    """`text` with its long numbers in six digits: a diagram is read, not computed with."""
    return _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.6g}", text)


class _Diagram:
    """A networkx graph in the making, which knows where each key comes from."""

    def __init__(self) -> None:
        import networkx as nx

        self.graph = nx.MultiDiGraph()
        self.sources: dict[str, str] = {}

    def connect(self, readers: dict[str, list[str]]) -> None:
        """Lead each key from where it comes, or from the data, to its readers."""
        for key, places in readers.items():
            if key not in self.sources:
                self.sources[key] = f"data:{key}"
                self.graph.add_node(self.sources[key], kind="data", label=key)
            for place in places:
                self.graph.add_edge(self.sources[key], place, key=key)

    def add_node(self, label: str, node: Any) -> None:
        place = f"node:{label}"
        readers, written = dict.fromkeys(node.input_keys, [place]), dict.fromkeys(node.output_keys, place)
        if hasattr(node, "inner_graph"):
            inner, readers, written = node.inner_graph(node.name or label)
            self.graph.update(inner.edges(data=True, keys=True), inner.nodes(data=True))
            self.graph.graph.setdefault("boxes", {}).update(inner.graph["boxes"])
        else:
            self.graph.add_node(place, kind=node.kind, label=node.name or node.label, part=node)
        self.connect(readers)
        self.sources.update(written)

    def add_unread_results(self) -> None:
        """What nobody reads in the same step is a result of the whole."""
        for key, place in self.sources.items():
            leaving = self.graph.out_edges(place, keys=True, data="feedback")
            if not any(k == key and not feedback for _, _, k, feedback in leaving):
                self.graph.add_node(f"result:{key}", kind="data", label=key)
                self.graph.add_edge(place, f"result:{key}", key=key)
