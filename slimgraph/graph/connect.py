"""Connecting component graphs: `connect_modules`, `replace_module`.

Two wires that are connected become one. Where that would let a module hear what is not meant for it, since one of the
wires has other writers and the other one other readers, an AliasConnection stands between instead.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from slimgraph.errors import OptionError, ShapeError, WiringError
from slimgraph.graph.kinds import AliasConnection
from slimgraph.graph.parts import End, GraphModule, GraphModuleBase, readers, writers
from slimgraph.graph.wires import GraphNode, Members

Indices = int | slice | Iterable[int] | None


def connect_modules(source: Any, dest: Any, source_indices: Indices = None, dest_indices: Indices = None) -> None:
    """Lead the output wires of `source`, one by one, into the input wires of `dest`.

    The indices choose some of them: an int, a slice, or ints; by default all. A module may be connected to itself. An
    output may lead to many inputs and an input may get many outputs, which add up; connecting what is connected changes
    nothing.

    Raises `ShapeError`, before anything is connected, where the numbers of wires differ, `OptionError` for what is no
    module or no index.

    >>> a, b = GraphModule.of_size(1, 3, name="a"), GraphModule.of_size(2, 1, name="b")
    >>> connect_modules(a, b, source_indices=slice(0, 2))
    >>> b.input_nodes == a.output_nodes[:2]
    True
    >>> connect_modules(a, b)
    Traceback (most recent call last):
    slimgraph.errors.ShapeError: cannot connect GraphModule 'a' to GraphModule 'b': 3 wires out, 2 wires in...
    """
    for word, graph in (("source", source), ("dest", dest)):
        if not isinstance(graph, GraphModuleBase):
            raise OptionError(
                f"connect_modules needs a GraphModule or a GraphHolder as {word}, got {type(graph).__name__}: {graph!r}"
            )
    outs = _chosen(source, "output", source_indices)
    ins = _chosen(dest, "input", dest_indices)
    if len(outs) != len(ins):
        raise ShapeError(
            f"cannot connect {source.title} to {dest.title}: {len(outs)} wires out, {len(ins)} wires in;"
            " choose some of them by source_indices and dest_indices"
        )
    joints = _Joints(f"{source.name or type(source).__name__} to {dest.name or type(dest).__name__}")
    for i, j in zip(outs, ins, strict=True):
        joints.connect(source, i, dest, j)


def replace_module(old_module: GraphModule, new_module: Any) -> None:
    """Put `new_module`, or a holder, on the wires of `old_module`, which is left with new wires of its own.

    `replace_module(new, old)` puts it back. Raises `ShapeError` for other numbers of wires, `WiringError` for a new
    module that is connected to others already, `OptionError` for what is no module.

    >>> a, b, c = (GraphModule.of_size(1, 1, name=name) for name in "abc")
    >>> connect_modules(a, b)
    >>> replace_module(b, c)
    >>> a.output_nodes[0].sink_modules, b.input_nodes[0].source_modules
    ([GraphModule 'c' (1 -> 1)], [])
    """
    if not isinstance(old_module, GraphModule):
        raise OptionError(f"replace_module replaces a GraphModule, got {type(old_module).__name__}: {old_module!r}")
    if not isinstance(new_module, GraphModuleBase):
        raise OptionError(
            f"replace_module needs a GraphModule or a GraphHolder, got {type(new_module).__name__}: {new_module!r}"
        )
    if new_module is old_module:
        return
    if (new_module.size_in, new_module.size_out) != (old_module.size_in, old_module.size_out):
        raise ShapeError(
            f"cannot replace {old_module.title} of {old_module.size_in} wires in and {old_module.size_out} out by"
            f" {new_module.title} of {new_module.size_in} in and {new_module.size_out} out"
        )
    _refuse_connected(new_module)
    for side, (olds, news) in enumerate(
        ((old_module.input_nodes, new_module.input_nodes), (old_module.output_nodes, new_module.output_nodes))
    ):
        for place in range(len(olds)):
            wire = olds[place]
            ends = [(new_module, place)] if isinstance(new_module, GraphModule) else new_module.ends[side][place]
            _rename_ends(wire, side, (old_module, place), ends)
            olds.put(place, GraphNode())
            _merge(wire, news[place])


def _refuse_connected(module: Any) -> None:
    for wire in module.input_nodes:
        for other in wire.source_modules:
            raise WiringError(f"{module.title} is connected already: {other.title} writes on one of its inputs")
    for wire in module.output_nodes:
        own = (m for port in module.ends[1] for m, _ in port) if module.is_holder else (module,)
        known = {id(m) for m in own}
        for other in wire.source_modules:
            if id(other) not in known:
                raise WiringError(f"{module.title} is connected already: {other.title} writes on one of its outputs")
        if not module.is_holder:
            for other in wire.sink_modules:
                raise WiringError(f"{module.title} is connected already: {other.title} reads one of its outputs")


def _chosen(graph: Any, side: str, indices: Any) -> range | list[int]:
    """The places that `indices` mean at one side of `graph`."""
    ports = graph.input_nodes if side == "input" else graph.output_nodes
    every = range(len(ports))
    if indices is None:
        return every
    if isinstance(indices, slice):
        return every[indices]
    given = [indices] if hasattr(indices, "__index__") and not getattr(indices, "ndim", 0) else indices
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise OptionError(f"{side} indices are an int, a slice or ints; got {indices!r} for {graph.title}")
    found = []
    for index in given:
        try:
            # A mask would choose the wires 0 and 1.
            if isinstance(index, bool) or getattr(index, "dtype", None) in (np.dtype(bool), torch.bool):
                raise TypeError("a truth value")
            found.append(every[operator.index(index)])
        except TypeError as error:
            raise OptionError(f"{side} indices are whole numbers; got {index!r} for {graph.title}") from error
        except IndexError as error:
            raise OptionError(f"{graph.title} has {len(every)} {side} wires; there is none at {index}") from error
    return found


class _Joints:
    """One call of `connect_modules`: what it has to lead over aliases goes over one AliasConnection."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alias: AliasConnection | None = None

    def connect(self, source: Any, i: int, dest: Any, j: int) -> None:
        """Let whatever reads port `j` of `dest` hear what port `i` of `source` writes, and change nothing else."""
        s, d = source.output_nodes[i], dest.input_nodes[j]
        if s is d or _carries(s, d):
            return
        alone_out, alone_in = _is_alone(source, 1, i, s), _is_alone(dest, 0, j, d)
        # Others that write on s must not be heard on d, and what is written on s is not for others that read d.
        if not alone_out and (d.sink_modules or d.holders):
            s = self.move_out(s, _meant(source, 1, i, s))
        if not alone_in and (s.source_modules or s.holders):
            d = self.move_in(d, _meant(dest, 0, j, d))
        if d.source_modules and s.sink_modules:
            self.lead(s, d)
        else:
            _merge(s, d)

    def move_out(self, wire: GraphNode, meant: list[End]) -> GraphNode:
        """A new wire for the writers that are meant, which goes on leading to `wire`."""
        new = GraphNode()
        _move(wire, new, 1, meant)
        self.lead(new, wire)
        return new

    def move_in(self, wire: GraphNode, meant: list[End]) -> GraphNode:
        """A new wire for the readers that are meant, to which `wire` goes on leading."""
        new = GraphNode()
        _move(wire, new, 0, meant)
        self.lead(wire, new)
        return new

    def lead(self, wire: GraphNode, to: GraphNode) -> None:
        """Let `to` carry what `wire` carries, and not the other way."""
        if self.alias is None:
            self.alias = AliasConnection([], [], self.name)
        self.alias.input_nodes.add(wire)
        self.alias.output_nodes.add(to)


