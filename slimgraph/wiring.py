"""Which node runs when: names, order, what is read and what is written, over any objects with keys.

A node here is anything with `input_keys`, `output_keys` and `name`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slimgraph.errors import (
    CycleError,
    DuplicateNameError,
    MissingKeyError,
    OptionError,
    OverwriteError,
    UnknownOptionError,
    did_you_mean,
    nearest,
)

if TYPE_CHECKING:
    import networkx as nx


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
                f"two nodes are called {name!r}: number {first + 1}, {_signature(nodes[first])}, "
                f"and number {place + 1}, {_signature(nodes[place])}; give one of them another name"
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


def _signature(node: Keyed) -> str:
    return f"({', '.join(node.input_keys)}) -> ({', '.join(node.output_keys)})"


def to_networkx(
    nodes: Sequence[Any],
    terms: Sequence[Any] = (),
    term_names: Sequence[str] = (),
    labels: Sequence[str] | None = None,
) -> nx.MultiDiGraph:
    """Keys, nodes in run order and the terms that read them, as a networkx MultiDiGraph.

    `labels` are the nodes' names in that order, for nodes that were declared in another.

    A node that can be opened, such as a System, stands as a cluster of its own nodes: `inner_graph(label)` gives them
    with the readers of each key that comes from outside and the writer of each that goes out.
    """
    diagram = _Diagram()
    for label, node in zip(names(nodes) if labels is None else labels, nodes, strict=True):
        diagram.add_node(label, node)
    for number, (term, name) in enumerate(zip(terms, term_names, strict=True)):
        diagram.graph.add_node(f"term:{number}", kind=term.kind, label=f"{name}\n{term}")
        diagram.connect({key: [f"term:{number}"] for key in term.keys})
    diagram.add_unread_results()
    return diagram.graph


class _Diagram:
    """A networkx graph in the making, which knows where each key comes from."""

    def __init__(self) -> None:
        import networkx as nx

        self.graph = nx.MultiDiGraph()
        self.sources: dict[str, str] = {}

    def connect(self, readers: dict[str, list[str]]) -> None:
        """Lead each key from where it comes, or from the data, to its readers."""
        for key, places in readers.items():
            if key not in self.sources:
                self.sources[key] = f"data:{key}"
                self.graph.add_node(self.sources[key], kind="data", label=key)
            for place in places:
                self.graph.add_edge(self.sources[key], place, key=key)

    def add_node(self, label: str, node: Any) -> None:
        place = f"node:{label}"
        readers, written = dict.fromkeys(node.input_keys, [place]), dict.fromkeys(node.output_keys, place)
        if hasattr(node, "inner_graph"):
            inner, readers, written = node.inner_graph(node.name or label)
            self.graph.update(inner.edges(data=True, keys=True), inner.nodes(data=True))
        else:
            self.graph.add_node(place, kind=node.kind, label=node.name or node.label)
        self.connect(readers)
        self.sources.update(written)

    def add_unread_results(self) -> None:
        """What nobody reads in the same step is a result of the whole."""
        for key, place in self.sources.items():
            leaving = self.graph.out_edges(place, keys=True, data="feedback")
            if not any(k == key and not feedback for _, _, k, feedback in leaving):
                self.graph.add_node(f"result:{key}", kind="data", label=key)
                self.graph.add_edge(place, f"result:{key}", key=key)


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
