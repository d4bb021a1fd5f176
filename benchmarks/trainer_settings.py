"""`python -m benchmarks.trainer_settings [--steps 2000] [--rounds 3]`: what settings of a Trainer cost a small problem.

Process time of a fit of the problem of `benchmarks.training` over that of the same fit with the lean settings, the
least of several runs of each that took turns. Bars cost what they do on a terminal; so run it there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training import BATCH, BATCHES, LEAN, data, in_turns, lit_problem, microseconds


def settings(folder: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By what the table calls them: options of the Trainer besides the lean ones, and options of the data."""
    from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
    from lightning.pytorch.loggers import CSVLogger

    from slimgraph.training import FitProgress

    val = {"x": torch.rand(BATCH, 2), "t": torch.rand(BATCH, 1)}
    nothing = dict.fromkeys(LEAN)

    def bar(callback: Any = None) -> dict[str, Any]:
        return {"enable_progress_bar": True, "callbacks": [] if callback is None else [callback]}

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
        "model summary": ({"enable_model_summary": True}, {}),
        "gradient_clip_val=1.0": ({"gradient_clip_val": 1.0}, {}),
        "detect_anomaly=True": ({"detect_anomaly": True}, {}),
        "validation of a batch every epoch": ({}, {"val": val}),
        "validation of a batch every 10 epochs": ({"check_val_every_n_epoch": 10}, {"val": val}),
        "num_workers=2": ({}, {"num_workers": 2}),
        f"epochs of 1 step instead of {BATCHES}": ({}, {"batches": 1}),
        "epochs of 1 step, validated": ({}, {"batches": 1, "val": val}),
        "epochs of 1 step, a checkpoint each": ({"enable_checkpointing": True}, {"batches": 1}),
    }


def main() -> None:
    """Measure every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = settings(folder)

        def fit(name: str) -> float:
            # Callbacks and loggers are made anew for each fit.
            trainer, batches = settings(folder)[name]
            return microseconds(lit_problem(), options.steps, data(**batches), **{**LEAN, **trainer})

        times = in_turns({name: lambda name=name: fit(name) for name in made}, options.rounds)
    table = Table(title=f"process time of {options.steps} steps, one thread, torch {torch.__version__}")
    for head in ("settings", "us a step", "/ lean"):
        table.add_column(head)
    for name, time in times.items():
        table.add_row(name, f"{time:,.0f}", f"{time / times['lean']:.2f}")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
