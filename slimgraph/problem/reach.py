"""What gradients reach: the parameters of a problem, and which of them the loss and its terms would move."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.errors import WiringError
from slimgraph.node import Node


def parameters_of(problem: Any) -> dict[str, nn.Parameter]:
    """Every parameter of the problem by the name of its node and its place in it."""
    found: dict[nn.Parameter, str] = {}
    for name, node in zip(wiring.names(problem.nodes), problem.nodes, strict=True):
        for path, parameter in node.named_parameters():
            found.setdefault(parameter, f"{name}.{path.removeprefix('callable.')}")
    for path, parameter in problem.named_parameters():
        found.setdefault(parameter, path)
    return {name: parameter for parameter, name in found.items()}


def trained_outside(problem: Any) -> dict[nn.Module | nn.Parameter, str]:
    """The modules and parameters that what nodes call finds outside any module, each with its node."""
    found: dict[nn.Module | nn.Parameter, str] = {}
    for node in problem.modules():
        for value in _held_by(node.callable) if isinstance(node, Node) else ():
            members = value.values() if isinstance(value, dict) else value
            members = [*members] if isinstance(value, list | tuple | dict) else [value]
            found |= {m: node.title for m in members if isinstance(m, nn.Module | nn.Parameter) and m not in found}
    return found


def _held_by(callable: Any) -> list[Any]:
    """What a function finds by a name outside it, and what a partial, a method's object or a callable object holds."""
    if isinstance(callable, nn.Module):
        return []
    if isinstance(callable, functools.partial):
        return [*callable.args, *callable.keywords.values(), *_held_by(callable.func)]
    if inspect.ismethod(callable):
        return [*_held_by(callable.__self__), *_held_by(callable.__func__)]
    if inspect.isfunction(callable):
        variables = inspect.getclosurevars(callable)
        return [*variables.nonlocals.values(), *variables.globals.values()]
    return [*getattr(callable, "__dict__", {}).values()]


def refuse_unreached(
    twin: Any, parameters: dict[str, nn.Parameter], output: dict[str, Tensor], allow_unused: bool
) -> list[str]:
    """Raises WiringError for a loss or a term that nothing trainable moves, and for what no term reaches."""
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    if not trained:
        frozen = f"all {len(parameters)} are frozen, {', '.join(_few(parameters))}; problem.unfreeze() trains them"
        raise WiringError(f"the problem has no trainable parameter: {frozen if parameters else 'there is none'}")
    ids = {id(p) for p in trained.values()}
    reached = _leaves(output["loss"])
    if ids.isdisjoint(reached):
        raise WiringError(
            f"the loss of {twin.loss.names()} depends on no trainable parameter; these are {', '.join(_few(trained))}. "
            "Is a node between them cut off by detach, or does no term read what the nodes write?"
        )
    for name, term in zip(twin.loss.names(), twin.loss.terms, strict=True):
        if ids.isdisjoint(_leaves(output[name])):
            raise WiringError(
                f"{term.kind} {name!r}, {term}, is constant in training: it reads {term.keys}, which no trainable "
                "parameter moves; leave it out"
            )
    unused = {name: p for name, p in trained.items() if id(p) not in reached}
    if unused and not allow_unused:
        raise WiringError(
            f"no term of the loss reaches {', '.join(_few(unused))}: they would not be trained, and the strategy `ddp` "
            f"would fail; freeze them, or write check(..., allow_unused=True). The terms read "
            f"{sorted({key for term in twin.loss.terms for key in term.keys})}"
        )
    count = sum(p.numel() for p in trained.values())
    if unused:
        return [f"{count} parameters; no term of the loss reaches {', '.join(_few(unused))}."]
    return [f"{count} parameters, all reached by the loss."]


def _few(parameters: dict[str, Any]) -> list[str]:
    """The names, quoted, at most six of them."""
    quoted = [repr(name) for name in parameters]
    return quoted if len(quoted) <= 6 else [*quoted[:5], f"and {len(quoted) - 5} more"]


def _leaves(value: Tensor) -> set[int]:
    """The ids of the tensors without a history that `value` was computed from, as far as gradients would flow."""
    found: set[int] = {id(value)} if value.grad_fn is None and value.requires_grad else set()
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            found.add(id(step.variable))
        waiting += [before for before, _ in step.next_functions]
    return found
