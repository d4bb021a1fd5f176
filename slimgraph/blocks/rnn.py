"""A recurrence with a linear readout: `RNN`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from slimgraph import slim
from slimgraph.blocks.base import Block
from slimgraph.errors import OptionError, ShapeError
from slimgraph.slim.cells import MapChoice


class RNN(Block):
    """`slim.RNN` over a series and a linear readout of its last layer; x: `(batch, time, insize)`.

    y: `(batch, time, outsize)`. `linear_map` is a class of maps or its key in `slim.maps`, for the hidden states, and
    `linargs` its options; inputs and readout have free maps. `hsizes` has one width a layer, all equal, by default
    `[16]`. Each call starts from the learnt initial states.

    Raises `OptionError` for widths that differ, `ShapeError` for anything but a series.

    >>> import torch
    >>> RNN(3, 2, linear_map="orthogonal", hsizes=[8, 8])(torch.zeros(4, 7, 3)).shape
    torch.Size([4, 7, 2])
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: Callable[[Tensor], Tensor] = F.gelu,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(insize, outsize)
        self.hsizes = self._sizes(hsizes, (16,))
        if len(set(self.hsizes)) != 1:
            raise OptionError(f"RNN needs hsizes with one width for all layers, such as [16], got {self.hsizes}")
        cell_args = {"bias": bias, "nonlin": nonlin, "hidden_map": linear_map, "hidden_args": linargs}
        width = self.hsizes[0]
        self.rnn = slim.RNN(self.insize, width, len(self.hsizes), cell_args, batch_first=True)
        self.readout = slim.Linear(width, self.outsize, bias=bias)

    def block_eval(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ShapeError(f"RNN needs a series (batch, time, {self.insize}), got shape {tuple(x.shape)}")
        return self.readout(self.rnn(x)[0])
