"""Parameter groups: structured maps and trainable variables at learning rates of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from slimgraph.errors import OptionError
from slimgraph.slim import Linear, LinearBase
from slimgraph.symbolic.plan import Plan

MISSING = {
    "maps": "structured map (any of slim.maps but the free slim.Linear)",
    "variables": "trainable variable among the terms of its loss",
}


def parameter_groups(
    module: nn.Module, *, maps_lr: float | None = None, variables_lr: float | None = None
) -> list[dict[str, Any]]:
    """What `Problem.parameter_groups` does, for any module."""
    rates = {kind: lr for kind, lr in (("maps", maps_lr), ("variables", variables_lr)) if lr is not None}
    for kind, lr in rates.items():
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 <= lr < float("inf"):
            raise OptionError(f"{kind}_lr is a finite number >= 0; got {lr!r}")
    kinds: dict[nn.Parameter, str] = {}
    for parameter, kind in _by_kind(module, "rest"):
        # A parameter that a map shares with a free layer has the map's structure to keep.
        if kind != "rest":
            kinds.setdefault(parameter, kind)
    groups: dict[str, list[nn.Parameter]] = {"rest": [], **{kind: [] for kind in rates}}
    for parameter in module.parameters():
        kind = kinds.get(parameter, "rest")
        if parameter.requires_grad:
            groups[kind if kind in rates else "rest"].append(parameter)
    for kind, lr in rates.items():
        if not groups[kind]:
            raise OptionError(
                f"{kind}_lr={lr} would have no effect: the {type(module).__name__} has no {MISSING[kind]} whose "
                "parameters are trained; leave it out, or unfreeze them"
            )
    options = {kind: {"name": kind, **({"lr": rates[kind]} if kind in rates else {})} for kind in groups}
    return [{"params": parameters, **options[kind]} for kind, parameters in groups.items() if parameters]


def _by_kind(module: nn.Module, kind: str) -> Iterator[tuple[nn.Parameter, str]]:
    """Every parameter at or below `module` with the kind of what owns it, the innermost that has one."""
    if isinstance(module, LinearBase):
        kind = "rest" if isinstance(module, Linear) else "maps"
    elif isinstance(module, Plan):
        kind = "variables"
    for parameter in module.parameters(recurse=False):
        yield parameter, kind
    for child in module.children():
        # The functions of a plan may be modules, which are no variables.
        yield from _by_kind(child, "rest" if isinstance(module, Plan) else kind)
