"""What a Module answers with: the triple of output, new state and record; arrays in its place where arrays came."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from slimgraph.errors import WiringError

States = dict[str, Any]


class Evolved(tuple[Any, States, States]):
    """`(output, new_state, record)` of a module, or of a chain of modules where `name` is None.

    A module says its own state and record bare; those of a chain stand under the names of its modules. So a triple
    carries the name of the module that it came from, for the next one to file it under.
    """

    name: str | None

    def __new__(cls, triple: Any, name: str | None = None) -> Evolved:
        self = super().__new__(cls, triple)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[Any, str | None]:
        return tuple(self), self.name

    def then(self, triple: Any, name: str) -> Evolved:
        """The triple of the next module in the chain, with all states and records by name.

        Raises `WiringError` where the state of one module would take the place of another's.
        """
        output, state, record = triple
        states, records = ({self.name: one} if self.name is not None else one for one in self[1:])
        if _any_leaf(states.get(name)) and _any_leaf(state):
            raise WiringError(
                f"two states in one chain would stand under {name!r}; assign the modules to attributes of other names,"
                " or put them into a Sequential"
            )
        return Evolved((output, {**states, name: state}, {**records, name: record}))


# vmap, export and compile look into what a module returns through torch's trees.
def _flatten(triple: Evolved) -> tuple[list[Any], str | None]:
    return list(triple), triple.name


def _unflatten(parts: Any, name: str | None) -> Evolved:
    return Evolved(parts, name)


pytree.register_pytree_node(Evolved, _flatten, _unflatten, serialized_type_name="slimgraph.modules.Evolved")


def _any_leaf(state: Any) -> bool:
    """Whether a nested state holds anything."""
    return any(map(_any_leaf, state.values())) if isinstance(state, dict) else state is not None


def from_array(data: np.ndarray) -> Tensor:
    """A tensor of the array's dtype, which does not share its memory."""
    return torch.tensor(data)


def to_arrays(nested: Any) -> Any:
    """The same nesting with an array for each tensor."""
    if isinstance(nested, Tensor):
        return nested.detach().cpu().numpy()
    if isinstance(nested, dict):
        return {name: to_arrays(value) for name, value in nested.items()}
    if isinstance(nested, Evolved):
        return Evolved((to_arrays(one) for one in nested), nested.name)
    if isinstance(nested, tuple | list):
        return type(nested)(to_arrays(one) for one in nested)
    return nested
