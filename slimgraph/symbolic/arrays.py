"""What numpy's functions mean for an expression: operators mean themselves, others say what torch calls them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# What numpy makes of an operator between an array, or a numpy number, and a Variable.
_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "power": operator.pow,
    "matmul": operator.matmul,
    "less_equal": operator.le,
    "less": operator.lt,
    "greater_equal": operator.ge,
    "greater": operator.gt,
    "equal": operator.eq,
}
_OTHER_NAMES = {"concatenate": "cat", "arctan2": "atan2", "power": "pow", "absolute": "abs"}


def operator_of(name: str) -> Callable[..., Any] | None:
    """The operator that numpy calls by that name."""
    return _OPERATORS.get(name)


def plain(thing: Any) -> Any:
    """An array as a tensor, a numpy number as Python's."""
    if isinstance(thing, np.generic):
        return thing.item()
    return torch.as_tensor(thing) if isinstance(thing, np.ndarray) else thing


def advice(name: str) -> str:
    """What to write instead of numpy's function of that name."""
    other = _OTHER_NAMES.get(name, name)
    return f"numpy.{name} takes arrays; write {f'torch.{other}' if hasattr(torch, other) else 'a torch function'}"
