"""Runs every case of problems.py under `ddp`, or one under `ddp_spawn`, and leaves each rank's state in a folder.

python fit.py ddp|ddp_spawn FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import collectives
import problems
import torch

from slimgraph.training import LitDataModule


def main(strategy: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if strategy == "ddp_spawn":
        # What the ranks did comes back to this process, their parent.
        case = problems.CASES["gates"]
        torch.save(problems.state(*problems.fit(**case, devices=2, strategy=strategy)), folder / "spawn.pt")
        return
    results = {}
    for name, case in problems.CASES.items():
        lit, run = problems.fit(**case, devices=2, strategy=strategy)
        results[name] = problems.state(lit, run)
    # Two ranks that are stopped in mid-epoch and resumed; dropout draws other numbers on each rank.
    options = {"loss": "augmented", "dropout": 0.3, "batch": 10, "devices": 2, "strategy": strategy}
    results["whole"] = problems.state(*problems.fit(**options, steps=14))
    problems.fit(**options, steps=6, save=folder / "saved", every={"every_n_train_steps": 6})
    path = next((folder / "saved").glob("*step=6.ckpt"))
    results["resumed"] = problems.state(*problems.fit(**options, steps=14, resume=path))
    # One process goes on from this one.
    options["dropout"] = 0.0
    problems.fit(**options, steps=6, save=folder / "left", every={"every_n_train_steps": 6})
    # And these two from one process.
    path = next((folder / "alone").glob("*step=6.ckpt"))
    results["taken over"] = problems.state(*problems.fit(**options, steps=14, resume=path))
    results["twin house"] = problems.state(*problems.twin_house(devices=2, strategy=strategy))
    for name, case in problems.COUNTED.items():
        results[f"collectives {name}"] = [collectives.counted(case, strategy, bare) for bare in (False, True)]
    # Predictions of five samples in batches of two per rank: 2 + 2, then one sample for one of the ranks.
    predicted = run.predict(lit, LitDataModule(predict=problems.data(5), batch_size=2))
    results["predicted"] = {"y": torch.cat([batch["y"] for batch in predicted])}
    torch.save(results, folder / f"rank{run.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
