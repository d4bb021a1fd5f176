"""What may be given by name, a problem as `"package.module:function"` or a class by its path; what checkpoints hold."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from slimgraph.doors import call_named, resolve
from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean

# Stands in a checkpoint for an optimiser or a scheduler that it cannot hold.
AN_OBJECT = "<object>"


def class_named(name: str, home: ModuleType, base: type) -> type:
    """The subclass of `base` with this name in `home`, or by its whole path, as `"torch.optim.AdamW"`.

    >>> import torch
    >>> class_named("AdamW", torch.optim, torch.optim.Optimizer).__name__
    'AdamW'
    """
    if "." in name:
        return resolve(":".join(name.rsplit(".", 1)))
    known = [key for key, value in vars(home).items() if inspect.isclass(value) and issubclass(value, base)]
    if name not in known:
        raise UnknownOptionError(
            f"{home.__name__} has no {base.__name__} {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}."
        )
    return getattr(home, name)


def primitives(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that a checkpoint can hold and load again under `weights_only=True`.

    >>> primitives({"lr": 0.1, "betas": (0.9, 0.99), "fn": print})
    {'lr': 0.1, 'betas': (0.9, 0.99)}
    """
    return {key: value for key, value in options.items() if _is_primitive(value)}


def _is_primitive(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_primitive(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(_is_primitive(part) for part in value)
    # By type: numpy's numbers and enums are subclasses, and do not load.
    return type(value) in (str, int, float, bool, type(None))


def name_of(thing: Any) -> str | None:
    """The name under which a checkpoint can hold an optimiser or a scheduler: None for none."""
    if isinstance(thing, type) and thing.__module__.startswith("torch."):
        return f"{thing.__module__}.{thing.__name__}"
    return thing if thing is None or isinstance(thing, str) else AN_OBJECT


def make_problem(problem: nn.Module | str | None, arguments: Mapping[str, Any]) -> nn.Module:
    """The problem, made by its function where it is given as a path."""
    if problem is None:
        raise OptionError(
            "a checkpoint cannot hold a Problem; pass it, LitProblem.load_from_checkpoint(path, problem=problem),"
            " or train LitProblem('package.module:function'), whose checkpoints load alone"
        )
    made = call_named(problem, arguments) if isinstance(problem, str) else problem
    if not isinstance(made, nn.Module):
        raise OptionError(f"LitProblem needs a Problem or 'package.module:function', got {type(made).__name__}")
    return made
