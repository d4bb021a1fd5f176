"""Linear, and LinearMixin, which carries what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import OptionError, ShapeError
from slimgraph.graph import AliasConnection, GraphHolder, GraphModuleBase, LinearWeights
from slimgraph.modules.attributes import Parameter, ParameterBase
from slimgraph.modules.base import ModuleBase
from slimgraph.modules.initializers import kaiming, uniform_sqrt
from slimgraph.modules.module import Module
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import check_input, whole_number
from slimgraph.slim.linear.registry import get_map


class LinearMixin:
    """What makes a Module linear: y = x W + b; x: `(..., Nin)`, W: `(Nin, Nout)`, b: `(Nout,)`, y: `(..., Nout)`.

    It stands before a Module in the list of bases; see `Linear` for its options. Raises `OptionError` when its host is
    no Module.
    """

    weight: Tensor
    bias: Tensor | None
    weight_map: LinearBase

    def __init__(
        self,
        shape: Any,
        weight: Any = None,
        bias: Any = None,
        has_bias: bool = False,
        weight_init_func: Callable[[Any], Any] = kaiming,
        bias_init_func: Callable[[Any], Any] = uniform_sqrt,
        spiking_input: bool = False,
        spiking_output: bool = False,
        *,
        weight_map: Any = None,
    ) -> None:
        host: Any = self
        if not isinstance(host, ModuleBase):
            bases = ", ".join(base.__name__ for base in type(self).__bases__)
            raise OptionError(
                f"LinearMixin needs a Module beside it, {type(self).__name__} has only {bases};"
                f" write class {type(self).__name__}(LinearMixin, Module)"
            )
        super().__init__(_two(self, shape), spiking_input, spiking_output)  # pyright: ignore[reportCallIssue]
        if weight_map is None:
            host.weight = Parameter(weight, "weights", weight_init_func, host.shape)
        elif weight is not None:
            raise OptionError(f"{host._title} takes a weight or a weight_map, got both; a map has from_dense(weight)")
        else:
            make = get_map(weight_map)
            # A declaration knows how to be copied and pickled with whatever function it holds.
            vars(self)["_weight_map_drawn"] = ParameterBase(init_func=make, shape=host.shape)
            host._register_module("weight_map", made(host, make), "weights")
        if has_bias or bias is not None:
            dtype = host.weight.dtype
            host.bias = Parameter(bias, "biases", bias_init_func, (host.size_out,), dtype=dtype)
        else:
            host.register_parameter("bias", None)

    def forward(self, input_data: Tensor) -> Tensor:
        """`x @ weight + bias`; x: `(..., Nin)`, result: `(..., Nout)`."""
        host: Any = self
        # torch's dicts first: its search by attribute takes longer than all the rest here, as a default would.
        parameters = host._parameters
        bias = parameters["bias"] if "bias" in parameters else host.bias  # noqa: SIM401
        if "weight_map" in host._modules:
            output = host._modules["weight_map"](input_data)
            return output if bias is None else output + bias
        weight = parameters["weight"] if "weight" in parameters else host.weight  # noqa: SIM401
        check_input(self, input_data, host._shape[0], weight.dtype)
        output = self._dot(input_data, weight)
        return output if bias is None else output + bias

    def __getattr__(self, name: str) -> Any:
        if name == "weight" and "weight_map" in self._modules:
            return self.weight_map.effective_W()
        return super().__getattr__(name)  # pyright: ignore[reportAttributeAccessIssue]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and "weight_map" in vars(self).get("_modules", {}):
            kind = type(self.weight_map).__name__
            raise OptionError(
                f"{self._title}.weight is the matrix of its {kind}; write to the parameters of weight_map"
            )
        super().__setattr__(name, value)

    def reset_parameters(self) -> Any:
        """Draw weights and bias anew, or restore what was given; a map is made anew and its state taken over."""
        host: Any = super()
        host.reset_parameters()
        drawn = vars(self).get("_weight_map_drawn")
        if drawn is not None:
            if drawn.init_func is None:
                raise OptionError(f"{self._title}: its weight_map function could not be pickled; give a class or a key")
            self.weight_map.load_state_dict(made(self, drawn.init_func).state_dict())
        return self

    @torch.no_grad()
    def as_graph(self) -> LinearWeights:
        """`LinearWeights` with a copy of weight and bias as they are now, called as the module is, or as its class."""
        host: Any = self
        weights = host.weight.clone(memory_format=torch.contiguous_format)
        biases = None if host.bias is None else host.bias.clone()
        name = host._name or host.class_name
        return LinearWeights.of_size(*host.shape, name=name, computational_module=self, weights=weights, biases=biases)

    @classmethod
    def from_graph(cls, graph: GraphModuleBase) -> Any:
        """From `LinearWeights`, a holder around exactly one, or an alias connection, which is the identity.

        Raises `OptionError`, with its name, for anything else.

        >>> Linear.from_graph(Linear((2, 3)).as_graph())
        Linear  with shape (2, 3)
        """
        found = held_alone(graph)
        if isinstance(found, AliasConnection):
            return cls((found.size_in, found.size_out), weight=torch.eye(found.size_in))
        return cls((found.size_in, found.size_out), weight=found.weights, bias=found.biases)

    @staticmethod
    def _dot(a: Tensor, b: Tensor) -> Tensor:
        """The product that `forward` takes."""
        return torch.matmul(a, b)


class Linear(LinearMixin, Module):
    """y = x W + b; x: `(..., Nin)`, y: `(..., Nout)`.

    shape: `(Nin, Nout)`. `weight`: `(Nin, Nout)`, family `"weights"`, given (and copied) or drawn by
    `weight_init_func(shape)`. `bias`: `(Nout,)`, family `"biases"`, there when `has_bias` or when it is given, else
    drawn by `bias_init_func((Nout,))`; it takes the weight's dtype. `weight_map`, a class of `slimgraph.slim` or its
    key, puts a structured map in the place of the weight: `weight` is then its matrix.

    Raises `OptionError` for a shape that is not two sizes, `ShapeError` for data, or an input, of another shape,
    `DtypeError` for an input of another dtype.

    >>> Linear((3, 4))
    Linear  with shape (3, 4)
    >>> output, state, record = Linear((3, 4))(torch.ones(2, 10, 3))
    >>> output.shape
    torch.Size([2, 10, 4])
    >>> rotation = Linear((8, 8), weight_map="orthogonal")
    >>> rotation.weight_map.contains(rotation.weight)
    True
    """


def made(owner: Any, make: Callable[..., LinearBase]) -> LinearBase:
    """A map of the owner's shape, without a bias of its own."""
    size_in, size_out = owner.shape
    held = make(size_in, size_out, bias=False) if isinstance(make, type) else make(size_in, size_out)
    if not isinstance(held, LinearBase):
        raise OptionError(f"{owner._title} needs a structured map for weight_map, got {type(held).__name__}")
    if (held.in_features, held.out_features) != owner.shape:
        got = held.in_features, held.out_features
        raise ShapeError(f"{owner._title} has shape {owner.shape}, its weight_map gave a map of shape {got}")
    if held.bias is not None:
        raise OptionError(
            f"{owner._title} has the bias itself, its weight_map gave a map with another; make it without"
        )
    return held


