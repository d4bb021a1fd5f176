"""A step of a compiled problem against the same step in eager mode, and the first one, which compiles, against both."""

from __future__ import annotations

import copy
import os

import torch
from torch import nn

from benchmarks.measure import Work, row
from slimgraph import Node, PenaltyLoss, Problem, System, variable

BATCH = 64


def fit() -> tuple[Problem, dict[str, torch.Tensor]]:
    """A regression with a bounded output."""
    y, t = variable("y"), variable("t")
    net = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    problem = Problem([Node(net, ["x"], ["y"])], PenaltyLoss([((y - t) ** 2).minimize()], [y <= 1, y >= -1]))
    return problem, {"x": torch.randn(BATCH, 4), "t": torch.randn(BATCH, 2)}


def control(nsteps: int) -> tuple[Problem, dict[str, torch.Tensor]]:
    """A policy that brings a double integrator to rest, with a bounded input."""
    x, u = variable("x"), variable("u")
    A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.0, 0.1]])
    policy = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
    nodes = [Node(policy, ["x"], ["u"]), Node(lambda x, u: x @ A.T + u @ B, ["x", "u"], ["x"])]
    loss = PenaltyLoss([(x**2).minimize(), 0.1 * (u**2).minimize()], [u <= 1, u >= -1])
    return Problem([System(nodes, nsteps=nsteps)], loss), {"x": torch.randn(BATCH, 1, 2)}


def steps(problem: Problem, data: dict[str, torch.Tensor]) -> tuple[Work, Work]:
    """Forward and backward of the compiled problem and of its eager copy."""
    eager = copy.deepcopy(problem)
    problem.compile()
    return lambda: problem(data)["loss"].backward(), lambda: eager(data)["loss"].backward()


@row("compiled step of an MLP problem / eager", 1.3)
def _() -> tuple[Work, Work]:
    return steps(*fit())


@row("compiled step of a control problem, 10 steps / eager", 0.8)
def _() -> tuple[Work, Work]:
    return steps(*control(10))


def first_call(work: Work) -> float:
    """Microseconds of processor time of a first call, that of the C compiler's processes with it."""
    # What was compiled before, here or in an earlier run, would be used again.
    torch.compiler.reset()
    with torch._inductor.config.patch(force_disable_caches=True, compile_threads=1):
        start = os.times()
        work()
        end = os.times()
    return 1e6 * (sum(end[:4]) - sum(start[:4]))


def warm(problem: Problem, data: dict[str, torch.Tensor]) -> tuple[Work, Work]:
    """As `steps`; the baseline is 100 eager steps after a first one, as one such step is too short for the clock."""
    compiled, eager = steps(problem, data)
    eager()
    return compiled, lambda: [eager() for _ in range(100)]


@row("first compiled step of an MLP problem / 100 eager steps", 1000, cost=first_call)
def _() -> tuple[Work, Work]:
    return warm(*fit())


@row("first compiled step of a control problem, 10 steps / 100 eager steps", 1000, cost=first_call)
def _() -> tuple[Work, Work]:
    return warm(*control(10))
