"""Module: a torch module with a shape, families of attributes, explicit state and an `evolve` over a series."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from slimgraph.errors import OptionError, UnsupportedError, WiringError
from slimgraph.graph import GraphModuleBase
from slimgraph.modules.attributes import Parameter, SimulationParameter, State
from slimgraph.modules.base import ModuleBase
from slimgraph.modules.batching import auto_batch
from slimgraph.modules.evolved import Evolved, from_array, to_arrays
from slimgraph.modules.families import nested, of_kind
from slimgraph.modules.text import described
from slimgraph.modules.views import Parameters, Submodules
from slimgraph.slim.linear.functions import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping


class Module(ModuleBase):
    """A torch module that describes itself: its shape `(Nin, Nout)`, its attributes by family, its state.

    A subclass declares attributes in its constructor and defines one of two methods: `forward(x)`, which gives the
    output tensor, or `evolve(x, record=False)`, which gives `(output, new_state, record)`; the other follows from it.
    Calling a Module gives that triple, and a Module called with the triple of another passes the output on and
    collects both states. `to_torch()` is the plain view, tensor to tensor.

    `shape` is a tuple, or an int for `(n,)`; its first entry is the size of the input, its last that of the output.

    >>> import torch
    >>> class Counter(Module):
    ...     def __init__(self, n):
    ...         super().__init__((n, n))
    ...         self.total = State(torch.zeros(n), family="sums")
    ...     def evolve(self, input_data, record=False):
    ...         total = self.total + input_data.sum(-2)
    ...         return input_data, {"total": total}, {}
    >>> counter = Counter(2)
    >>> output, state, _ = counter(torch.ones(5, 2))
    >>> counter.set_attributes(state).state("sums")
    {'total': tensor([5., 5.])}
    """

    def __init__(self, shape: Any = None, spiking_input: bool = False, spiking_output: bool = False) -> None:
        super().__init__()
        self._shape = _sizes(self, shape)
        self._spiking_input = bool(spiking_input)
        self._spiking_output = bool(spiking_output)

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes, input first and output last; empty where it takes any."""
        return self._shape

    @property
    def size_in(self) -> int | None:
        """The size of the input's last axis, None where any goes."""
        return self._shape[0] if self._shape else None

    @property
    def size_out(self) -> int | None:
        """The size of the output's last axis, None where it follows the input."""
        return self._shape[-1] if self._shape else None

    @property
    def size(self) -> int | None:
        """Deprecated: `size_out`."""
        warnings.warn("Module.size is deprecated; write size_out", DeprecationWarning, stacklevel=2)
        return self.size_out

    @property
    def class_name(self) -> str:
        """The name of its class."""
        return type(self).__name__

    @property
    def name(self) -> str:
        """The name of the attribute that it is assigned to, in quotes; empty where it has none."""
        return "" if self._name is None else repr(str(self._name))

    @property
    def full_name(self) -> str:
        """Class and name."""
        return f"{self.class_name} {self.name}"

    @property
    def _title(self) -> str:
        return self.full_name.strip()

    @property
    def spiking_input(self) -> bool:
        """Whether it takes events."""
        return self._spiking_input

    @property
    def spiking_output(self) -> bool:
        """Whether it gives events."""
        return self._spiking_output

    def __repr__(self) -> str:
        return described(self)

    # ---- attributes by family ---------------------------------------------------------------------------------------

    # torch's signature is (recurse: bool = True) and returns an iterator; the view is both.
    def parameters(self, family: Any = None, recurse: bool | None = None) -> Any:  # pyright: ignore
        """The parameters of a family, or of several in the order asked, as a nested dict; all of them without one.

        Iterating it gives the tensors as torch's method does, so `Adam(m.parameters())` works. A bool, by position or
        as `recurse`, gives exactly torch's iterator.

        >>> from slimgraph.modules import Linear
        >>> Linear((2, 1), has_bias=True).parameters(["biases", "weights"]).keys()
        dict_keys(['bias', 'weight'])
        """
        if isinstance(family, bool) and recurse is None:
            family, recurse = None, family
        if recurse is not None:
            if family is not None:
                raise OptionError(f"{self._title}.parameters takes a family or recurse, got {family!r} and {recurse}")
            return super().parameters(recurse)
        return nested(self, of_kind(Parameter, family), Parameters)

    def state(self, family: Any = None) -> dict[str, Any]:
        """The declared states, as a nested dict; of a family, or of several in the order asked."""
        return self._get_attribute_family(State, family)

    def simulation_parameters(self, family: Any = None) -> dict[str, Any]:
        """The declared simulation parameters, as a nested dict; of a family, or of several in the order asked."""
        return self._get_attribute_family(SimulationParameter, family)

    def modules(self, remove_duplicate: bool = True) -> Any:  # pyright: ignore
        """The direct submodules by name, in order; iterating it gives what torch's `modules()` gives."""
        return Submodules(self, remove_duplicate)

    # ---- running ----------------------------------------------------------------------------------------------------

    def evolve(self, input_data: Any, record: bool = False) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """`(output, new_state, record)`; an array is answered with arrays.

        The new state is returned, not kept: `set_attributes(new_state)` keeps it. This one is for a module without a
        state that changes: it calls `forward`.
        """
        if isinstance(input_data, np.ndarray):
            return to_arrays(self.evolve(from_array(input_data), record))
        output = nn.Module.__call__(self, input_data)
        # Most modules have none, and to ask all that is below takes longer than a small product.
        stateful = self._modules or any(isinstance(one, State) for one in self._attributes.values())
        return Evolved((output, self.state() if stateful else {}, {}), self._key)

    def forward(self, input_data: Any, *args: Any, _rest: list[Any] | None = None, **options: Any) -> Any:
        """The output tensor alone; this one takes it from `evolve`."""
        if type(self).evolve is Module.evolve:
            raise UnsupportedError(f"{self._title} defines neither forward(x) nor evolve(x, record=False); define one")
        output, *rest = self._checked(self.evolve(input_data, *args, **options))
        if _rest is not None:
            _rest.extend(rest)
        return output

    def __call__(self, input_data: Any, *args: Any, **options: Any) -> Any:
        """`evolve`; the triple of another module is passed on by its output, and both states come out by name."""
        own = self.__dict__
        if "forward" in own and getattr(own["forward"], "__func__", None) is not type(self).forward:
            # Lightning reaches `training_step` through the call of a wrapped module, by a forward put in between.
            return nn.Module.__call__(self, input_data, *args, **options)
        chain = None
        if isinstance(input_data, tuple):
            chain, input_data = _opened(input_data)
        if isinstance(input_data, np.ndarray):
            return to_arrays(self._called(from_array(input_data), chain, args, options))
        return self._called(input_data, chain, args, options)

    def _called(self, x: Any, chain: Evolved | None, args: Any, options: Any) -> Evolved:
        if type(self).forward is Module.forward:
            # By way of torch's call, so that hooks run.
            rest: list[Any] = []
            triple = nn.Module.__call__(self, x, *args, _rest=rest, **options), *rest
        else:
            triple = self.evolve(x, *args, **options)
            if chain is None and type(triple) is Evolved and triple.name == self._key:
                return triple
            triple = self._checked(triple)
        return Evolved(triple, self._key) if chain is None else chain.then(triple, self._key)

    @property
    def _key(self) -> str:
        """What its states stand under in a chain."""
        return self.class_name if self._name is None else self._name

    def _checked(self, triple: Any) -> Any:
        if not isinstance(triple, tuple) or len(triple) != 3:
            got = f"{len(triple)} values" if isinstance(triple, tuple) else type(triple).__name__
            raise WiringError(f"{self._title}.evolve must give (output, new_state, record), got {got}")
        return triple

    def _auto_batch(
        self, data: Any, states: Sequence[Tensor] = (), target_shapes: Sequence[Sequence[int]] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`(T,)`, `(T, Nin)` or `(B, T, Nin)` as `(B, T, Nin)`, and each state repeated over the batch.

        A last axis of 1 is broadcast to Nin. A state goes to `(B, *target)`, where -1 keeps the state's own size, as in
        `Tensor.expand`; without `target_shapes` to `(B, *state.shape)`. Raises `ShapeError` with both shapes.
        """
        return auto_batch(data, states, target_shapes, self.size_in, self._title)

    def _wrap_recorded_state(self, recorded_dict: Mapping[str, Any], t_start: float = 0.0) -> dict[str, Any]:
        """A record as time series, for `timed()`; a class overrides it, this one wraps nothing."""
        return dict(recorded_dict)

    def timed(self, output_num: int = 0, dt: float | None = None, add_events: bool = False) -> Any:
        """The module on a clock: a `TimedModule`, called with a time series in seconds. Nothing is added here."""
        from slimgraph.modules.timed import TimedModule

        return TimedModule(self, output_num, dt, add_events)

    # ---- other views of it ------------------------------------------------------------------------------------------

    def to_torch(self) -> nn.Module:
        """The plain view, tensor to tensor, with the same parameters: for `nn.Sequential` and export."""
        from slimgraph.modules.torch_view import TorchView

        return TorchView(self)

    @staticmethod
    def from_torch(module: nn.Module, shape: Any = None) -> Module:
        """Any torch module, structured maps included, as a Module; a Module is given back as it is.

        `shape` is read from `in_features` and `out_features` where the module has them.
        """
        from slimgraph.modules.torch_view import TorchModule, TorchView

        if not isinstance(module, nn.Module):
            raise OptionError(f"Module.from_torch takes a torch module, got {type(module).__name__}: {module!r}")
        module = module.module if isinstance(module, TorchView) else module
        return module if isinstance(module, Module) else TorchModule(module, shape)

    def as_graph(self) -> GraphModuleBase:
        """Its component graph; a class that has one overrides this, this one raises `UnsupportedError`."""
        raise UnsupportedError(f"{self._title} has no component graph; define as_graph() to give it one")

    @classmethod
    def from_graph(cls, graph: GraphModuleBase) -> Module:
        """The module that a component graph stands for; a class that can be had so overrides this."""
        raise UnsupportedError(f"{cls.__name__} cannot be built from a component graph; define from_graph(graph)")


def _opened(input_data: Any) -> tuple[Evolved | None, Any]:
    """The chain that a module is called with, if it is one, and the data."""
    if isinstance(input_data, Evolved):
        return input_data, input_data[0]
    if isinstance(input_data, tuple) and len(input_data) == 3 and isinstance(input_data[1], dict):
        # A triple of one's own holds states by the names of modules.
        return Evolved(input_data), input_data[0]
    return None, input_data


def _sizes(module: Module, shape: Any) -> tuple[int, ...]:
    """A shape as a tuple of sizes."""
    if shape is None:
        return ()
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise OptionError(f"{type(module).__name__} needs a shape of whole numbers, got {shape!r}")
    return tuple(whole_number(module, f"each entry of the shape {tuple(shape)}", n) for n in shape)
