"""Levels of a diagram: what leads to some keys, boxes that are drawn closed, nodes that are drawn as one."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import networkx as nx

from slimgraph.drawing.form import View
from slimgraph.drawing.view.choice import Choice, is_part, node_names
from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean


def merged(form: View, group_of: Mapping[Any, Hashable], looks: Mapping[Hashable, dict[str, Any]]) -> View:
    """`form` with each group of nodes drawn as one, where its first member stood; its id is that of this member.

    What flows within a group is not seen, but what is fed back there is.
    """
    result = View()
    result.graph.update(form.graph)
    ids: dict[Any, Any] = {}
    firsts: dict[Hashable, Any] = {}
    for place, attributes in form.nodes(data=True):
        group = group_of.get(place)
        if group is None:
            ids[place] = place
            result.add_node(place, **attributes)
        elif group in firsts:
            ids[place] = firsts[group]
        else:
            ids[place] = firsts[group] = place
            result.add_node(place, **looks[group])
    for tail, head, key, attributes in form.edges(keys=True, data=True):
        feedback = bool(attributes.get("feedback"))
        if tail in group_of and group_of[tail] == group_of.get(head) and not feedback:
            continue
        known = result.get_edge_data(ids[tail], ids[head], key)
        # What also flows forward between the two is drawn forward.
        if known is None or not feedback:
            result.add_edge(ids[tail], ids[head], key, **attributes)
    return result


# ---- closed boxes ---------------------------------------------------------------------------------------------------


def close(form: View, depth: int | None, collapsed: Choice) -> View:
    """`form` with the boxes below `depth`, and those that `collapsed` chooses, each drawn as one node."""
    boxes = form.graph["boxes"]
    closed: dict[Any, tuple[str, ...]] = {}
    for place, attributes in form.nodes(data=True):
        path = attributes["cluster"]
        for level in range(len(path)):
            about = boxes.get(path[: level + 1], {})
            if level == depth or collapsed.holds((about.get("title", path[level]), path[level]), about.get("part")):
                closed[place] = path[: level + 1]
                break
    if not closed:
        return form
    counts: dict[tuple[str, ...], int] = {}
    for path in closed.values():
        counts[path] = counts.get(path, 0) + 1
    return merged(form, closed, {path: _closed_look(path, boxes.get(path, {}), n) for path, n in counts.items()})


def _closed_look(path: tuple[str, ...], about: dict[str, Any], count: int) -> dict[str, Any]:
    part = about.get("part")
    note = about.get("note") or f"{count} node{'s' if count > 1 else ''}"
    label = f"{about.get('title', path[-1])}\n{note}"
    return {"kind": getattr(part, "kind", "module"), "label": label, "cluster": path[:-1], "part": part}


def collapse_groups(form: View, collapsed: Choice) -> View:
    """`form` with the nodes that a pattern or a function of `collapsed` puts together drawn as one each."""
    if not any("*" in name for name in collapsed.names) and not collapsed.functions:
        return form
    group_of, members = {}, {}
    for place, attributes in form.nodes(data=True):
        if is_part(attributes):
            title = collapsed.title(node_names(place, attributes), attributes.get("part"))
            if title is not None:
                group_of[place] = title
                members.setdefault(title, []).append(attributes)
    return merged(form, group_of, {title: _group_look(title, some) for title, some in members.items()})


def _group_look(title: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    # The box that all of them share; os.path knows the common start of any sequences.
    shared = os.path.commonprefix([attributes["cluster"] for attributes in members])
    count = f"{len(members)} node{'s' if len(members) > 1 else ''}"
    return {"kind": "node", "label": f"{title}\n{count}", "cluster": tuple(shared)}


# ---- what leads to a key --------------------------------------------------------------------------------------------


def keep_only(form: View, keys: Any) -> View:
    """What leads to `keys`, or to terms of these names, and nothing else. Raises UnknownOptionError."""
    listed = [keys] if isinstance(keys, str) or not isinstance(keys, Iterable) or hasattr(keys, "key") else [*keys]
    if not listed:
        raise OptionError("only is a list of keys; it is empty")
    ends = {}
    for key in listed:
        name = key if isinstance(key, str) else getattr(key, "key", None)
        if not isinstance(name, str):
            raise OptionError(f"only takes keys, or names of terms; got {type(key).__name__}: {key!r}")
        ends[name] = _source(form, name)
    kept = {end for end, _ in ends.values()}.union(*(nx.ancestors(form, end) for end, _ in ends.values()))
    result = View()
    result.graph.update(form.graph)
    result.add_nodes_from((place, attributes) for place, attributes in form.nodes(data=True) if place in kept)
    for tail, head, key, about in form.edges(keys=True, data=True):
        if tail in kept and head in kept:
            result.add_edge(tail, head, key, **about)
    for name, (end, attributes) in ends.items():
        if attributes is not None:
            result.add_node(f"result:{name}", kind="data", label=name, cluster=())
            result.add_edge(end, f"result:{name}", name, **attributes)
    return result


def _source(form: View, name: str) -> tuple[Any, dict[str, Any] | None]:
    """The node that gives the key `name`, with what is known of its edges; or the term, or the data, of that name."""
    order = {place: number for number, place in enumerate(form)}
    edges = [(order[tail], tail, about) for tail, _, key, about in form.edges(keys=True, data=True) if key == name]
    kinds = dict(form.nodes(data="kind"))
    # The value that others get is that of its last writer.
    written = [edge for edge in edges if kinds[edge[1]] not in ("data", "variable")]
    if written:
        _, tail, about = max(written, key=lambda edge: edge[0])
        return tail, {word: value for word, value in about.items() if word in ("shape", "dtype")}
    for place, attributes in form.nodes(data=True):
        if name in (place, *node_names(place, attributes)):
            return place, None
    known = dict.fromkeys(key for _, _, key in form.edges(keys=True) if isinstance(key, str) and key)
    known |= dict.fromkeys(node_names(*node)[0] for node in form.nodes(data=True) if not is_part(node[1]))
    raise UnknownOptionError(
        f"only names {name!r}, which nothing gives; there are {', '.join(map(repr, known))}.{did_you_mean(name, known)}"
    )
