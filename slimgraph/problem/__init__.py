"""Problem: nodes, a loss and the maps' own reg_error, as one module from a batch to its losses; and parts of it."""

from __future__ import annotations

from slimgraph.problem.problem import Problem
from slimgraph.problem.subgraph import Subgraph

__all__ = ["Problem", "Subgraph"]
