"""Recurrences on any two structured maps: `RNNCell`, `RNN`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.slim.linear import Linear, LinearBase, get_map
from slimgraph.slim.linear.functions import under_autocast

MapChoice = str | Callable[..., LinearBase]


class RNNCell(nn.Module, Drawable, metaclass=StrictOptions):
    """One step `h' = nonlin(input_map(x) + hidden_map(h))`; x: `(batch, input_size)`, h, h': `(batch, hidden_size)`.

    `hidden_map` and `input_map` are classes of maps or their keys in `slim.maps`; `hidden_args` and `input_args` are
    their options; `bias` gives one to both. Raises `OptionError` for a choice that is no map of the right sizes,
    `ShapeError` for an input that does not fit.

    >>> cell = RNNCell(3, 5, hidden_map='orthogonal', nonlin=torch.tanh)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 5])
    """

    # Containers are looked through when reg_error is summed from outside: each map then counts in full, once.
    looked_through = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = False,
        nonlin: Callable[[Tensor], Tensor] = F.gelu,
        hidden_map: MapChoice = Linear,
        input_map: MapChoice = Linear,
        input_args: dict[str, Any] | None = None,
        hidden_args: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.nonlin = nonlin() if isinstance(nonlin, type) else nonlin
        if not callable(self.nonlin):
            raise OptionError(f"RNNCell needs a function for nonlin, such as torch.tanh, got {nonlin!r}")
        self.input_map = self._make("input_map", input_map, input_size, bias, input_args)
        self.hidden_map = self._make("hidden_map", hidden_map, hidden_size, bias, hidden_args)

    def _make(
        self, word: str, choice: MapChoice, insize: int, bias: bool, options: dict[str, Any] | None
    ) -> LinearBase:
        made = get_map(choice)(insize, self.hidden_size, bias=bias, **(options or {}))
        if not isinstance(made, LinearBase):
            raise OptionError(f"RNNCell needs a structured map for {word}, got {choice!r}, which makes {type(made)}")
        if (made.in_features, made.out_features) != (insize, self.hidden_size):
            raise OptionError(
                f"RNNCell needs a {word} of size ({insize}, {self.hidden_size}),"
                f" got {type(made).__name__} of size ({made.in_features}, {made.out_features})"
            )
        return made

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The next hidden state `(batch, hidden_size)`; `hidden` is zero when it is left out."""
        if hidden is None:
            hidden = x.new_zeros(*x.shape[:-1], self.hidden_size)
        if hidden.shape[:-1] != x.shape[:-1]:
            raise ShapeError(
                f"RNNCell needs x (batch, {self.input_size}) and hidden (batch, {self.hidden_size}) of one batch,"
                f" got shapes {tuple(x.shape)} and {tuple(hidden.shape)}"
            )
        return self.nonlin(self.input_map(x) + self.hidden_map(hidden))

    def unroll(self, sequence: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All steps of `sequence` `(time, batch, input_size)` from `hidden` `(batch, hidden_size)`.

        Returns the states `(time, batch, hidden_size)` and the last one. W is built once, the inputs are one product.
        """
        W = self.hidden_map.effective_W()
        driven = self.input_map(sequence)
        if self.hidden_map.bias is not None:
            driven = driven + self.hidden_map.bias
        if under_autocast(driven.device):
            # Once here, instead of at every step.
            W = W.to(driven.dtype)
        states = []
        for drive in driven.unbind(0):
            hidden = self.nonlin(torch.addmm(drive, hidden, W))
            states.append(hidden)
        return torch.stack(states), hidden

    def reg_error(self) -> Tensor:
        """The mean of the two maps' `reg_error()`, 0-dim."""
        return (self.input_map.reg_error() + self.hidden_map.reg_error()) / 2

    def to_networkx(self):
        """The step as a graph: both maps, their sum through the nonlinearity, and the loop of the hidden state."""
        from networkx import MultiDiGraph

        graph = MultiDiGraph()
        graph.add_node("x", kind="data", label=f"x (batch, {self.input_size})")
        graph.add_node("hidden", kind="data", label=f"hidden (batch, {self.hidden_size})")
        graph.add_node("nonlin", kind="operation", label=f"+, {getattr(self.nonlin, '__name__', self.nonlin)}")
        for name, source, made in (("input_map", "x", self.input_map), ("hidden_map", "hidden", self.hidden_map)):
            graph.add_node(name, kind="map", label=f"{name}: {type(made).__name__}")
            graph.add_edge(source, name, key=source)
            graph.add_edge(name, "nonlin", key="")
        graph.add_edge("nonlin", "hidden", key="hidden", feedback=True)
        return graph

    def extra_repr(self) -> str:
        name = "" if isinstance(self.nonlin, nn.Module) else f", nonlin={getattr(self.nonlin, '__name__', self.nonlin)}"
        return f"{self.input_size}, {self.hidden_size}{name}"


class RNN(nn.Module, Drawable, metaclass=StrictOptions):
    """Layers of `RNNCell` over a sequence, with learnt initial states.

    `cell_args` are the options of each `RNNCell`, by default `bias=False, nonlin=F.gelu` on free maps.
    `forward(sequence, init_states=None) -> (outputs, h_n)` with sequence `(time, batch, input_size)`, outputs
    `(time, batch, hidden_size)` of the last layer and h_n `(num_layers, batch, hidden_size)` of the last step;
    `batch_first=True` turns sequence and outputs to `(batch, time, ...)`. `init_states` is a tensor shaped as h_n, or a
    list with one `(batch, hidden_size)` a layer; the learnt ones are used, and trained, when it is left out.

    Raises `OptionError` for fewer than one layer, `ShapeError` for inputs that do not fit.

    >>> rnn = RNN(3, 5, num_layers=2, cell_args={'hidden_map': 'orthogonal'})
    >>> outputs, h_n = rnn(torch.zeros(7, 2, 3))
    >>> outputs.shape, h_n.shape
    (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))
    """

    looked_through = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 16,
        num_layers: int = 1,
        cell_args: dict[str, Any] | None = None,
        *,
        batch_first: bool = False,
    ):
        super().__init__()
        if num_layers < 1:
            raise OptionError(f"RNN needs num_layers >= 1, got num_layers={num_layers}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first = batch_first
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.rnn_cells = nn.ModuleList(RNNCell(size, hidden_size, **(cell_args or {})) for size in sizes)
        self.init_states = nn.ParameterList(torch.zeros(1, hidden_size) for _ in sizes)

    def forward(self, sequence: Tensor, init_states: Tensor | Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """`(outputs, h_n)`, shaped as the class says."""
        axes = "batch, time" if self.batch_first else "time, batch"
        if sequence.ndim != 3 or sequence.shape[-1] != self.input_size:
            raise ShapeError(f"RNN needs a sequence ({axes}, {self.input_size}), got shape {tuple(sequence.shape)}")
        if self.batch_first:
            sequence = sequence.transpose(0, 1)
        if len(sequence) == 0:
            raise ShapeError(f"RNN needs a sequence of at least 1 step, got 0 (axes {axes}, {self.input_size})")
        last = []
        for cell, hidden in zip(self.cells, self._start(sequence.shape[1], init_states), strict=True):
            sequence, hidden = cell.unroll(sequence, hidden)
            last.append(hidden)
        return sequence.transpose(0, 1) if self.batch_first else sequence, torch.stack(last)

    @property
    def cells(self) -> list[RNNCell]:
        """The layers, from the input to the output."""
        return list(self.rnn_cells)  # pyright: ignore[reportReturnType]

    def _start(self, batch: int, init_states: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
        """One `(batch, hidden_size)` a layer."""
        if init_states is None:
            return [state.expand(batch, -1) for state in self.init_states]
        states, needed = list(init_states), (batch, self.hidden_size)
        shapes = [tuple(state.shape) for state in states]
        if shapes != [needed] * self.num_layers:
            raise ShapeError(
                f"RNN needs init_states ({self.num_layers}, {batch}, {self.hidden_size}), as a tensor or a list with"
                f" one {needed} a layer, got {len(states)} of shape {shapes[0] if len(set(shapes)) == 1 else shapes}"
            )
        return states

    def reg_error(self) -> Tensor:
        """The mean of the cells' `reg_error()`, 0-dim."""
        return torch.stack([cell.reg_error() for cell in self.cells]).mean()

    def to_networkx(self):
        """The layers one after the other: a `networkx.MultiDiGraph`, each cell in a cluster of its own."""
        from networkx import MultiDiGraph

        graph = MultiDiGraph()
        axes = "batch, time" if self.batch_first else "time, batch"
        graph.add_node("x", kind="data", label=f"sequence ({axes}, {self.input_size})")
        source = "x"
        for i, cell in enumerate(self.cells):
            inner = cell.to_networkx()
            for node, attributes in inner.nodes(data=True):
                if node != "x":
                    graph.add_node(f"{i}:{node}", **attributes, cluster=(f"layer {i}",))
            for tail, head, key, attributes in inner.edges(keys=True, data=True):
                graph.add_edge(source if tail == "x" else f"{i}:{tail}", f"{i}:{head}", key=key, **attributes)
            source = f"{i}:nonlin"
        graph.add_node("outputs", kind="data", label=f"outputs ({axes}, {self.hidden_size})")
        graph.add_edge(source, "outputs", key="outputs")
        return graph

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, batch_first={self.batch_first}"
