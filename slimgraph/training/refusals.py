"""What a fit is refused for before its first step, or where Lightning would leave it without a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning
from torch import Tensor

from slimgraph.data import DictDataset
from slimgraph.errors import DataError, OptionError, did_you_mean


def refuse_single_samples(loader: Any) -> None:
    """Raises OptionError for a dict or a DictDataset in the place of a loader."""
    whole = isinstance(loader, Mapping) and any(isinstance(value, Tensor) for value in loader.values())
    if whole or isinstance(loader, DictDataset):
        # Lightning would take each sample for a batch, without a word.
        raise OptionError(
            f"LitProblem is fitted to batches; the entries of the {type(loader).__name__} that it was given are "
            "single samples. Write LitDataModule(train=...) or a DataLoader around it"
        )


def refuse_different_keys(data: Any, problem: Any) -> None:
    """Raises DataError for a key that the problem reads and only one of the training and validation sets holds."""
    sets = {stage: held for stage, held in getattr(data, "sets", {}).items() if isinstance(held, DictDataset)}
    if not {"train", "val"} <= sets.keys():
        return
    train, val = (sets[stage].datadict for stage in ("train", "val"))
    for key in getattr(problem, "input_keys", []):
        if (key in train) != (key in val):
            lacking, other = ("val", train) if key in train else ("train", val)
            held = sets[lacking].datadict
            raise DataError(
                f"the {lacking} set lacks {key!r}, which the problem reads: train holds {sorted(train)}, val holds"
                f" {sorted(val)}.{did_you_mean(key, [name for name in held if name not in other])}"
            )


def callbacks_of(trainer: Any) -> list[lightning.Callback]:
    """The callbacks of a Trainer, which sets the attribute where no checker sees it."""
    return trainer.callbacks


class _Names:
    """The metrics that a fit of one LitProblem logs, as far as that can be known before it."""

    def __init__(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        terms = list(getattr(pl_module.problem, "terms", ["loss"]))
        self.known = [f"train_{term}" for term in terms]
        if trainer.enable_validation:
            self.known += [*(f"val_{term}" for term in terms), "dev_loss"]
        own = ("lightning.", "slimgraph.")
        # A class of the user's own may log what it likes.
        parts = [pl_module, *callbacks_of(trainer)]
        self.complete = all(type(part).__module__.startswith(own) for part in parts)
        # Theirs are known when they have logged them, and a LambdaCallback is the user's own.
        talkers = ("FeasibilityCallback", "LambdaCallback", "LearningRateMonitor")
        self.complete &= not any(type(part).__name__ in talkers for part in parts)


def refuse_unknown_monitors(trainer: lightning.Trainer, pl_module: Any) -> None:
    """Raises OptionError for a metric that a callback or the scheduler waits for and that nothing will log."""
    names = _Names(trainer, pl_module)
    for who, monitor in _monitors(trainer):
        always = ("epoch", "step") if who == "ModelCheckpoint" else ()
        # Of several loaders each but the first has its number after the name.
        if names.complete and monitor.partition("/dataloader_idx_")[0] not in (*names.known, *always):
            why = ""
            if monitor.startswith(("val_", "dev_")) and not trainer.enable_validation:
                why = " The fit has no validation; give val= data."
            raise OptionError(
                f"{who} monitors {monitor!r}, which this fit does not log; there are {', '.join(names.known)}."
                f"{why or did_you_mean(monitor, names.known)}"
            )


def _monitors(trainer: lightning.Trainer) -> Iterator[tuple[str, str]]:
    for callback in callbacks_of(trainer):
        # BestWeights says itself what it cannot see.
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and type(callback).__name__ != "BestWeights":
            yield type(callback).__name__, monitor
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor is not None:
            yield type(config.scheduler).__name__, config.monitor


def refuse_empty(batches: Any, loaders: Any, what: str) -> None:
    """Raises DataError for a loader that gives no batch, though it was not limited to none."""
    loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
    counts = batches if isinstance(batches, list) else [batches]
    for loader, count in zip(loaders, counts, strict=False):
        if count or loader is None or not hasattr(loader, "__len__") or len(loader):
            continue
        samples = getattr(loader, "dataset", loader)
        held = f" of {len(samples)} samples" if hasattr(samples, "__len__") else ""
        cut = ", drops the last, shorter batch" if getattr(loader, "drop_last", False) else ""
        size = f", batch_size {loader.batch_size}" if getattr(loader, "batch_size", None) else ""
        raise DataError(
            f"the {what} loader gives no batch: a {type(loader).__name__}{held}{size}{cut}. Nothing was done with it;"
            " give it data, or a smaller batch_size"
        )


def refuse_late_buffers(trainer: lightning.Trainer, pl_module: Any) -> None:
    """Weight averaging pairs the buffers of two copies by their places."""
    loss: Any = getattr(pl_module.problem, "loss", None)
    averaging = [c for c in callbacks_of(trainer) if any(k.__name__ == "WeightAveraging" for k in type(c).__mro__)]
    if averaging and hasattr(loss, "multipliers") and loss.multipliers is None:
        raise OptionError(
            f"{type(averaging[0]).__name__} copied the problem before its multipliers were made, which a first forward"
            " pass does; call problem(batch) once in training mode before the fit"
        )
