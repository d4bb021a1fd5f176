"""Copies and pickles of a component graph, in one piece: a chain of any length takes no recursion."""

from __future__ import annotations

from typing import Any

# Where a module keeps its links; everything else on it is its own.
LINKS = ("_inputs", "_outputs", "ends")


class Part:
    """A wire or a module. Copying or pickling one takes with it all that it is connected to, once."""

    __slots__ = ("_whole",)
    _whole: Whole | None

    def blank(self) -> None:
        """Make it a part without links."""
        raise NotImplementedError

    def changed(self) -> None:
        """The links of this part are others now: what was found as its whole graph no longer is."""
        if self._whole is not None:
            self._whole.is_stale = True
            self._whole = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        whole = self._whole
        if whole is None or whole.is_stale:
            whole = Whole(_connected(self))
        return _part, (whole, whole.places[id(self)])


class Whole:
    """All parts that are connected with each other. Its parts know it, so that one pickle or copy holds it once."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts, self.is_stale = parts, False
        self.places = {id(part): place for place, part in enumerate(parts)}
        for part in parts:
            part._whole = self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The parts are made empty first and filled then: what they hold may point back at them.
        return _empty, ([type(part) for part in self.parts],), [self._row(part) for part in self.parts]

    def _row(self, part: Any) -> Any:
        """What `part` holds, its links as the places of the others."""
        own = {name: value for name, value in getattr(part, "__dict__", {}).items() if name not in LINKS}
        if not hasattr(part, "input_nodes"):
            return own, None, None
        sides = [[self.places[id(wire)] for wire in ports] for ports in (part.input_nodes, part.output_nodes)]
        ends = [[[(self.places[id(m)], k) for m, k in port] for port in side] for side in part.ends]
        return own, sides, ends

    def __setstate__(self, table: list[Any]) -> None:
        parts = self.parts
        for part, (own, sides, ends) in zip(parts, table, strict=True):
            if own:
                vars(part).update(own)
            if sides is not None:
                for ports, places in zip((part.input_nodes, part.output_nodes), sides, strict=True):
                    ports.fill([parts[i] for i in places])
                part.ends = tuple([[(parts[i], k) for i, k in port] for port in side] for side in ends)
        # Filling has told every part that it changed.
        self.__init__(parts)


def _empty(classes: list[type]) -> Whole:
    parts: list[Any] = [object.__new__(cls) for cls in classes]
    for part in parts:
        part.blank()
    return Whole(parts)


def _part(whole: Whole, place: int) -> Any:
    return whole.parts[place]


def _connected(start: Any) -> list[Any]:
    """Every wire, module and holder that hangs together with `start`, breadth first."""
    found, seen = [start], {id(start)}
    for part in found:
        if hasattr(part, "input_nodes"):
            ends = (module for side in part.ends for port in side for module, _ in port)
            near = [*part.input_nodes, *part.output_nodes, *ends]
        else:
            near = [*part.source_modules, *part.sink_modules, *part.holders]
        for other in near:
            if id(other) not in seen:
                seen.add(id(other))
                found.append(other)
    return found
