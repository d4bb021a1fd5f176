"""The simple recurrence on any two structured maps: `RNNCell`, `RNN`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from slimgraph.errors import OptionError
from slimgraph.slim.as_graph import cell_from_graph, lay_rnn, rnn_from_graph
from slimgraph.slim.cells import Cell, MapChoice, weights
from slimgraph.slim.layers import Recurrence, Start
from slimgraph.slim.linear import Linear, LinearBase
from slimgraph.slim.unroll import Kernel, State, Steps, run_fused, run_simple, written

KERNELS = {
    written(torch.tanh): Kernel(torch.rnn_tanh, lambda drive, pushed, h: (torch.tanh(drive + pushed),)),
    written(torch.relu): Kernel(torch.rnn_relu, lambda drive, pushed, h: (torch.relu(drive + pushed),)),
}


class RNNCell(Cell):
    """One step `h' = nonlin(input_map(x) + hidden_map(h))`; x: `(batch, input_size)`, h, h': `(batch, hidden_size)`.

    `hidden_map` and `input_map` are classes of maps or their keys in `slim.maps`; `hidden_args` and `input_args` are
    their options; `bias` gives one to both. Raises `OptionError` for a choice that is no map of the right sizes,
    `ShapeError` for an input that does not fit.

    >>> import slimgraph.slim as slim
    >>> cell = slim.RNNCell(3, 5, hidden_map='orthogonal', nonlin=torch.tanh)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5)).shape
    torch.Size([2, 5])
    """

    result = "nonlin"

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
        super().__init__(input_size, hidden_size)
        self.nonlin = nonlin() if isinstance(nonlin, type) else nonlin
        if not callable(self.nonlin):
            raise OptionError(f"RNNCell needs a function for nonlin, such as torch.tanh, got {nonlin!r}")
        self.input_map = self._make("input_map", input_map, input_size, bias, input_args or {})
        self.hidden_map = self._make("hidden_map", hidden_map, hidden_size, bias, hidden_args or {})

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """The next hidden state `(batch, hidden_size)`; `hidden` is zero when it is left out."""
        (hidden,) = self._start(x, hidden)
        return self.nonlin(self.input_map(x) + self.hidden_map(hidden))

    def unroll(self, x: Tensor, state: State, steps: Steps) -> tuple[Tensor, State]:
        kernel = KERNELS.get(written(self.nonlin)) if has_cudnn(x) else None
        if kernel is not None:
            return run_fused(kernel, x, state, weights(x, state[0], *self.maps()), steps)
        driven, bias = self.input_map(x), self.hidden_map.bias
        W = self.hidden_map.effective_W()
        self.hidden_map._check_input(state[0], W.dtype)
        # Under autocast the inputs come in half precision, and a full bias would bring them back.
        driven = driven if bias is None else driven + bias.to(driven.dtype)
        return run_simple(self.nonlin, driven, state[0], W, steps)

    def maps(self) -> tuple[list[LinearBase], list[LinearBase]]:
        return [self.input_map], [self.hidden_map]

    def lay(self, x: Any, before: Any, after: Any, prefix: str, start: Tensor | None) -> None:
        lay_rnn(self, x, before, after, prefix, start)

    @classmethod
    def from_graph(cls, graph: Any) -> Any:
        """A cell of free maps with the numbers of `graph`, weights and the neurons that they drive.

        Raises `OptionError`, with its name, for anything else.
        """
        return cell_from_graph(cls, graph)

    def _add_step(self, graph: Any) -> None:
        self._add_maps(
            graph,
            {"input_map": self.input_map, "hidden_map": self.hidden_map},
            "nonlin",
            f"+, {getattr(self.nonlin, '__name__', self.nonlin)}",
        )
        graph.add_edge("nonlin", "hidden", key="hidden", feedback=True)

    def extra_repr(self) -> str:
        name = "" if isinstance(self.nonlin, nn.Module) else f", nonlin={getattr(self.nonlin, '__name__', self.nonlin)}"
        return f"{self.input_size}, {self.hidden_size}{name}"


def has_cudnn(x: Tensor) -> bool:
    """Whether cuDNN's recurrences take `x`; on a CPU the written-out loop is faster than torch's kernel."""
    return x.is_cuda and torch.backends.cudnn.enabled and bool(torch.backends.cudnn.is_acceptable(x))


class RNN(Recurrence):
    """Layers of `RNNCell` over a sequence, with learnt initial states.

    `cell_args` are the options of each `RNNCell`, by default `bias=False, nonlin=F.gelu` on free maps.
    `forward(sequence, init_states=None) -> (outputs, h_n)` with sequence `(time, batch, input_size)`, outputs
    `(time, batch, hidden_size)` of the last layer and h_n `(num_layers, batch, hidden_size)` of the last step;
    `batch_first=True` turns sequence and outputs to `(batch, time, ...)`, as in `Node(rnn, ["u"], ["h", "h_last"])`.

    Of a packed sequence the outputs come packed too, each sequence as if alone. `init_states` is a tensor shaped as
    h_n or a list with one `(batch, hidden_size)` an entry, so that h_n of one chunk continues in the next.

    - `bidirectional`: a second cell a layer reads each sequence backwards; outputs are `2 * hidden_size` wide, h_n
      has `2 * num_layers` entries, forward before backward in each layer, as torch's.
    - `dropout`: with this probability an entry between two layers is zero while training.
    - `residual`: a layer adds its input to its output where the sizes match, so the first one does only if its input
      is as wide as the outputs. The states that it hands on in time stay its own.
    - `learn_init`: whether the initial states are parameters, started at zero, or zero for good. Learnt ones have no
      gradient when every call gives `init_states`; distributed training then needs `learn_init=False`.

    Raises `OptionError` for options that make no sense, `ShapeError` and `DtypeError` for inputs that do not fit.
    Forward hooks of hidden maps and of cells are not called: no module is, at a step; those of input maps are not
    where torch's kernels take their matrices.

    >>> import slimgraph.slim as slim
    >>> rnn = slim.RNN(3, 5, num_layers=2, cell_args={'hidden_map': 'orthogonal'})
    >>> outputs, h_n = rnn(torch.zeros(7, 2, 3))
    >>> outputs.shape, h_n.shape
    (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))
    """

    cell_class = RNNCell

    def forward(self, sequence: Tensor | PackedSequence, init_states: Start | None = None) -> tuple[Any, Tensor]:
        """`(outputs, h_n)`, shaped as the class says."""
        outputs, (h_n,) = self._run(sequence, init_states)
        return outputs, h_n

    @classmethod
    def from_graph(cls, graph: Any, **options: Any) -> Any:
        """An RNN of free maps with the numbers of `graph`, a chain of layers; `options` are those of the constructor.

        Raises `OptionError`, with its name, for anything else.
        """
        return rnn_from_graph(cls, graph, options)
