"""Layers of cells over a series, in one or both directions: what `RNN`, `GRU` and `LSTM` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from slimgraph.doors import Drawable
from slimgraph.errors import DtypeError, OptionError, ShapeError, StrictOptions
from slimgraph.slim.cells import Cell, check_mapping
from slimgraph.slim.linear.functions import under_autocast, whole_number
from slimgraph.slim.unroll import State, Steps

Start = Tensor | Sequence[Tensor]


class Recurrence(nn.Module, Drawable, metaclass=StrictOptions):
    """Layers of `cell_class` over a sequence, with learnt initial states; `RNN` says what the options do."""

    looked_through = True
    cell_class: ClassVar[type[Cell]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 16,
        num_layers: int = 1,
        cell_args: Mapping[str, Any] | None = None,
        *,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        residual: bool = False,
        learn_init: bool = True,
    ):
        super().__init__()
        self.input_size = whole_number(self, "input_size", input_size)
        self.hidden_size = whole_number(self, "hidden_size", hidden_size)
        self.num_layers = whole_number(self, "num_layers", num_layers)
        switches = {"batch_first": batch_first, "bidirectional": bidirectional, "residual": residual}
        for word, value in {**switches, "learn_init": learn_init}.items():
            if not isinstance(value, bool):
                raise OptionError(f"{type(self).__name__} needs {word} to be True or False, got {word}={value!r}")
        self.batch_first, self.bidirectional, self.residual = batch_first, bidirectional, residual
        self.dropout = self._probability(dropout)
        cell_args = {} if cell_args is None else cell_args
        check_mapping(self, "cell_args", cell_args)
        taken = {"input_size", "hidden_size"} & set(cell_args)
        if taken:
            raise OptionError(f"{type(self).__name__} gives {sorted(taken)} to its cells itself; got it in cell_args")
        width = self.hidden_size * self.directions
        sizes = [size for size in [input_size, *[width] * (num_layers - 1)] for _ in range(self.directions)]
        self.rnn_cells = nn.ModuleList(self.cell_class(size, hidden_size, **cell_args) for size in sizes)
        self.learn_init = learn_init
        for name in self._starts:
            learnt = (torch.zeros(1, self.hidden_size) for _ in self.rnn_cells if learn_init)
            setattr(self, name, nn.ParameterList(learnt))

    def _probability(self, dropout: float) -> float:
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise OptionError(f"{type(self).__name__} needs a dropout from 0 to 1, got dropout={dropout!r}")
        if dropout and self.num_layers == 1:
            raise OptionError(
                f"{type(self).__name__} drops out between layers only: dropout={dropout} has no place in num_layers=1"
            )
        return float(dropout)

    @property
    def directions(self) -> int:
        """2 where each layer reads the sequence forwards and backwards, otherwise 1."""
        return 2 if self.bidirectional else 1

    @property
    def cells(self) -> list[Any]:
        """The cells from the input to the output, forward before backward."""
        return list(self.rnn_cells)

    @property
    def _starts(self) -> tuple[str, ...]:
        """The attributes with the learnt initial states, one for each part of a cell's state."""
        return ("init_states", "init_cells")[: len(self.cell_class.states)]

    def _run(self, sequence: Tensor | PackedSequence, *given: Start | None) -> tuple[Any, list[Tensor]]:
        """The outputs, and the last states stacked over the cells; `given` is the start of each part, or None."""
        rows, steps, order = self._rows(sequence)
        firsts = [
            self._firsts(name, start, rows, steps.sizes[0], order)
            for name, start in zip(self._starts, given, strict=True)
        ]
        lasts: list[State] = []
        states = zip(*firsts, strict=True)
        for layer in range(self.num_layers):
            read = rows
            outputs = []
            for turned, cell in enumerate(self.cells[layer * self.directions : (layer + 1) * self.directions]):
                states_of, last = cell.unroll(steps.turned(read) if turned else read, next(states), steps)
                outputs.append(steps.turned(states_of) if turned else states_of)
                lasts.append(last)
            rows = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
            if self.residual and rows.shape == read.shape:
                rows = rows + read
            if self.dropout and layer < self.num_layers - 1:
                rows = F.dropout(rows, self.dropout, self.training)
        ends = [torch.stack(parts) for parts in zip(*lasts, strict=True)]
        if isinstance(sequence, PackedSequence):
            back = sequence.unsorted_indices
            # A compiler that breaks the graph here loses the fields of `_replace`.
            packed = PackedSequence(rows, sequence.batch_sizes, sequence.sorted_indices, back)
            return packed, [end if back is None else end[:, back] for end in ends]
        rows = steps.unflat(rows)
        return rows.transpose(0, 1) if self.batch_first else rows, ends

    def _rows(self, sequence: Tensor | PackedSequence) -> tuple[Tensor, Steps, Tensor | None]:
        """The series as rows, its steps, and in which order it has the sequences."""
        name = type(self).__name__
        if isinstance(sequence, PackedSequence):
            if sequence.data.shape[1:] != (self.input_size,):
                shape = tuple(sequence.data.shape)
                raise ShapeError(f"{name} needs a packed sequence of rows ({self.input_size},), got data {shape}")
            sizes = sequence.batch_sizes
            return sequence.data, Steps(sizes.tolist(), sizes), sequence.sorted_indices
        axes = "batch, time" if self.batch_first else "time, batch"
        if not isinstance(sequence, Tensor):
            raise ShapeError(f"{name} needs a sequence ({axes}, {self.input_size}), got {type(sequence).__name__}")
        if sequence.ndim != 3 or sequence.shape[-1] != self.input_size:
            raise ShapeError(f"{name} needs a sequence ({axes}, {self.input_size}), got shape {tuple(sequence.shape)}")
        if self.batch_first:
            sequence = sequence.transpose(0, 1)
        if len(sequence) == 0:
            raise ShapeError(f"{name} needs a sequence of at least 1 step, got 0 (axes {axes}, {self.input_size})")
        return sequence.flatten(0, 1), Steps([sequence.shape[1]] * len(sequence)), None

    def _firsts(self, word: str, given: Start | None, rows: Tensor, batch: int, order: Tensor | None) -> list[Tensor]:
        """One `(batch, hidden_size)` a cell."""
        if given is None:
            learnt: Any = getattr(self, word)
            if not self.learn_init:
                return [rows.new_zeros(batch, self.hidden_size)] * len(self.rnn_cells)
            return [state.expand(batch, -1) for state in learnt]
        needed, name = (batch, self.hidden_size), type(self).__name__
        states = list(given) if isinstance(given, Sequence) or (isinstance(given, Tensor) and given.ndim) else [given]
        if not all(isinstance(state, Tensor) for state in states):
            kinds = sorted({type(state).__name__ for state in states})
            raise ShapeError(f"{name} needs {word} as a tensor or a list of tensors, got {', '.join(kinds)}")
        shapes = [tuple(state.shape) for state in states]
        if shapes != [needed] * len(self.rnn_cells):
            raise ShapeError(
                f"{name} needs {word} ({len(self.rnn_cells)}, {batch}, {self.hidden_size}), as a tensor or a list with"
                f" one {needed} a layer, got {len(states)} of shape {shapes[0] if len(set(shapes)) == 1 else shapes}"
            )
        for state in states:
            if state.dtype != rows.dtype and not (state.is_floating_point() and under_autocast(rows.device)):
                raise DtypeError(f"{name} needs {word} of the sequence's {rows.dtype}, got {state.dtype}")
        return states if order is None else [state[order] for state in states]

    def reg_error(self) -> Tensor:
        """The mean of the cells' `reg_error()`, 0-dim."""
        return torch.stack([cell.reg_error() for cell in self.cells]).mean()

    def as_graph(self) -> Any:
        """Its component graph: each cell with its maps, its neurons and the loop of its state, in one `GraphHolder`."""
        from slimgraph.slim.as_graph import recurrence_graph

        return recurrence_graph(self)

    def to_networkx(self):
        """The layers one after the other: a `networkx.MultiDiGraph`, each cell in a cluster of its own."""
        from networkx import MultiDiGraph

        graph = MultiDiGraph()
        axes = "batch, time" if self.batch_first else "time, batch"
        graph.add_node("x", kind="data", label=f"sequence ({axes}, {self.input_size})")
        sources = ["x"]
        for layer in range(self.num_layers):
            results = []
            for turned in range(self.directions):
                number = layer * self.directions + turned
                where = f"layer {layer}" + (" backwards" if turned else "")
                results.append(self._add_cell(graph, number, where, sources))
            if self.residual and (layer or self.input_size == self.hidden_size * self.directions):
                graph.add_node(f"sum:{layer}", kind="operation", label="+")
                for source in (*sources, *results):
                    graph.add_edge(source, f"sum:{layer}", key="")
                results = [f"sum:{layer}"]
            sources = results
        width = self.hidden_size * self.directions
        graph.add_node("outputs", kind="data", label=f"outputs ({axes}, {width})")
        for source in sources:
            graph.add_edge(source, "outputs", key="outputs")
        return graph

    def _add_cell(self, graph: Any, number: int, where: str, sources: list[str]) -> str:
        """Add a cell that reads `sources`; which node gives its result."""
        inner = self.cells[number].to_networkx()
        for node, attributes in inner.nodes(data=True):
            if node != "x":
                graph.add_node(f"{number}:{node}", **attributes, cluster=(where,))
        for tail, head, key, attributes in inner.edges(keys=True, data=True):
            for source in sources if tail == "x" else [f"{number}:{tail}"]:
                graph.add_edge(source, f"{number}:{head}", key=key, **attributes)
        return f"{number}:{self.cells[number].result}"

    def extra_repr(self) -> str:
        words = ("bidirectional", "dropout", "residual")
        chosen = "".join(f", {word}={getattr(self, word)}" for word in words if getattr(self, word))
        learnt = "" if self.learn_init else ", learn_init=False"
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, batch_first={self.batch_first}"
            f"{chosen}{learnt}"
        )
