"""Callbacks for a stock `lightning.Trainer`."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

from slimgraph.errors import OptionError, StrictOptions, did_you_mean
from slimgraph.report import TOLERANCE, Report, Tally
from slimgraph.training.problem import LitProblem, prefix_of
from slimgraph.training.state import loader_suffix


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


class FeasibilityCallback(lightning.Callback, metaclass=StrictOptions):
    """Says after each validation how well every constraint is kept, over all samples of all devices.

    Logged are `val/<constraint>/max`, `mean`, `p95` (violations in the units of its two sides), `satisfied`, `active`
    (shares of samples) and, with an augmented Lagrangian, `multiplier`; a test logs them under `test/`. `report` is the
    whole Report of the last validation or test, with the worst samples and their inputs: `print(callback.report)` is a
    table, `callback.report.as_json()` JSON. It is the same on every device and for any number of them. Of several
    loaders `report` is the first one's, `reports` holds all, and `val/<constraint>/max/dataloader_idx_1` is logged too.

    Raises OptionError for a problem without constraints.

    >>> import lightning
    >>> from slimgraph import Node, PenaltyLoss, Problem, variable
    >>> from slimgraph.training import LitDataModule
    >>> y = variable("y")
    >>> problem = Problem([Node(torch.nn.Linear(1, 1), ["x"], ["y"])], PenaltyLoss([y.minimize()], [y >= 0]))
    >>> feasible = FeasibilityCallback()
    >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    >>> trainer = lightning.Trainer(accelerator="cpu", callbacks=[feasible], enable_checkpointing=False, **quiet)
    >>> _ = trainer.validate(LitProblem(problem), LitDataModule(val={"x": torch.rand(20, 1)}), verbose=False)
    >>> [constraint.name for constraint in feasible.report.constraints]
    ['constraint_1']
    """

    def __init__(self, tolerance: float = TOLERANCE):
        if not tolerance >= 0:
            raise OptionError(f"FeasibilityCallback needs tolerance >= 0, got {tolerance}")
        self.tolerance = tolerance
        self.reports: list[Report] = []
        self._tallies: dict[int, Tally] = {}

    @property
    def report(self) -> Report | None:
        return self.reports[0] if self.reports else None

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        loss = getattr(getattr(pl_module, "problem", None), "loss", None)
        if not (isinstance(pl_module, LitProblem) and getattr(loss, "constraints", None)):
            raise OptionError(
                "FeasibilityCallback would have nothing to say: it needs a LitProblem whose loss has constraints; got"
                f" {type(pl_module).__name__} with {loss!r}"
            )

    def _add(self, loaders: Any, pl_module: Any, output: Any, batch: Any, batch_idx: int, loader_idx: int) -> None:
        trainer, problem = pl_module.trainer, pl_module.problem
        if loader_idx not in self._tallies:
            self._tallies[loader_idx] = Tally(problem.loss, trainer.global_rank, trainer.world_size)
        counted, _ = pl_module.share(loaders, batch, batch_idx, loader_idx)
        inputs = {key: batch[key] for key in problem.input_keys if key in batch}
        self._tallies[loader_idx].add(output, inputs, counted, prefix_of(batch))

    def _end(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        tallies, self._tallies = self._tallies, {}
        mine = {place: tally.part() for place, tally in tallies.items()}
        ranks: list[Any] = [mine]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        reg_errors = pl_module.problem.reg_errors()
        self.reports = [
            tally.report(reg_errors, self.tolerance, [parts[place] for parts in ranks])
            for place, tally in tallies.items()
        ]
        metrics = {
            f"{stage}/{constraint.name}/{what}{loader_suffix(place)}": value
            for place, report in zip(tallies, self.reports, strict=True)
            for constraint in report.constraints
            for what, value in constraint.metrics().items()
        }
        # Every rank has merged the same parts, so nothing is left to reduce.
        options: Any = {"on_epoch": True, "on_step": False, "batch_size": 1, "sync_dist": True, "rank_zero_only": True}
        pl_module.log_dict(metrics, add_dataloader_idx=False, **options)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tallies = {}

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(trainer.val_dataloaders, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._end(trainer, pl_module, "val")

    def on_test_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._tallies = {}

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._add(trainer.test_dataloaders, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._end(trainer, pl_module, "test")
