"""Which node runs when: names, order, what is read and what is written, over any objects with keys.

A node here is anything with `input_keys`, `output_keys` and `name`.
"""

from __future__ import annotations

from slimgraph.wiring.keys import Keyed, check_keys, find, names, read_first, writers
from slimgraph.wiring.picture import inner_graph, to_networkx
from slimgraph.wiring.run_order import order, select

__all__ = [
    "Keyed",
    "check_keys",
    "find",
    "inner_graph",
    "names",
    "order",
    "read_first",
    "select",
    "to_networkx",
    "writers",
]
