"""Modules put together: `Sequential`, one behind the other, and `Residual`, added to their own input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from torch import nn

from slimgraph.errors import OptionError, ShapeError, UnknownOptionError, did_you_mean
from slimgraph.graph import AliasConnection, GraphHolder, GraphModuleBase, as_GraphHolder
from slimgraph.graph.convert import chain
from slimgraph.modules.module import Module
from slimgraph.modules.torch_view import TorchModule


class Sequential(Module):
    """Modules one behind the other; plain torch modules and structured maps come in through `Module.from_torch`.

    Members are given by position, or as one dict of them by name. One that has no name is called `{i}_{ClassName}`.
    `seq[i]` and `seq["name"]` give a member, a slice gives a Sequential of the same members. The new state holds that
    of each member under its name; a record holds each member's own and its output, under `{name}_output`.

    Raises `ShapeError` with both members for sizes that do not fit, `OptionError` for no members, or two of a name.

    >>> import torch
    >>> from slimgraph import slim
    >>> from slimgraph.modules import Linear
    >>> net = Sequential(Linear((2, 4)), torch.nn.Tanh(), slim.OrthogonalLinear(4, 4))
    >>> net.shape, list(net.modules().keys())
    ((2, 4), ['0_Linear', '1_Tanh', '2_OrthogonalLinear'])
    >>> output, state, record = net(torch.ones(5, 2), record=True)
    >>> record["1_Tanh_output"].shape
    torch.Size([5, 4])
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__()
        self._ends: Any = (None, None)
        named = len(modules) == 1 and isinstance(modules[0], Mapping) and not isinstance(modules[0], nn.Module)
        entries = list(modules[0].items()) if named else [(None, module) for module in modules]
        if not entries:
            raise OptionError(f"{type(self).__name__} needs at least one module")
        for name, module in entries:
            self.append(module, name)

    def append(self, module: Any, name: str | None = None) -> Self:
        """Put a module at the end; returns the whole."""
        member = Module.from_torch(module)
        if name is None:
            name = member._name or f"{len(self)}_{member.class_name}"
        if name in self._modules:
            raise OptionError(f"{self._title} has a member {name!r} already; give the members as a dict by name")
        self._check_size(name, member)
        self._register_module(name, member)
        self._ends = _ends(self)
        self._shape = () if None in self._ends else self._ends
        return self

    def _check_size(self, name: str, member: Module) -> None:
        """Raises `ShapeError` for a new member that does not fit the last one."""
        size = self.size_out
        if size is not None and member.size_in is not None and size != member.size_in:
            raise ShapeError(
                f"{self._title}: {next(reversed(self._modules))!r} gives {size} features,"
                f" {name!r} takes {member.size_in}"
            )

    @property
    def size_in(self) -> int | None:
        return self._ends[0]

    @property
    def size_out(self) -> int | None:
        return self._ends[1]

    def evolve(self, input_data: Any, record: bool = False) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The members one after the other: the last output, each new state by name, each record and output by name."""
        states, records = {}, {}
        for name, member in self._modules.items():
            input_data, states[name], recorded = member(input_data, record=record)  # pyright: ignore[reportOptionalCall]
            if record:
                records |= {name: recorded, f"{name}_output": input_data}
        return input_data, states, records

    def as_graph(self) -> GraphModuleBase:
        """The chain of the members' graphs in one holder."""
        plain = ((str(i), member.to_torch() if _wraps(member) else member) for i, member in enumerate(self))
        return chain(plain, self.size_in, self._name or self.class_name, self)

    def __getitem__(self, which: int | str | slice) -> Any:
        names = list(self._modules)
        if isinstance(which, slice):
            return Sequential({name: self._modules[name] for name in names[which]})
        if isinstance(which, str):
            if which not in names:
                hint = did_you_mean(which, names) or f" It has {', '.join(names)}."
                raise UnknownOptionError(f"{self._title} has no member {which!r}.{hint}")
            return self._modules[which]
        if not -len(names) <= which < len(names):
            raise IndexError(f"{self._title} has {len(names)} members, got index {which}")
        return self._modules[names[which]]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())


class Residual(Sequential):
    """x + f(x), f being the members one behind the other; what goes in and what comes out have the same size.

    Raises `ShapeError` with both sizes where they differ.

    >>> import torch
    >>> from slimgraph.modules import Linear
    >>> Residual(Linear((3, 5)), torch.nn.Tanh(), Linear((5, 3))).shape
    (3, 3)
    >>> Residual(Linear((3, 5)))
    Traceback (most recent call last):
    slimgraph.errors.ShapeError: Residual adds its input to its output: it takes 3 features and gives 5
    """

    def __init__(self, *modules: Any) -> None:
        super().__init__(*modules)
        self._check_sum(self.size_out)

    def append(self, module: Any, name: str | None = None) -> Self:
        """Put a module at the end, which must give the size that comes in; returns the whole."""
        if not self._in_Module_init:
            self._check_sum(Module.from_torch(module).size_out)
        return super().append(module, name)

    def _check_sum(self, size_out: int | None) -> None:
        if None not in (self.size_in, size_out) and self.size_in != size_out:
            takes, gives = self.size_in, size_out
            raise ShapeError(f"{self._title} adds its input to its output: it takes {takes} features and gives {gives}")

    def evolve(self, input_data: Any, record: bool = False) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """As a Sequential's, with the input added to the output."""
        output, state, recorded = super().evolve(input_data, record)
        return input_data + output, state, recorded

    def as_graph(self) -> GraphModuleBase:
        """The chain of the members, and beside it an alias connection from the inputs to the outputs."""
        inner = as_GraphHolder(super().as_graph())
        name = inner.name or ""
        AliasConnection(inner.input_nodes, inner.output_nodes, f"{name}.input")
        return GraphHolder(inner.input_nodes, inner.output_nodes, name, self)


def _wraps(module: Any) -> bool:
    """Whether a plain torch module stands behind it."""
    return isinstance(module, TorchModule)


def _ends(members: Sequential) -> tuple[int | None, int | None]:
    """The sizes of the first input and the last output, past members that keep any size."""
    first = last = None
    sized = False
    for member in members:
        if _wraps(member) and member.keeps_size:
            continue
        if not sized:
            first, sized = member.size_in, True
        last = member.size_out
    return first, last
