"""A fit that is stopped from outside: it says by a file where it stands, and waits there for the signal.

python interrupted.py FOLDER SIGKILL|SIGTERM; each place of STOPS[signal] is a fit of its own with its own folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning
import problems
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from slimgraph import AugmentedLagrangeLoss, Node, Problem, slim, variable
from slimgraph.training import LitDataModule, LitProblem

STEPS = 29
# Eight batches an epoch: in mid-epoch, after the last batch of one, within the validation that follows and after it.
STOPS = {"SIGKILL": ["step 13"], "SIGTERM": ["step 13", "step 16", "validation 16", "validated 16"]}


def single() -> Problem:
    """The problem in single precision."""
    return problems.make("augmented").float()


def other(width: int = 6, node: str = "net", term: str = "ceiling", dtype: torch.dtype = torch.float64) -> Problem:
    """A problem that is not quite that of problems.make("augmented")."""
    net = nn.Sequential(
        slim.maps["orthogonal"](2, 2), nn.Linear(2, width), nn.Tanh(), nn.Dropout(), nn.Linear(width, 1)
    )
    y, t = variable("y"), variable("t")
    ceiling = y <= -0.3
    ceiling.name = term
    loss = AugmentedLagrangeLoss([((y - t) ** 2).minimize(name="fit")], [ceiling], inner_loop=2, mu_init=0.5)
    return Problem([Node(net, ["x"], ["y"], name=node)], loss).to(dtype)


class Seen(lightning.Callback):
    """Which samples each step of a fit saw, and with which learning rate."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[list[int], float]] = {}

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps[trainer.global_step] = (batch["index"].tolist(), trainer.optimizers[0].param_groups[0]["lr"])


class StopAt(lightning.Callback):
    """Writes the file `reached` at a place of a fit and goes on once SIGTERM came; SIGKILL ends it there."""

    def __init__(self, place: str, folder: Path):
        self.place, self.folder = place, folder

    def wait(self, trainer: lightning.Trainer, place: str) -> None:
        if place == self.place and not trainer.sanity_checking:
            (self.folder / "reached").touch()
            while not trainer.received_sigterm:
                time.sleep(0.01)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.wait(trainer, f"step {trainer.global_step}")

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self.wait(trainer, f"{'validated' if batch_idx else 'validation'} {trainer.global_step}")


def fit(
    folder: Path | None = None,
    place: str = "",
    *,
    steps: int = STEPS,
    resume: str | Path | None = None,
    save: Path | None = None,
) -> dict[str, Any]:
    """All that a fit ends with; in a `folder` it keeps checkpoints, `resume="last"` goes on from the last.

    `save` is a file that is written by hand after the fit.
    """
    lit = LitProblem(
        "problems:make",
        "Adam",
        0.05,
        "StepLR",
        scheduler_args={"step_size": 2, "gamma": 0.5},
        problem_args={"loss": "augmented", "dropout": 0.3},
    )
    data = LitDataModule(problems.data(37), problems.data(7, seed=1), batch_size=5)
    seen = Seen()
    kept: list[Any] = []
    if folder is not None:
        kept = [
            ModelCheckpoint(folder, every_n_train_steps=5, save_last=True),
            OnExceptionCheckpoint(folder),
            StopAt(place, folder),
        ]
    run = problems.trainer(
        max_steps=steps, max_epochs=-1, deterministic=True, callbacks=[seen, *kept], enable_checkpointing=bool(kept)
    )
    # A resumed process starts with other random numbers than the one that it goes on from.
    torch.manual_seed(1 if resume is None else 2)
    run.fit(lit, data, ckpt_path=resume)
    if save is not None:
        run.save_checkpoint(save)
    return {
        **problems.state(lit, run),
        "optimizer": run.optimizers[0].state_dict(),
        "scheduler": run.lr_scheduler_configs[0].scheduler.state_dict(),
        "seen": seen.steps,
    }


def main(root: Path, signal: str) -> None:
    torch.set_num_threads(1)
    for place in STOPS[signal]:
        folder = root / f"{signal} {place}"
        folder.mkdir()
        try:
            fit(folder, place)
        except SystemExit:
            (folder / "ended").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
