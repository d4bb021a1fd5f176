"""Training with a stock `lightning.Trainer`: LitProblem is its module, LitDataModule its data.

>>> import lightning
>>> from slimgraph.training import BestWeights, FeasibilityCallback, FitProgress, LitDataModule, LitProblem
"""

from __future__ import annotations

from slimgraph.training.callbacks import BestWeights, FeasibilityCallback
from slimgraph.training.data import LitDataModule, ShardedBatches, ShardedLoader
from slimgraph.training.gates import StepGates
from slimgraph.training.problem import LitProblem
from slimgraph.training.progress import FitProgress

__all__ = [
    "BestWeights",
    "FeasibilityCallback",
    "FitProgress",
    "LitDataModule",
    "LitProblem",
    "ShardedBatches",
    "ShardedLoader",
    "StepGates",
]
