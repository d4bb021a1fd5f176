"""The component graphs of nodes and of what holds nodes: keys become bundles of wires, as wide as their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from slimgraph.errors import OptionError, ShapeError, UnsupportedError
from slimgraph.graph import (
    GraphHolder,
    GraphModule,
    GraphModuleBase,
    as_GraphHolder,
    connect_modules,
    module_graph,
    rename,
    wires,
)
from slimgraph.slim.as_graph import open_cell_graph
from slimgraph.slim.cells import Cell
from slimgraph.slim.layers import Recurrence

Widths = dict[str, int | None]
"""How many features stand under a key, None where nobody says."""

Bundle = tuple[GraphModuleBase, range]
"""A graph, and which of its wires at one side."""


@dataclass
class Keyed:
    """A component graph whose wires stand for keys: which places of its inputs and outputs each key has."""

    graph: GraphModuleBase
    reads: dict[str, range]
    writes: dict[str, range]


@dataclass
class Held:
    """Nodes that are wired by their keys; the keys that they give to the outside are `gives`.

    With `starts`, the states that start from outside, maybe none, the nodes run over time: a key is read from its
    writer wherever that stands. `ahead(key, node)` says how many entries of a key a node sees side by side.
    """

    nodes: Sequence[Any]
    names: Sequence[str]
    gives: Sequence[str]
    title: str
    starts: Sequence[str] | None = None
    ahead: Callable[[str, Any], int] = field(default=lambda key, node: 1)

    def widths(self, known: Mapping[str, int | None]) -> Widths:
        """The width of every key, as far as a node or `known` says it. Raises ShapeError where two differ."""
        found: Widths = dict(known)
        said = dict.fromkeys((key for key, width in known.items() if width is not None), "the node around it")
        # A node that joins its inputs may know one by the others: until nothing new is said.
        before = None
        while before != found:
            before = dict(found)
            for name, node in zip(self.names, self.nodes, strict=True):
                factors = {key: self.ahead(key, node) for key in node.input_keys}
                seen = {key: width and width * factors.get(key, 1) for key, width in found.items()}
                reads, writes = node_widths(node, seen)
                each = {key: width and width // factors[key] for key, width in reads.items()}
                self._agree(found, said, f"node {name!r}", each)
                self._agree(found, said, f"node {name!r}", writes)
        return found

    def _agree(self, found: Widths, said: dict[str, str], who: str, widths: Widths) -> None:
        for key, width in widths.items():
            if width is None:
                found.setdefault(key, None)
            elif found.get(key) is None:
                found[key], said[key] = width, who
            elif found[key] != width:
                raise ShapeError(f"{self.title}: {key!r} has {found[key]} features in {said[key]} and {width} in {who}")

    def keyed(self, known: Mapping[str, int | None]) -> Keyed:
        """One holder of all nodes; its inputs are the keys from outside, its outputs those that are given."""
        widths = {key: width or 1 for key, width in self.widths(known).items()}
        parts = [self._part(name, node, widths) for name, node in zip(self.names, self.nodes, strict=True)]
        outside: dict[str, GraphHolder] = {}
        sources: dict[str, Bundle] = {}
        if self.starts is not None:
            sources = {key: (part.graph, places) for part in parts for key, places in part.writes.items()}
        for node, part in zip(self.nodes, parts, strict=True):
            for key, places in part.reads.items():
                if key not in sources or key in (self.starts or ()):
                    row = wires(widths[key])
                    outside.setdefault(key, GraphHolder(row, row, key))
                    self._connect(key, node, (outside[key], range(widths[key])), (part.graph, places))
                if key in sources:
                    self._connect(key, node, sources[key], (part.graph, places))
            sources |= {key: (part.graph, places) for key, places in part.writes.items()}
        reads, ins = bundles({key: list(holder.input_nodes) for key, holder in outside.items()})
        given = {key: sources[key] for key in self.gives}
        writes, outs = bundles({key: [graph.output_nodes[i] for i in row] for key, (graph, row) in given.items()})
        return Keyed(GraphHolder(ins, outs, self.title), reads, writes)

    def _part(self, name: str, node: Any, widths: Mapping[str, int]) -> Keyed:
        seen = {key: widths[key] * self.ahead(key, node) for key in node.input_keys if key in widths}
        part = keyed_graph(node, seen, widths)
        rename(part.graph, name)
        return part

    def _connect(self, key: str, node: Any, source: Bundle, dest: Bundle) -> None:
        if (entries := self.ahead(key, node)) > 1:
            size = len(source[1])
            seen = GraphModule.of_size(size, entries * size, f"{key} ahead")
            connect_modules(source[0], seen, source[1])
            source = seen, range(seen.size_out)
        connect_modules(source[0], dest[0], source[1], dest[1])


def bundles(rows: Mapping[str, list[Any]]) -> tuple[dict[str, range], list[Any]]:
    """All wires in a row, and where those of each key stand."""
    places, row = {}, []
    for key, some in rows.items():
        places[key] = range(len(row), len(row) + len(some))
        row += some
    return places, row


def node_widths(node: Any, known: Mapping[str, int | None]) -> tuple[Widths, Widths]:
    """What `node` says of the widths of the keys that it reads and writes, where those in `known` are known."""
    if hasattr(node, "held"):
        inside = node.held().widths({})
        return {k: inside.get(k) for k in node.input_keys}, {k: inside.get(k) for k in node.output_keys}
    if node.inner_keys is not None:
        takes, gives = node.inner_keys
        inside = node.callable.held().widths({})
        return (
            {key: inside.get(own) for key, own in zip(node.input_keys, takes, strict=True)},
            {key: inside.get(own) for key, own in zip(node.output_keys, gives, strict=True)},
        )
    reads, writes = [known.get(key) for key in node.input_keys], [known.get(key) for key in node.output_keys]
    opened = _opened(node, reads)
    if opened is not None:
        _, reads, writes = opened
    return dict(zip(node.input_keys, reads, strict=True)), dict(zip(node.output_keys, writes, strict=True))


def keyed_graph(node: Any, read: Mapping[str, int], written: Mapping[str, int]) -> Keyed:
    """The component graph of `node` for keys of these widths."""
    if hasattr(node, "held"):
        known = {key: written.get(key) for key in node.output_keys} | {key: read.get(key) for key in node.input_keys}
        return node.held().keyed(known)
    if node.inner_keys is not None:
        return _renamed(node, read, written)
    reads, writes = [read[key] for key in node.input_keys], [written[key] for key in node.output_keys]
    graph, reads, writes = _opened(node, reads) or (None, reads, writes)
    # A module that nobody can look into is one module.
    closed = GraphModule.of_size(sum(reads), sum(writes), None, node.callable)
    graph = closed if graph is None else _chosen(node, graph)
    return Keyed(graph, _places(node.input_keys, reads), _places(node.output_keys, writes))


def _renamed(node: Any, read: Mapping[str, int], written: Mapping[str, int]) -> Keyed:
    """The graph of the System or the Problem in `node`, under the keys of `node`."""
    takes, gives = (dict(zip(own, keys, strict=True)) for own, keys in zip(
        node.inner_keys, (node.input_keys, node.output_keys), strict=True
    ))  # fmt: skip
    known = {own: written.get(key) for own, key in gives.items()} | {own: read.get(key) for own, key in takes.items()}
    keyed = node.callable.held().keyed(known)
    reads = {takes[own]: row for own, row in keyed.reads.items() if own in takes}
    return Keyed(keyed.graph, reads, {gives[own]: row for own, row in keyed.writes.items() if own in gives})


def _places(keys: Sequence[str], widths: Sequence[int]) -> dict[str, range]:
    return bundles({key: [None] * width for key, width in zip(keys, widths, strict=True)})[0]


def _opened(node: Any, reads: Sequence[int | None]) -> Any:
    """The graph of what `node` calls, or None, and the widths of its inputs and outputs; None for what is closed."""
    inner, inputs, results = node.callable, len(node.input_keys), node.result_keys
    if isinstance(inner, Cell):
        states = len(inner.states)
        if (inputs, len(results)) != (1 + states, states):
            return None
        size = [inner.hidden_size]
        return open_cell_graph(inner), [inner.input_size, *size * states], size * len(node.output_keys)
    if not isinstance(inner, nn.Module) or (len(results) > 1 and not isinstance(inner, Recurrence)):
        return None
    known = [width for width in reads if width is not None]
    try:
        graph = module_graph(inner, sum(known) if len(known) == inputs else None)
    except (OptionError, UnsupportedError):
        return None
    writes = [graph.size_out] * len(node.output_keys)
    rest = graph.size_in - sum(known)
    widths = [rest if width is None else width for width in reads] if inputs > 1 else [graph.size_in]
    # Of several inputs that are joined all but one have to be known; otherwise the results are all that is.
    fits = inputs - len(known) <= 1 and sum(widths) == graph.size_in and min(widths) > 0
    return (graph, widths, writes) if fits else (None, reads, writes)


def _chosen(node: Any, graph: GraphModuleBase) -> GraphModuleBase:
    """`graph` with the wires of the results that `node` keeps; the last states of a recurrence are on its outputs."""
    results, kept = node.result_keys, [place for place, key in enumerate(node.result_keys) if key in node.output_keys]
    if len(results) == 1:
        return graph
    holder = as_GraphHolder(graph)
    if isinstance(node.callable, Recurrence):
        row = list(holder.output_nodes) * len(kept)
    else:
        size = holder.size_out // len(results)
        row = [holder.output_nodes[place * size + i] for place in kept for i in range(size)]
    return GraphHolder(holder.input_nodes, row, holder.name, holder.computational_module)
