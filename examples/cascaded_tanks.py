"""Two cascaded tanks that overflow, learnt from one short record: a physical balance and a network for what it misses.

x[k+1] = overflow(x[k] + 4 s * balance(x[k], u[k]) + correction(x[k])), y[k] = x2[k]. Fitted to the first three quarters
of the estimation record, the epoch chosen on the last one, then one free run over the validation record.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import lightning
import torch
from cascaded_tanks_data import FITTED, load, rmse, sample
from cascaded_tanks_model import make_problem
from cascaded_tanks_plots import draw_all, parameters

from slimgraph.training import BestWeights, FitProgress, LitDataModule, LitProblem

EPOCHS = 8  # of at most ten iterations


def fit(records, parts="both", seed=0, quick=False):
    """The problem with the weights of the epoch that was best on the last quarter of the estimation record."""
    lightning.seed_everything(seed, verbose=False)
    problem, epochs = make_problem(parts), 3 if quick else EPOCHS
    fitted, rows = (192, 256) if quick else (FITTED, None)
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress(parts), BestWeights("val_fit")], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    # The levels forget slowly, which makes a long narrow valley: curvature finds its way, plain gradients crawl.
    options = {"max_iter": 10, "history_size": 50, "line_search_fn": "strong_wolfe"}
    module = LitProblem(problem, "LBFGS", 1.0, optimizer_args=options)
    train, val = sample(*records["Est"], rows=fitted), sample(*records["Est"], rows=rows, fitted=fitted)
    trainer.fit(module, LitDataModule(train, val, batch_size=None, shuffle=False))
    return problem.eval()


def free_run(problem, u, y):
    """Both levels `(1024, 2)` in V, from the first sample and the pump alone."""
    with torch.no_grad():
        return problem.step(sample(u, y))["x"][0]


def main():
    """Fit, run freely over the validation record, tell errors and parameters, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", choices=["both", "physics", "learnt"], default="both", help="what the model has")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few steps on few samples, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    records, start = load(), time.process_time()
    problem = fit(records, args.parts, args.seed, args.quick)
    seconds = time.process_time() - start
    levels = {name: free_run(problem, *record) for name, record in records.items()}
    measured = {name: y for name, (_, y) in records.items()}
    held, run = levels["Est"][FITTED:], levels["Val"]
    print(f"estimation record: fitted {rmse(levels['Est'][:FITTED], measured['Est'][:, :FITTED]):.3f} V,", end=" ")
    print(f"held out {rmse(held, measured['Est'][:, FITTED:], 0):.3f} V; {seconds:.0f} CPU s")
    print(f"validation record, free run: RMSE {rmse(run, measured['Val']):.3f} V,", end=" ")
    mean = measured["Est"].mean().expand(1024, 2)
    print(f"samples 50-1023 {rmse(run, measured['Val'], 50):.3f} V; the mean level {rmse(mean, measured['Val']):.3f} V")
    for name, value in parameters(problem).items():
        print(f"  {name} = {value}")
    print("pictures:", *draw_all(args.out.resolve(), problem, run, measured["Val"][0, :, 0]), sep="\n  ")


if __name__ == "__main__":
    main()
