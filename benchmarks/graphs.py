"""What a node costs beside the call of what it holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measure import Work, row, timed
from slimgraph import Node, PenaltyLoss, Problem

NODES = 20


def microseconds_a_node(make: Callable[[], Any], inputs: int) -> tuple[Work, Work]:
    """A chain of nodes in a Problem beside the bare calls; ours gives the difference for each node."""
    callables = [make() for _ in range(NODES)]
    keys = [f"x{i}" for i in range(NODES + inputs)]
    chain = [Node(f, keys[i : i + inputs], [keys[i + inputs]]) for i, f in enumerate(callables)]
    problem, batch = Problem(chain, PenaltyLoss()), dict.fromkeys(keys[:inputs], torch.ones(2))
    values = list(batch.values())

    def bare() -> None:
        for call in callables:
            call(*values)

    def ours() -> float:
        rounds = [(timed(lambda: problem.step(batch), 500), timed(bare, 500)) for _ in range(9)]
        return 1e6 * statistics.median(a - b for a, b in rounds) / NODES

    return ours, lambda: 1.0


def told(work: Work) -> float:
    """The number that the work itself gives."""
    return float(work())  # pyright: ignore[reportArgumentType]


def first(*values: Any) -> Any:
    return values[0]


@row("Problem, 20 identity functions, microseconds a node over the bare calls / 1 microsecond", 1.0, told)
def _() -> tuple[Work, Work]:
    return microseconds_a_node(lambda: first, 1)


@row("Problem, 20 identity modules, microseconds a node over the bare calls / 1 microsecond", 1.0, told)
def _() -> tuple[Work, Work]:
    return microseconds_a_node(nn.Identity, 1)


@row("Problem, 20 functions of two keys, microseconds a node over the bare calls / 1 microsecond", 1.0, told)
def _() -> tuple[Work, Work]:
    return microseconds_a_node(lambda: first, 2)
