"""A system as a graph: its nodes in one cluster, its states as edges that close a loop."""

from __future__ import annotations

from typing import Any

from slimgraph import wiring
from slimgraph.errors import CycleError


def starts(system: Any) -> set[str]:
    """The keys that a picture shows with a start value: the states as far as they are known without data."""
    own = {key for key in system.input_keys if key in system.written}
    try:
        wiring.order(system.nodes, given=own)
    except CycleError:
        return {key for key in wiring.read_first(system.nodes) if key in system.written}
    return own


def repeats(system: Any) -> str:
    """How often its nodes run, as far as that is known without data."""
    if system.nsteps is None:
        return f"repeats nsteps = len({system.nstep_key})"
    return f"repeats {system.nsteps} step{'s' if system.nsteps > 1 else ''}"


def inner_graph(system: Any, label: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
    """The nodes of a system as a graph in one cluster; the readers of each outside key, the writer of each output."""
    import networkx as nx

    graph, readers, begun = nx.MultiDiGraph(), {}, starts(system)
    # Its path in a graph tells it apart from others, its title is for the reader.
    title = {"title": system.label, "note": repeats(system), "part": system}
    graph.graph["boxes"] = {(label,): title}
    places = system.places(label)
    writers = {key: numbers[-1] for key, numbers in wiring.writers(system.nodes).items()}
    for place, node in zip(places, system.nodes, strict=True):
        graph.add_node(place, kind=node.kind, label=node.name or node.label, cluster=(label,), part=node)
    for place, node in zip(places, system.nodes, strict=True):
        for key in node.input_keys:
            if key in writers:
                graph.add_edge(places[writers[key]], place, key=key, feedback=key in begun)
            if key in begun or key not in writers:
                readers.setdefault(key, []).append(place)
    written = {key: places[number] for key, number in writers.items() if key in system.keep}
    return graph, readers, written
