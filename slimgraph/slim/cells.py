"""What the cells of all recurrences share: their maps, how these are chosen, `reg_error` and the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.slim.linear import Linear, LinearBase, get_map
from slimgraph.slim.linear.functions import whole_number
from slimgraph.slim.unroll import Kernel, State, Steps, run_fused

MapChoice = str | Callable[..., LinearBase]


class Cell(nn.Module, Drawable, metaclass=StrictOptions):
    """One step of a recurrence on structured maps, from an input and a state to the next state.

    A subclass names its `states` and says how it is unrolled over a series; its state is one tensor a name.
    """

    # Containers are looked through when reg_error is summed from outside: each map then counts in full, once.
    looked_through = True
    states: ClassVar[tuple[str, ...]] = ("hidden",)
    result: ClassVar[str]
    """Which node of its graph gives the hidden state."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = whole_number(self, "input_size", input_size)
        self.hidden_size = whole_number(self, "hidden_size", hidden_size)

    def unroll(self, x: Tensor, state: State, steps: Steps) -> tuple[Tensor, State]:
        """All steps of `x` `(rows, input_size)` from `state`, each `(batch, hidden_size)`.

        Returns the hidden states `(rows, hidden_size)` and the last state of each sequence. W is built once, the inputs
        are one product. Forward hooks of the hidden maps and of the cell are not called: no module is, at a step.
        """
        raise NotImplementedError

    def maps(self) -> tuple[list[LinearBase], list[LinearBase]]:
        """The maps of the input and those of the hidden state, in the order of the gates."""
        raise NotImplementedError

    def reg_error(self) -> Tensor:
        """The mean of the maps' `reg_error()`, 0-dim."""
        return torch.stack([made.reg_error() for side in self.maps() for made in side]).mean()

    def _make(self, word: str, choice: MapChoice, insize: int, bias: bool, options: Mapping[str, Any]) -> LinearBase:
        """The map that `choice` and its options stand for, of size `(insize, hidden_size)`."""
        name = type(self).__name__
        check_mapping(self, word.replace("map", "args"), options)
        if "bias" in options:
            raise OptionError(
                f"{name} gives all its maps a bias with its own option bias; got bias={options['bias']!r} among the"
                f" options of {word}"
            )
        made = get_map(choice)(insize, self.hidden_size, bias=bias, **options)
        if not isinstance(made, LinearBase):
            raise OptionError(f"{name} needs a structured map for {word}, got {choice!r}, which makes {type(made)}")
        if (made.in_features, made.out_features) != (insize, self.hidden_size):
            raise OptionError(
                f"{name} needs a {word} of size ({insize}, {self.hidden_size}),"
                f" got {type(made).__name__} of size ({made.in_features}, {made.out_features})"
            )
        return made

    def _start(self, x: Tensor, *state: Tensor | None) -> State:
        """The state with zeros for what is left out, after a check that it fits `x`."""
        for word, given in zip(("x", *self.states), (x, *state), strict=True):
            if not isinstance(given, Tensor) and (word == "x" or given is not None):
                raise ShapeError(f"{type(self).__name__} needs a tensor for {word}, got {type(given).__name__}")
        given = tuple(x.new_zeros(*x.shape[:-1], self.hidden_size) if s is None else s for s in state)
        for name, s in zip(self.states, given, strict=True):
            if s.shape[:-1] != x.shape[:-1] or s.shape[-1] != self.hidden_size:
                raise ShapeError(
                    f"{type(self).__name__} needs x (batch, {self.input_size}) and {name} (batch, {self.hidden_size})"
                    f" of one batch, got shapes {tuple(x.shape)} and {tuple(s.shape)}"
                )
        return given

    def lay(self, x: Any, before: Any, after: Any, prefix: str, start: Tensor | None) -> None:
        """Lay its component graph between wires: of the input, of each part of the state before and after."""
        raise NotImplementedError

    def as_graph(self) -> Any:
        """Its component graph with the state fed back: the maps and the neurons, in one `GraphHolder`."""
        from slimgraph.slim.as_graph import cell_graph

        return cell_graph(self)

    def to_networkx(self):
        """The step as a graph: the maps, what is done with their results, and the loops of the state."""
        from networkx import MultiDiGraph

        graph = MultiDiGraph()
        graph.add_node("x", kind="data", label=f"x (batch, {self.input_size})")
        for state in self.states:
            graph.add_node(state, kind="data", label=f"{state} (batch, {self.hidden_size})")
        self._add_step(graph)
        return graph

    def _add_step(self, graph: Any) -> None:
        """Add the maps and operations between `x`, the states and back."""
        raise NotImplementedError

    def _add_maps(self, graph: Any, made: Mapping[str, LinearBase], operation: str, label: str) -> None:
        """Add an operation that reads a map of the input and one of the hidden state, each by its name."""
        graph.add_node(operation, kind="operation", label=label)
        for source, (name, each) in zip(("x", "hidden"), made.items(), strict=True):
            graph.add_node(name, kind="map", label=f"{name}: {type(each).__name__}", part=each)
            graph.add_edge(source, name, key=source)
            graph.add_edge(name, operation, key="")


