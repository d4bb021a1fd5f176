"""What two problems differ in: as text, as a truth, and as a coloured drawing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from slimgraph.drawing.difference.inventory import Facts, Part, parts_of
from slimgraph.errors import DrawingError

ADDED, REMOVED, CHANGED = "+", "-", "~"
KINDS = ("system", "node", "key read", "key written", "objective", "constraint", "loss", "problem")
MODULE, CHECKSUM = re.compile(r"(\w+)\("), re.compile(r" #[0-9a-f]{8}")

Thing = TypeVar("Thing")
FactChange = tuple[str, str | None, str | None]
"""What differs, and its texts in the first and in the second; None where one has no such thing."""


@dataclass(frozen=True)
class Change:
    """One part that was added (`mark` "+"), removed ("-") or changed ("~"), and what of it has changed."""

    mark: str
    kind: str
    name: str
    text: str = ""
    facts: tuple[FactChange, ...] = ()

    def __str__(self) -> str:
        title = f"{self.mark} {self.kind} {self.name}".rstrip()
        lines = [f"{title}: {self.text}" if self.text else title]
        for what, before, after in self.facts:
            lines += [f"-     {what}: {before}"] if before is not None else []
            lines += [f"+     {what}: {after}"] if after is not None else []
        return "\n".join(lines)


class Diff:
    """What `diff` has found: true where there is something, `str()` the text, `changes` its parts in order.

    A notebook shows the drawing by itself; `draw` and `save` write it.
    """

    def __init__(self, a: Any, b: Any, values: bool = False) -> None:
        for x in (a, b):
            if not hasattr(x, "input_keys") or not (hasattr(x, "nodes") or hasattr(x, "callable")):
                raise DrawingError(f"diff compares Problems, Systems or Nodes; got {type(x).__name__}: {x!r}")
        self.a, self.b = a, b
        self.pairs = _pairs(parts_of(a, values), parts_of(b, values))
        changes = ((pair, _change(*pair)) for pair in self.pairs)
        self.changed_pairs = [(pair, change) for pair, change in changes if change is not None]
        self.changes = [change for _, change in self.changed_pairs]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __str__(self) -> str:
        return "\n".join(map(str, self.changes)) or "no difference"

    def __repr__(self) -> str:
        marks = [change.mark for change in self.changes]
        return f"Diff: {marks.count(ADDED)} added, {marks.count(REMOVED)} removed, {marks.count(CHANGED)} changed"

    def to_networkx(self) -> Any:
        """Both graphs as one, what differs marked in the labels."""
        from slimgraph.drawing.difference.union import union

        return union(self)

    def draw(self, path: str | os.PathLike[str] | None = None) -> Any:
        """The coloured Drawing: + green and thick is new, - red and dashed is gone, ~ amber and double has changed.

        It is written to `path` when one is given, in the format of its ending.
        """
        from slimgraph.drawing.difference.union import DiffDrawing

        drawing = DiffDrawing(self)
        if path is not None:
            drawing.save(path)
        return drawing

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the drawing in the format of the ending of `path`, and returns the path."""
        return self.draw().save(path)

    def _repr_svg_(self) -> str:
        return self.draw().svg()


def diff(a: Any, b: Any, *, values: bool = False) -> Diff:
    """What changes from `a` to `b`, two Problems, Systems or Nodes: nodes, keys, terms, loss and options.

    Compared are, by name: what nodes call down to the options of each module and the shapes and dtypes of its weights,
    which of them are trained, the keys read and written, each term's expressions, comparison, bound, weight and norm,
    the loss, and the options of systems and of the problem. Numbers in weights are compared with `values=True` alone.
    Functions differ by name, by what they are bound to, and by their code. Unnamed terms are found again by what they
    say, and else by the keys that they read.

    Raises DrawingError for anything else than these.

    >>> from slimgraph import Node, PenaltyLoss, Problem, slim, variable
    >>> def make(bound, n):
    ...     nodes = [Node(slim.Linear(n, n), ["x"], ["y"], name="map")]
    ...     return Problem(nodes, PenaltyLoss([], [(variable("y") <= bound).with_name("cap")]))
    >>> print(diff(make(1.0, 3), make(2.0, 3)))
    ~ constraint cap
    -     right: 1.0
    +     right: 2.0
    >>> bool(diff(make(1.0, 3), make(1.0, 3)))
    False
    """
    return Diff(a, b, values)


