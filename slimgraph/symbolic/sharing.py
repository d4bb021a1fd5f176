"""Which calls of a plan may be one: those of functions without chance, with equal arguments."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import torch

from slimgraph.symbolic.derivative import gradient


def is_pure(function: Callable[..., Any]) -> bool:
    """Whether two equal calls may be one: operators, derivatives and torch's own functions without chance."""
    if function in (gradient, getattr) or getattr(function, "__module__", None) in ("_operator", "operator"):
        return True
    if not isinstance(function, BuiltinFunctionType) and getattr(torch, _name(function), None) is not function:
        return False
    overloads = getattr(torch.ops.aten, _name(function), None)
    tag = torch.Tag.nondeterministic_seeded
    return overloads is not None and not any(tag in getattr(overloads, name).tags for name in overloads.overloads())


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "")


def hashable(thing: Any) -> Any:
    """A key that is equal just for equal arguments: 1, 1.0 and True differ."""
    if isinstance(thing, tuple | list):
        return type(thing).__name__, tuple(hashable(item) for item in thing)
    if isinstance(thing, dict):
        return "dict", tuple((key, hashable(value)) for key, value in thing.items())
    if isinstance(thing, slice):
        return "slice", hashable((thing.start, thing.stop, thing.step))
    # The repr tells 0.0 from -0.0.
    return type(thing), repr(thing) if isinstance(thing, float | complex) else thing
