"""The model of examples/cascaded_tanks.py: the balance of two tanks, their overflow, a network for what is left."""

from __future__ import annotations

import torch
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.integrators import Euler

SAMPLE_TIME = 4.0  # s
FULL = 10.0  # V, the level at which a tank overflows
HIDDEN, SMALL = 8, 0.1


class Balance(nn.Module):
    """Torricelli's balance: dx1/dt = k4 u - k1 sqrt(x1), dx2/dt = k2 sqrt(x1) - k3 sqrt(x2); levels and pump in V."""

    UNITS = ("sqrt(V)/s", "sqrt(V)/s", "sqrt(V)/s", "1/s")

    def __init__(self):
        super().__init__()
        # As logarithms: a flow never turns round.
        self.log_k = nn.Parameter(torch.tensor([0.05, 0.05, 0.05, 0.04]).log())

    def forward(self, x, u):
        k1, k2, k3, k4 = self.log_k.exp().unbind()
        # Below 0.01 V the root is level: its slope at 0 is infinite.
        upper, lower = x.clamp(min=0.01).sqrt().split(1, dim=-1)
        return torch.cat([k4 * u - k1 * upper, k2 * upper - k3 * lower], dim=-1)


class Overflow(nn.Module):
    """No tank holds more than it can; a share of what leaves the upper one so falls into the lower one."""

    def __init__(self):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.0))

    def forward(self, moved, learnt):
        x = moved + learnt
        upper, lower = x.clamp(max=FULL).split(1, dim=-1)
        spilt = x[..., :1] - upper
        return torch.cat([upper, (lower + self.logit.sigmoid() * spilt).clamp(max=FULL)], dim=-1)


class Correction(nn.Module):
    """What a step adds to both levels in V: a small network of what it is given."""

    def __init__(self, inputs):
        super().__init__()
        self.net = nn.Sequential(slim.Linear(inputs, HIDDEN, bias=True), nn.Tanh(), slim.Linear(HIDDEN, 2, bias=True))
        with torch.no_grad():  # it starts as next to nothing
            self.net[-1].weight.mul_(0.1)
            self.net[-1].bias.zero_()

    def forward(self, *inputs):
        return 0.3 * self.net((torch.cat(inputs, dim=-1) - 6.0) / 3.0)


class Start(nn.Module):
    """The levels at the start: the upper one is learnt, the lower one is the first sample."""

    def __init__(self):
        super().__init__()
        self.upper = nn.Parameter(torch.tensor([[5.0]]))

    def forward(self, y0):
        return torch.cat([self.upper.expand_as(y0), y0], dim=-1)[:, None]


def make_problem(parts="both"):
    """The model with `parts` "both", "physics" or "learnt", in float64, and its loss."""
    # Beside the physics the network sees the levels only: what the pump brings is the balance's to tell.
    seen = ["x", "u"] if parts == "learnt" else ["x"]
    balance = Node(Euler(Balance(), h=SAMPLE_TIME), ["x", "u"], ["moved"], name="balance")
    correction = Node(Correction(3 if parts == "learnt" else 2), seen, ["learnt"], name="correction")
    if parts == "learnt":
        balance = Node(nn.Identity(), ["x"], ["moved"], name="balance")
    if parts == "physics":
        correction = Node(torch.zeros_like, ["x"], ["learnt"], name="correction")
    overflow = Node(Overflow(), ["moved", "learnt"], ["x"], name="overflow")
    tanks = System([balance, correction, overflow], name="tanks", nstep_key="u", keep=["x", "learnt"])
    x, y, counted, learnt = (variable(key) for key in ("x", "y", "counted", "learnt"))
    fit = (counted * (x[:, 1:, 1:] - y) ** 2).minimize(name="fit")
    small = SMALL * (learnt**2).minimize(name="small")
    terms = [fit] if parts == "physics" else [fit, small]
    return Problem([Node(Start(), ["y0"], ["x"], name="start"), tanks], PenaltyLoss(terms)).double()
