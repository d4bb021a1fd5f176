"""Folding: equal consecutive nodes, or stretches of nodes, drawn once, as `x N`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterator
from typing import Any

from torch import nn

from slimgraph.drawing.form import View
from slimgraph.drawing.view.choice import is_part
from slimgraph.drawing.view.levels import merged

# Two equal ones are seen faster than they are counted.
FEWEST = 3
# Stretches of more nodes than this are not looked for.
LONGEST = 6

Stretch = tuple[list[list[Any]], int]
"""Equal runs of nodes, one behind the other, and how many nodes each has."""


def fold(form: View) -> View:
    """`form` with every chain of at least three equal nodes drawn as its first, labelled `x N`.

    Equal are nodes of one kind in one box that call the same function, or modules that are written alike and have
    weights of the same sizes, and whose other neighbours are the same. Nodes between them, each with one next and one
    before it, may repeat as a whole: then the first of these stretches stands in a box `x N`.
    """
    sides = _sides(form)
    follows = _follows(form, sides)
    group_of: dict[Any, Hashable] = {}
    looks: dict[Hashable, dict[str, Any]] = {}
    boxes: dict[tuple[str, ...], dict[str, Any]] = {}
    chains = _chains(form, follows)
    for runs in (runs for chain in chains for runs in _repeats(_signs(form, chain, sides), chain)):
        path = (*form.nodes[runs[0][0]]["cluster"], f"x {runs[0][0]}")
        for column in zip(*runs, strict=True):
            group_of |= dict.fromkeys(column, column[0])
            looks[column[0]] = dict(form.nodes[column[0]])
            if len(runs[0]) == 1:
                looks[column[0]]["label"] = _label([str(form.nodes[place]["label"]) for place in column])
            else:
                looks[column[0]]["cluster"] = path
                boxes[path] = {"title": f"x {len(runs)}"}
        # What leads from one run to the next is no loop.
        form.remove_edges_from([e for one, two in itertools.pairwise(runs) for e in _between(form, one[-1], two[0])])
    if not group_of:
        return form
    result = merged(form, group_of, looks)
    result.graph["boxes"] = {**result.graph["boxes"], **boxes}
    return result


def _between(form: View, tail: Any, head: Any) -> list[tuple[Any, Any, Any]]:
    return [(tail, head, key) for key in form.get_edge_data(tail, head) or ()]


# ---- chains ---------------------------------------------------------------------------------------------------------

Sides = dict[Any, frozenset[tuple[str, Any, Any]]]
"""For each node the neighbours beside a chain: data that it reads and sums to which it adds, by direction and key."""


def _sides(form: View) -> Sides:
    kinds = dict(form.nodes(data="kind"))
    found: dict[Any, set[tuple[str, Any, Any]]] = {place: set() for place in form}
    for tail, head, key in form.edges(keys=True):
        if kinds[tail] == "data":
            found[head].add(("reads", tail, key))
        if kinds[head] == "reg_error":
            found[tail].add(("adds", head, key))
    return {place: frozenset(some) for place, some in found.items()}


def _follows(form: View, sides: Sides) -> dict[Any, Any]:
    """For each node the one behind it, where nothing else stands between or beside the two."""
    kinds = dict(form.nodes(data="kind"))
    after: dict[Any, set[Any]] = {place: set() for place in form}
    before: dict[Any, set[Any]] = {place: set() for place in form}
    for tail, head, feedback in form.edges(data="feedback"):
        if feedback:
            # A loop leads around; what is within one is not folded.
            after[tail].update((tail, head))
            before[head].update((tail, head))
        elif kinds[tail] != "data" and kinds[head] != "reg_error":
            after[tail].add(head)
            before[head].add(tail)
    pairs = ((place, next(iter(some))) for place, some in after.items() if len(some) == 1)
    parts = {place for place, attributes in form.nodes(data=True) if is_part(attributes)}
    return {a: b for a, b in pairs if len(before[b]) == 1 and a in parts and b in parts and a != b}


def _chains(form: View, follows: dict[Any, Any]) -> Iterator[list[Any]]:
    """Every longest chain, cut where it enters or leaves a box."""
    heads = set(follows).difference(follows.values())
    for head in (place for place in form if place in heads):
        chain = [head]
        while chain[-1] in follows:
            chain.append(follows[chain[-1]])
        for _, some in itertools.groupby(chain, lambda place: form.nodes[place]["cluster"]):
            yield list(some)


def _repeats(signs: list[Hashable], chain: list[Any]) -> Iterator[list[list[Any]]]:
    """The runs of `chain` that repeat, each run once for every repetition."""
    start = 0
    while start < len(chain):
        best, size = 1, 1
        for length in range(1, min(LONGEST, (len(chain) - start) // FEWEST) + 1):
            count, pattern = 1, signs[start : start + length]
            while signs[start + count * length : start + (count + 1) * length] == pattern:
                count += 1
            if count >= FEWEST and count * length > best * size:
                best, size = count, length
        if best > 1:
            yield [chain[i : i + size] for i in range(start, start + best * size, size)]
        start += best * size


# ---- equal ones -----------------------------------------------------------------------------------------------------


def _signs(form: View, chain: list[Any], sides: Sides) -> list[Hashable]:
    """A sign for each node of a chain, the same for those that can be folded."""
    own = [sides[place] for place in chain]
    if len(own) > 1 and own[0] > own[1]:
        # What only the first one reads is what goes through the chain.
        own[0] = own[1]
    return [(_sign(form, place), side) for place, side in zip(chain, own, strict=True)]


def _sign(form: View, place: Any) -> Hashable:
    """What nodes of the same work have in common."""
    attributes = form.nodes[place]
    part, kind = attributes.get("part"), attributes.get("kind")
    if part is None:
        return kind, attributes.get("label", place)
    inner = getattr(part, "callable", getattr(part, "computational_module", None))
    sizes = (len(getattr(part, "input_keys", ())), len(getattr(part, "output_keys", ())))
    ports = (getattr(part, "size_in", None), getattr(part, "size_out", None))
    return kind, type(part), sizes, ports, _what(part if inner is None else inner)


def _what(thing: Any) -> Hashable:
    if not isinstance(thing, nn.Module):
        # A function is equal to itself; an object without a name of its own to nothing else.
        return (type(thing), getattr(thing, "name", None)) if hasattr(thing, "size_in") else id(thing)
    return repr(thing), tuple((name, tuple(value.shape)) for name, value in thing.named_parameters() if _made(value))


def _made(value: Any) -> bool:
    return not isinstance(value, nn.UninitializedParameter)


def _label(labels: list[str]) -> str:
    """The lines that all labels share; of a line that differs the first and the last, and how many there are."""
    rows = [label.split("\n") for label in labels]
    lines = []
    for line in zip(*rows, strict=False):
        same = len(set(line)) == 1
        lines.append(line[0] if same else f"{line[0]} ... {line[-1]}")
    # "a ... b" of names that differ by more than a number would say that they are counted through.
    return re.sub(r"[ \t]+", " ", "\n".join(lines)) + f"\nx {len(labels)}"
