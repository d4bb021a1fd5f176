"""Callbacks for a stock `lightning.Trainer`."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

from slimgraph.errors import OptionError, StrictOptions, did_you_mean


class BestWeights(lightning.Callback, metaclass=StrictOptions):
    """Keeps the weights of the best validation in memory and puts them back when the fit ends; writes no file.

    `monitor` is a metric that validation logs, `mode` says whether less ("min") or more ("max") of it is better. After
    the fit `best_value` and `best_epoch` say what was kept. With `restore=False` the last weights stay and `put_back`
    sets the best ones later. A checkpoint holds the kept weights too, so that a resumed fit ends with the same.

    Raises OptionError for a metric that validation does not log.
    """

    def __init__(self, monitor: str = "val_loss", mode: str = "min", *, restore: bool = True):
        if mode not in ("min", "max"):
            raise OptionError(
                f"BestWeights needs mode 'min' or 'max', got {mode!r}.{did_you_mean(mode, ('min', 'max'))}"
            )
        self.monitor, self.mode, self.restore = monitor, mode, restore
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.weights: dict[str, Tensor] = {}

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        # What another fit left here is no weight of this problem; a resumed fit gets its own back after this.
        if stage == "fit" and trainer.current_epoch == 0:
            self.best_value, self.best_epoch, self.weights = None, None, {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # The fit may take hours: that nothing will ever be kept is said before it.
        if not trainer.enable_validation:
            raise OptionError(
                f"BestWeights would never see {self.monitor!r}: the fit has no validation; give val= data"
            )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise OptionError(
                f"BestWeights monitors {self.monitor!r}, which validation does not log; there are"
                f" {sorted(metrics)}.{did_you_mean(self.monitor, metrics)}"
            )
        value = float(metrics[self.monitor])
        sign = 1 if self.mode == "min" else -1
        if value == value and (self.best_value is None or sign * value < sign * self.best_value):
            self.best_value, self.best_epoch = value, trainer.current_epoch
            self.weights = {key: tensor.detach().clone() for key, tensor in pl_module.state_dict().items()}

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.restore and self.weights:
            self.put_back(pl_module)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # After a NaN or an interruption the best weights are what one still wants.
        self.on_fit_end(trainer, pl_module)

    def put_back(self, pl_module: lightning.LightningModule) -> None:
        """Loads the best weights into the module."""
        with torch.no_grad():
            pl_module.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_epoch": self.best_epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_epoch = state_dict["best_value"], state_dict["best_epoch"]
        self.weights = state_dict["weights"]
