"""The order in which nodes run, and which of them some keys need."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from slimgraph.errors import CycleError, OptionError, OverwriteError
from slimgraph.wiring.keys import Keyed, names, writers


def order(
    nodes: Sequence[Keyed],
    *,
    check_overwrite: bool | Literal["error"] = False,
    given: Collection[str] = (),
    inside: str = "a Problem",
) -> list[int]:
    """The places of the nodes in the order in which they run.

    A node runs after the writers of what it reads, ties in declared order; keys in `given` have a value from the start
    and wait for nobody. A key is overwritten where two nodes write it, or one that reads it: those that read or write
    it keep their declared order, since it says which value is meant. `check_overwrite` makes that a warning, or with
    `"error"` an OverwriteError. Where they wait for each other then, the declared order holds for all.

    Raises CycleError, which shows the cycle as a path, where no key is overwritten.
    """
    if check_overwrite not in (True, False, "error"):
        raise OptionError(f"check_overwrite is True, False or 'error'; got {check_overwrite!r}")
    labels, by_key = names(nodes), writers(nodes)
    overwritten = [key for key in by_key if _is_overwritten(key, by_key[key], nodes, given)]
    if overwritten and check_overwrite:
        _tell_overwrite(overwritten[0], by_key[overwritten[0]], nodes, labels, check_overwrite)
    after = _waiting(nodes, by_key, overwritten, given)
    waits = [sum(place in readers for readers in after) for place in range(len(nodes))]
    ready = [place for place in range(len(nodes)) if not waits[place]]
    result = []
    while ready:
        # Not a heap: torch.compile knows lists.
        place = min(ready)
        ready.remove(place)
        result.append(place)
        for reader in after[place]:
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    if len(result) < len(nodes):
        if overwritten:
            return list(range(len(nodes)))
        stuck = [place for place in range(len(nodes)) if waits[place]]
        raise CycleError(_cycle_text(nodes, labels, stuck, by_key, given, inside))
    return result


def select(nodes: Sequence[Any], outputs: Iterable[str]) -> list[int]:
    """The places of those nodes, given in run order, on which the last value of each key in `outputs` depends.

    A node may name `optional_keys`, which it reads where somebody gives them; None means any key.
    """
    needed, kept = set(outputs), []
    for place in reversed(range(len(nodes))):
        node = nodes[place]
        given = {*node.output_keys}
        if needed.isdisjoint(given):
            continue
        kept.append(place)
        optional = getattr(node, "optional_keys", ())
        needed = (needed - given) | {*node.input_keys, *(writers(nodes[:place]) if optional is None else optional)}
    return kept[::-1]


def _waiting(
    nodes: Sequence[Keyed], by_key: dict[str, list[int]], overwritten: list[str], given: Collection[str]
) -> list[set[int]]:
    """For each node the places of those that run after it."""
    after: list[set[int]] = [set() for _ in nodes]
    for reader, node in enumerate(nodes):
        for key in node.input_keys:
            if key in by_key and key not in given and key not in overwritten:
                after[by_key[key][0]].add(reader)
    for key in overwritten:
        touching = [p for p, node in enumerate(nodes) if key in node.input_keys or key in node.output_keys]
        for writer, place in itertools.product(by_key[key], touching):
            if place != writer:
                after[min(place, writer)].add(max(place, writer))
    return after


def _is_overwritten(key: str, places: list[int], nodes: Sequence[Keyed], given: Collection[str]) -> bool:
    return len(places) > 1 or (key in nodes[places[0]].input_keys and key not in given)


def _tell_overwrite(
    key: str, places: list[int], nodes: Sequence[Keyed], labels: list[str], how: bool | Literal["error"]
) -> None:
    by = " and ".join(f"node {labels[place]!r}" for place in places)
    text = f"key {key!r} is overwritten by {by}" + ("" if len(places) > 1 else ", which reads it")
    if how == "error":
        raise OverwriteError(f"{text}; give the second value another key, or allow it with check_overwrite=False")
    warnings.warn(text, stacklevel=4)


def _cycle_text(
    nodes: Sequence[Keyed],
    labels: list[str],
    stuck: list[int],
    by_key: dict[str, list[int]],
    given: Collection[str],
    inside: str,
) -> str:
    """One cycle among the nodes that wait, as `a -(x)-> b -(u)-> a`, with advice."""
    reader, trail, edges = stuck[0], [], []
    while reader not in trail:
        trail.append(reader)
        key = next(k for k in nodes[reader].input_keys if k not in given and k in by_key and by_key[k][0] in stuck)
        edges.append(key)
        reader = by_key[key][0]
    start = trail.index(reader)
    # The trail was walked from reader to writer: told backwards it is the direction in which data flow.
    path = labels[reader]
    for place, key in zip(reversed(trail[start:]), reversed(edges[start:]), strict=True):
        path += f" -({key})-> {labels[place]}"
    if inside == "a Problem":
        return f"the nodes wait for each other: {path}. Feedback over time belongs into a System, which starts it"
    keys = sorted(set(edges[start:]))
    return (
        f"the nodes of {inside} wait for each other: {path}. "
        f"Give the data a start value, (batch, 1, features), for one of {keys}"
    )
