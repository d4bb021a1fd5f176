"""Insides: the component graph of the map, network or recurrence that a node calls, drawn in a box of the node."""

from __future__ import annotations

from typing import Any

from slimgraph.drawing.form import View
from slimgraph.drawing.view.choice import Choice, node_names
from slimgraph.drawing.view.opened import Inner, replace
from slimgraph.errors import OptionError
from slimgraph.graph import bag_graph
from slimgraph.node.as_graph import Held


def whole_inside(x: Any) -> Any:
    """The component graph of `x` where `x` itself is a map, a network or a recurrence; otherwise `x`."""
    return x.as_graph() if hasattr(x, "as_graph") and not hasattr(x, "input_keys") else x


def open_insides(form: View, chosen: Choice, collapsed: Choice) -> None:
    """Opens the nodes that are `chosen`, but for those that are `collapsed`.

    Raises OptionError for one that is chosen by its name and calls a function, into which nobody can look.
    """
    for place in list(form.nodes):
        attributes = form.nodes[place]
        part: Any = attributes.get("part")
        names = node_names(place, attributes)
        if not hasattr(part, "result_keys") or not chosen.holds(names, part) or collapsed.holds(names, part):
            continue
        inner = None if part.inner_keys is not None else _inside(part)
        if inner is not None:
            replace(form, place, inner, {"title": part.label, "part": part}, lambda key: key)
        elif any(name in chosen.names for name in names):
            what = getattr(part.callable, "__name__", type(part.callable).__name__)
            raise OptionError(
                f"inside names {part.label!r}, which calls {what}: that has no component graph to open; a map, a"
                " network or a recurrence has one"
            )


def _inside(part: Any) -> Inner | None:
    """The modules of what a node calls, or None where it is closed."""
    keyed = Held([part], [part.label], part.output_keys, part.label).keyed({})
    modules = bag_graph(keyed.graph)[1]
    if len(modules) == 1 and type(modules[0]).__name__ == "GraphModule":
        return None
    graph, place = keyed.graph.to_networkx(), {id(module): str(i) for i, module in enumerate(modules)}
    graph.remove_nodes_from([name for name, kind in graph.nodes(data="kind") if kind == "data"])
    for name, attributes in graph.nodes(data=True):
        # Its modules are called `node.module`; the box says the node already.
        attributes["cluster"] = attributes.get("cluster", ())[1:]
        attributes["label"] = attributes["label"].removeprefix(f"{part.label}: ")
        attributes.setdefault("part", modules[int(name)])
    wires = keyed.graph.input_nodes
    readers = {key: _places(place, [wires[i].sink_modules for i in row]) for key, row in keyed.reads.items()}
    wires = keyed.graph.output_nodes
    written = {key: _places(place, [wires[i].source_modules for i in row]) for key, row in keyed.writes.items()}
    return graph, readers, written


def _places(place: dict[int, str], modules: list[Any]) -> list[str]:
    return list(dict.fromkeys(place[id(module)] for some in modules for module in some))
