"""The component graphs of structured maps: weights between wires."""

from __future__ import annotations

from typing import Any

import torch

from slimgraph.errors import OptionError
from slimgraph.graph import GraphHolder, GraphNode, LinearWeights, dense, wires
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.composition import BlockDiagonal, ComposedLinear, ProductLinear

Wires = list[GraphNode]


def map_graph(m: LinearBase) -> Any:
    """`LinearWeights` of a single map; a holder of the terms of a composition."""
    ins, outs = wires(m.in_features), wires(m.out_features)
    name = type(m).__name__
    if not isinstance(m, ComposedLinear):
        return weigh(m, ins, outs, name)
    lay(m, ins, outs, "")
    return GraphHolder(ins, outs, name, m)


def map_from_graph(cls: type[LinearBase], graph: Any, options: dict[str, Any]) -> Any:
    """The map of class `cls` whose matrix is that of `graph`, which must be a member."""
    W, bias = dense(graph)
    made = cls.from_dense(W, bias, **options)
    if not made.contains(W):
        raise OptionError(
            f"{cls.__name__}.from_graph needs weights that keep its promise; those of {graph.title} are"
            f" {made.distance(W).item():.3g} away: {cls.__name__}.from_dense(W) gives the nearest"
        )
    return made


def lay(m: LinearBase, ins: Wires, outs: Wires, name: str) -> None:
    """Lay the map `m` between wires that are there, its terms, if it has some, called `name.` and their place."""
    if not isinstance(m, ComposedLinear):
        weigh(m, ins, outs, name)
        return
    starts, ends = [ins] * len(m.terms), [outs] * len(m.terms)
    if isinstance(m, ProductLinear):
        between = [wires(term.out_features) for term in m.terms[:-1]]
        starts, ends = [ins, *between], [*between, outs]
    elif isinstance(m, BlockDiagonal):
        starts = _stretches(ins, [term.in_features for term in m.terms])
        ends = _stretches(outs, [term.out_features for term in m.terms])
    for i, (term, start, end) in enumerate(zip(m.terms, starts, ends, strict=True)):
        place = f"{i}_{type(term).__name__}"
        lay(term, start, end, f"{name}.{place}" if name else place)


@torch.no_grad()
def weigh(m: LinearBase, ins: Wires, outs: Wires, name: str) -> LinearWeights:
    """The weights of `m` as they are now, a copy."""
    bias = None if m.bias is None else m.bias.detach().clone()
    W = m.effective_W().detach().clone(memory_format=torch.contiguous_format)
    return LinearWeights(ins, outs, name, m, weights=W, biases=bias)


def _stretches(row: Wires, sizes: list[int]) -> list[Wires]:
    stretches, start = [], 0
    for size in sizes:
        stretches.append(row[start : start + size])
        start += size
    return stretches
