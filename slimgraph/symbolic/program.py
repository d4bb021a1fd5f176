"""A program: the flat list of steps that a Plan runs, one after the other, over numbered slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from slimgraph.symbolic.derivative import gradient, gradients
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


def with_derivatives_joined(program: Sequence[Step]) -> list[Step]:
    """The program with one call for all derivatives of one value, where there are several."""
    written = {step[0]: place for place, step in enumerate(program)}
    # By the value that is derived: the place of its first derivative, and all that are joined to that one.
    groups: dict[int, tuple[int, list[Step]]] = {}
    for place, step in enumerate(program):
        if step[1] is gradient:
            first, group = groups.setdefault(step[2][0], (place, []))
            # What is computed later cannot be waited for.
            if written.get(step[2][1], -1) < first:
                group.append(step)
    joined = {group[0][0]: group for _, group in groups.values() if len(group) > 1}
    done = {step[0] for group in joined.values() for step in group}
    made: list[Step] = []
    for step in program:
        if group := joined.get(step[0]):
            made.append((step[0], gradients, (step[2][0], *(each[2][1] for each in group))))
            # The first slot holds all of them until the last one is taken out.
            made += [(each[0], itemgetter(i), (step[0],)) for i, each in reversed(list(enumerate(group)))]
        elif step[0] not in done:
            made.append(step)
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
