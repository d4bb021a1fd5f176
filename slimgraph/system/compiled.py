"""Compiled steps: a stretch of steps as one function of tensors, for torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.system.as_node import caller
from slimgraph.system.horizon import Windows
from slimgraph.system.mask import masked

Calls = list[tuple[Any, list[str]]]


class CompiledSteps:
    """What `System.compile` switches on: `steps` steps at a time run compiled, whatever is left over runs as always.

    One function is compiled for each set of states, kept outputs and mask, and again by torch for new shapes. Copies
    and pickles carry the options and compile for themselves.
    """

    def __init__(self, steps: int, options: dict[str, Any]) -> None:
        self.steps, self.options = steps, options
        self.made: dict[Any, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"steps": self.steps, "options": self.options, "made": {}}

    def function(self, system: nn.Module, calls: Calls, states: list[str], kept: list[str]) -> Callable[..., Any]:
        """The compiled steps for this wiring."""
        key = tuple(states), tuple(kept), tuple((id(getattr(node, "callable", node)), *reads) for node, reads in calls)
        if key not in self.made:
            plan = [(caller(node, reads), reads, node.output_keys, node.named) for node, reads in calls]
            steps = _steps(plan, kept, Windows(system))
            self.made[key] = torch.compile(steps, **{"dynamic": False, **self.options})
        return self.made[key]


def _steps(plan: list[Any], kept: list[str], windows: Windows) -> Callable[..., Any]:
    """The steps as a function of the given entries, the states, what windows hold, and the mask's entries."""

    def step(fresh: dict[str, Tensor], now: dict[str, Tensor], counts: Tensor | None) -> dict[str, Tensor]:
        for call, reads, writes, named in plan:
            result = call(*[now[key] if key in now else fresh[key] for key in reads])
            results = [result] if isinstance(result, Tensor) and len(writes) == 1 else named(result).values()
            for key, value in zip(writes, results, strict=True):
                fresh[key] = value if counts is None else masked(counts, value, now.get(key))
        return fresh

    def steps(
        given: dict[str, list[Tensor]], now: dict[str, Tensor], histories: Any, counts: list[Tensor] | None, length: int
    ) -> Any:
        windows.put(histories)
        found: dict[str, list[Tensor]] = {key: [] for key in kept}
        for i in range(length):
            entries = {key: column[i] for key, column in given.items()}
            results = step(entries, now, None if counts is None else counts[i])
            for key in kept:
                found[key].append(results[key])
            now = {key: results[key] for key in now}
        return found, now, windows.held()

    return steps
