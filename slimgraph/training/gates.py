"""StepGates: the random gates of a step, the same on every device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
import torch
from torch import nn

from slimgraph.errors import StrictOptions
from slimgraph.slim import hold_gates_


class StepGates(lightning.Callback, metaclass=StrictOptions):
    """Draws the gates of all maps that have some (`L0Linear`) once a step, by seed, epoch and batch alone.

    So two devices take the step that one would take with both batches, a map that a step uses or recomputes several
    times has the same gates each time, and a resumed fit goes on with those of an uninterrupted one. LitProblem brings
    this callback along; a LightningModule of your own is given it in `Trainer(callbacks=[StepGates()])`.

    >>> StepGates(seed=3).seed
    3
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    @classmethod
    def needed(cls, module: nn.Module, callbacks: Iterable[lightning.Callback]) -> bool:
        """Whether a map at or below `module` has gates to hold and no such callback is among `callbacks`."""
        gated = any(hasattr(type(part), "hold_gates_") for part in module.modules())
        return gated and not any(isinstance(callback, cls) for callback in callbacks)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed = ((self.seed * 1_000_003 + trainer.current_epoch) * 1_000_003 + batch_idx) % 2**63
        hold_gates_(pl_module, torch.Generator().manual_seed(seed))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        hold_gates_(pl_module, None)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        # A loop of the user's own that goes on from here would train on the same gates for ever.
        hold_gates_(pl_module, None)
