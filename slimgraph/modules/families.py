"""The walk that collects the attributes of a module and of those below it, by kind and family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from slimgraph.modules.attributes import Parameter, ParameterBase

if TYPE_CHECKING:
    from slimgraph.modules.base import ModuleBase

Own = Callable[[nn.Module, Any], dict[str, Any]]
"""What a module itself has; the second argument is the family of what is declared nowhere."""


def several(one_or_more: Any) -> list[Any]:
    """A list of families or names, from one or several."""
    return list(one_or_more) if isinstance(one_or_more, list | tuple | set | frozenset) else [one_or_more]


def nested(module: nn.Module, own: Own, make: type[dict[str, Any]] = dict, family: Any = None) -> dict[str, Any]:
    """`own(module)`, then the same of each submodule under its name; what is empty is left out."""
    found = make(own(module, family))
    families = getattr(module, "_module_families", {})
    for name, child in module._modules.items():
        if child is not None and (below := nested(child, own, make, families.get(name, family))):
            found[name] = below
    return found


def declared(module: nn.Module) -> dict[str, ParameterBase]:
    """The registry of a module; a plain `nn.Module` has none."""
    return getattr(module, "_attributes", {})


def of_kind(kind: str | type[ParameterBase], family: Any = None) -> Own:
    """What a module itself has of a kind of attributes, and of one family or several in the order asked."""
    name = kind if isinstance(kind, str) else kind.__name__

    def own(module: nn.Module, default: Any) -> dict[str, Any]:
        entries = list(parameters_of(module, default) if name == Parameter.__name__ else declared_as(module, name))
        if family is None:
            return {attribute: value for attribute, _, value in entries}
        return {attribute: value for wanted in several(family) for attribute, its, value in entries if its == wanted}

    return own


def parameters_of(module: nn.Module, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, family and value of every torch parameter of the module itself."""
    registry = declared(module)
    for name, value in module._parameters.items():
        if value is not None:
            # torch.nn.utils.prune keeps the parameter `weight` under `weight_orig`.
            declaration = registry.get(name) or registry.get(name.removesuffix("_orig"))
            yield name, default if declaration is None else declaration.family, value


def declared_as(module: nn.Module, kind: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, family and value of the attributes of the module itself that are declared by the class `kind`, or below."""
    for name, declaration in declared(module).items():
        if kind in [cls.__name__ for cls in type(declaration).__mro__] and not emptied(module, name):
            yield name, declaration.family, getattr(module, name)


def emptied(module: nn.Module, name: str) -> bool:
    """Whether a tensor of this name was set to None."""
    return any(tensors.get(name, module) is None for tensors in (module._parameters, module._buffers))


def named(module: ModuleBase, names: Any) -> dict[str, Any]:
    """Every registered attribute of one of `names`, here and below."""
    wanted = several(names)

    def own(m: nn.Module, default: Any) -> dict[str, Any]:
        registry = declared(m)
        return {name: getattr(m, name) for name in wanted if name in registry and not emptied(m, name)}

    return nested(module, own)