def _is_alone(graph: Any, side: int, place: int, wire: GraphNode) -> bool:
    """Whether nobody but this port writes on `wire` (side 1), or reads it (side 0)."""
    modules = wire.source_modules if side else wire.sink_modules
    if not graph.is_holder:
        ports = graph.output_nodes if side else graph.input_nodes
        return len(modules) == 1 and len(ports.places(wire)) == 1
    found = sum(1 for _ in (writers(wire) if side else readers(wire)))
    return found == len(_meant(graph, side, place, wire))


def _meant(graph: Any, side: int, place: int, wire: GraphNode) -> list[End]:
    """The modules, with their places, for which this port of `graph` stands."""
    if not graph.is_holder:
        return [(graph, place)]
    if not graph.ends[side][place]:
        # A wire that leads straight through a holder: whoever is on it is meant.
        return list(writers(wire) if side else readers(wire))
    return [(m, k) for m, k in graph.ends[side][place] if _ports(m, side)[k] is wire]


def _ports(module: Any, side: int) -> Any:
    return module.output_nodes if side else module.input_nodes


def _carries(s: GraphNode, d: GraphNode) -> bool:
    """Whether `d` carries what `s` carries already, by way of aliases."""
    # From the side where there is less to look at.
    forward = len(s.sink_modules) < len(d.source_modules)
    start, goal = (s, d) if forward else (d, s)
    near = Members([start])
    found = [start]
    for wire in found:
        for other in _beyond_aliases(wire, forward):
            if other is goal:
                return True
            if other not in near:
                near.add(other)
                found.append(other)
    return False


def _beyond_aliases(wire: GraphNode, forward: bool) -> Iterator[GraphNode]:
    """The wires that carry what `wire` carries by one alias, or, backwards, those that it carries so."""
    for module in wire.sink_modules if forward else wire.source_modules:
        if isinstance(module, AliasConnection):
            here, there = _ports(module, not forward), _ports(module, forward)
            yield from (there[place] for place in here.places(wire))


def _merge(s: GraphNode, d: GraphNode) -> None:
    """Make one wire of both: the one with fewer links gives way."""
    if s is d:
        return
    keep, gone = (d, s) if _weight(d) > _weight(s) else (s, d)
    for side, ends in enumerate((list(readers(gone)), list(writers(gone)))):
        for module, place in ends:
            _ports(module, side).put(place, keep)
    for holder in list(gone.holders):
        for ports in (holder.input_nodes, holder.output_nodes):
            for place in ports.places(gone):
                ports.put(place, keep)


def _weight(wire: GraphNode) -> int:
    return len(wire.source_modules) + len(wire.sink_modules) + len(wire.holders)


def _move(wire: GraphNode, new: GraphNode, side: int, meant: list[End]) -> None:
    """Put some ports of one side on another wire; a port of a holder follows when all that it stands for has moved."""
    for module, place in meant:
        _ports(module, side).put(place, new)
    for holder in list(wire.holders):
        ports = _ports(holder, side)
        for place in ports.places(wire):
            ends = holder.ends[side][place]
            if ends and all(_ports(m, side)[k] is new for m, k in ends):
                ports.put(place, new)


def _rename_ends(wire: GraphNode, side: int, old: End, new: list[End]) -> None:
    """Tell the holders of `wire` who stands at an end now."""
    for holder in wire.holders:
        for place in _ports(holder, side).places(wire):
            ends = holder.ends[side][place]
            kept = [end for end in ends if end[0] is not old[0] or end[1] != old[1]]
            if len(kept) < len(ends):
                holder.ends[side][place] = kept + new
                holder.changed()
