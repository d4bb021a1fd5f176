"""A step of a compiled problem against the same step in eager mode, and the first one, which compiles, against both."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from benchmarks.measure import Work, row, timed
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


def first_or_usual(work: Work) -> float:
    """Microseconds by the clock of the first call, which compiles where there is something to compile."""
    # What an earlier run compiled would be read from a file.
    with torch._inductor.config.patch(force_disable_caches=True):
        start = time.perf_counter()
        work()
        first = time.perf_counter() - start
    return 1e6 * (first if first > 0.5 else timed(work, 20))


@row("first compiled step of an MLP problem / eager step", 100_000, cost=first_or_usual)
def _() -> tuple[Work, Work]:
    return steps(*fit())


@row("first compiled step of a control problem, 10 steps / eager step", 100_000, cost=first_or_usual)
def _() -> tuple[Work, Work]:
    return steps(*control(10))
