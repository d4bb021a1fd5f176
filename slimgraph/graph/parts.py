"""The modules of a component graph: `GraphModule`, and `GraphHolder` for a graph seen as one module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from slimgraph.doors import Drawable
from slimgraph.errors import OptionError
from slimgraph.graph.whole import Part
from slimgraph.graph.wires import GraphNode, Ports, check_wires, refuse_stranger

End = tuple["GraphModule", int]
"""A module and the place of a wire at one of its sides."""


class GraphModuleBase(Part, Drawable):
    """What modules and holders share: wires in, wires out, a name, and what computes them if something does.

    `input_nodes`, `output_nodes`: the wires in order; assigning a list to one links its wires and unlinks the others.
    A wire may stand at several places. Raises `OptionError` for what is no list of wires, or no name.
    """

    is_holder = False
    # What a holder shows the ends of; a module has none.
    ends: tuple[list[list[End]], list[list[End]]] = ([], [])

    def __init__(
        self,
        input_nodes: Iterable[GraphNode],
        output_nodes: Iterable[GraphNode],
        name: str | None = None,
        computational_module: Any = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise OptionError(f"{type(self).__name__} needs a name that is a string, or None; got {name!r}")
        self.blank()
        self.name = name
        self.computational_module = computational_module
        title = self.title
        inputs = check_wires(title, "input_nodes", input_nodes)
        outputs = check_wires(title, "output_nodes", output_nodes)
        self.check_sizes(len(inputs), len(outputs))
        self._inputs.fill(inputs)
        self._outputs.fill(outputs)

    def blank(self) -> None:
        self._whole = None
        self._inputs, self._outputs = Ports(self, "input"), Ports(self, "output")

    @classmethod
    def of_size(
        cls, size_in: int, size_out: int, name: str | None = None, computational_module: Any = None, **options: Any
    ) -> Any:
        """One with as many new wires; `options` are those of the class.

        >>> GraphModule.of_size(2, 3, name="plant")
        GraphModule 'plant' (2 -> 3)
        """
        for word, size in (("size_in", size_in), ("size_out", size_out)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise OptionError(f"{cls.__name__} needs a whole number {word} >= 0, got {size!r}")
        inputs, outputs = ([GraphNode() for _ in range(size)] for size in (size_in, size_out))
        return cls(inputs, outputs, name, computational_module, **options)

    _factory = of_size

    def check_sizes(self, size_in: int, size_out: int) -> None:
        """Raises ShapeError where a module of this kind cannot have as many wires."""

    @property
    def input_nodes(self) -> Ports:
        """The wires that it reads, in order."""
        return self._inputs

    @input_nodes.setter
    def input_nodes(self, wires: Iterable[GraphNode]) -> None:
        self._fill(self._inputs, wires)

    @property
    def output_nodes(self) -> Ports:
        """The wires that it writes, in order."""
        return self._outputs

    @output_nodes.setter
    def output_nodes(self, wires: Iterable[GraphNode]) -> None:
        self._fill(self._outputs, wires)

    def _fill(self, ports: Ports, wires: Iterable[GraphNode]) -> None:
        found = check_wires(self.title, f"{ports.side}_nodes", wires)
        sizes = (len(found), self.size_out) if ports is self._inputs else (self.size_in, len(found))
        self.check_sizes(*sizes)
        ports.fill(found)

    @property
    def size_in(self) -> int:
        """The number of wires in."""
        return len(self._inputs)

    @property
    def size_out(self) -> int:
        """The number of wires out."""
        return len(self._outputs)

    def add_input(self, node: GraphNode) -> None:
        """Read `node` too, behind the others."""
        self.input_nodes = [*self._inputs, node]

    def add_output(self, node: GraphNode) -> None:
        """Write on `node` too, behind the others."""
        self.output_nodes = [*self._outputs, node]

    def remove_input(self, node: GraphNode) -> None:
        """Read `node` no more. Raises WiringError where it is not read."""
        refuse_stranger(self.title, "input", self._inputs, node)
        self.input_nodes = [wire for wire in self._inputs if wire is not node]

    def remove_output(self, node: GraphNode) -> None:
        """Write on `node` no more. Raises WiringError where it is not written."""
        refuse_stranger(self.title, "output", self._outputs, node)
        self.output_nodes = [wire for wire in self._outputs if wire is not node]

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"{type(self).__name__} {self.name!r}" if self.name else f"a {type(self).__name__} without a name"

    def to_networkx(self) -> Any:
        """Its whole graph in the one networkx form, a MultiDiGraph: all wires between two modules are one edge."""
        from slimgraph.graph.form import to_networkx

        return to_networkx(self)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"{type(self).__name__}{name} ({self.size_in} -> {self.size_out})"


class GraphModule(GraphModuleBase):
    """A module that reads the wires `input_nodes` and writes on `output_nodes`.

    `computational_module` is what it stands for, such as a torch module, or None. Every wire knows its modules as every
    module knows its wires.

    >>> wires = [GraphNode(), GraphNode(), GraphNode()]
    >>> plant = GraphModule(wires[:2], wires[2:], name="plant")
    >>> plant in wires[0].sink_modules, plant in wires[2].source_modules
    (True, True)
    """


class GraphHolder(GraphModuleBase):
    """A sub-graph seen as one module: its wires lead in and out, and it is never their source or sink itself.

    What reads its input wires and writes its output wires when it is made is its own: what is connected to the holder
    later is connected to these, also where they have moved to other wires.

    >>> inner = GraphModule.of_size(1, 1, name="inner")
    >>> whole = GraphHolder(inner.input_nodes, inner.output_nodes, name="whole")
    >>> whole.input_nodes[0].sink_modules
    [GraphModule 'inner' (1 -> 1)]
    """

    is_holder = True

    def __init__(
        self,
        input_nodes: Iterable[GraphNode],
        output_nodes: Iterable[GraphNode],
        name: str | None = None,
        computational_module: Any = None,
    ) -> None:
        super().__init__(input_nodes, output_nodes, name, computational_module)
        self._find_ends()

    def _fill(self, ports: Ports, wires: Iterable[GraphNode]) -> None:
        super()._fill(ports, wires)
        self._find_ends()

    def _find_ends(self) -> None:
        self.ends = [list(readers(w)) for w in self._inputs], [list(writers(w)) for w in self._outputs]

    def shows(self, wire: GraphNode) -> bool:
        """Whether `wire` stands at one of its sides."""
        return wire in self._inputs or wire in self._outputs


def readers(wire: GraphNode) -> Iterator[End]:
    """The modules that read `wire`, and at which place."""
    return ((module, place) for module in wire.sink_modules for place in module.input_nodes.places(wire))


def writers(wire: GraphNode) -> Iterator[End]:
    """The modules that write on `wire`, and at which place."""
    return ((module, place) for module in wire.source_modules for place in module.output_nodes.places(wire))


def as_GraphHolder(g: Any) -> GraphHolder:
    """A holder round the module `g`; a holder is returned as it is, and of anything else its `as_graph()` is held.

    Raises `OptionError` for what has no component graph.

    >>> as_GraphHolder(GraphModule.of_size(1, 2, name="plant"))
    GraphHolder 'plant' (1 -> 2)
    """
    if not isinstance(g, GraphModuleBase) and hasattr(g, "as_graph"):
        g = g.as_graph()
    if isinstance(g, GraphHolder):
        return g
    if not isinstance(g, GraphModule):
        raise OptionError(
            f"as_GraphHolder needs a GraphModule, a GraphHolder or something with as_graph(), got"
            f" {type(g).__name__}: {g!r}"
        )
    holder = GraphHolder(g.input_nodes, g.output_nodes, g.name, g.computational_module)
    holder.ends = ends_of(g)
    return holder


def ends_of(graph: GraphModuleBase) -> tuple[list[list[End]], list[list[End]]]:
    """For each input and each output of a module, or of what a holder holds, who is there."""
    if isinstance(graph, GraphModule):
        # Others may be on its wires; what is meant is this module alone.
        return [[(graph, i)] for i in range(graph.size_in)], [[(graph, i)] for i in range(graph.size_out)]
    return [list(port) for port in graph.ends[0]], [list(port) for port in graph.ends[1]]