# Which part is which


def _pairs(first: list[Part], second: list[Part]) -> list[tuple[Part | None, Part | None]]:
    """Every part of both with its like in the other, in the order of `KINDS` and of declaration."""
    pairs: list[tuple[Part | None, Part | None]] = []
    for kind in KINDS:
        ours, theirs = ([part for part in parts if part.kind == kind] for parts in (first, second))
        likes = _likes(ours, theirs)
        back = {id(like): part for part, like in likes}
        order = merged([id(part) for part in ours], [id(back.get(id(part), part)) for part in theirs])
        known = {id(part): part for part in (*ours, *theirs)}
        found = {id(part): like for part, like in likes}
        mine = {id(part) for part in ours}
        pairs += [(known[i], found.get(i)) if i in mine else (None, known[i]) for i in order]
    return pairs


def _likes(ours: list[Part], theirs: list[Part]) -> list[tuple[Part, Part]]:
    """Which part of `ours` is which of `theirs`: by name, else by the same facts, else by the same keys."""
    found, free = [], list(theirs)
    tests = (
        lambda a, b: a.named and b.named and a.name == b.name,
        lambda a, b: not a.named and not b.named and a.facts == b.facts,
        lambda a, b: not a.named and not b.named and _sides(a) & _sides(b),
    )
    for test in tests:
        for part in ours:
            like = next((other for other in free if test(part, other)), None)
            if like is not None and not any(part is done for done, _ in found):
                found.append((part, like))
                free.remove(like)
    return found


def _sides(part: Part) -> set[str]:
    return {part.facts[word] for word in ("left", "right", "expression") if word in part.facts}


def merged(first: Sequence[Thing], second: Iterable[Thing]) -> list[Thing]:
    """`first` with what only `second` has, each after what stands before it there.

    >>> merged(["a", "b", "c"], ["x", "b", "y", "c"])
    ['x', 'a', 'b', 'y', 'c']
    """
    result, place = list(first), 0
    for thing in second:
        if thing in result:
            place = result.index(thing) + 1
        else:
            result.insert(place, thing)
            place += 1
    return result


# What of it differs


def _change(a: Part | None, b: Part | None) -> Change | None:
    if a is None or b is None:
        part: Any = a or b
        return Change(REMOVED if b is None else ADDED, part.kind, part.name, part.text)
    facts = tuple(_fact_changes(a.facts, b.facts))
    return Change(CHANGED, b.kind, b.name, facts=facts) if facts else None


def _fact_changes(a: Facts, b: Facts) -> Iterable[FactChange]:
    """The facts that differ; of a module of another class, or with other options, without what follows from that."""
    replaced: list[str] = []
    altered: list[str] = []
    for what in merged(list(a), b):
        before, after = a.get(what), b.get(what)
        modules = [MODULE.match(text or "") for text in (before, after)]
        inside = any(what.startswith(f"{path}.") for path in replaced)
        if before == after or inside or (what.rpartition(".")[0] in altered and not any(modules)):
            continue
        if any(modules):
            same_class = all(modules) and modules[0][1] == modules[1][1]  # pyright: ignore[reportOptionalSubscript]
            (altered if same_class else replaced).append(what)
        yield what, *_shown(before, after)


def _shown(before: str | None, after: str | None) -> tuple[str | None, str | None]:
    """Both texts, without checksums where they differ without."""
    texts = tuple(text and CHECKSUM.sub("", text) for text in (before, after))
    return texts if texts[0] != texts[1] else (before, after)  # pyright: ignore[reportReturnType]
