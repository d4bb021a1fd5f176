"""The tanks of examples/two_tank_control.py: balance, constraints, cost and references, the same for any controller."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from slimgraph import Node, PenaltyLoss, Problem, System, variable
from slimgraph.integrators import RK4

C1, C2 = 0.08, 0.04  # what a full pump brings, and what leaves a full tank, in tanks a second
OUT = C2 * torch.tensor([[-1.0, 1.0], [0.0, -1.0]], dtype=torch.float64)  # the first tank empties into the second
EFFORT = 0.01
HOLD = 40  # seconds, which are steps, from one reference to the next
HIGHEST = 1.05  # the references ask for up to 5 % more than a tank holds
MARGIN = 1e-2  # the trained bounds on the levels are tighter by this much


def balance(x, inflow):
    """dx/dt for levels x `(..., 2)` and what the pump brings into each tank, `(..., 2)` in shares of a full pump."""
    # Below 1e-4 the root is level, so that no gradient is infinite. No run that is compared comes near.
    return C1 * inflow + x.clamp(min=1e-4).sqrt() @ OUT


tanks = RK4(balance, h=1.0)


def inflows(u):
    """((1 - v) p, v p) for u = (pump p, valve v), both `(..., 2)`."""
    p, v = u.split(1, dim=-1)
    return torch.cat([(1 - v) * p, v * p], dim=-1)


def closed_loop(controller):
    """A controller (x, r) -> u on the tanks, a step a second for as long as the references `(batch, time, 2)` last."""
    nodes = [
        Node(controller, ["x", "r"], ["u"], name="policy"),
        Node(inflows, ["u"], ["inflow"], name="valve"),
        Node(tanks, ["x", "inflow"], ["x"], name="tanks"),
    ]
    return System(nodes, name="closed loop", nstep_key="r", keep=["x", "u"])


def cost(x, r, u) -> Any:
    """sum over time of |x[k+1] - r[k]|^2 + 0.01 p[k]^2, one for each sample; levels, references, pump and valve."""
    return torch.sum((x[:, 1:] - r) ** 2, dim=(1, 2)) + EFFORT * torch.sum(u[:, :, 0] ** 2, dim=1)


def make_problem(policy):
    """The closed loop with a policy, its cost, and levels that stay in the tanks, in double precision."""
    x, r, u = variable("x"), variable("r"), variable("u")
    levels = [100 * (x <= 1 - MARGIN).with_name("not over"), 100 * (x >= MARGIN).with_name("not empty")]
    return Problem([closed_loop(policy)], PenaltyLoss([cost(x, r, u).minimize(name="cost")], levels)).double()


def references(count, steps, seed):
    """Random starts x `(count, 1, 2)` and references r `(count, steps * HOLD, 2)`, a new pair of levels every 40 s.

    At rest the first tank cannot be fuller than the second, which it feeds: r1 lies between 0.1 and r2.
    """
    rng = np.random.default_rng(seed)
    second = rng.uniform(0.2, HIGHEST, (count, steps))
    first = 0.1 + (second - 0.1) * rng.uniform(size=(count, steps))
    r = np.stack([first, second], axis=-1).repeat(HOLD, axis=1)
    return {"x": torch.tensor(rng.uniform(0.1, 1.0, (count, 1, 2))), "r": torch.tensor(r)}


def overshoot(x):
    """By how much a level leaves the tanks at worst, 0 where none does; x: `(batch, time, 2)`."""
    return max(0.0, (x - 1).max().item(), -x.min().item())
