"""The kinds of module that a component graph names: weights, aliases and neurons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, OptionError, ShapeError
from slimgraph.graph.parts import GraphModule
from slimgraph.graph.wires import GraphNode


class LinearWeights(GraphModule):
    """y = x W + b between wires; weights W: `(inputs, outputs)`, biases b: `(outputs,)` or None.

    A tensor is kept as it is, an array or a nested list becomes one. Raises `ShapeError` for weights or biases that do
    not fit the wires, `DtypeError` for what is no tensor of numbers.

    >>> LinearWeights.of_size(2, 3, name="in", weights=torch.zeros(2, 3))
    LinearWeights 'in' (2 -> 3)
    >>> LinearWeights.of_size(2, 3, name="in", weights=torch.zeros(3, 2))
    Traceback (most recent call last):
    slimgraph.errors.ShapeError: LinearWeights 'in' needs weights of shape (2, 3) for its wires, got shape (3, 2)
    """

    weights: Tensor
    biases: Tensor | None

    def __init__(
        self,
        input_nodes: Iterable[GraphNode],
        output_nodes: Iterable[GraphNode],
        name: str | None = None,
        computational_module: Any = None,
        weights: Any = None,
        biases: Any = None,
    ) -> None:
        title = f"LinearWeights {name!r}" if name else "LinearWeights"
        if weights is None:
            raise OptionError(f"{title} needs weights of shape (inputs, outputs), got None")
        self.weights = _tensor(title, "weights", weights)
        self.biases = None if biases is None else _tensor(title, "biases", biases)
        super().__init__(input_nodes, output_nodes, name, computational_module)

    def check_sizes(self, size_in: int, size_out: int) -> None:
        _check_shape(self, "weights", self.weights, (size_in, size_out))
        if self.biases is not None:
            _check_shape(self, "biases", self.biases, (size_out,))


class AliasConnection(GraphModule):
    """Each output wire carries what its input wire carries, and not the other way.

    `connect_modules` puts one between two wires that could not be one without others hearing what is not for them.

    >>> AliasConnection.of_size(2, 2)
    AliasConnection (2 -> 2)
    """

    def check_sizes(self, size_in: int, size_out: int) -> None:
        _check_equal(self, size_in, size_out)


class GenericNeurons(GraphModule):
    """A function of each wire's own value, given by `computational_module`: as many wires out as in.

    `start`: the value that its output wires hold before the first step where they feed back, `(outputs,)`, or None.
    """

    def __init__(
        self,
        input_nodes: Iterable[GraphNode],
        output_nodes: Iterable[GraphNode],
        name: str | None = None,
        computational_module: Any = None,
        start: Any = None,
    ) -> None:
        title = f"{type(self).__name__} {name!r}" if name else type(self).__name__
        self.start = None if start is None else _tensor(title, "start", start)
        super().__init__(input_nodes, output_nodes, name, computational_module)

    def check_sizes(self, size_in: int, size_out: int) -> None:
        _check_equal(self, size_in, size_out)
        if self.start is not None:
            _check_shape(self, "start", self.start, (size_out,))


class RateNeurons(GenericNeurons):
    """Leaky rate neurons: tau dx/dt = -x + input + bias, and a function of x on each wire.

    tau: seconds, `()` or `(neurons,)`; bias: `()` or `(neurons,)`; dt: seconds a step. Raises `ShapeError` for others.

    >>> RateNeurons.of_size(3, 3, name="rates", tau=0.02, bias=[0.0, 0.1, 0.2], dt=1e-3)
    RateNeurons 'rates' (3 -> 3)
    """

    def __init__(
        self,
        input_nodes: Iterable[GraphNode],
        output_nodes: Iterable[GraphNode],
        name: str | None = None,
        computational_module: Any = None,
        tau: Any = None,
        bias: Any = None,
        dt: float | None = None,
    ) -> None:
        title = f"RateNeurons {name!r}" if name else "RateNeurons"
        self.tau = None if tau is None else _tensor(title, "tau", tau)
        self.bias = None if bias is None else _tensor(title, "bias", bias)
        self.dt = dt
        super().__init__(input_nodes, output_nodes, name, computational_module)

    def check_sizes(self, size_in: int, size_out: int) -> None:
        super().check_sizes(size_in, size_out)
        for word, value in (("tau", self.tau), ("bias", self.bias)):
            if value is not None and value.ndim:
                _check_shape(self, word, value, (size_out,))


def _tensor(title: str, word: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(f"{title} needs a tensor, an array or numbers for {word}, got {value!r}") from error


def _check_shape(module: GraphModule, word: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ShapeError(f"{module.title} needs {word} of shape {shape} for its wires, got shape {tuple(value.shape)}")


def _check_equal(module: GraphModule, size_in: int, size_out: int) -> None:
    if size_in != size_out:
        raise ShapeError(f"{module.title} needs as many wires out as in, got {size_in} in and {size_out} out")
