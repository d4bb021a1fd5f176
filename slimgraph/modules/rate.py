"""Rate: leaky rate neurons, alone or with recurrent weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError, ShapeError, UnknownOptionError, did_you_mean
from slimgraph.graph import (
    GraphHolder,
    GraphModuleBase,
    RateNeurons,
    as_GraphHolder,
    bag_graph,
    connect_modules,
    dense,
)
from slimgraph.modules.attributes import Parameter, SimulationParameter, State, to_tensor
from slimgraph.modules.evolved import from_array, to_arrays
from slimgraph.modules.initializers import unit_eigs
from slimgraph.modules.linear import Linear
from slimgraph.modules.module import Module
from slimgraph.slim.linear.functions import check_input, check_number, whole_number

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


class Rate(Module):
    """Leaky rate neurons: tau dx/dt = -x + u + b + y W, y = f(x), stepped by Euler.

    x[k+1] = x[k] + dt/tau (u[k] + b + f(x[k]) W - x[k]), and the output at step k is f(x[k+1]); u, x, y:
    `(time, n)` or `(batch, time, n)`, W: `(n, n)`. A step is no more than the whole way: a tau that training
    moves below dt counts as dt, with the gradient there.

    shape: n, `(n,)` or `(n, n)`. `tau`: seconds, one number or `(n,)`, family `"taus"`, 20 dt by default. `bias`: a
    number or `(n,)`, family `"biases"`, zeros by default. `w_rec`: `(n, n)`, in family `"weights"`, given or, with
    `has_rec`, drawn by `weight_init_func((n, n))`; or the matrix of a structured map, `weight_map`, as in `Linear`.
    It lives in the member `rec`, a Linear. `activation_func`: f, a function or one of "ReLU", "tanh", "sigmoid".
    `dt`: seconds a step. State `x`: `(n,)`, zeros at first.

    `evolve` gives the new state `{"x": (n,)}`, of a batch `(batch, n)`: `torch.func.functional_call(rate, state,
    (series,))` goes on from a state for each sample. A record holds x after each step.

    Raises `OptionError` for a dt that is no positive number, a tau below dt, or an f that cannot be called,
    `ShapeError` for data, or an input, of another shape, `DtypeError` for an input of another dtype.

    Source: P. Dayan and L. F. Abbott, Theoretical Neuroscience (MIT Press, 2001), chapter 7.

    >>> rate = Rate(2, tau=0.01, bias=[0.5, -0.5])
    >>> output, state, record = rate(torch.ones(1000, 2))
    >>> output[-1]
    tensor([1.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    dt: float
    tau: Tensor
    bias: Tensor
    x: Tensor
    rec: Linear | None

    def __init__(
        self,
        shape: Any,
        tau: Any = None,
        bias: Any = None,
        w_rec: Any = None,
        weight_init_func: Callable[[Any], Any] = unit_eigs,
        has_rec: bool = False,
        activation_func: str | Callable[[Tensor], Tensor] = "ReLU",
        *,
        weight_map: Any = None,
        dt: float = 1e-3,
    ) -> None:
        n = _neurons(self, shape)
        super().__init__((n, n))
        self.dt = SimulationParameter(check_number(self, "dt", dt, above=0))  # pyright: ignore[reportAttributeAccessIssue]
        self.activation_func = _function(self, activation_func)
        dtype = _dtype(tau, bias, w_rec)
        start = torch.full((n,), 20 * self.dt) if tau is None else to_tensor(tau, f"{self._title}.tau")
        if not start.is_meta and not bool((start >= self.dt).all()):
            raise OptionError(f"{self._title} needs tau >= dt, got tau={tau!r} and dt={self.dt}; give a smaller dt")
        shapes = [(n,), ()]
        self.tau = Parameter(start, "taus", shape=shapes, dtype=dtype)  # pyright: ignore
        offset = torch.zeros(n) if bias is None else bias
        self.bias = Parameter(offset, "biases", shape=shapes, dtype=dtype)  # pyright: ignore
        self.x = State(torch.zeros(n, dtype=dtype), "states")  # pyright: ignore
        if has_rec or w_rec is not None or weight_map is not None:
            given = None if w_rec is None else to_tensor(w_rec, f"{self._title}.w_rec")
            if given is not None and given.shape != (n, n):
                got = tuple(given.shape)
                raise ShapeError(f"{self._title}.w_rec needs shape {(n, n)}, got a value of shape {got}")
            rec = Linear((n, n), given, weight_init_func=weight_init_func, weight_map=weight_map)
            self.rec = rec.to(dtype)
        else:
            self.register_module("rec", None)

    @property
    def w_rec(self) -> Tensor | None:
        """The recurrent matrix `(n, n)`, None without recurrence."""
        return None if self.rec is None else self.rec.weight

    @w_rec.setter
    def w_rec(self, value: Any) -> None:
        if self.rec is None:
            raise OptionError(f"{self._title} has no recurrent weights to write to; make it with has_rec=True")
        self.rec.weight = value

    def evolve(self, input_data: Any, record: bool = False) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """All steps of a series from the state x: `(output, {"x": last state}, {"x": all states})`."""
        if not isinstance(input_data, Tensor):
            return to_arrays(self.evolve(from_array(input_data), record))
        u, (x,) = self._auto_batch(input_data, (self.x,), ((-1,),))
        check_input(self, u, self._shape[0], self.tau.dtype)
        # A state that is written in place later must not reach back into the graph.
        x, y, states, outputs = x.clone(), self.activation_func(x), [], []
        # What is added to dt is 0, with tau's gradient: a tau that went too low finds its way back.
        tau = torch.where(self.tau < self.dt, self.dt + (self.tau - self.tau.detach()), self.tau)
        weights, rate = self.w_rec, self.dt / tau
        # One slice a step would make the backward quadratic in time.
        for drive in (u + self.bias).unbind(1):
            x = x + rate * ((drive if weights is None else drive + y @ weights) - x)
            y = self.activation_func(x)
            outputs.append(y)
            if record:
                states.append(x)
        series = [torch.stack(each, 1) if each else u[..., :0, :] for each in (outputs, states)]
        if input_data.ndim < 3:
            x, series = x[0], [each[0] for each in series]
        return series[0], {"x": x}, {"x": series[1]} if record else {}

    @torch.no_grad()
    def as_graph(self) -> GraphModuleBase:
        """`RateNeurons` with a copy of tau and bias as they are now, in a holder with the weights that feed back."""
        name = self._name or self.class_name
        n, numbers = self._shape[0], {"tau": self.tau.clone(), "bias": self.bias.clone(), "dt": self.dt}
        if self.rec is None:
            return RateNeurons.of_size(n, n, name, self.activation_func, **numbers)
        neurons, weights = RateNeurons.of_size(n, n, "neurons", self.activation_func, **numbers), self.rec.as_graph()
        # A picture says which map it is.
        weights.computational_module = self.rec._modules.get("weight_map", self.rec)
        connect_modules(neurons, weights)
        connect_modules(weights, neurons)
        return GraphHolder(neurons.input_nodes, neurons.output_nodes, name, self)

    @classmethod
    def from_graph(cls, graph: GraphModuleBase) -> Any:
        """From `RateNeurons`, alone or in a holder with nothing but weights from its outputs to its inputs.

        Raises `OptionError`, with its name, for anything else.

        >>> Rate.from_graph(Rate(3, has_rec=True, activation_func="tanh").as_graph()).w_rec.shape
        torch.Size([3, 3])
        """
        holder = as_GraphHolder(graph)
        modules = bag_graph(holder)[1]
        found = [module for module in modules if isinstance(module, RateNeurons)]
        if len(found) != 1:
            titles = ", ".join(module.title for module in modules)
            raise OptionError(f"{cls.__name__}.from_graph needs one RateNeurons, {graph.title} has {titles}")
        neurons = found[0]
        starts, ends = [*holder.input_nodes], [*holder.output_nodes]
        if (starts, ends) != ([*neurons.input_nodes], [*neurons.output_nodes]):
            raise OptionError(f"{cls.__name__}.from_graph needs a holder around {neurons.title}, got {graph.title}")
        bias, weights = neurons.bias, None
        if len(modules) > 1:
            weights, offset = dense(GraphHolder(ends, starts, f"the recurrence of {neurons.title}"))
            if offset is not None:
                bias = offset if bias is None else bias + offset
        options = {} if neurons.dt is None else {"dt": neurons.dt}
        function = neurons.computational_module
        if not callable(function):
            raise OptionError(f"{cls.__name__} needs a function for {neurons.title}; it has {function!r}")
        return cls(neurons.size_in, neurons.tau, bias, weights, activation_func=function, **options)


def _neurons(owner: Any, shape: Any) -> int:
    """n from n, `(n,)` or `(n, n)`."""
    sizes: Any = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
    if len(sizes) not in (1, 2) or sizes[0] != sizes[-1]:
        raise OptionError(f"{type(owner).__name__} needs shape n, (n,) or (n, n), got {shape!r}")
    return whole_number(owner, "the number of neurons", sizes[0])


def _function(owner: Any, chosen: Any) -> Any:
    if isinstance(chosen, str):
        if chosen not in FUNCTIONS:
            hint = did_you_mean(chosen, FUNCTIONS) or f" There are {', '.join(FUNCTIONS)}."
            raise UnknownOptionError(f"{owner._title} has no activation_func {chosen!r}.{hint}")
        return FUNCTIONS[chosen]
    if isinstance(chosen, type) and issubclass(chosen, nn.Module):
        raise OptionError(
            f"{owner._title} needs a function for activation_func, got a class; write {chosen.__name__}()"
        )
    if not callable(chosen):
        raise OptionError(f"{owner._title} needs a function for activation_func, got {chosen!r}")
    return chosen


def _dtype(*given: Any) -> torch.dtype:
    """The dtype that the tensors and arrays among these share; numbers and lists follow it."""
    dtypes = [to_tensor(value, "Rate").dtype for value in given if hasattr(value, "dtype")]
    floats = [dtype for dtype in dtypes if dtype.is_floating_point]
    if not floats:
        return torch.get_default_dtype()
    dtype = floats[0]
    for other in floats[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype
