"""The wires of a component graph, `GraphNode`, and the ordered collections of modules and wires that link both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slimgraph.errors import OptionError, WiringError
from slimgraph.graph.whole import Part


class Members:
    """An ordered set by identity: what is in it is told in constant time, however its class compares."""

    __slots__ = ("_by_id",)

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._by_id = {id(item): item for item in items}

    def __contains__(self, item: object) -> bool:
        return id(item) in self._by_id

    def __iter__(self) -> Iterator[Any]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, place: Any) -> Any:
        return list(self)[place]

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a collection, holds the same objects, in any order."""
        return isinstance(other, Iterable) and self._by_id.keys() == {id(item) for item in other}

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def add(self, item: Any) -> None:
        self._by_id.setdefault(id(item), item)

    def discard(self, item: Any) -> None:
        self._by_id.pop(id(item), None)

    def __repr__(self) -> str:
        return repr(list(self))


class GraphNode(Part):
    """A wire: the sum of what its `source_modules` write is read by each of its `sink_modules`.

    The links are kept by the modules' `input_nodes` and `output_nodes`; here they are read.

    >>> from slimgraph.graph import GraphModule
    >>> wire = GraphNode()
    >>> a, b = GraphModule([], [wire], name="a"), GraphModule([wire], [], name="b")
    >>> wire
    GraphNode from [a] to [b]
    >>> a in wire.source_modules, a in wire.sink_modules
    (True, False)
    """

    __slots__ = ("holders", "sink_modules", "source_modules")

    def __init__(self) -> None:
        self.blank()

    def blank(self) -> None:
        self._whole = None
        self.source_modules = Members()
        self.sink_modules = Members()
        # The holders that show this wire as theirs; a wire that gives way to another tells them.
        self.holders = Members()

    def __repr__(self) -> str:
        ends = (", ".join(_short(m) for m in side) for side in (self.source_modules, self.sink_modules))
        return "GraphNode from [{}] to [{}]".format(*ends)


class Ports(Sequence[GraphNode]):
    """The wires at one side of a module, in order; `in` takes constant time, and a wire may stand at several places.

    `side` is "input" or "output". Only the owner and the functions of this room change it.
    """

    __slots__ = ("_places", "_wires", "owner", "side")

    def __init__(self, owner: Any, side: str) -> None:
        self.owner, self.side = owner, side
        self._wires: list[GraphNode] = []
        # By the identity of a wire where it stands, in order; the wires are held by the list.
        self._places: dict[int, dict[int, None]] = {}

    def __getitem__(self, place: Any) -> Any:
        return self._wires[place]

    def __len__(self) -> int:
        return len(self._wires)

    def __iter__(self) -> Iterator[GraphNode]:
        return iter(self._wires)

    def __contains__(self, wire: object) -> bool:
        return id(wire) in self._places

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a sequence, holds the same wires in the same order."""
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine is theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return repr(self._wires)

    def places(self, wire: GraphNode) -> tuple[int, ...]:
        """Where `wire` stands."""
        return tuple(self._places.get(id(wire), ()))

    def add(self, wire: GraphNode) -> None:
        """Put `wire` behind the others."""
        self._link(len(self._wires), wire)
        self._wires.append(wire)

    def put(self, place: int, wire: GraphNode) -> None:
        """Put `wire` at `place` instead of the one that stands there."""
        old = self._wires[place]
        if old is not wire:
            self._unlink(place, old)
            self._link(place, wire)
            self._wires[place] = wire

    def fill(self, wires: Sequence[GraphNode]) -> None:
        """Hold `wires` and nothing else."""
        for place, old in enumerate(self._wires):
            self._unlink(place, old)
        self._wires = []
        for wire in wires:
            self.add(wire)

    def _members(self, wire: GraphNode) -> Members:
        if self.owner.is_holder:
            return wire.holders
        return wire.sink_modules if self.side == "input" else wire.source_modules

    def _link(self, place: int, wire: GraphNode) -> None:
        self._places.setdefault(id(wire), {})[place] = None
        self._members(wire).add(self.owner)
        wire.changed()
        self.owner.changed()

    def _unlink(self, place: int, wire: GraphNode) -> None:
        standing = self._places[id(wire)]
        del standing[place]
        wire.changed()
        self.owner.changed()
        if not standing:
            del self._places[id(wire)]
            # A holder may still show the wire on its other side.
            if not (self.owner.is_holder and self.owner.shows(wire)):
                self._members(wire).discard(self.owner)


def check_wires(who: str, word: str, wires: Any) -> list[GraphNode]:
    """`wires` as a list. Raises OptionError for what is no list of wires."""
    if isinstance(wires, str) or not isinstance(wires, Iterable):
        raise OptionError(f"{who} needs a list of GraphNodes for {word}, got {wires!r}")
    found = list(wires)
    for place, wire in enumerate(found):
        if not isinstance(wire, GraphNode):
            raise OptionError(f"{who} needs GraphNodes for {word}, got {wire!r} at place {place}")
    return found


def refuse_stranger(who: str, word: str, ports: Ports, wire: Any) -> None:
    """Raises WiringError for a wire that is not among `ports`."""
    if wire not in ports:
        raise WiringError(f"{who} has no such {word}: {wire!r} is not among its {len(ports)}")


def _short(module: Any) -> str:
    return module.name or type(module).__name__
