"""Problem: nodes, a loss and the maps' own reg_error, as one module from a batch to its losses."""
from __future__ import annotations

from slimgraph.problem.problem import Problem

__all__ = ["Problem"]
