"""What may be given by name: a problem as `"package.module:function"`, an optimiser, a scheduler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from slimgraph.doors import call_named, resolve
from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean

DEFAULT_LR = 1e-3


def class_named(name: str, home: ModuleType, base: type) -> type:
    """The subclass of `base` with this name in `home`, or by its whole path, as `"torch.optim.AdamW"`.

    >>> class_named("AdamW", torch.optim, Optimizer).__name__
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
    """The name under which a checkpoint can hold an optimiser or a scheduler: None for an object or a factory."""
    if isinstance(thing, type) and thing.__module__.startswith("torch."):
        return f"{thing.__module__}.{thing.__name__}"
    return thing if isinstance(thing, str) else None


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


def optimizer_factory(
    optimizer: str | Callable[..., Optimizer], options: Mapping[str, Any]
) -> Callable[..., Optimizer]:
    """The factory that `optimizer` names or is, having checked that it takes `options`."""
    return _factory(optimizer, torch.optim, Optimizer, options)


def scheduler_factory(scheduler: str | Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory that `scheduler` names or is, having checked that it takes `options`."""
    return _factory(scheduler, lr_scheduler, LRScheduler, options)


def _factory(thing: Any, home: ModuleType, base: type, options: Mapping[str, Any]) -> Callable[..., Any]:
    factory = class_named(thing, home, base) if isinstance(thing, str) else thing
    if not callable(factory):
        raise OptionError(f"{factory!r} is no {base.__name__}: give a name, a class, a factory or an instance")
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise UnknownOptionError(
                f"{getattr(factory, '__name__', factory)} has no option {option!r}.{did_you_mean(option, known)}"
                f" It takes {', '.join(known)}."
            )
    return factory


def make_optimizer(
    optimizer: str | Callable[..., Optimizer] | Optimizer, parameters: Iterable, lr: float | None, options: Mapping
) -> Optimizer:
    """The optimiser over `parameters`; `lr` goes to a factory that takes one and does not carry its own."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    factory = optimizer_factory(optimizer, options)
    takes_lr = "lr" in inspect.signature(factory).parameters
    # functools.partial(SGD, lr=0.1) has said what it wants; only an explicit lr overrides it.
    if takes_lr and (lr is not None or "lr" not in getattr(factory, "keywords", {})):
        options = {"lr": DEFAULT_LR if lr is None else lr, **options}
    return factory(parameters, **options)


def make_scheduler(scheduler: Any, optimizer: Optimizer, options: Mapping) -> Any:
    """The scheduler of `optimizer`, from a name in torch.optim.lr_scheduler, a factory, or the scheduler itself."""
    if not isinstance(scheduler, LRScheduler):
        return scheduler_factory(scheduler, options)(optimizer, **options)
    if scheduler.optimizer is not optimizer:
        raise OptionError(
            f"the {type(scheduler).__name__} belongs to another optimiser; give LitProblem its optimiser too, as an"
            " instance, or the scheduler as a name or a factory"
        )
    return scheduler
