"""FitWatch: what would go wrong without a word in a fit is refused or told, at no cost per step."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from slimgraph.errors import Advice, WiringError
from slimgraph.losses import BarrierLoss, PenaltyLoss
from slimgraph.training.nonfinite import named_parameters, refuse_parameters
from slimgraph.training.refusals import (
    refuse_different_keys,
    refuse_empty,
    refuse_late_buffers,
    refuse_single_samples,
    refuse_unknown_monitors,
)

EPOCHS = 10
"""After how many epochs without a violation a constraint is told of; earlier where the fit ends."""

STAGES = {"fit": "training", "validate": "validation", "test": "test", "predict": "prediction"}

RATIO = 1000
"""How many times the others a term is that is told of."""


class FitWatch(lightning.Callback):
    """What LitProblem brings along to its fits; it needs no options and adds nothing to a step but a comparison.

    Refused are a metric to monitor that nothing logs, single samples instead of batches, loaders without a batch, keys
    that one set lacks, and parameters that are not finite after the last step. Told, each once, as
    `slimgraph.errors.Advice`: parameters that get no gradient, constraints that are never violated, a term a thousand
    times the others.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._first_step = True
        self._told = False
        self._violated: set[str] = set()
        self._first_means: dict[str, float] = {}
        self._epochs: int | None = 0

    # ------------------------------------------------------------------ before the first step

    def setup(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            refuse_different_keys(getattr(trainer, "datamodule", None), pl_module.problem)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._forget()
        refuse_unknown_monitors(trainer, pl_module)
        refuse_late_buffers(trainer, pl_module)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        refuse_single_samples(trainer.train_dataloader)
        if trainer.enable_validation:
            refuse_empty(trainer.num_val_batches, trainer.val_dataloaders, "validation")
        if trainer.current_epoch:
            # What a resumed fit saw at its start is not known.
            self._epochs = None

    # ------------------------------------------------------------------ the first step

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        if not self._first_step:
            return
        self._first_step = False
        # Several optimisers step one after the other; a strategy that shards keeps gradients elsewhere.
        whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        if not (pl_module.automatic_optimization and whole):
            return
        idle = [repr(n) for n, p in named_parameters(pl_module.problem).items() if p.requires_grad and p.grad is None]
        if not idle:
            return
        names = ", ".join([*idle[:5], f"and {len(idle) - 5} more"] if len(idle) > 6 else idle)
        told = f"{names} got no gradient in the first step: no term of the loss reaches "
        told += "it" if len(idle) == 1 else "them"
        if _needs_every_gradient(trainer.strategy):
            raise WiringError(
                f"{told}, and the strategy ddp waits for the gradient of every parameter; freeze what is not trained,"
                " or write Trainer(strategy='ddp_find_unused_parameters_true')"
            )
        advise(trainer, f"{told}. Freeze what is not trained; problem.check(data) says what the terms read")

    # ------------------------------------------------------------------ the epochs

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # The module logs an epoch's means after its callbacks were told of its end.
        if trainer.current_epoch:
            self._look(trainer, pl_module, last=False)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # No forward pass would tell of it.
        refuse_parameters(pl_module.problem, "after the last step of the fit")
        self._look(trainer, pl_module, last=True)

    def _look(self, trainer: lightning.Trainer, pl_module: Any, *, last: bool) -> None:
        problem = pl_module.problem
        loss = getattr(problem, "loss", None)
        if self._epochs is None or not isinstance(loss, PenaltyLoss):
            return
        self._epochs += 1
        means = {n: float(v) for n in problem.terms if (v := trainer.callback_metrics.get(f"train_{n}")) is not None}
        if self._epochs == 1:
            self._first_means = means
            advise(trainer, dominance(loss, means, loss.names()[: len(loss.objectives)]))
        # A barrier is there to keep away from the bound.
        constraints = [] if isinstance(loss, BarrierLoss) else loss.names()[len(loss.objectives) :]
        self._violated |= {name for name in constraints if means.get(name, 1.0)}
        if self._epochs == EPOCHS:
            # A penalty that is small because it is nearly paid off falls further; one that is not heeded does not.
            stuck = [name for name in constraints if means.get(name, 0) >= 0.9 * self._first_means.get(name, 0)]
            advise(trainer, dominance(loss, means, stuck))
        if last or self._epochs == EPOCHS:
            texts = dict(zip(loss.names(), map(str, loss.terms), strict=True))
            kept = [f"{name!r}, {texts[name]}" for name in constraints if name not in self._violated]
            if kept:
                advise(
                    trainer,
                    f"no sample of the first {self._epochs} epochs violated {', nor '.join(kept)}: so far that moved"
                    " nothing. Is the bound in the unit of the data, and its sign right?",
                )
            self._epochs = None

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._tell_nonfinite(trainer, "val")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._tell_nonfinite(trainer, "test")

    def _tell_nonfinite(self, trainer: lightning.Trainer, stage: str) -> None:
        logged = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith(f"{stage}_")}
        wrong = [f"{name!r} is {value}" for name, value in logged.items() if not math.isfinite(value)]
        if wrong and not self._told:
            self._told = True
            advise(
                trainer,
                f"{', '.join(wrong)} in epoch {trainer.current_epoch}: look at the {stage} data, all of which"
                " problem.check(data) reads",
            )

    # ------------------------------------------------------------------ afterwards

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        # Lightning leaves a run without batches at once, and calls no other hook.
        if stage == "fit":
            batches, loaders = trainer.num_training_batches, trainer.train_dataloader
        elif stage == "predict":
            batches, loaders = trainer.num_predict_batches, trainer.predict_dataloaders
        else:
            validating = stage == "validate"
            batches = trainer.num_val_batches if validating else trainer.num_test_batches
            loaders = trainer.val_dataloaders if validating else trainer.test_dataloaders
        refuse_empty(batches, loaders, STAGES[stage])


def dominance(loss: PenaltyLoss, means: Mapping[str, float], small: list[str]) -> str:
    """Advice where a term is `RATIO` times all of `small` that are not zero, by means over an epoch; or nothing."""
    names = loss.names()
    if type(loss).penalty is not PenaltyLoss.penalty:
        # What its constraints add is not their own losses.
        names = [*names[: len(loss.objectives)], "penalty_loss"]
    sizes = {name: abs(means[name]) for name in [*names, "reg_loss"] if means.get(name)}
    largest = max(sizes, key=sizes.__getitem__, default="")
    small = [name for name in small if name != largest and name in sizes]
    if not small or sizes[largest] < RATIO * max(sizes[name] for name in small):
        return ""
    others = ", ".join(f"{name!r} is {means[name]:.3g}" for name in small)
    return (
        f"{largest!r} is {means[largest]:.3g} in the mean over an epoch and {others}: the optimiser will hardly see"
        " what is a thousand times smaller. Weigh the terms, or bring the data to one scale"
    )


def advise(trainer: lightning.Trainer, text: str) -> None:
    """Warns once, on the first rank, at the line that called the trainer."""
    if not text or not trainer.is_global_zero:
        return
    homes = tuple(str(Path(inspect.getfile(module)).parent) for module in (lightning, torch)) + (_HOME,)
    depth, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(homes):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(text, Advice, stacklevel=depth)


_HOME = str(Path(__file__).parents[1])


def _needs_every_gradient(strategy: Any) -> bool:
    options = getattr(strategy, "_ddp_kwargs", {})
    return isinstance(strategy, DDPStrategy) and not (
        options.get("find_unused_parameters") or options.get("static_graph")
    )
