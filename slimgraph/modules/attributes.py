"""The kinds of attributes that a Module declares: `Parameter`, `State`, `SimulationParameter`."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from slimgraph.errors import DtypeError, OptionError, ShapeError, StrictOptions


def to_tensor(data: Any, label: str) -> Tensor:
    """A copy of a tensor, array, number or nested list, contiguous and without history."""
    try:
        # torch takes no array whose strides are negative.
        data = np.ascontiguousarray(data).reshape(data.shape) if isinstance(data, np.ndarray) else data
        tensor = data.detach() if isinstance(data, Tensor) else torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(
            f"{label} needs a tensor, an array or a nested list of numbers, got {data!r}: {error}"
        ) from None
    return tensor.clone(memory_format=torch.contiguous_format)


def matching(value: Any, current: Tensor, label: str) -> Tensor:
    """A copy of `value` that can be written into `current`; ShapeError and DtypeError tell both sides."""
    tensor = to_tensor(value, label)
    if tensor.shape != current.shape:
        raise ShapeError(f"{label} has shape {tuple(current.shape)}, got a value of shape {tuple(tensor.shape)}")
    if not torch.can_cast(tensor.dtype, current.dtype):
        raise DtypeError(f"{label} holds {current.dtype}, got a value of {tensor.dtype}; convert it with .to(dtype)")
    return tensor


class ParameterBase(metaclass=StrictOptions):
    """What an attribute of a Module is declared with: its data, or a shape and a function that draws it; its family.

    `data` is a tensor, an array, a number or a nested list, and is copied. Without it `init_func(shape)` gives the
    first value and every later one that a reset asks for. `shape` is a tuple of ints, an int, or a list of the tuples
    that `data` may have, of which `init_func` takes the first. `cast_fn` is applied to the data or to what was drawn.
    A declaration is metadata: the value lives in torch's own dicts of the module that it is assigned to.

    Raises `OptionError` when there is neither data nor a function with a shape, and, where it is assigned, `ShapeError`
    with both shapes.
    """

    def __init__(
        self,
        data: Any = None,
        family: Any = None,
        init_func: Callable[[Any], Any] | None = None,
        shape: Any = None,
        cast_fn: Callable[[Any], Any] | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        what = type(self).__name__
        if data is None and (init_func is None or shape is None):
            raise OptionError(f"a {what} needs data, or both shape and init_func; got shape={shape} and {init_func=}")
        if init_func is not None and not callable(init_func):
            raise OptionError(f"a {what} needs a function for init_func, got {init_func!r}")
        self.family = family
        self.shapes = _shapes(shape, what)
        self.init_func = init_func
        self.cast_fn = cast_fn
        self.dtype = dtype
        # What was given is what a reset restores, so it must not change with its owner's own tensor.
        self.data = data if data is None or not self._holds_tensor(data) else to_tensor(data, f"a {what}")

    def draw(self, label: str) -> Any:
        """A fresh value: the data, or what the init function gives; `label` names it in errors."""
        if self.data is not None:
            value = self.data
        elif self.init_func is None:
            raise OptionError(f"{label}: its init function could not be pickled and is lost; give it a named function")
        else:
            value = self.init_func(self.shapes[0])
        value = value if self.cast_fn is None else self.cast_fn(value)
        if not self._holds_tensor(value) and self.data is not None:
            return value
        tensor = to_tensor(value, label)
        if self.shapes and tuple(tensor.shape) not in self.shapes:
            needed = " or ".join(str(shape) for shape in self.shapes)
            source = "a value" if self.data is not None else "from its init function a value"
            raise ShapeError(f"{label} needs shape {needed}, got {source} of shape {tuple(tensor.shape)}")
        return tensor.to(self._dtype_for(tensor))

    def attach(self, module: nn.Module, name: str, label: str) -> None:
        """Put a first value where torch keeps it: a parameter, a buffer or a plain entry of `module`."""
        value = self.draw(label)
        if isinstance(value, Tensor):
            module.register_buffer(name, value, persistent=False)
        else:
            vars(module)[name] = value

    def _holds_tensor(self, value: Any) -> bool:
        """Whether `value` becomes a tensor or stays what it is."""
        return isinstance(value, Tensor | np.ndarray)

    def _dtype_for(self, tensor: Tensor) -> torch.dtype:
        if self.dtype is not None:
            return self.dtype
        # A drawn value has the default dtype, whichever library drew it; given floats keep theirs.
        drawn = self.data is None and tensor.is_floating_point()
        return torch.get_default_dtype() if drawn else tensor.dtype

    def __deepcopy__(self, memo: dict[int, Any]) -> ParameterBase:
        # A declaration never changes, so copies of a module share it, init functions that no pickle takes included.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "init_func"} | {
            "init_func": self.init_func if _pickles(self.init_func) else None,
        }

    def __repr__(self) -> str:
        shape = "" if not self.shapes else f"shape={self.shapes[0]}, "
        return f"{type(self).__name__}({shape}family={self.family!r})"


class Parameter(ParameterBase):
    """A value that is trained: a torch parameter of the module that it is assigned to.

    Integers become the default float dtype.

    >>> from slimgraph.modules import Module
    >>> class Gain(Module):
    ...     def __init__(self, n):
    ...         super().__init__((n, n))
    ...         self.gain = Parameter(shape=(n,), init_func=torch.ones, family="weights")
    ...     def forward(self, x):
    ...         return x * self.gain
    >>> Gain(2).parameters("weights")
    {'gain': Parameter containing: tensor([1., 1.], requires_grad=True)}
    """

    def attach(self, module: nn.Module, name: str, label: str) -> None:
        module.register_parameter(name, nn.Parameter(self.draw(label)))

    def _holds_tensor(self, value: Any) -> bool:
        return True

    def _dtype_for(self, tensor: Tensor) -> torch.dtype:
        dtype = super()._dtype_for(tensor)
        return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()


class State(ParameterBase):
    """A value that one evolution hands to the next: a persistent buffer, so it is saved and moved with the module."""

    def attach(self, module: nn.Module, name: str, label: str) -> None:
        module.register_buffer(name, self.draw(label))

    def _holds_tensor(self, value: Any) -> bool:
        return True


class SimulationParameter(ParameterBase):
    """A value that belongs to the simulation: a tensor becomes a buffer that is not saved, the rest stays plain."""


def _shapes(shape: Any, what: str) -> list[tuple[int, ...]]:
    """The permitted shapes, from None, an int, a tuple, or a list of these."""
    if shape is None:
        return []
    entries = shape if isinstance(shape, list) and any(isinstance(one, Sequence) for one in shape) else [shape]
    try:
        return [tuple(int(n) for n in one) if isinstance(one, Sequence) else (int(one),) for one in entries]
    except (TypeError, ValueError):
        raise OptionError(f"a {what} needs a shape of ints, got {shape!r}") from None


def _pickles(function: Any) -> bool:
    """Whether pickle takes this function; a lambda it does not."""
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
