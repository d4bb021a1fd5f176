"""ModuleBase: a torch module whose attributes are declared, named, set and reset in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.modules.attributes import Parameter, ParameterBase, State, matching
from slimgraph.modules.families import named, nested, of_kind
from slimgraph.modules.setting import set_all, tensor_of, write


class ModuleMeta(StrictOptions):
    """Unknown options are refused, and a module knows when its construction has ended."""

    def __call__(cls, *args: Any, **options: Any) -> Any:
        module = super().__call__(*args, **options)
        vars(module)["_in_Module_init"] = False
        return module


class ModuleBase(nn.Module, metaclass=ModuleMeta):
    """The registry of a Module: which attributes it declares, of which kind and family.

    Values live only in torch's own dicts; the registry holds the declarations. An array or a tensor assigned to a
    declared name is written in place; an `nn.Parameter` assigned to a parameter takes its place, as in torch.
    """

    _in_Module_init: bool = False
    _force_set_attributes: bool = False
    """While True, values are written without a check, whatever their shape."""

    _name: str | None = None
    _attributes: dict[str, ParameterBase]

    def __init__(self) -> None:
        super().__init__()
        vars(self)["_in_Module_init"] = True
        self._get_attribute_registry()

    # ---- the registry -----------------------------------------------------------------------------------------------

    def _get_attribute_registry(self) -> tuple[dict[str, ParameterBase], dict[str, nn.Module]]:
        """The declarations of this module by name, and its direct submodules; made empty where there is none yet."""
        registry = vars(self).setdefault("_attributes", {})
        return registry, {name: module for name, module in self._modules.items() if module is not None}

    @property
    def _submodulenames(self) -> list[str]:
        return list(self._get_attribute_registry()[1])

    def _has_registered_attribute(self, name: str) -> bool:
        return name in self._get_attribute_registry()[0]

    def _register_attribute(self, name: str, val: ParameterBase) -> None:
        """Declare an attribute; a subclass may declare one of its parents anew, until the construction has ended."""
        registry = vars(self).get("_attributes", {})
        if name in registry:
            if not self._in_Module_init:
                raise OptionError(
                    f"{self._title} has an attribute {name!r} already, {registry[name]}; assign a value to write it"
                    f" in place, or delete it first: del module.{name}"
                )
            delattr(self, name)
        try:
            val.attach(self, name, f"{self._title}.{name}")
        except KeyError as error:
            if not hasattr(self, name):
                raise
            raise OptionError(f"{self._title} cannot declare {name!r}: {error.args[0]}; take another name") from error
        self._get_attribute_registry()[0][name] = val

    def _register_module(self, name: str, mod: nn.Module, family: Any = None) -> None:
        """Add a submodule; `family` is that of the parameters in it which are declared nowhere."""
        self.add_module(name, mod)
        if family is not None:
            vars(self).setdefault("_module_families", {})[name] = family

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """torch's; a Module goes by the name that it was given last."""
        try:
            super().add_module(name, module)
        except KeyError as error:
            raise OptionError(f"{self._title} cannot hold a module {name!r}: {error.args[0]}") from error
        if isinstance(module, ModuleBase):
            vars(module)["_name"] = name

    def _get_attribute_family(self, type_name: str | type[ParameterBase], family: Any = None) -> dict[str, Any]:
        """A nested dict of the attributes of one kind, a subclass of ParameterBase or its name, and of the families."""
        return nested(self, of_kind(type_name, family))

    def attributes_named(self, name: Any) -> dict[str, Any]:
        """A nested dict of every registered attribute of this name, or of these names, here and below."""
        return named(self, name)

    # ---- setting ----------------------------------------------------------------------------------------------------

    def set_attributes(self, new_attributes: Mapping[str, Any]) -> Self:
        """Write a nested dict of values, in place; nothing is written when anything does not fit.

        Tensors keep their identity, dtype and device, so optimisers go on with them. Returns the module itself.

        Raises `UnknownOptionError` for a name that is not there, with the nearest one, `ShapeError` with both shapes,
        `DtypeError` with both dtypes.
        """
        set_all(self, new_attributes, self._title, self._force_set_attributes)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ParameterBase):
            self._register_attribute(name, value)
        elif isinstance(value, nn.Module):
            super().__setattr__(name, value)
            vars(self).get("_attributes", {}).pop(name, None)
            if isinstance(value, ModuleBase) and self._modules.get(name) is value:
                vars(value)["_name"] = name
        elif value is None or not self._written_in_place(name, value):
            super().__setattr__(name, value)  # pyright: ignore[reportArgumentType]

    def _written_in_place(self, name: str, value: Any) -> bool:
        """Write into a declared tensor; False where the assignment is torch's to make."""
        if name not in vars(self).get("_attributes", {}):
            return False
        current = tensor_of(self, name)
        # load_state_dict(assign=True) fills a module on the meta device by assignment.
        if current is None or current.is_meta:
            return False
        label = f"{self._title}.{name}"
        if isinstance(value, nn.Parameter) and name in self._parameters:
            # As in torch a parameter takes the place of the old one: weights are tied and sharded like that.
            if value.shape != current.shape and not self._force_set_attributes:
                raise ShapeError(f"{label} has shape {tuple(current.shape)}, got a value of shape {tuple(value.shape)}")
            return False
        write(self, name, value if self._force_set_attributes else matching(value, current, label))
        return True

    def __delattr__(self, name: str) -> None:
        registry = vars(self).get("_attributes", {})
        held = tensor_of(self, name) is not None or not isinstance(registry.get(name), Parameter)
        super().__delattr__(name)
        # torch.nn.utils.prune deletes the product that it keeps as a plain attribute while the parameter lives on.
        if held:
            registry.pop(name, None)

    # ---- resets -----------------------------------------------------------------------------------------------------

    def _reset_attribute(self, name: str) -> Self:
        """Restore the given data of one attribute, or draw it anew, in place."""
        value = self._attributes[name].draw(f"{self._title}.{name}")
        # What was set to None, as a bias may be, stays away.
        if tensor_of(self, name) is None and (name in self._parameters or name in self._buffers):
            return self
        write(self, name, value)
        return self

    def reset_parameters(self) -> Self:
        """Draw every parameter anew, here and below, or restore the data it was given; in place.

        A plain torch module below is reset by its own `reset_parameters`; one that has none, such as a structured map
        in a Sequential, keeps its values.
        """
        for name, declaration in self._attributes.items():
            if isinstance(declaration, Parameter) and tensor_of(self, name) is not None:
                self._reset_attribute(name)
        for child in self.children():
            _reset_below(child, "reset_parameters")
        return self

    def reset_state(self) -> Self:
        """Restore every state, here and below, in place."""
        for name, declaration in self._attributes.items():
            if isinstance(declaration, State):
                self._reset_attribute(name)
        for child in self.children():
            _reset_below(child, "reset_state")
        return self

    @property
    def _title(self) -> str:
        """What errors call it."""
        return type(self).__name__ if self._name is None else f"{type(self).__name__} {self._name!r}"


def _reset_below(module: nn.Module, method: str) -> None:
    """Reset a submodule by its own method, or what is below it."""
    reset: Any = getattr(module, method, None)
    if callable(reset):
        reset()
        return
    for child in module.children():
        _reset_below(child, method)
