"""A program: the flat list of steps that a Plan runs, one after the other, over numbered slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slimgraph.symbolic.walk import replace


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in an argument template for the value in that slot."""

    number: int


class Nested:
    """A call whose values stand inside lists or keywords: fills the template, then calls."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    def __call__(self, *values: Any) -> Any:
        args, kwargs = replace((self.args, self.kwargs), Slot, lambda slot: values[slot.number])
        return self.function(*args, **kwargs)


# A line of the program: the slot of the result, the function, and the slots of its arguments.
Step = tuple[int, Callable[..., Any], tuple[int, ...]]


def with_slots_reused(program: Sequence[Step], results: Sequence[int]) -> list[Step]:
    """The program with results put where values were that nobody reads any more, so that these are freed early."""
    last = {slot: place for place, step in enumerate(program) for slot in step[2]}
    kept = set(results)
    moved: dict[int, int] = {}
    free: list[int] = []
    made: list[Step] = []
    for place, (slot, function, arguments) in enumerate(program):
        read = tuple(moved.get(i, i) for i in arguments)
        done = [i for i in dict.fromkeys(arguments) if last[i] == place and i in moved and i not in kept]
        free += [moved[i] for i in done]
        moved[slot] = free.pop() if free and slot not in kept else slot
        made.append((moved[slot], function, read))
    return made


def steps_between(program: Sequence[Step], start: int, end: int) -> list[Step]:
    """The steps that depend on slot `start` and on which slot `end` depends, in their order."""
    reached, after = {start}, []
    for step in program:
        if step[0] != start and not reached.isdisjoint(step[2]):
            reached.add(step[0])
            after.append(step)
    needed, between = {end}, []
    for step in reversed(after):
        if step[0] in needed:
            needed.update(step[2])
            between.append(step)
    return between[::-1]
