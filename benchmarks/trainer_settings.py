"""`python -m benchmarks.trainer_settings [--steps 500] [--rounds 5]`: what settings of a Trainer cost a small problem.

Process time of a fit of the problem of `benchmarks.training` over that of the same fit with the lean settings: the
median over rounds, in each of which the two took turns. Bars cost what they do on a terminal; so run it there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from benchmarks.training import BATCH, BATCHES, LEAN, data, lit_problem, microseconds


def settings(folder: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By what the table calls them: options of the Trainer besides the lean ones, and options of the data."""
    from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
    from lightning.pytorch.loggers import CSVLogger

    from slimgraph.training import FitProgress

    val = {"x": torch.rand(BATCH, 2), "t": torch.rand(BATCH, 1)}
    nothing = dict.fromkeys(LEAN)

    def bar(callback: Any = None) -> dict[str, Any]:
        return {"enable_progress_bar": True, "callbacks": [] if callback is None else [callback]}

    repeated = {"batches": 1, "repeated": BATCHES}
    return {
        "lean": ({}, {}),
        "barebones=True": ({**nothing, "barebones": True}, {}),
        "Trainer's defaults": (nothing, {}),
        "progress bar": (bar(), {}),
        "progress bar, refresh_rate=50": (bar(TQDMProgressBar(refresh_rate=50)), {}),
        "RichProgressBar": (bar(RichProgressBar()), {}),
        "FitProgress": (bar(FitProgress()), {}),
        "logger, every 50 steps": ({"logger": CSVLogger(folder)}, {}),
        "logger, log_every_n_steps=1": ({"logger": CSVLogger(folder), "log_every_n_steps": 1}, {}),
        "a checkpoint every epoch": ({"enable_checkpointing": True}, {}),
        "gradient_clip_val=1.0": ({"gradient_clip_val": 1.0}, {}),
        "detect_anomaly=True": ({"detect_anomaly": True}, {}),
        "a batch validated every epoch": ({}, {"val": val}),
        "num_workers=2": ({}, {"num_workers": 2}),
        f"epochs of 1 step instead of {BATCHES}": ({}, {"batches": 1}),
        "the same batch, repeated in an epoch": ({}, repeated),
    }


def again(samples: Any, times: int) -> DataLoader:
    """An epoch that is all samples at once, so many times."""
    return DataLoader([samples.sets["train"].datadict] * times, batch_size=None)  # pyright: ignore[reportArgumentType]


def main() -> None:
    """Measure every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = settings(folder)

        def fit(name: str) -> float:
            # Callbacks and loggers are made anew for each fit.
            trainer, samples = settings(folder)[name]
            times = samples.pop("repeated", None)
            batches = data(**samples) if times is None else again(data(**samples), times)
            return microseconds(lit_problem(), options.steps, batches, **{**LEAN, **trainer})

        fit("lean")  # What is imported and made ready by the first fit of all counts for none.
        ratios = {name: statistics.median(fit(name) / fit("lean") for _ in range(options.rounds)) for name in made}
    table = Table(title=f"process time of {options.steps} steps, one thread, torch {torch.__version__}")
    for head in ("settings", "/ lean"):
        table.add_column(head)
    for name, ratio in ratios.items():
        table.add_row(name, f"{ratio:.2f}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
