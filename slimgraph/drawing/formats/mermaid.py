"""Diagrams as Mermaid text, which many web pages and Markdown viewers draw by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slimgraph.drawing import style
from slimgraph.drawing.form import Box, Shape, Titles, read_form

PLAIN = " _.,:=+-()/"
BRACKETS = {"data": '(["{}"])', "variable": '(["{}"])', "weights": '[("{}")]', "constraint": '["{}"]'}


def to_mermaid(x: Any, **options: Any) -> str:
    """The diagram of `x` as a Mermaid flowchart, with the options of `draw`; the same graph gives the same bytes.

    Source: https://mermaid.js.org/syntax/flowchart.html

    >>> import networkx as nx
    >>> g = nx.MultiDiGraph()
    >>> g.add_node("a", kind="node", label="a")
    >>> g.add_node("b", kind="node", label="b")
    >>> _ = g.add_edge("a", "b", key="x")
    >>> print(to_mermaid(g).split("classDef")[0].rstrip())
    flowchart LR
      n0("a"):::node
      n1("b"):::node
      n0 -->|"x"| n1
    """
    whole, arrows = read_form(x, **options)
    ids: dict[Shape | Titles, str] = {}
    lines = ["flowchart LR", *_contents(whole, ids, "  ")]
    for arrow in arrows:
        line = "-.->" if arrow.feedback else "-->"
        text = "<br>".join(_quoted(key) for key in arrow.labels)
        text = f'|"{text}"|' if text else ""
        lines.append(f"  {ids[arrow.tail]} {line}{text} {ids[arrow.head]}")
    lines += [f"  {ids[before]} ~~~ {ids[after]}" for before, after in whole.order]
    for kind in sorted({shape.kind for shape in ids if isinstance(shape, Shape)} & set(style.KINDS)):
        look = style.NODE | style.KINDS[kind]
        lines.append(f"  classDef {kind} fill:{look['fillcolor']},stroke:{look['color']},color:{look['fontcolor']}")
    return "\n".join(lines) + "\n"


def _contents(box: Box, ids: dict[Shape | Titles, str], indent: str) -> Iterator[str]:
    for shape in box.shapes:
        # Names are numbered: Mermaid has words (end, graph, style) that no id may be.
        ids[shape] = f"n{len(ids)}"
        text = BRACKETS.get(shape.kind, '("{}")').format(_quoted(style.wrapped(shape.label)))
        yield indent + ids[shape] + text + (f":::{shape.kind}" if shape.kind in style.KINDS else "")
    for inner in box.boxes.values():
        ids[inner.path] = f"n{len(ids)}"
        yield f'{indent}subgraph {ids[inner.path]}["{_quoted(inner.label)}"]'
        yield from _contents(inner, ids, indent + "  ")
        yield f"{indent}end"


def _quoted(text: str) -> str:
    """`text` inside Mermaid's quotes: what could be markup is written as the number of its letter."""
    lines = ("".join(c if c.isalnum() or c in PLAIN else f"#{ord(c)};" for c in line) for line in text.split("\n"))
    return "<br>".join(lines) or " "
