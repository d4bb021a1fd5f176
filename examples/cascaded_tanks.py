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
from cascaded_tanks_model import Balance, make_problem
from cascaded_tanks_plots import draw_all

from slimgraph.data import read_csv
from slimgraph.training import BestWeights, FitProgress, LitDataModule, LitProblem

PATH = Path(__file__).parent / "data" / "cascaded_tanks" / "dataBenchmark.csv"
FITTED, EPOCHS = 768, 12  # samples, and epochs of at most ten iterations


def load(path=PATH):
    """Pump and level of both records, each `(1, 1024, 1)` in V: `{"Est": (u, y), "Val": (u, y)}`."""
    table = read_csv(path, ["uEst", "yEst", "uVal", "yVal"], dtype=torch.float64)
    return {name: tuple(table[key + name][None, :, None] for key in "uy") for name in ("Est", "Val")}


def sample(u, y, rows=None, fitted=0):
    """One free run over the first `rows` samples, of which those from `fitted` on count in the mean error."""
    u, y, y0 = u[:, :rows][:, :-1], y[:, :rows][:, 1:], y[:, 0]
    counted = (torch.arange(1, 1 + y.shape[1]) >= fitted).to(y)[None, :, None].expand_as(y)
    return {"u": u, "y": y, "y0": y0, "counted": counted / counted.mean()}


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


def rmse(levels, y, first=1):
    """The root mean square error in V over the samples from `first` on; sample 0 is the start."""
    return (levels[first:, 1] - y[0, first:, 0]).square().mean().sqrt().item()


def main():
    """Fit, run freely over the validation record, tell errors and parameters, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", choices=["both", "physics", "learnt"], default="both", help="what the model has")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few steps on a quarter of the record, to see that it runs")
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
    for name, value in problem_parameters(problem).items():
        print(f"  {name} = {value}")
    print("pictures:", *draw_all(args.out.resolve(), problem, run, measured["Val"][0, :, 0]), sep="\n  ")


def problem_parameters(problem):
    """The learnt physical parameters, with their units."""
    start, tanks = problem.nodes
    told = {"x1 at the start": f"{start.callable.upper.item():.3f} V"}
    block = getattr(tanks.node("balance").callable, "block", None)
    if block is not None:
        values = block.log_k.exp().tolist()
        told |= {f"k{i}": f"{k:.4f} {unit}" for i, (k, unit) in enumerate(zip(values, Balance.UNITS, strict=True), 1)}
    share = tanks.node("overflow").callable.logit.sigmoid().item()
    return told | {"share of the overflow that falls into the lower tank": f"{share:.3f}"}


if __name__ == "__main__":
    main()
