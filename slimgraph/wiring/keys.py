"""Names and keys: which node is called what, what is read and what is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from slimgraph.errors import DuplicateNameError, MissingKeyError, UnknownOptionError, did_you_mean, nearest


class Keyed(Protocol):
    """What can be wired."""

    input_keys: list[str]
    output_keys: list[str]
    name: str | None


def names(nodes: Sequence[Keyed]) -> list[str]:
    """The nodes' names, `node_1`, `node_2`, ... by place for those that have none. Raises DuplicateNameError."""
    given = [node.name or f"node_{place}" for place, node in enumerate(nodes, 1)]
    for place, name in enumerate(given):
        if name in given[:place]:
            first = given.index(name)
            raise DuplicateNameError(
                f"two nodes are called {name!r}: number {first + 1}, {signature(nodes[first])}, "
                f"and number {place + 1}, {signature(nodes[place])}; give one of them another name"
            )
    return given


def find(nodes: Sequence[Any], name: str) -> Any:
    """The node of that name. Raises UnknownOptionError with the nearest one."""
    known = names(nodes)
    if name not in known:
        raise UnknownOptionError(f"there is no node {name!r} among {known}.{did_you_mean(name, known)}")
    return nodes[known.index(name)]


def writers(nodes: Sequence[Keyed]) -> dict[str, list[int]]:
    """For each key the places of the nodes that write it."""
    result: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for key in node.output_keys:
            result.setdefault(key, []).append(place)
    return result


def read_first(nodes: Sequence[Keyed]) -> list[str]:
    """The keys that nodes, run in this order, read before any of them writes them."""
    written: set[str] = set()
    reads: dict[str, None] = {}
    for node in nodes:
        reads.update((key, None) for key in node.input_keys if key not in written)
        written.update(node.output_keys)
    return list(reads)


def check_keys(
    nodes: Sequence[Keyed],
    data: Collection[str],
    terms: Iterable[Any] = (),
    labels: Sequence[str] | None = None,
) -> None:
    """Raises MissingKeyError for the first key that a node or term reads and neither `data` nor a node gives.

    `nodes` stand in run order and go by `labels`, their names in that order; a term is anything with `keys` and
    `label`.
    """
    held, labels = set(data), names(nodes) if labels is None else labels
    for label, node in zip(labels, nodes, strict=True):
        for key in node.input_keys:
            if key not in held:
                raise MissingKeyError(_missing(f"node {label!r}", key, data, nodes, labels))
        held.update(node.output_keys)
    for term in terms:
        for key in term.keys:
            if key not in held:
                raise MissingKeyError(_missing(f"{term.kind} {term.label!r}", key, data, nodes, labels))


def _missing(who: str, key: str, data: Collection[str], nodes: Sequence[Keyed], labels: Sequence[str]) -> str:
    produced = {k: label for label, node in zip(labels, nodes, strict=True) for k in node.output_keys}
    text = f"{who} reads {key!r}, the data holds {sorted(map(str, data))}"
    text += f" and the nodes give {sorted(produced)}." if produced else "."
    known = sorted({*map(str, data), *produced} - {key})
    text += did_you_mean(key, known)
    if (found := nearest(key, known)) in produced:
        text += f" It comes from node {produced[found]!r}."
    if key in produced:
        text += f" Node {produced[key]!r} gives it, but only later."
    return text


def signature(node: Keyed) -> str:
    """`(inputs) -> (outputs)`."""
    return f"({', '.join(node.input_keys)}) -> ({', '.join(node.output_keys)})"
