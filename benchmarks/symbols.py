"""Expressions against the torch code that one would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Work, row
from slimgraph import Node, PenaltyLoss, Problem, variable
from slimgraph.blocks import MLP
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


@row("residual of Burgers' equation by .grad, 2000 points, forward and backward / autograd by hand", at_most=1.1)
def _() -> tuple[Work, Work]:
    torch.manual_seed(0)
    net, points = MLP(2, 1, nonlin=torch.tanh, hsizes=[32] * 4), {key: torch.rand(2000, 1) for key in "tx"}
    t, x, u = map(variable, "txu")
    equation = (u.grad(t) + u * u.grad(x) == 0.003 * u.grad(x).grad(x)) ^ 2
    problem = Problem([Node(net, ["t", "x"], ["u"])], PenaltyLoss([], [equation]))

    def slopes(y: Tensor, *by: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(y, by, torch.ones_like(y), create_graph=True)

    def by_hand() -> Tensor:
        t, x = (points[key].detach().requires_grad_() for key in "tx")
        u = net(t, x)
        u_t, u_x = slopes(u, t, x)
        return (u_t + u * u_x - 0.003 * slopes(u_x, x)[0]).square().mean()

    return lambda: problem(points)["loss"].backward(), lambda: by_hand().backward()
