"""Rows of the table of ratios, and how one is measured."""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]

ROUNDS = 9
ROUND_SECONDS = 0.15


@dataclass(frozen=True)
class Row:
    """Something of ours against a baseline; `setup` gives both as functions without arguments.

    What is compared is the process time, or what `cost` says of each.
    """

    name: str
    at_most: float
    setup: Callable[[], tuple[Work, Work]]
    cost: Callable[[Work], float] | None = None


@dataclass(frozen=True)
class Result:
    """A measured row; both times in microseconds of process time, or what else the row's cost is in."""

    name: str
    ours_us: float
    baseline_us: float
    ratio: float
    at_most: float

    @property
    def ok(self) -> bool:
        return self.ratio <= self.at_most


rows: list[Row] = []


def row(
    name: str, at_most: float, cost: Callable[[Work], float] | None = None
) -> Callable[[Callable[[], tuple[Work, Work]]], Callable[[], tuple[Work, Work]]]:
    """A decorator that puts a function returning `(ours, baseline)` into the table.

    `at_most` limits ours / baseline; "at least k times faster" is `at_most=1 / k`. `cost`: see `Row`.
    """

    def add(setup: Callable[[], tuple[Work, Work]]) -> Callable[[], tuple[Work, Work]]:
        rows.append(Row(name, at_most, setup, cost))
        return setup

    return add


def measure(row: Row) -> Result:
    """The median over rounds of the ratio of process times, the two measured in turn within each round.

    Process time leaves out what other programs take; the turns let what slows the whole machine down hit both alike.
    """
    ours, baseline = row.setup()
    if row.cost is not None:
        a, b = row.cost(ours), row.cost(baseline)
        return Result(row.name, a, b, a / b, row.at_most)
    counts = [calls_for(work, ROUND_SECONDS / 4) for work in (ours, baseline)]
    times: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            # There and back, so that neither always comes first.
            a, b, c, d = (timed(work, n) for work, n in zip((ours, baseline) * 2, counts * 2, strict=True))
            times.append(((a + c) / 2, (b + d) / 2))
    finally:
        gc.enable()
    ours_us, baseline_us = (1e6 * statistics.median(column) for column in zip(*times, strict=True))
    return Result(row.name, ours_us, baseline_us, statistics.median(a / b for a, b in times), row.at_most)


def calls_for(work: Work, seconds: float) -> int:
    """How many calls fill about `seconds`."""
    timed(work, 1)
    return max(1, round(seconds / max(timed(work, 2), 1e-7)))


def timed(work: Work, calls: int) -> float:
    """Seconds of process time per call, after one that refills what the other work pushed out of cache and heap."""
    work()
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def peak_memory(work: Work) -> float:
    """The most KiB that torch's CPU allocator held at once for one call, after one that fills what is kept for good."""
    return max(_memory(work)) / 1024


def held_memory(work: Work) -> float:
    """The KiB that what `work` returns holds on to, such as a loss with all that its backward pass needs."""
    return _memory(work)[-1] / 1024


def _memory(work: Work) -> list[int]:
    """The bytes that torch's CPU allocator held after each change during one call, the result being alive."""
    work()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = work()
    del result
    events: Any = profiled.profiler
    changes = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return list(itertools.accumulate(event.nbytes() for event in changes))
