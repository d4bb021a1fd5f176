"""LitProblem: a Problem as the module of a stock `lightning.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimgraph.errors import OptionError, StrictOptions
from slimgraph.slim import project_
from slimgraph.training.data import ShardedLoader, share
from slimgraph.training.epoch_rows import EpochRows
from slimgraph.training.gates import StepGates
from slimgraph.training.named import make_problem, name_of, primitives
from slimgraph.training.nonfinite import explained
from slimgraph.training.optimizers import Recipe, same_on_all_ranks
from slimgraph.training.refusals import callbacks_of
from slimgraph.training.resume import Resumable
from slimgraph.training.state import Means, loader_suffix, named_means, set_random_state
from slimgraph.training.watch import FitWatch


class LitProblem(Resumable, metaclass=StrictOptions):
    """Fits a Problem with `lightning.Trainer(...).fit(LitProblem(problem), data)`; the Trainer is the user's own.

    `problem` is a Problem, or "package.module:function" with `problem_args` that makes one; from the latter
    `LitProblem.load_from_checkpoint(path)` works alone. `optimizer` is a name in torch.optim, a class or factory
    called with the parameters and `lr` (1e-3 unless the factory carries its own), or an instance; `scheduler` is a
    name in torch.optim.lr_scheduler, a factory called with the optimiser, or an instance, stepped each
    `scheduler_interval` ("epoch" or "step"); ReduceLROnPlateau looks at `scheduler_monitor`. With `maps_lr` or
    `variables_lr` the parameters go to the optimiser in the groups of `Problem.parameter_groups`.

    Logged once per epoch are `train_loss`, `val_loss` (and `dev_loss`, its old name), `test_loss` and every term of
    the problem with these prefixes: means over all samples of all devices. Of several validation loaders each has its
    own means, the first under these names, the second as `val_loss/dataloader_idx_1`, as Lightning counts; what
    monitors `val_loss` looks at the first. An augmented Lagrangian is updated every
    `inner_loop` epochs with every sample of every device; a module with a `project_()` is projected after each step.

    With the batches of LitDataModule each loss is weighted by its share of the samples, so that the mean gradient over
    devices, and over batches that are accumulated, is that of one whole batch; and a fit resumed with `ckpt_path=`
    goes on exactly.

    Raises NonFiniteError for a NaN or infinite term in training, with its name, the keys and samples behind it and the
    batch; OptionError for what would have no effect. docs/training.md has the recipes, and what else is told.
    """

    problem: Any

    def __init__(
        self,
        problem: nn.Module | str | None,
        optimizer: str | Callable[..., Optimizer] | Optimizer = "Adam",
        lr: float | None = None,
        scheduler: Any = None,
        *,
        maps_lr: float | None = None,
        variables_lr: float | None = None,
        optimizer_args: Mapping[str, Any] | None = None,
        scheduler_args: Mapping[str, Any] | None = None,
        scheduler_interval: str = "epoch",
        scheduler_monitor: str = "val_loss",
        problem_args: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        optimizer_args, scheduler_args = dict(optimizer_args or {}), dict(scheduler_args or {})
        rates = {"maps_lr": maps_lr, "variables_lr": variables_lr}
        self._recipe = Recipe(
            optimizer, scheduler, optimizer_args, scheduler_args, rates, scheduler_interval, scheduler_monitor
        )
        self._recipe.refuse_idle(lr)
        problem_args = dict(problem_args or {})
        if isinstance(problem, str) and (lost := problem_args.keys() - primitives(problem_args).keys()):
            raise OptionError(
                f"problem_args {sorted(lost)} cannot stand in a checkpoint; use numbers, texts, lists and dicts of them"
            )
        # A checkpoint holds primitives only: anything else would be written and then refused on loading.
        self.save_hyperparameters(
            {
                "problem": problem if isinstance(problem, str) else None,
                "optimizer": name_of(optimizer),
                "lr": lr,
                "scheduler": name_of(scheduler),
                **rates,
                "optimizer_args": primitives(optimizer_args),
                "scheduler_args": primitives(scheduler_args),
                "scheduler_interval": scheduler_interval,
                "scheduler_monitor": scheduler_monitor,
                "problem_args": primitives(problem_args),
            }
        )
        self.problem = make_problem(problem, problem_args)
        # The learning-rate finder looks for it here.
        self.lr = lr
        self._means = {"train": Means()}
        self._epoch_rows = EpochRows()
        self._resume: dict[str, Any] | None = None

    # ------------------------------------------------------------------ what Lightning asks for

    def configure_callbacks(self) -> list[lightning.Callback]:
        there = callbacks_of(self.trainer)
        gates = [StepGates()] if StepGates.needed(self.problem, there) else []
        return gates if any(isinstance(callback, FitWatch) for callback in there) else [*gates, FitWatch()]

    def configure_optimizers(self) -> Any:
        return self._recipe.made(self.problem, self.lr)

    def group_sizes(self) -> list[int] | None:
        own = type(self).configure_optimizers is LitProblem.configure_optimizers
        return self._recipe.group_sizes(self.problem, self.lr) if own else None

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.problem(batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loader, several = self.trainer.train_dataloader, self.trainer.accumulate_grad_batches
        counted, total = self.share(loader, batch, batch_idx)
        if several > 1 and isinstance(loader, ShardedLoader):
            total = loader.accumulated(batch_idx, several, int(self.trainer.num_training_batches))
        output, prefix = self.problem(batch), prefix_of(batch)
        values = self._values(output, prefix)
        if not torch.isfinite(values).all():
            terms = dict(zip(self._terms, values.tolist(), strict=True))
            where = f"training batch {batch_idx} of epoch {self.current_epoch}"
            raise explained(self.problem, terms, batch, output, prefix, where)
        self._means["train"].add(values, counted)
        if self._outer_step_due:
            self._epoch_rows.keep(batch_idx, output, prefix, counted)
        share = counted * self._world / total
        loss = output[prefix + "loss"] if share == 1 else share * output[prefix + "loss"]
        return same_on_all_ranks(loss, self.trainer) if self._world > 1 else loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self._evaluate("val", self.trainer.val_dataloaders, batch, batch_idx, dataloader_idx)

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self._evaluate("test", self.trainer.test_dataloaders, batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        counted, _ = self.share(self.trainer.predict_dataloaders, batch, batch_idx, dataloader_idx)
        # Where a term is derived, the outputs still hold their graph.
        output = {key: v.detach() if isinstance(v, Tensor) else v for key, v in self.problem(batch).items()}
        if counted:
            return output
        return {key: v[:0] if isinstance(v, Tensor) and v.ndim else v for key, v in output.items()}

    # ------------------------------------------------------------------ the epoch

    def on_fit_start(self) -> None:
        # Lightning keeps the mode that the module comes with, which after a prediction is eval.
        self.train()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self._resume is not None:
            set_random_state(self._resume["random"])
            self._resume = None
        if batch_idx == 0:
            # Not on_train_epoch_start, which Lightning leaves out, with the last epoch's end, when it goes on from a
            # checkpoint that was written right after that epoch's last batch.
            self._outer_step()
            self._means["train"] = Means()
            self._epoch_rows = EpochRows()

    def on_train_epoch_end(self) -> None:
        self._log("train")
        self.step_plateaus()
        self._outer_step(complete=self.trainer.is_last_batch)

    def on_train_end(self) -> None:
        # Nor does a fit have a next batch that goes on from the last one's checkpoint.
        self._outer_step()

    def _outer_step(self, complete: bool = False) -> None:
        # A fit that max_steps ends in mid-epoch has not seen every sample: the resumed one makes this step.
        seen = len(self._epoch_rows.batches)
        if not seen or not (complete or seen >= self.trainer.num_training_batches):
            return
        with torch.no_grad():
            self.problem.loss.update(self._epoch_rows.gathered(self.device, self._world))
        self._epoch_rows = EpochRows()

    def on_validation_epoch_start(self) -> None:
        # What an evaluation that was interrupted has left goes too.
        self._means = {"train": self._means["train"]}

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        project_(self.problem)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning does not ask for optimizer_step where a subclass optimises by hand.
        if not self.automatic_optimization:
            project_(self.problem)

    # ------------------------------------------------------------------ helpers

    @property
    def _world(self) -> int:
        return self.trainer.world_size

    @property
    def _outer_step_due(self) -> bool:
        inner_loop = getattr(getattr(self.problem, "loss", None), "inner_loop", None)
        return inner_loop is not None and (self.current_epoch + 1) % inner_loop == 0

    @property
    def _terms(self) -> list[str]:
        return list(getattr(self.problem, "terms", ["loss"]))

    def _values(self, output: Mapping[str, Tensor], prefix: str) -> Tensor:
        return torch.stack([output[prefix + term].detach() for term in self._terms])

    def share(self, loaders: Any, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> tuple[int, int]:
        """How many samples of this batch this rank counts, and all ranks together."""
        return share(loaders, batch, batch_idx, dataloader_idx, self._world)

    def _evaluate(
        self, stage: str, loaders: Any, batch: dict[str, Any], batch_idx: int, dataloader_idx: int
    ) -> dict[str, Any]:
        counted, _ = self.share(loaders, batch, batch_idx, dataloader_idx)
        output = self.problem(batch)
        means = self._means.setdefault(stage + loader_suffix(dataloader_idx), Means())
        means.add(self._values(output, prefix_of(batch)), counted)
        # For callbacks, which need not run the problem again.
        return output

    def _log(self, stage: str) -> None:
        named = named_means(self._means, stage, self._terms, self.trainer.strategy.reduce if self._world > 1 else None)
        # Every rank logs the same numbers already: with rank_zero_only Lightning does not reduce each of them again.
        options: Any = {"on_epoch": True, "on_step": False, "batch_size": 1, "sync_dist": True, "rank_zero_only": True}
        options["add_dataloader_idx"] = False
        if named and stage == "train" and not self.trainer.loggers:
            # Callbacks alone can see the terms, and each name that Lightning logs takes it longer than a small step.
            self.trainer.callback_metrics.update(named)
            named = {"train_loss": named["train_loss"]}
        for name, mean in named.items():
            self.log(name, mean, prog_bar=name == f"{stage}_loss", **options)


def prefix_of(batch: Mapping[str, Any]) -> str:
    """What stands before the keys of a problem's output where the batch has a `name`."""
    return f"{batch['name']}_" if isinstance(batch.get("name"), str) else ""
