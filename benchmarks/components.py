"""What a component graph costs: beside as many plain objects, and four times as many wires beside a quarter."""

from __future__ import annotations

import torch

from benchmarks.measure import Work, row
from slimgraph.graph import GraphModule, LinearWeights, bag_graph, connect_modules

WIRES = 4000
WEIGHTS = torch.zeros(WIRES, WIRES)


class Plain:
    """An object with two attributes that hold something."""

    def __init__(self) -> None:
        self.source: list[int] = []
        self.sink: list[int] = []


def plain(count: int) -> Work:
    return lambda: [Plain() for _ in range(count)]


def made(n: int) -> LinearWeights:
    return LinearWeights.of_size(n, n, weights=WEIGHTS[:n, :n])


def connected(n: int) -> Work:
    """Making two and connecting them, so that each call has new wires; the rows of making tell how much is that."""
    return lambda: connect_modules(GraphModule.of_size(n, n), GraphModule.of_size(n, n))


def walked(n: int) -> Work:
    a, b = made(n), made(n)
    connect_modules(a, b)
    return lambda: bag_graph(a)


@row("component graph, LinearWeights 4000 x 4000 / 4000 plain objects", 60.0)
def _() -> tuple[Work, Work]:
    return lambda: made(WIRES), plain(WIRES)


@row("component graph, make two and connect 4000 wires / 4000 plain objects", 150.0)
def _() -> tuple[Work, Work]:
    return connected(WIRES), plain(WIRES)


@row("component graph, walk two of 4000 x 4000 / 4000 plain objects", 50.0)
def _() -> tuple[Work, Work]:
    return walked(WIRES), plain(WIRES)


@row("component graph, LinearWeights of 4000 wires / of 1000", 6.0)
def _() -> tuple[Work, Work]:
    return lambda: made(WIRES), lambda: made(WIRES // 4)


@row("component graph, make two and connect 4000 wires / 1000", 6.0)
def _() -> tuple[Work, Work]:
    return connected(WIRES), connected(WIRES // 4)


@row("component graph, walk 4000 wires / 1000", 6.0)
def _() -> tuple[Work, Work]:
    return walked(WIRES), walked(WIRES // 4)