class GatedCell(Cell):
    """A cell with several gates, each with an input map and a hidden map.

    `hidden_map` and `input_map` are each one choice for all gates, or a dict with one per gate; so are their options.
    """

    gates: ClassVar[tuple[str, ...]]
    kernel: ClassVar[Kernel]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = False,
        hidden_map: MapChoice | Mapping[str, MapChoice] = Linear,
        input_map: MapChoice | Mapping[str, MapChoice] = Linear,
        input_args: Mapping[str, Any] | None = None,
        hidden_args: Mapping[str, Any] | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.input_maps = self._one_a_gate("input_map", input_map, input_size, bias, input_args)
        self.hidden_maps = self._one_a_gate("hidden_map", hidden_map, hidden_size, bias, hidden_args)

    def _one_a_gate(
        self, word: str, choice: Any, insize: int, bias: bool, options: Mapping[str, Any] | None
    ) -> nn.ModuleDict:
        every: Mapping[str, Any] = choice if isinstance(choice, Mapping) else dict.fromkeys(self.gates, choice)
        chosen = self._by_gate(word, every)
        options = options or {}
        check_mapping(self, word.replace("map", "args"), options)
        if set(options) & set(self.gates):
            taken = self._by_gate(word.replace("map", "args"), {**dict.fromkeys(self.gates, {}), **options})
        else:
            taken = dict.fromkeys(self.gates, options)
        return nn.ModuleDict({g: self._make(f"{word}[{g!r}]", chosen[g], insize, bias, taken[g]) for g in self.gates})

    def _by_gate(self, word: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if set(given) != set(self.gates):
            raise OptionError(f"{type(self).__name__} needs {word} for the gates {self.gates}, got {tuple(given)}")
        return given

    def maps(self) -> tuple[list[LinearBase], list[LinearBase]]:
        return [self.input_maps[g] for g in self.gates], [self.hidden_maps[g] for g in self.gates]  # pyright: ignore

    def _add_gate(self, graph: Any, gate: str, label: str) -> None:
        made = {f"input_map:{gate}": self.input_maps[gate], f"hidden_map:{gate}": self.hidden_maps[gate]}
        self._add_maps(graph, made, f"gate:{gate}", label)  # pyright: ignore[reportArgumentType]

    def step(self, x: Tensor, *state: Tensor) -> State:
        """The next state."""
        inputs, hiddens = self.maps()
        drive = torch.cat([made(x) for made in inputs], -1)
        return self.kernel.step(drive, torch.cat([made(state[0]) for made in hiddens], -1), *state)

    def unroll(self, x: Tensor, state: State, steps: Steps) -> tuple[Tensor, State]:
        return run_fused(self.kernel, x, state, weights(x, state[0], *self.maps()), steps)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


def check_mapping(owner: object, word: str, options: Any) -> None:
    """Raise `OptionError` unless `options` is a dict with names as keys."""
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise OptionError(f"{type(owner).__name__} needs a dict of options by name for {word}, got {options!r}")


def weights(x: Tensor, hidden: Tensor, *sides: list[LinearBase]) -> list[Tensor]:
    """The matrices of each side one under the other, and the biases if there are any: laid out as torch's.

    They take `x` and `hidden`, or the first map of the side says why not.
    """
    matrices = [torch.cat([m.effective_W().mT for m in side]) for side in sides]
    for read, side, matrix in zip((x, hidden), sides, matrices, strict=True):
        side[0]._check_input(read, matrix.dtype)
    if all(m.bias is None for side in sides for m in side):
        return matrices
    zero = matrices[0].new_zeros(sides[0][0].out_features)
    return matrices + [torch.cat([zero if m.bias is None else m.bias for m in side]) for side in sides]