def _two(owner: object, shape: Any) -> tuple[int, int]:
    """The shape as two sizes."""
    sizes = tuple(shape) if isinstance(shape, Sequence | np.ndarray) and not isinstance(shape, str) else ()
    if len(sizes) != 2:
        raise OptionError(f"{type(owner).__name__} needs shape (Nin, Nout), got {shape!r}")
    try:
        return tuple(whole_number(owner, "Nin and Nout", size) for size in sizes)  # pyright: ignore
    except OptionError:
        raise OptionError(
            f"{type(owner).__name__} needs shape (Nin, Nout) of whole numbers >= 1, got {shape!r}"
        ) from None


def held_alone(graph: Any) -> LinearWeights | AliasConnection:
    """The weights, or the alias connection, that a graph consists of."""
    found: Any = graph
    if isinstance(graph, GraphHolder):
        inside = {id(module): module for side in graph.ends for port in side for module, _ in port}
        if any(wire in graph.output_nodes for wire in graph.input_nodes):
            raise OptionError(f"Linear.from_graph needs a holder without a loop, {graph.title} feeds back to itself")
        titles = ", ".join(module.title for module in inside.values())
        found = next(iter(inside.values()), None)
        # Each wire leads to its own place of the one module, and to nothing else.
        straight = all([place for _, place in port] == [i] for side in graph.ends for i, port in enumerate(side))
        if len(inside) != 1 or not straight:
            raise OptionError(f"Linear.from_graph needs a holder around one LinearWeights, {graph.title} has {titles}")
    if not isinstance(found, LinearWeights | AliasConnection):
        title = found.title if isinstance(found, GraphModuleBase) else f"{type(found).__name__}: {found!r}"
        raise OptionError(f"Linear.from_graph needs LinearWeights or an AliasConnection, got {title}")
    return found
