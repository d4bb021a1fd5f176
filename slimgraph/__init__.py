"""Structured linear maps and recurrences as nodes of a differentiable program over dictionaries of tensors.

Declare nodes and a loss over named tensors, fit them with `lightning.Trainer`, look at the diagram:

>>> import torch
>>> from slimgraph import Node, PenaltyLoss, Problem, slim, variable
>>> policy = Node(slim.maps["orthogonal"](2, 2), ["p"], ["u"], name="policy")
>>> u, p = variable("u"), variable("p")
>>> loss = PenaltyLoss([((u - p) ** 2).minimize(name="track")], [u <= 1.0])
>>> problem = Problem([policy], loss)
>>> problem({"p": torch.zeros(4, 2)})["loss"].item()
0.0

Training stands in `slimgraph.training`, drawing in `slimgraph.drawing`. This page opens neither Lightning nor pydot nor
matplotlib, so that `import slimgraph` costs little more than `import torch`.
"""

from __future__ import annotations

from slimgraph import slim
from slimgraph.data import DictDataset
from slimgraph.infeasibility import explain_infeasibility
from slimgraph.losses import AugmentedLagrangeLoss, BarrierLoss, PenaltyLoss
from slimgraph.node import Node
from slimgraph.problem import Problem
from slimgraph.slim.rnn import RNN, RNNCell
from slimgraph.symbolic import Constraint, Loss, Objective, Variable, variable
from slimgraph.system import MovingHorizon, System, SystemPreview

__version__ = "0.1.0"

__all__ = [
    "RNN",
    "AugmentedLagrangeLoss",
    "BarrierLoss",
    "Constraint",
    "DictDataset",
    "Loss",
    "MovingHorizon",
    "Node",
    "Objective",
    "PenaltyLoss",
    "Problem",
    "RNNCell",
    "System",
    "SystemPreview",
    "Variable",
    "__version__",
    "explain_infeasibility",
    "slim",
    "variable",
]


def __getattr__(name: str) -> object:
    # Rooms that open Lightning and pydot, and those that not every model needs, are opened when they are asked for.
    if name in ("training", "drawing", "integrators", "blocks", "modules"):
        from slimgraph.doors import open_door

        return open_door(name)
    raise AttributeError(f"module 'slimgraph' has no attribute {name!r}")
