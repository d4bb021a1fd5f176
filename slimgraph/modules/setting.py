"""Writing values into a tree of modules, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean
from slimgraph.modules.attributes import matching
from slimgraph.modules.families import declared

Writes = list[tuple[nn.Module, str, Any]]


def set_all(module: nn.Module, values: Mapping[str, Any], path: str, force: bool = False) -> None:
    """Write a nested dict into `module` and what is below it; nothing is written when anything does not fit."""
    writes = planned(module, values, path, force)
    for owner, name, value in writes:
        write(owner, name, value)


def planned(module: nn.Module, values: Mapping[str, Any], path: str, force: bool) -> Writes:
    """What is to be written where, checked; raises for the first entry that does not fit."""
    if not isinstance(values, Mapping):
        raise OptionError(f"{path} takes a dict of attributes by name, got {type(values).__name__}: {values!r}")
    writes: Writes = []
    for name, value in values.items():
        child = module._modules.get(name)
        if child is not None:
            writes += planned(child, value, f"{path}.{name}", force)
            continue
        current = tensor_of(module, name)
        if current is not None and not force:
            writes.append((module, name, matching(value, current, f"{path}.{name}")))
        elif current is not None or (name in declared(module) and name in vars(module)):
            writes.append((module, name, value))
        else:
            raise unknown(module, name, path)
    return writes


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of this name that the module itself holds."""
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def write(module: nn.Module, name: str, value: Any) -> None:
    """Write one value: into a tensor in place, over its data where the shape is new, or in the place of a plain one."""
    current = tensor_of(module, name)
    if current is None:
        vars(module)[name] = value
        return
    with torch.no_grad():
        value = torch.as_tensor(value)
        if value.shape == current.shape:
            current.copy_(value)
        else:
            current.data = value.detach().clone().to(current)


def unknown(module: nn.Module, name: str, path: str) -> UnknownOptionError:
    """The error for a name that the module does not have."""
    plain = [one for one in declared(module) if one in vars(module)]
    names = [name for name in (*module._parameters, *module._buffers) if tensor_of(module, name) is not None] + plain
    known = [*names, *module._modules]
    hint = did_you_mean(str(name), known) or f" It has {', '.join(known) or 'none'}."
    return UnknownOptionError(f"{path} has no attribute {name!r}.{hint}")
