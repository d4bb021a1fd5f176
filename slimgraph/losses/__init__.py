"""Losses: objectives and constraints added up, by a penalty, a barrier or an augmented Lagrangian."""

from __future__ import annotations

from slimgraph.losses.barrier import BARRIERS, BarrierLoss
from slimgraph.losses.lagrange import AugmentedLagrangeLoss
from slimgraph.losses.penalty import PenaltyLoss

__all__ = ["BARRIERS", "AugmentedLagrangeLoss", "BarrierLoss", "PenaltyLoss"]
