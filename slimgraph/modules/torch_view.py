"""From a Module to the plain torch module that it is, and from any torch module to a Module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slimgraph.errors import DtypeError, UnsupportedError
from slimgraph.graph import GraphModule, GraphModuleBase
from slimgraph.graph.convert import KEEP_SIZE, module_graph
from slimgraph.modules.module import Module
from slimgraph.modules.text import described


class TorchView(nn.Module):
    """A Module as tensors in, tensor out: it shares all parameters and buffers.

    >>> import torch
    >>> from slimgraph.modules import Linear
    >>> torch.nn.Sequential(Linear((2, 3)).to_torch(), torch.nn.Tanh())(torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    @property
    def __name__(self) -> str:
        # A node that has no name, and a picture, go by what they call.
        return self.module.class_name

    def forward(self, input_data: Tensor) -> Tensor:
        # The module's own hooks run; its `__call__` would give the triple.
        return nn.Module.__call__(self.module, input_data)

    def as_graph(self) -> GraphModuleBase:
        """The component graph of its module, or, where that has none, one GraphModule of its size."""
        try:
            return self.module.as_graph()
        except UnsupportedError:
            if self.module.size_in is None or self.module.size_out is None:
                raise
            return GraphModule.of_size(self.module.size_in, self.module.size_out, self.module.class_name, self.module)

    def to_torch(self) -> TorchView:
        """Itself: it is the plain view."""
        return self


class TorchModule(Module):
    """A plain `nn.Module`, or a structured map, that gives one tensor: `Module.from_torch(module)`.

    >>> from slimgraph import slim
    >>> Module.from_torch(slim.OrthogonalLinear(4, 4))
    OrthogonalLinear  with shape (4, 4) (4, 4, bias=False, n_reflectors=3, det=None)
    """

    def __init__(self, module: nn.Module, shape: Any = None) -> None:
        super().__init__(features(module) if shape is None else shape)
        self.module = module

    def __repr__(self) -> str:
        return described(self, self.module)

    @property
    def class_name(self) -> str:
        return type(self.module).__name__

    @property
    def keeps_size(self) -> bool:
        """Whether any size goes in and the same comes out."""
        return isinstance(self.module, KEEP_SIZE)

    def forward(self, input_data: Tensor) -> Tensor:
        output = self.module(input_data)
        if not isinstance(output, Tensor):
            raise DtypeError(
                f"{self._title} must give one tensor, {self.class_name} gave {type(output).__name__};"
                " wrap it in a module that returns the tensor"
            )
        return output

    def as_graph(self) -> GraphModuleBase:
        """The component graph of the module that it was made from."""
        return module_graph(self.module, self.size_in)

    def to_torch(self) -> nn.Module:
        """The module that it was made from."""
        return self.module


def features(module: nn.Module) -> tuple[int, int] | None:
    """`(in_features, out_features)` of a module that says them."""
    size_in, size_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (size_in, size_out) if isinstance(size_in, int) and isinstance(size_out, int) else None
