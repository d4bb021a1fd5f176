"""Long memory: what a recurrence keeps over hundreds of steps, by the map of its hidden state.

The adding problem and copying memory over 200 steps, and 8 x 8 digits read pixel by pixel. The state is a recurrence on
the chosen map, linear by default, between a layer that reads each step and one that reads the state; or a GRU or an
LSTM. The weights are those of the last step; the test samples are looked at once, for the table at the end.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import lightning
import torch
from long_memory_model import NONLINEARITIES, make_problem
from long_memory_plots import Curve, plot, result, show
from long_memory_tasks import RECIPES, make

from slimgraph import slim
from slimgraph.errors import NonFiniteError, OptionError, SlimgraphError
from slimgraph.training import FitProgress, LitDataModule, LitProblem

# What Lightning's seed_everything takes.
SEEDS = 2**32


def fit(recipe, train, val, cell="RNN", hidden_map="orthogonal", nonlin="identity", seed=0):
    """The problem after the last step, in evaluation mode, and its learning curve."""
    lightning.seed_everything(seed, verbose=False)
    problem, curve = make_problem(train, recipe, cell, hidden_map, nonlin), Curve()
    per_epoch = -(-len(train) // recipe.batch_size)
    trainer = lightning.Trainer(
        max_steps=recipe.steps, max_epochs=-(-recipe.steps // per_epoch), gradient_clip_val=1.0,
        callbacks=[FitProgress(f"{cell}, {hidden_map}"), curve], num_sanity_val_steps=0,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    schedule = {"scheduler": "CosineAnnealingLR", "scheduler_args": {"T_max": recipe.steps}}
    module = LitProblem(problem, "Adam", recipe.lr, **schedule, scheduler_interval="step")
    data = LitDataModule(train.dataset(), val and val.dataset("val"), batch_size=recipe.batch_size, seed=seed)
    try:
        trainer.fit(module, data)
    except NonFiniteError as error:  # a free linear recurrence may explode: the table says so
        print(f"{hidden_map}: {error}", file=sys.stderr)
    return problem.eval(), curve


def check(args):
    """Raise OptionError for arguments that make no sense: before the first fit, not after it."""
    wrong = {
        f"--lr needs a number above 0, got {args.lr}": args.lr is not None and not 0 < args.lr < math.inf,
        f"--seed needs a number from 0 to {SEEDS - 1}, got {args.seed}": not 0 <= args.seed < SEEDS,
        f"--permuted is for --task digits, got --task {args.task}": args.permuted and args.task != "digits",
        f"--nonlin is for --cell RNN, got --cell {args.cell}": args.nonlin != "identity" and args.cell != "RNN",
        f"--out needs a folder, {args.out} is a file": args.out.is_file(),
        "--task digits needs scikit-learn: pip install .[examples]": args.task == "digits" and not find_spec("sklearn"),
    }
    for words, is_wrong in wrong.items():
        if is_wrong:
            raise OptionError(words)


def main():
    """Fit each map, draw the learning curves, tell the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=RECIPES, default="copying")
    parser.add_argument("--permuted", action="store_true", help="the digits' pixels in an order drawn by chance")
    parser.add_argument("--cell", choices=("RNN", "GRU", "LSTM"), default="RNN")
    parser.add_argument("--hidden-map", nargs="+", default=["orthogonal"], help="names in slim.maps")
    parser.add_argument("--nonlin", choices=NONLINEARITIES, default="identity", help="of an RNN's state")
    parser.add_argument("--lr", type=float, help="the learning rate, where the recipe's does not fit")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it runs")
    args = parser.parse_args()
    try:
        check(args)
        _ = [slim.maps[name] for name in args.hidden_map]
    except SlimgraphError as error:
        parser.error(str(error))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    recipe, train, val, test = make(args.task, args.seed, args.permuted, args.quick)
    recipe = replace(recipe, lr=recipe.lr if args.lr is None else args.lr)
    rows, curves = [], {}
    for name in args.hidden_map:
        start = time.perf_counter()
        problem, curves[name] = fit(recipe, train, val, args.cell, name, args.nonlin, args.seed)
        minutes = (time.perf_counter() - start) / 60
        rows.append({"hidden map": name, **result(problem, test), "minutes": f"{minutes:.1f}"})
    title = f"{test.name}, {test.inputs.shape[1]} steps, {args.cell} of {recipe.hidden} units"
    show(title, test.baseline, rows)
    print("picture:", plot(args.out.resolve() / f"{test.name.replace(' ', '_')}.png", title, test.baseline, curves))


if __name__ == "__main__":
    main()
