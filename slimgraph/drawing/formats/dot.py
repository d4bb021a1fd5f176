"""Diagrams as DOT: a `pydot.Dot` in which every id and label is quoted by us, so that any name survives."""

from __future__ import annotations

from typing import Any

import pydot

from slimgraph.drawing import style
from slimgraph.drawing.facts import Facts
from slimgraph.drawing.form import Arrow, Box, read_form


def quoted_id(name: str) -> str:
    r"""`name` as a quoted DOT id, with the escapes of a label (`\n`, `\\`, `&amp;`); two names never share one.

    Source: the DOT language, https://graphviz.org/doc/info/lang.html

    >>> print(quoted_id('a:b'), quoted_id('x"y'), quoted_id('back\\slash'), quoted_id('%1'), quoted_id('a&b;'))
    "a:b" "x\"y" "back\\slash" "\%1" "a&amp;b;"
    """
    # Graphviz copies what looks like an entity into its SVG, which knows only five of them.
    text = name.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    # Graphviz gives ids that begin with % a number of its own.
    text = f"\\{text}" if text.startswith("%") else text
    return f'"{_printable(text)}"'


def quoted_label(text: str, end: str = "\\n") -> str:
    r"""`text` as a quoted DOT label that shows exactly `text`; lines that end in `\l` stand to the left.

    >>> print(quoted_label('a < "b"\n&lt;'))
    "a < \"b\"\n&amp;lt;"
    """
    lines = (_printable(line).replace("\\", "\\\\") for line in text.split("\n"))
    joined = end.join(lines)
    if end == "\\l" and end in joined:
        # A single line stands where its box says. Graphviz makes a box as wide as the text without the space beside it.
        joined = joined.replace(end, f"  {end}") + f"  {end}"
    return '"' + joined.replace("&", "&amp;").replace('"', '\\"') + '"'


def _printable(text: str) -> str:
    """Letters that no SVG may hold (control characters, half surrogates) as Python writes them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def graph(x: Any, **options: Any) -> pydot.Dot:
    """The diagram of `x` as a `pydot.Dot`, for users who want to change it; ids are `quoted_id(name)`.

    `options` are those of `draw`.

    >>> import networkx as nx
    >>> g = nx.MultiDiGraph()
    >>> g.add_node("policy", kind="node", label="policy")
    >>> graph(g).get_node('"policy"')[0].get_label()
    '"policy"'
    """
    whole, arrows = read_form(x, **options)
    dot = pydot.Dot("slimgraph", graph_type="digraph", **_values(style.GRAPH))
    dot.set_node_defaults(**_values(style.NODE))
    dot.set_edge_defaults(**_values(style.EDGE))
    if _add_contents(dot, whole, 0) > style.MANY_NODES:
        for name, value in _values(style.FAST_LAYOUT).items():
            dot.set(name, value)
    for arrow in arrows:
        dot.add_edge(_edge(arrow))
    for before, after in whole.order:
        dot.add_edge(pydot.Edge(quoted_id(before.name), quoted_id(after.name), style='"invis"'))
    return dot


def to_dot(x: Any, **options: Any) -> str:
    """The diagram of `x` as DOT text, with the options of `draw`; the same graph gives the same bytes."""
    return graph(x, **options).to_string(indent=2)


def _values(attributes: dict[str, str]) -> dict[str, Any]:
    return {name: f'"{value}"' for name, value in attributes.items()}


def _add_contents(parent: pydot.Graph, box: Box, drawn: int) -> int:
    """Draws what stands in `box`; `drawn` counts the nodes so far."""
    for shape in box.shapes:
        parent.add_node(
            pydot.Node(
                quoted_id(shape.name),
                label=quoted_label(style.wrapped(shape.label)),
                tooltip=quoted_label(_tooltip(shape.kind, shape.label, shape.facts)),
                **_values(style.KINDS.get(shape.kind, {})),
            )
        )
    drawn += len(box.shapes)
    for inner in box.boxes.values():
        fill = style.BOX_FILLS[min(len(inner.path), len(style.BOX_FILLS)) - 1]
        # The whole path is in the id: boxes of one title inside different boxes stay apart.
        cluster = pydot.Subgraph(
            quoted_id(f"cluster {inner.path}"),
            label=quoted_label(style.wrapped(inner.label, width=60), "\\l"),
            tooltip=quoted_label(_tooltip("", inner.label, inner.facts)),
            fillcolor=f'"{fill}"',
            **_values(style.BOX),
        )
        drawn = _add_contents(cluster, inner, drawn)
        parent.add_subgraph(cluster)
    return drawn


def _tooltip(kind: str, label: str, facts: Facts) -> str:
    """Kind and label, and a line for each fact; these say again what the further lines of a label say."""
    label = label.partition("\n")[0] if facts else label
    title = label if label.startswith(kind) else f"{kind} {label}".strip()
    return "\n".join([title, *(f"{word}: {text}" for word, text in facts)])


def _edge(arrow: Arrow) -> pydot.Edge:
    attributes: dict[str, Any] = {}
    if arrow.labels:
        attributes["label"] = quoted_label("\n".join(f" {style.wrapped(key)} " for key in arrow.labels))
    for shape in (arrow.tail, arrow.head):
        if shape.kind in style.TERMS:
            attributes["color"] = f'"{style.KINDS[shape.kind]["color"]}"'
    tail, head = arrow.tail, arrow.head
    if arrow.feedback:
        attributes |= _values(style.FEEDBACK)
        if tail != head:
            # Written from head to tail and drawn with its point at the back: the ranks stay those of the forward flow.
            tail, head = head, tail
            attributes["dir"] = "back"
    return pydot.Edge(quoted_id(tail.name), quoted_id(head.name), **attributes)
