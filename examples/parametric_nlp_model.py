"""The network of examples/parametric_nlp.py, the problem that it solves, and the recipe of each loss."""

from __future__ import annotations

import math

import lightning
import torch
from parametric_nlp_functions import FUNCTIONS, P_MAX, P_MIN
from torch import nn

from slimgraph import AugmentedLagrangeLoss, BarrierLoss, Node, PenaltyLoss, Problem, slim, variable

SAMPLES = 256
MARGIN = 2e-3  # the trained constraints are tighter by this much, in the units of x^2 + y^2 and of x
# What brings the multipliers of the four to the same order.
SCALES = {"rosenbrock": 0.01, "himmelblau": 0.1, "beale": 1.0, "mccormick": 1.0}
LOSSES = ("penalty", "barrier", "lagrange")


class Path(nn.Sequential):
    """p `(batch, 1)` -> x, y: p times the outcome of an MLP, which begins at (3/4) p in the direction of `angle`."""

    def __init__(self, angle, width=64):
        first, second, last = (slim.Linear(*sizes, bias=True) for sizes in ((1, width), (width, width), (width, 2)))
        super().__init__(first, nn.SiLU(), second, nn.SiLU(), last)
        with torch.no_grad():
            last.weight.mul_(0.3)
            last.bias.copy_(0.75 * torch.tensor([math.cos(angle), math.sin(angle)]))

    def forward(self, p):
        middle, half = (P_MAX + P_MIN) / 2, (P_MAX - P_MIN) / 2
        return (p * super().forward((p - middle) / half)).split(1, dim=-1)


class FallingWeight(lightning.Callback):
    """The weight of a barrier falls during the fit, so that a path begins well inside and ends near the bound."""

    FIRST, LAST = 0.1, 1e-3

    def on_train_epoch_start(self, trainer, pl_module):
        loss, done = pl_module.problem.loss, trainer.current_epoch / trainer.max_epochs
        for constraint in loss.constraints if isinstance(loss, BarrierLoss) else ():
            constraint.weight = self.FIRST * (self.LAST / self.FIRST) ** done


def make_problem(function, loss="lagrange", angle=0.0):
    """min f(x, y) with (p/2)^2 <= x^2 + y^2 <= p^2 and x >= y, in double precision."""
    x, y, p = variable("x"), variable("y"), variable("p")
    square = x**2 + y**2
    constraints = [square >= (p / 2) ** 2 + MARGIN, square <= p**2 - MARGIN, x >= y + MARGIN]
    objectives = [FUNCTIONS[function](x, y).minimize(weight=SCALES[function], name="f")]
    if loss == "penalty":
        made = PenaltyLoss(objectives, [30 * c for c in constraints])
    elif loss == "barrier":
        # Beyond the bound the tangent has the slope e^10, times the last weight 22: more than any multiplier here.
        made = BarrierLoss(objectives, constraints, barrier="log", upper_bound=10.0)
    else:
        made = AugmentedLagrangeLoss(
            objectives, constraints, range(SAMPLES), inner_loop=50, mu_init=1.0, per_sample=True
        )
    return Problem([Node(Path(angle), ["p"], ["x", "y"], name="path")], made).double()
