"""Validates the problem of `validate` on two gloo ranks and leaves each rank's report in a folder.

python feasibility.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import problems
import torch

from slimgraph.training import FeasibilityCallback, LitDataModule, LitProblem


class TwoSets(LitDataModule):
    """Validates on the test set too, apart."""

    def val_dataloader(self):
        return [self.loader("val"), self.loader("test")]


def validate(
    n: int, loss: str = "penalty", devices: int = 1, strategy: str = "auto", fitted: bool = False, second: int = 0
):
    """A callback that has seen `n` samples, ten a batch for all devices together, and what was logged.

    `second` is the number of samples of a second loader.
    """
    feasible = FeasibilityCallback()
    lit = LitProblem(problems.make(loss), "SGD", 0.05)
    sets = LitDataModule(problems.data(n), problems.data(n, seed=3), batch_size=10 // devices)
    if second:
        test = problems.data(second, seed=4)
        sets = TwoSets(problems.data(n), problems.data(n, seed=3), test, batch_size=10 // devices)
    run = problems.trainer(callbacks=[feasible], devices=devices, strategy=strategy, max_epochs=3)
    run.fit(lit, sets) if fitted else run.validate(lit, sets, verbose=False)
    return feasible, {key: float(value) for key, value in run.callback_metrics.items()}, run


# name -> what validate() is called with: uneven counts, a rank with one sample less, a rank with none.
CASES = {
    "even": {"n": 20},
    "uneven": {"n": 23},
    "one sample": {"n": 1},
    "one left over": {"n": 21, "loss": "augmented", "fitted": True},
    "two loaders": {"n": 23, "loss": "augmented", "fitted": True, "second": 11},
}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for name, case in CASES.items():
        feasible, metrics, run = validate(**case, devices=2, strategy="ddp")
        results[name] = [report.as_dict() for report in feasible.reports], metrics
    torch.save(results, folder / f"rank{run.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
