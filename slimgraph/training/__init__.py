"""Training with a stock `lightning.Trainer`: LitProblem is its module, LitDataModule its data.

>>> import lightning
>>> from slimgraph.training import BestWeights, LitDataModule, LitProblem
"""

from __future__ import annotations

from slimgraph.training.callbacks import BestWeights
from slimgraph.training.data import LitDataModule, ShardedBatches, ShardedLoader
from slimgraph.training.problem import LitProblem

__all__ = ["BestWeights", "LitDataModule", "LitProblem", "ShardedBatches", "ShardedLoader"]
