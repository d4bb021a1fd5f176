"""How a diagram looks: one place for the font, the colours and the shapes.

A kind is told by its shape and by its lightness, and only then by its hue (blue, teal, orange, violet: a set that
colour-blind readers tell apart), so that a greyscale print says the same. Fills are pale, borders and text dark.
"""

from __future__ import annotations

import textwrap

# These families have the same widths as Arimo, which graphviz-pure measures with: text stays inside its box in each.
FONT = "Helvetica,Arial,Liberation Sans,Arimo,sans-serif"
INK = "#1f2933"
LINE = "#5f6b7a"

GRAPH = {
    "rankdir": "LR",
    "bgcolor": "white",
    "fontname": FONT,
    "nodesep": "0.28",
    "ranksep": "0.5",
    "pad": "0.2",
}
NODE = {
    "fontname": FONT,
    "fontsize": "12",
    "fontcolor": INK,
    "shape": "box",
    "style": "rounded,filled",
    "fillcolor": "#f1f3f5",
    "color": LINE,
    "penwidth": "1.1",
    "margin": "0.17,0.08",
    "height": "0.38",
    "width": "0.5",
}
EDGE = {
    "fontname": FONT,
    "fontsize": "10",
    "fontcolor": "#3e4c59",
    "color": LINE,
    "penwidth": "1.1",
    "arrowsize": "0.7",
}
FEEDBACK = {"style": "dashed", "arrowtail": "normal", "arrowhead": "normal"}
# Boxes in boxes get a little darker, so that the depth is seen.
BOX_FILLS = ("#f6f8fb", "#ebf0f6", "#e1e8f1")
BOX = {
    "style": "rounded,filled",
    "color": "#b3bfcc",
    "fontname": FONT,
    "fontsize": "12",
    "fontcolor": "#52606d",
    "labeljust": "l",
    "margin": "12",
}

KINDS: dict[str, dict[str, str]] = {
    "data": {"shape": "ellipse", "style": "filled", "fillcolor": "white", "margin": "0.08,0.04"},
    "node": {"fillcolor": "#dce8f5", "color": "#2f6196"},
    "module": {"fillcolor": "#e9f0f8", "color": "#6b8fb5"},
    "map": {"fillcolor": "#c3d8ee", "color": "#1f4e80", "penwidth": "1.8"},
    "system": {"fillcolor": "#ebf0f6", "color": "#2f6196", "peripheries": "2"},
    "weights": {"shape": "cylinder", "style": "filled", "fillcolor": "#f3efe6", "color": "#857246"},
    "variable": {"shape": "ellipse", "style": "filled", "fillcolor": "#fbf5d7", "color": "#8f7a1c"},
    "operation": {"fillcolor": "#f1f3f5", "color": "#7b8794", "fontsize": "11", "margin": "0.1,0.04"},
    "objective": {"fillcolor": "#b5ddd2", "color": "#12604f", "penwidth": "1.6"},
    # Square corners: a bound. The other terms are round.
    "constraint": {"style": "filled", "fillcolor": "#fce5cc", "color": "#ad5a12"},
    "violated": {"style": "filled", "fillcolor": "#f0a35e", "color": "#8a2b06", "penwidth": "2.4"},
    "reg_error": {"style": "rounded,filled,dashed", "fillcolor": "#eae3f4", "color": "#6a4a9c"},
    "loss": {"style": "rounded,filled", "fillcolor": "#334e68", "color": "#1c2f42", "fontcolor": "white"},
    # What is left out.
    "more": {"shape": "plaintext", "style": "filled", "fillcolor": "#f6f8fb", "color": LINE, "fontsize": "16"},
}
# What flows out of and into these is coloured like them: which term reads what is seen from afar.
TERMS: tuple[str, ...] = ("objective", "constraint", "violated", "reg_error")

# Above this many nodes the layout takes fewer rounds: 1000 nodes in a second instead of minutes.
MANY_NODES = 300
FAST_LAYOUT = {"nslimit": "1", "nslimit1": "1", "mclimit": "0.3"}


def wrapped(text: str, width: int = 30) -> str:
    """`text` in lines of at most `width` letters, broken at spaces where there are some.

    >>> wrapped("0.5 * mean((y - y_measured)^2) + 0.1 * mean(u^2)")
    '0.5 * mean((y - y_measured)^2)\\n+ 0.1 * mean(u^2)'
    """
    lines = (textwrap.wrap(line, width, break_on_hyphens=False) or [line] for line in text.split("\n"))
    return "\n".join(part for line in lines for part in line)


# Charts, and what two diagrams differ in: Okabe and Ito's colours, told apart with any colour vision, and never by the
# colour alone but by a mark, a line style or a band of lightness too.
# Source: https://jfly.uni-koeln.de/color/
PROMISED = "#009E73"
KEPT, BROKEN = "#0072B2", "#D55E00"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CHART = {
    "font.size": 9.0,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "0.6",
    "axes.titlesize": 9.0,
    "xtick.color": "0.35",
    "ytick.color": "0.35",
    "text.color": INK,
    "axes.labelcolor": INK,
    # Ids in an SVG are drawn from this and not by chance: the same chart is the same file.
    "svg.hashsalt": "slimgraph",
}

# In the drawing of a difference: + and a thick line, - and a dashed one, ~ and a double one; the rest steps back.
CHANGES: dict[str, dict[str, str]] = {
    "same": {"fillcolor": "white", "color": "#aab4be", "fontcolor": "#5f6b7a", "penwidth": "1.0"},
    "added": {"fillcolor": "#d3efe4", "color": "#007a59", "fontcolor": INK, "penwidth": "2.6"},
    "removed": {"fillcolor": "#fdeee5", "color": "#b84f00", "fontcolor": INK, "penwidth": "1.4"},
    "changed": {"fillcolor": "#ffe9ad", "color": "#8a6100", "fontcolor": INK, "penwidth": "1.4", "peripheries": "2"},
}
LINES = {"same": "", "added": "", "removed": ",dashed", "changed": ""}
KINDS |= {
    f"{change}_{kind}": {**look, **CHANGES[change], "style": look.get("style", NODE["style"]) + LINES[change]}
    for kind, look in tuple(KINDS.items())
    for change in CHANGES
}
TERMS += tuple(kind for kind in KINDS if kind.startswith(("added_", "removed_")))
