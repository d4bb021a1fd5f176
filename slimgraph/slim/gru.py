"""The gated recurrent unit on structured maps: `GRUCell`, `GRU`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from slimgraph.slim.as_graph import lay_gru
from slimgraph.slim.cells import GatedCell
from slimgraph.slim.layers import Recurrence, Start
from slimgraph.slim.unroll import Kernel


def gru_step(drive: Tensor, pushed: Tensor, hidden: Tensor) -> tuple[Tensor]:
    """The next state from what the input maps and the hidden maps give, `(batch, 3 * hidden_size)` each."""
    drive_r, drive_z, drive_n = drive.chunk(3, -1)
    pushed_r, pushed_z, pushed_n = pushed.chunk(3, -1)
    r, z = torch.sigmoid(drive_r + pushed_r), torch.sigmoid(drive_z + pushed_z)
    n = torch.tanh(drive_n + r * pushed_n)
    # Under autocast a first state comes in full precision.
    return (torch.lerp(n, hidden.to(n.dtype), z),)


class GRUCell(GatedCell):
    """One step of a gated recurrent unit; x: `(batch, input_size)`, h, h': `(batch, hidden_size)`.

    With an input map V and a hidden map W for each gate, both with a bias if `bias`:

        r = sigmoid(V_r(x) + W_r(h)),  z = sigmoid(V_z(x) + W_z(h)),  n = tanh(V_n(x) + r W_n(h)),  h' = (1 - z) n + z h

    as torch has it, the reset gate r after the hidden map. `hidden_map` and `input_map` are each one class or key for
    all gates, or a dict with one for each of "r", "z", "n"; `hidden_args` and `input_args` are the options for all, or
    a dict of those by gate. Raises as `RNNCell`. Source: Cho et al. 2014, arXiv:1406.1078.

    >>> import slimgraph.slim as slim
    >>> cell = slim.GRUCell(3, 5, hidden_map={'r': 'linear', 'z': 'linear', 'n': 'orthogonal'})
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 5])
    """

    gates = ("r", "z", "n")
    kernel = Kernel(torch.gru, gru_step)
    result = "h"

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The next hidden state `(batch, hidden_size)`; `hidden` is zero when it is left out."""
        return self.step(x, *self._start(x, hidden))[0]

    def lay(self, x: Any, before: Any, after: Any, prefix: str, start: Tensor | None) -> None:
        lay_gru(self, x, before, after, prefix, start)

    def _add_step(self, graph: Any) -> None:
        for gate, label in (("r", "reset: sigmoid"), ("z", "update: sigmoid"), ("n", "new: tanh")):
            self._add_gate(graph, gate, label)
        graph.add_node("h", kind="operation", label="(1 - z) n + z h")
        graph.add_edge("gate:r", "gate:n", key="r")
        for gate in ("z", "n"):
            graph.add_edge(f"gate:{gate}", "h", key=gate)
        graph.add_edge("hidden", "h", key="hidden")
        graph.add_edge("h", "hidden", key="hidden", feedback=True)


class GRU(Recurrence):
    """Layers of `GRUCell` over a sequence, with learnt initial states.

    `cell_args` are the options of each `GRUCell`, by default `bias=False` on free maps; the other options, the shapes
    and the errors are those of `RNN`. `forward(sequence, init_states=None) -> (outputs, h_n)`.

    >>> import slimgraph.slim as slim
    >>> outputs, h_n = slim.GRU(3, 5, cell_args={'hidden_map': 'orthogonal'})(torch.zeros(7, 2, 3))
    >>> outputs.shape, h_n.shape
    (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    cell_class = GRUCell

    def forward(self, sequence: Tensor | PackedSequence, init_states: Start | None = None) -> tuple[Any, Tensor]:
        """`(outputs, h_n)`, shaped as in `RNN`."""
        outputs, (h_n,) = self._run(sequence, init_states)
        return outputs, h_n
