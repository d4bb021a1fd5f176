"""Counts what the ranks say to each other in each step of a fit, DDP's own messages from C++ included."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning
import problems
import torch

from slimgraph.training import LitDataModule, LitProblem


class Collectives(lightning.Callback):
    """`steps` holds, for each training step, how often each collective of torch.distributed was called."""

    def __init__(self):
        self.steps: list[dict[str, int]] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self._profile: Any = torch.autograd.profiler.profile().__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        self._profile.__exit__(None, None, None)
        names = [event.name for event in self._profile.function_events]
        self.steps.append(dict(Counter(name for name in names if name.startswith("c10d::"))))


class Bare(lightning.LightningModule):
    """The same problem as anybody's LightningModule."""

    def __init__(self, problem: torch.nn.Module):
        super().__init__()
        self.problem = problem

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.problem(batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def counted(options: dict[str, Any], strategy: str, bare: bool = False) -> list[dict[str, int]]:
    """What each of six steps, three an epoch, calls on this rank."""
    problem, count = problems.make(**options), Collectives()
    lit = Bare(problem) if bare else LitProblem(problem, "SGD", 0.05)
    run = problems.trainer(max_steps=6, max_epochs=-1, devices=2, strategy=strategy, callbacks=[count])
    run.fit(lit, LitDataModule(problems.data(23), batch_size=4))
    return count.steps
