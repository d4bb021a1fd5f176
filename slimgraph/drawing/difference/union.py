"""Two graphs as one drawing, in which what differs is marked, coloured and drawn in another line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slimgraph.drawing import Drawing, style
from slimgraph.drawing.formats.dot import graph, quoted_id, quoted_label
from slimgraph.drawing.view import view

if TYPE_CHECKING:
    import networkx as nx

    from slimgraph.drawing.difference.diff import Change, Diff

MARKS = {"": ("", "same"), "+": ("+", "added"), "-": ("\N{EN DASH}", "removed"), "~": ("~", "changed")}
LEGEND = "+ added (thick)    \N{EN DASH} removed (dashed)    ~ changed (double)"
SHOWN, LONGEST, SHORT = 3, 60, 24


def union(diff: Diff) -> nx.MultiDiGraph:
    """Both graphs as one; `kind` says what differs too, as "added_node", and edges carry their `mark`.

    What has changed without having a node stands in `graph["notes"]`.
    """
    import networkx as nx

    first, second = diff.a.to_networkx(), diff.b.to_networkx()
    ids = _ids_of_second(diff, first, second)
    second = nx.relabel_nodes(second, ids)
    whole = nx.MultiDiGraph(**first.graph)
    for word, value in second.graph.items():
        whole.graph[word] = {**value, **whole.graph.get(word, {})} if isinstance(value, dict) else value
    changed = {a.place: change for a, _, change in _changed(diff) if a.place in first}
    whole.graph["notes"] = [_note(change) for a, _, change in _changed(diff) if a.place not in first]
    for name, found in (dict(first.nodes(data=True)) | dict(second.nodes(data=True))).items():
        before = first.nodes[name]["label"] if name in first else ""
        mark = "+" if name not in first else "-" if name not in second else ""
        if not mark and (name in changed or before != found["label"]):
            mark = "~"
        label = _label(found["label"], mark, before, changed.get(name))
        whole.add_node(name, **found | {"kind": f"{MARKS[mark][1]}_{found['kind']}", "label": label, "mark": mark})
    for graph_, marks in ((first, ("-", "")), (second, ("+", ""))):
        other = second if graph_ is first else first
        for tail, head, key, found in graph_.edges(keys=True, data=True):
            mark = marks[other.has_edge(tail, head, key)]
            whole.add_edge(tail, head, key=_key(whole, tail, head, key, mark), **found | {"mark": mark})
    return whole


def _ids_of_second(diff: Diff, first: Any, second: Any) -> dict[str, str]:
    """The nodes of the second graph by the ids of their likes in the first, and no other ones of these."""
    likes = {b.place: a.place for a, b in diff.pairs if a and b and a.place in first and b.place in second}
    taken = set(likes.values())
    ids = {}
    for name in second:
        # Terms are numbered: what is the first one there may be another one here.
        free = name not in taken and not (name.startswith("term:") and name in first)
        ids[name] = likes.get(name) or (name if free else f"{name} (new)")
    return ids


def _changed(diff: Diff) -> list[tuple[Any, Any, Change]]:
    return [(*pair, change) for pair, change in diff.changed_pairs if change.mark == "~"]


def _label(label: str, mark: str, before: str, change: Change | None) -> str:
    """A label that tells what has happened to its node."""
    if not mark:
        return label
    sign = MARKS[mark][0]
    if mark != "~":
        return f"{sign} {label}"
    title, _, text = label.partition("\n")
    if change:
        more = len(change.facts) - SHOWN
        lines = [line for fact in change.facts[:SHOWN] for line in _fact_lines(*fact)]
        return "\n".join([f"{sign} {title}", *lines, *[f"and {more} more"] * (more > 0)])
    old, _, older = before.partition("\n")
    return "\n".join([f"{sign} {title}", _line("-", older or old), _line("+", text or title)])


def _fact_lines(what: str, old: str | None, new: str | None) -> list[str]:
    """A change in one line where it is short."""
    if old and new and len(old) + len(new) <= SHORT:
        return [f"{what}: {old} -> {new}"]
    return [what, *(_line(mark, text) for mark, text in (("-", old), ("+", new)) if text is not None)]


def _note(change: Change) -> str:
    """A change of what has no node, in one line."""
    facts = "; ".join(f"{what}: {old or 'nothing'} -> {new or 'nothing'}" for what, old, new in change.facts)
    return f"~ {change.kind} {change.name}".rstrip() + f", {facts}"


def _line(mark: str, text: str) -> str:
    return f"{MARKS[mark][0]} {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"


def _key(whole: Any, tail: str, head: str, key: str, mark: str) -> str:
    """What an edge says: its mark where no end of it tells that it is new or gone, its key where no data node does."""
    ends = [whole.nodes[name] for name in (tail, head)]
    if any(end["kind"].endswith("_data") and key in end["label"] for end in ends):
        key = ""
    told = any(end["mark"] in ("+", "-") for end in ends)
    return key if told or not mark else f"{MARKS[mark][0]} {key}".rstrip()


class DiffDrawing(Drawing):
    """The drawing of a difference: the edges coloured too, a legend below, and what has no node of its own."""

    def __init__(self, diff: Diff) -> None:
        whole = diff.to_networkx()
        # Equal parts are folded here too: marks are those of the edges that are drawn.
        form = view(whole)
        super().__init__(form)
        self.of = "Diff"
        marks: dict[tuple[str, str], set[str]] = {}
        for tail, head, mark in form.edges(data="mark"):
            marks.setdefault((quoted_id(tail), quoted_id(head)), set()).add(mark)
        dot = graph(form)
        for edge in dot.get_edges():
            tail, head = str(edge.get_source()), str(edge.get_destination())
            found = marks[(head, tail) if edge.get("dir") == "back" else (tail, head)]
            name = MARKS[next(iter(found)) if len(found) == 1 else "~"][1]
            look = style.CHANGES[name]
            edge.set("color", f'"{look["color"]}"')
            edge.set("penwidth", "1.0" if name == "same" else "2")
            if name == "removed":
                edge.set("style", "dashed")
        notes = "\n".join(whole.graph["notes"])
        dot.set("label", quoted_label(f"{LEGEND}\n{notes}").replace("\\n", "\\l")[:-1] + '\\l"')
        dot.set("labeljust", "l")
        dot.set("fontsize", "11")
        self.dot = dot.to_string(indent=2)
