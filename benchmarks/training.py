"""LitProblem against a bare LightningModule with the same loss."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.graphs import told
from benchmarks.measure import Work, row
from slimgraph import Node, PenaltyLoss, Problem, variable

STEPS, ROUNDS, BATCH, BATCHES = 2000, 3, 64, 100
LEAN = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))


def problem() -> Problem:
    y, t = variable("y"), variable("t")
    return Problem([Node(net(), ["x"], ["y"])], PenaltyLoss([((y - t) ** 2).minimize()], [y <= 1.0]))


def lit_problem() -> Any:
    from slimgraph.training import LitProblem

    return LitProblem(problem(), "Adam", 1e-3)


def bare(logs: bool) -> Any:
    """A LightningModule with the loss of `problem()` by hand; with `logs` its mean over each epoch is logged."""
    import lightning

    class Bare(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            y = self.net(batch["x"])
            loss = ((y - batch["t"]) ** 2).mean() + torch.relu(y - 1.0).mean()
            if logs:
                self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    return Bare()


def data(batches: int = BATCHES, **options: Any) -> Any:
    """The samples of one epoch of so many batches."""
    from slimgraph.training import LitDataModule

    generator = torch.Generator().manual_seed(0)
    x, t = (torch.rand(BATCH * batches, n, generator=generator) for n in (2, 1))
    return LitDataModule({"x": x, "t": t}, batch_size=BATCH, **options)


def microseconds(module: Any, steps: int, batches: Any, **options: Any) -> float:
    """Process time of a whole fit, for each of its steps."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", devices=1, default_root_dir=folder, **options)
        start = time.process_time()
        trainer.fit(module, batches)
        return 1e6 * (time.process_time() - start) / steps


def in_turns(fits: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The least of several runs of each, one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(rounds):
        for name, fit in fits.items():
            times[name].append(fit())
    return {name: min(of_one) for name, of_one in times.items()}


def against_bare(logs: bool) -> tuple[Work, Work]:
    made: dict[str, float] = {}

    def ours() -> float:
        fits = {
            "ours": lambda: microseconds(lit_problem(), STEPS, data(), **LEAN),
            "bare": lambda: microseconds(bare(logs), STEPS, data(), **LEAN),
        }
        made.update(in_turns(fits, ROUNDS))
        return made["ours"]

    return ours, lambda: made["bare"]


@row("LitProblem, 2000 steps, lean Trainer / a bare LightningModule that logs its loss on epoch", 1.15, told)
def _() -> tuple[Work, Work]:
    return against_bare(logs=True)


@row("LitProblem, 2000 steps, lean Trainer / a bare LightningModule that logs nothing", 1.6, told)
def _() -> tuple[Work, Work]:
    return against_bare(logs=False)
