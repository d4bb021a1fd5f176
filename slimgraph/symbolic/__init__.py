"""Expressions over the keys of a batch: variables, the terms made from them, and the plan that evaluates both."""

from __future__ import annotations

from slimgraph.symbolic.comparators import GT, LT, Comparator, Eq
from slimgraph.symbolic.constraint import Constraint
from slimgraph.symbolic.derivative import gradient, jacobian
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.leaves import variable
from slimgraph.symbolic.objective import Loss, Objective
from slimgraph.symbolic.plan import Plan

__all__ = [
    "Variable",
    "variable",
    "Constraint",
    "Objective",
    "Loss",
    "Comparator",
    "LT",
    "GT",
    "Eq",
    "Plan",
    "gradient",
    "jacobian",
]
