"""The long short-term memory on structured maps: `LSTMCell`, `LSTM`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from slimgraph.errors import ShapeError
from slimgraph.slim.as_graph import lay_lstm
from slimgraph.slim.cells import GatedCell
from slimgraph.slim.layers import Recurrence, Start
from slimgraph.slim.unroll import Kernel


def lstm_step(drive: Tensor, pushed: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The next state from what the input maps and the hidden maps give, `(batch, 4 * hidden_size)` each."""
    i, f, g, o = (drive + pushed).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def both(owner: object, hidden: Any, cell: Any) -> tuple[Any, Any]:
    """The two parts of a state that is given as a pair, or one after the other, or not at all."""
    if cell is None and isinstance(hidden, tuple | list) and len(hidden) == 2:
        return hidden[0], hidden[1]
    if (hidden is None) != (cell is None):
        got = "the hidden state" if cell is None else "the cell state"
        raise ShapeError(f"{type(owner).__name__} needs a state (h, c) of two parts, got {got} alone")
    return hidden, cell


class LSTMCell(GatedCell):
    """One step of a long short-term memory; x: `(batch, input_size)`, h, c, h', c': `(batch, hidden_size)`.

    With an input map V and a hidden map W for each gate, both with a bias if `bias`, and a_g = V_g(x) + W_g(h):

        c' = sigmoid(a_f) c + sigmoid(a_i) tanh(a_g),  h' = sigmoid(a_o) tanh(c')

    `hidden_map` and `input_map` are each one class or key for all gates, or a dict with one for each of "i", "f", "g",
    "o"; `hidden_args` and `input_args` are the options for all, or a dict of those by gate. The state is a pair, as
    torch's, or two arguments, so that `Node(cell, ["u", "h", "c"], ["h", "c"])` is a node of a System. Raises as
    `RNNCell`. Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    >>> import slimgraph.slim as slim
    >>> cell = slim.LSTMCell(3, 5, hidden_map='spectral', hidden_args={'sigma_max': 0.9})
    >>> h, c = cell(torch.zeros(2, 3), (torch.zeros(2, 5), torch.zeros(2, 5)))
    >>> h.shape, c.shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """

    states = ("hidden", "cell")
    gates = ("i", "f", "g", "o")
    kernel = Kernel(torch.lstm, lstm_step)
    result = "h"

    def forward(
        self, x: Tensor, hidden: Tensor | tuple[Tensor, Tensor] | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next `(h, c)`, each `(batch, hidden_size)`; zero when they are left out."""
        h, c = self.step(x, *self._start(x, *both(self, hidden, cell)))
        return h, c

    def lay(self, x: Any, before: Any, after: Any, prefix: str, start: Tensor | None) -> None:
        lay_lstm(self, x, before, after, prefix, start)

    def _add_step(self, graph: Any) -> None:
        gates: Mapping[str, str] = {
            "i": "input: sigmoid",
            "f": "forget: sigmoid",
            "g": "new: tanh",
            "o": "output: sigmoid",
        }
        for gate, label in gates.items():
            self._add_gate(graph, gate, label)
        graph.add_node("c", kind="operation", label="f c + i g")
        graph.add_node("h", kind="operation", label="o tanh(c)")
        for gate in ("i", "f", "g"):
            graph.add_edge(f"gate:{gate}", "c", key=gate)
        graph.add_edge("cell", "c", key="cell")
        graph.add_edge("c", "h", key="cell")
        graph.add_edge("gate:o", "h", key="o")
        graph.add_edge("c", "cell", key="cell", feedback=True)
        graph.add_edge("h", "hidden", key="hidden", feedback=True)


class LSTM(Recurrence):
    """Layers of `LSTMCell` over a sequence, with learnt initial states.

    `cell_args` are the options of each `LSTMCell`, by default `bias=False` on free maps; the other options, the shapes
    and the errors are those of `RNN`. `forward(sequence, init_states=None) -> (outputs, (h_n, c_n))`, the initial
    states as a pair `(h, c)` or as two arguments; `Node(lstm, ["u"], ["h", "h_last", "c_last"])` is a node.

    >>> import slimgraph.slim as slim
    >>> outputs, (h_n, c_n) = slim.LSTM(3, 5, cell_args={'hidden_map': 'orthogonal'})(torch.zeros(7, 2, 3))
    >>> outputs.shape, h_n.shape, c_n.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]), torch.Size([1, 2, 5]))
    """

    cell_class = LSTMCell

    def forward(
        self,
        sequence: Tensor | PackedSequence,
        init_states: tuple[Start, Start] | Start | None = None,
        init_cells: Start | None = None,
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """`(outputs, (h_n, c_n))`, shaped as in `RNN`."""
        outputs, (h_n, c_n) = self._run(sequence, *both(self, init_states, init_cells))
        return outputs, (h_n, c_n)
