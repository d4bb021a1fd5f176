"""What the tests of the command line name as "cli_problems:function"."""

from __future__ import annotations

import torch

from slimgraph import Node, PenaltyLoss, Problem, variable


def make(width=4, seed=0, key="x"):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))
    y, t = variable("y"), variable("t")
    loss = PenaltyLoss([((y - t) ** 2).minimize(name="fit")], [y <= 2.0])
    return Problem([Node(net, [key], ["y"], name="net")], loss)


def data(n=32):
    x = torch.linspace(-1, 1, n)[:, None]
    samples = {"x": x, "t": torch.sin(2 * x)}
    return {"train": samples, "val": samples, "test": samples, "predict": samples}


def batch(n=32):
    return data(n)["train"]


def wide():
    """Two features where the node takes one."""
    return {"x": torch.zeros(5, 2), "t": torch.zeros(5, 1)}


def four(n=32):
    """As neuromancer's users write it."""
    sets = data(n)
    return sets["train"], sets["val"], sets["test"], 8


def broken():
    raise ZeroDivisionError("nothing to divide by")


def interrupted():
    raise KeyboardInterrupt


def ended():
    raise SystemExit("the user's own words")


problem = make()
