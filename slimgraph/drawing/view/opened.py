"""Opening: nodes that hold nodes, nested Problems, Subgraphs and Systems, drawn as a box of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from slimgraph import wiring
from slimgraph.drawing.form import View, as_view
from slimgraph.drawing.view.choice import Choice, node_names
from slimgraph.slim import reg_error_terms

Inner = tuple[Any, dict[str, list[str]], dict[str, list[str]]]
"""A graph, the readers of each key that comes from outside, and the writers of each key that goes out."""


def open_nodes(form: View, depth: int, collapsed: Choice) -> None:
    """Opens every node that holds nodes, down to `depth` boxes, but for those that are `collapsed`."""
    waiting = list(form.nodes)
    for place in waiting:
        attributes = form.nodes[place]
        part, path = attributes.get("part"), attributes["cluster"]
        if len(path) >= depth or collapsed.holds(node_names(place, attributes), part):
            continue
        found = _nodes_in(part)
        if found is not None:
            waiting += replace(form, place, *found)


def _nodes_in(part: Any) -> tuple[Inner, dict[str, Any], Callable[[str], str]] | None:
    """The graph of what `part` holds, how its box looks, and which key inside a key outside is; None for the others."""
    inner_keys = getattr(part, "inner_keys", None)
    thing = part.callable if inner_keys is not None else part
    if hasattr(thing, "inner_graph"):
        graph, readers, written = thing.inner_graph("")
        about = graph.graph["boxes"].pop(("",))
        for attributes in dict(graph.nodes(data=True)).values():
            attributes["cluster"] = attributes["cluster"][1:]
    elif hasattr(thing, "nodes") and hasattr(thing, "output_keys"):
        order = list(getattr(thing, "run_order", thing.nodes))
        graph, readers, written = wiring.inner_graph(order, getattr(thing, "labels", None) or wiring.names(order))
        about = {"part": part}
    else:
        return None
    about = {**about, "title": part.label} if inner_keys is not None else {"title": part.label, **about}
    return (graph, readers, {key: [place] for key, place in written.items()}), about, _translation(part)


def _translation(part: Any) -> Callable[[str], str]:
    inner_keys = getattr(part, "inner_keys", None)
    if inner_keys is None:
        return lambda key: key
    outside: Sequence[tuple[str, str]] = [*zip(part.output_keys, inner_keys[1], strict=True)]
    inside = dict([*outside, *zip(part.input_keys, inner_keys[0], strict=True)])
    return lambda key: inside.get(key, key)


def replace(form: View, place: Any, inner: Inner, about: dict[str, Any], own: Callable[[str], str]) -> list[Any]:
    """Puts `inner` into a box in the place of the node `place`; gives the ids of its nodes.

    Keys go by their names outside; `own(key)` is the one inside.
    """
    graph, readers, written = as_view(inner[0]), inner[1], inner[2]
    attributes = form.nodes[place]
    path = (*attributes["cluster"], str(place))
    edges = [*form.in_edges(place, keys=True, data=True), *form.out_edges(place, keys=True, data=True)]
    _insert(form, place, {f"{place}/{n}": {**a, "cluster": (*path, *a["cluster"])} for n, a in graph.nodes(data=True)})
    form.graph["boxes"] |= {path: about} | {(*path, *p): a for p, a in graph.graph["boxes"].items()}
    for tail, head, key, more in graph.edges(keys=True, data=True):
        form.add_edge(f"{place}/{tail}", f"{place}/{head}", key, **more)
    heads = {key: [f"{place}/{n}" for n in names] for key, names in readers.items()}
    tails = {key: [f"{place}/{n}" for n in names] for key, names in written.items()}
    regularised = [f"{place}/{n}" for n, a in graph.nodes(data=True) if _adds(a.get("part"))]
    for tail, head, key, more in edges:
        # A node within a node has renamed it once already.
        inside = own(more.get("own", key))
        more = {**more, "own": inside} if inside != key else more
        if key == "":
            tails_of, heads_of = (
                regularised or [f"{place}/{n}" for n in list(graph)[-1:]],
                [f"{place}/{list(graph)[0]}"],
            )
        else:
            tails_of, heads_of = tails.get(inside, []), heads.get(inside, [])
        for start in tails_of if tail == place else [tail]:
            for end in heads_of if head == place else [head]:
                form.add_edge(start, end, key, **more)
    return [f"{place}/{n}" for n in graph]


def _adds(part: Any) -> bool:
    """Whether a reg_error comes from what stands behind a node."""
    module = getattr(part, "computational_module", part)
    return isinstance(module, nn.Module) and bool(reg_error_terms(module))


def _insert(form: View, place: Any, nodes: dict[Any, dict[str, Any]]) -> None:
    """Puts `nodes` where `place` stood, so that the order of the graph, and with it the picture, is kept."""
    after = list(form.nodes)
    later = {node: dict(form.nodes[node]) for node in after[after.index(place) + 1 :]}
    edges = list(form.edges(keys=True, data=True))
    form.remove_nodes_from([place, *later])
    form.add_nodes_from(nodes.items())
    form.add_nodes_from(later.items())
    for tail, head, key, about in edges:
        if place not in (tail, head):
            form.add_edge(tail, head, key, **about)
