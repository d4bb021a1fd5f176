"""EarlyStopping: Lightning's own, with a warm-up."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch import callbacks

from slimgraph.errors import OptionError


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's `EarlyStopping`, which looks away during the first `warmup` epochs; `options` are Lightning's own.

    The loss of an augmented Lagrangian, or of a schedule that warms up, may rise before it falls.

    >>> stopping = EarlyStopping("val_loss", warmup=50, patience=5)
    >>> stopping.warmup, stopping.patience
    (50, 5)
    """

    def __init__(self, monitor: str = "val_loss", *, warmup: int = 0, **options: Any):
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise OptionError(f"EarlyStopping needs warmup, a number of epochs, >= 0; got {warmup!r}")
        super().__init__(monitor, **options)
        self.warmup = warmup

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch >= self.warmup:
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch >= self.warmup:
            super().on_validation_end(trainer, pl_module)
