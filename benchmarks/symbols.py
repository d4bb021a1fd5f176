"""Expressions against the torch code that one would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Work, row
from slimgraph import variable
from slimgraph.symbolic import Plan


def twenty_terms(x: Any, y: Any, z: Any) -> Any:
    """A sum of 20 terms, written once for tensors and for Variables; none occurs twice."""
    terms = [k * torch.sin(x) * y if k % 2 else torch.tanh(z) * (y - k) for k in range(1, 20)]
    return sum(terms[1:], terms[0]) + torch.where(x > y, x, z)


def against_hand(batch: int, work: Callable[[Tensor], object], shared: bool) -> tuple[Work, Work]:
    data = {key: torch.randn(batch, 16, requires_grad=True) for key in "xyz"}
    plan = Plan([twenty_terms(*map(variable, "xyz"))])

    def by_hand() -> Tensor:
        x, y, z = data["x"], data["y"], data["z"]
        if not shared:
            return twenty_terms(x, y, z)
        s, c = torch.sin(x), torch.tanh(z)
        terms = [k * s * y if k % 2 else c * (y - k) for k in range(1, 20)]
        return sum(terms[1:], terms[0]) + torch.where(x > y, x, z)

    return lambda: work(plan(data)[0]), lambda: work(by_hand())


def value(result: Tensor) -> object:
    return result


def slope(result: Tensor) -> object:
    result.sum().backward()
    return result


@row("expression of 20 terms, batch 256 / by hand with the same parts shared", at_most=1.15)
def _() -> tuple[Work, Work]:
    return against_hand(256, value, shared=True)


@row("expression of 20 terms, batch 256, forward and backward / by hand with the same parts shared", at_most=1.15)
def _() -> tuple[Work, Work]:
    return against_hand(256, slope, shared=True)


@row("expression of 20 terms, batch 256 / by hand as written, nothing shared", at_most=1.0)
def _() -> tuple[Work, Work]:
    return against_hand(256, value, shared=False)
