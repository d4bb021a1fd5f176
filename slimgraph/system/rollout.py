"""The roll-out: steps run in pieces of time, so that a piece can be recomputed or cut off from the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from slimgraph.slim import materialized
from slimgraph.slim.linear.walks import Built
from slimgraph.system.as_node import caller
from slimgraph.system.buffers import Buffers, Once
from slimgraph.system.horizon import History, Windows
from slimgraph.system.mask import MaskedWrite

# A node, what to call, the columns that it reads and the appends of those that it writes.
Call = tuple[Any, Callable[..., Any], list[Any], list[Callable[[Tensor], None]]]


class Latest:
    """A column of which nothing but the last two entries is held: an output that nobody asked to keep."""

    def __init__(self) -> None:
        self.pair: list[Any] = [None, None]
        self.count = 0

    def append(self, entry: Tensor) -> None:
        self.pair[self.count & 1] = entry
        self.count += 1

    def __getitem__(self, i: int) -> Tensor:
        return self.pair[i & 1]


@dataclass
class Moment:
    """Where a roll-out stands between two steps: the entry of each state, and what the windows hold."""

    states: dict[str, Tensor]
    windows: list[History]

    def cut(self) -> Moment:
        """The same, without the way back for gradients."""
        return Moment({key: entry.detach() for key, entry in self.states.items()}, Windows.detached(self.windows))


@dataclass
class RollOut:
    """What runs at every step, and over which entries.

    `calls` gives the nodes in run order, each with the names of the columns that it reads; `given` the entries in time
    of what comes from outside; `kept` the outputs that are gathered, out of `written`; `counts` the mask's entries.
    """

    system: Any
    calls: list[tuple[Any, list[str]]]
    given: dict[str, list[Tensor]]
    written: list[str]
    kept: list[str]
    nsteps: int
    counts: list[Tensor] | None = None

    def run(self, start: Moment) -> tuple[dict[str, list[Tensor]], Moment]:
        """The kept outputs as columns, a state with its start first, and the moment at the end."""
        series = {key: [start.states[key]] if key in start.states else [] for key in self.kept}
        moment, every, compiled = start, self.system.checkpoint_every, self.system.compiled
        recompute = every is not None and torch.is_grad_enabled()
        with materialized(self.system):
            built, changed, before = None, None, Buffers(self.system) if recompute else None
            for first, stop in self._pieces(every if recompute else compiled and compiled.steps):
                if first and self.system.truncate_every and first % self.system.truncate_every == 0:
                    moment = moment.cut()
                if compiled and first and stop - first == compiled.steps:
                    built = built or Built(self.system)
                    gathered, moment = self._compiled(built, moment, first, stop)
                elif recompute and first:
                    # What the first step has built serves all pieces; a function under checkpoint would build anew.
                    built = built or Built(self.system)
                    changed = before.changed() if changed is None and before else changed
                    again = built, Once(changed or [])
                    piece: Any = checkpoint(self._rebuilt, again, moment, first, stop, use_reentrant=False)
                    gathered, moment = piece
                else:
                    gathered, moment = self.piece(moment, first, stop)
                for key, column in gathered.items():
                    series[key] += column
        return series, moment

    def _pieces(self, every: int | None) -> list[tuple[int, int]]:
        """The steps in stretches of `every`, first and stop of each."""
        stretch = self.system.truncate_every or self.nsteps
        bounds = {0, self.nsteps, *range(0, self.nsteps, stretch)}
        if every:
            for cut in range(0, self.nsteps, stretch):
                # The first step stands alone: maps are built there, to be used in all pieces.
                bounds.update(range(cut or 1, min(cut + stretch, self.nsteps), every))
        ordered = sorted(bounds)
        return list(zip(ordered, ordered[1:], strict=False))

    def _compiled(self, built: Built, start: Moment, first: int, stop: int) -> tuple[dict[str, list[Tensor]], Moment]:
        """As `piece`, by the system's compiled steps."""
        run = self.system.compiled.function(self.system, self.calls, list(start.states), self.kept)
        given = {key: column[first:stop] for key, column in self.given.items()}
        windows = Windows(self.system)
        before = windows.held()
        try:
            with built.again(compiled=True):
                found, states, held = run(
                    given, start.states, start.windows, self.counts and self.counts[first:stop], stop - first
                )
        finally:
            windows.put(before)
        return found, Moment(states, held)

    def _rebuilt(
        self, again: tuple[Built, Once], start: Moment, first: int, stop: int
    ) -> tuple[dict[str, list[Tensor]], Moment]:
        built, buffers = again
        with built.again(), buffers.again():
            return self.piece(start, first, stop)

    def piece(self, start: Moment, first: int, stop: int) -> tuple[dict[str, list[Tensor]], Moment]:
        """Steps `first` to `stop`, as a function of the moment before: the kept entries and the moment after."""
        columns: dict[str, Any] = {key: column[first:stop] for key, column in self.given.items()}
        columns |= {key: [] if key in self.kept else Latest() for key in self.written}
        for key, entry in start.states.items():
            columns[key].append(entry)
        counts = self.counts and self.counts[first:stop]
        plan = [self._call(node, reads, columns, counts, start) for node, reads in self.calls]
        windows = Windows(self.system)
        before = windows.held()
        windows.put(start.windows)
        try:
            for i in range(stop - first):
                self._advance(plan, i, first)
            end = Moment({key: columns[key][stop - first] for key in start.states}, windows.held())
        finally:
            windows.put(before)
        # The start of a piece is the end of the one before, which has it already.
        return {key: columns[key][1:] if key in start.states else columns[key] for key in self.kept}, end

    def _call(
        self, node: Any, reads: list[str], columns: dict[str, Any], counts: list[Tensor] | None, start: Moment
    ) -> Call:
        writes: list[Any] = [columns[key].append for key in node.output_keys]
        if counts is not None:
            writes = [MaskedWrite(columns[key], counts, key in start.states) for key in node.output_keys]
        return node, caller(node, reads), [columns[key] for key in reads], writes

    def _advance(self, plan: list[Call], i: int, first: int) -> None:
        for node, call, reads, writes in plan:
            try:
                result = call(*[column[i] for column in reads])
                results = (result,) if type(result) is Tensor and len(writes) == 1 else node.named(result).values()
            except Exception as error:
                now = {key: column[i] for key, column in zip(node.input_keys, reads, strict=False)}
                node.explain(error, now, f" at step {first + i} of {self.nsteps} of {self.system.title},")
                raise
            for write, value in zip(writes, results, strict=True):
                write(value)
