"""Parametric optimisation: a network learns the optimum of a constrained problem as a function of its parameter.

min f(x, y) with (p/2)^2 <= x^2 + y^2 <= p^2 and x >= y, for every p in [0.5, 6] at once: one network p -> (x, y) for a
function, trained by one of the three losses without a solution to copy. For comparison scipy solves 23 of them singly.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import lightning
import numpy as np
import torch
from parametric_nlp_functions import FUNCTIONS, GRID, P_MAX, P_MIN, exact, violation
from parametric_nlp_model import LOSSES, SAMPLES, FallingWeight, make_problem
from parametric_nlp_plots import draw, show

from slimgraph.data import DictDataset
from slimgraph.training import FitProgress, LitDataModule, LitProblem

# Directions in which networks begin; where f has several valleys, the beginning decides which one is learnt.
ANGLES = [math.pi * place / 8 for place in (-5, -3, -1, 1)]
TRIAL, STEPS, LR = 300, 2000, 3e-3


def column(ps):
    return torch.as_tensor(ps, dtype=torch.float64)[:, None]


def train(problem, epochs, label):
    """`problem` after that many steps on all samples at once, and its loss on p's between them."""
    data = DictDataset({"p": column(np.linspace(P_MIN, P_MAX, SAMPLES))}, name="train", index=True)
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress(label, ("train_loss",)), FallingWeight()], accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    module = LitProblem(problem, "Adam", LR, "CosineAnnealingLR", scheduler_args={"T_max": epochs})
    trainer.fit(module, LitDataModule(data, batch_size=None, shuffle=False))
    with torch.no_grad():
        return problem.eval()({"p": column(np.linspace(P_MIN, P_MAX, 40)[1:-1])})["loss"].item()


def fit(function, loss="lagrange", seed=0, quick=False):
    """The problem after training from the direction that was best in a short trial."""
    trials = []
    for angle in ANGLES:
        lightning.seed_everything(seed, verbose=False)
        trials.append(train(make_problem(function, loss, angle), 3 if quick else TRIAL, f"{function}, trial"))
    lightning.seed_everything(seed, verbose=False)
    problem = make_problem(function, loss, ANGLES[int(np.argmin(trials))])
    train(problem, 5 if quick else STEPS, f"{function}, {loss}")
    return problem


def follow(problem, function, ps):
    """f, x, y that the network gives at each p, as rows."""
    with torch.no_grad():
        data = problem.step({"p": column(ps)})
    return torch.cat([FUNCTIONS[function](data["x"], data["y"]), data["x"], data["y"]], dim=1).numpy()


def errors(best, told):
    """The mean gap relative to the range of the optimum, and the worst violation, over the grid."""
    gap = np.abs(told[:, 0] - best[:, 0]).mean() / np.ptp(best[:, 0])
    return gap, violation(GRID, told[:, 1], told[:, 2]).max()


def main():
    """Train a network for each function, compare it with scipy, draw the paths."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--function", choices=[*FUNCTIONS, "all"], default="all")
    parser.add_argument("--loss", choices=LOSSES, default="lagrange")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    rows, pictures, every_p = [], [], np.linspace(P_MIN, P_MAX, 500)
    for function in FUNCTIONS if args.function == "all" else [args.function]:
        best, start = np.array([exact(function, p) for p in GRID]), time.process_time()
        problem = fit(function, args.loss, args.seed, args.quick)
        seconds = time.process_time() - start
        gap, worst = errors(best, follow(problem, function, GRID))
        row = {"function": function, "loss": args.loss, "gap": f"{gap:.3%}", "violation": f"{worst:.1e}"}
        rows.append(row | {"CPU s": f"{seconds:.0f}"})
        path = np.c_[every_p, follow(problem, function, every_p)]
        pictures.append(draw(args.out.resolve() / f"{function}_{args.loss}.png", function, best, path))
    show(rows)
    print("pictures:", *pictures, sep="\n  ")


if __name__ == "__main__":
    main()
