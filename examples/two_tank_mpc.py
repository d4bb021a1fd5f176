"""The yardstick of examples/two_tank_control.py: nonlinear model predictive control by scipy's SLSQP."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from two_tank_model import EFFORT, tanks


class MPC:
    """(x, r) -> u: the first move of the best plan for `horizon` seconds, warm-started by the last plan.

    A plan is what the pump brings into each tank, a and b >= 0 with a + b = p <= 1. In these the model is linear but
    for the roots, and the plan that SLSQP finds does not depend on the start; in p and v it does. No level passes 1;
    that none falls below 0 is left to the tanks. Single shooting, exact derivatives.
    """

    def __init__(self, horizon=20):
        self.horizon = horizon
        self.plan = np.full(2 * horizon, 0.25)
        self.pump = np.kron(np.eye(horizon), [1.0, 1.0])  # from the plan to p

    def __call__(self, x, r):
        """u `(1, 2)` for levels and references `(1, 2)`."""
        self.x, self.r, self.seen = x[0], r[0].numpy(), None
        never = {"type": "ineq", "fun": self.room, "jac": self.room_slopes}
        bounds = [(0.0, 1.0)] * len(self.plan)
        best = minimize(
            self.cost, self.plan, jac=True, method="SLSQP", bounds=bounds, constraints=never,
            options={"ftol": 1e-6, "maxiter": 100},
        )  # fmt: skip
        plan = best.x.clip(0.0, 1.0)
        self.plan = np.concatenate([plan[2:], plan[-2:]])
        p = plan[:2].sum()
        return torch.tensor([[min(p, 1.0), plan[1] / p if p > 1e-9 else 0.0]])

    def cost(self, plan):
        """The cost of the plan and its slopes."""
        levels, slopes = self.roll_out(plan)
        error, p = levels - np.tile(self.r, self.horizon), self.pump @ plan
        return error @ error + EFFORT * p @ p, 2 * error @ slopes + 2 * EFFORT * p @ self.pump

    def room(self, plan):
        """What is >= 0: the pump's room, then that of the levels."""
        return np.concatenate([1 - self.pump @ plan, 1 - self.roll_out(plan)[0]])

    def room_slopes(self, plan):
        """Its slopes along the plan."""
        return np.concatenate([-self.pump, -self.roll_out(plan)[1]])

    def roll_out(self, plan):
        """The levels `(2 horizon,)` after each second, and their slopes `(2 horizon, 2 horizon)` along the plan."""
        # SLSQP asks for cost, constraints and slopes at one point in turn.
        if self.seen is None or not np.array_equal(self.seen[0], plan):
            inflow, levels = torch.tensor(plan).reshape(-1, 2), [self.x]
            with torch.no_grad():
                for q in inflow:
                    levels.append(tanks(levels[-1], q))
            x = torch.stack(levels)
            self.seen = plan.copy(), x[1:].flatten().numpy(), self.slopes(x[:-1], inflow)
        return self.seen[1:]

    @torch.enable_grad()
    def slopes(self, x, inflow):
        """d levels / d plan: the slopes of all single steps at once by torch, then the chain rule along time."""
        x, inflow = x.clone().requires_grad_(), inflow.clone().requires_grad_()
        rows = [
            torch.autograd.grad(ahead.sum(), (x, inflow), retain_graph=True) for ahead in tanks(x, inflow).unbind(1)
        ]
        by_x, by_inflow = (torch.stack(parts, dim=1).numpy() for parts in zip(*rows, strict=True))
        out, now = np.zeros((self.horizon, 2, 2 * self.horizon)), np.zeros((2, 2 * self.horizon))
        for k in range(self.horizon):
            now = by_x[k] @ now
            now[:, 2 * k : 2 * k + 2] += by_inflow[k]
            out[k] = now
        return out.reshape(len(self.plan), -1)
