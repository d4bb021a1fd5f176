"""A house learnt from measurements: a state-space model of seven zone temperatures, its state map chosen by name.

x[k+1] = x[k] A + u[k] B, y[k] = x[k] C over half hours, the start told from the twelve hours before. Fitted on days
0-24 of the twin house N2, the epoch chosen on days 24-30, then one free run over days 30-41, beside two baselines.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import lightning
import torch
from house_data import HEATED, INPUTS, PAST, SHIFTS, TEST, TRAIN, VAL, best_arx, hold_last, load, samples, with_past
from house_plots import draw_all, error_table

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import SlimgraphError
from slimgraph.training import BestWeights, FitProgress, LitDataModule, LitProblem

STATES = 14  # seven zones and seven masses behind them
# Chosen on days 24-30, as the epoch is: half hours in a window, epochs, learning rate from and to.
STAGES = ((48, 180, 3e-3, 1e-3), (480, 60, 1e-3, 1e-4))


def make_problem(state_map="linear", mean=0.0, std=1.0):
    """The model as nodes, and its loss: the fit, and bounds on the zone temperatures in degrees Celsius."""
    # It starts as a house that holds its heat, whose heaters warm their own zone, as it was measured last.
    A = slim.maps[state_map].from_dense(0.94 * torch.eye(STATES) + 0.1 / STATES * torch.rand(STATES, STATES))
    B, C = slim.Linear(INPUTS, STATES, bias=True), slim.Linear(STATES, 7)
    past = slim.Linear(PAST * (7 + INPUTS), STATES, bias=True)
    with torch.no_grad():
        for linear, spread in ((B, 2e-3), (C, 5e-3), (past, 2e-3)):
            linear.weight.normal_(std=spread)
        C.weight[:, :7] += torch.eye(7)
        B.weight[list(HEATED.values()), range(len(HEATED))] += 0.1
        past.weight.unflatten(1, (PAST, -1))[:, -1, :7] += torch.eye(7).repeat(2, 1)
    start = torch.nn.Sequential(past, torch.nn.Unflatten(1, (1, STATES)))
    gains, kept = Node(B, ["u"], ["gained"], name="input map"), Node(A, ["x"], ["kept"], name="state map")
    house = System([gains, kept, Node(torch.add, ["kept", "gained"], ["x"], name="sum")], name="house", nstep_key="u")
    y, T = variable("y"), variable("T")
    celsius = std * y + mean
    celsius.display_name = "celsius"
    loss = PenaltyLoss([((y - T) ** 2).minimize(name="fit")], [celsius >= 10.0, celsius <= 45.0])
    return Problem(
        [Node(start, ["past"], ["x"], name="estimator"), house, Node(C, ["x"], ["y"], name="output map")], loss
    )


def fit(state_map, series, mean, std, seed=0, quick=False):
    """The problem after both stages, with the weights of the last stage's best epoch on days 24-30."""
    lightning.seed_everything(seed, verbose=False)
    problem, val = make_problem(state_map, mean, std), samples(series, with_past(VAL))
    for nsteps, epochs, lr, last_lr in STAGES:
        train = samples(series, TRAIN, nsteps, shifts=[shift / std for shift in SHIFTS])
        last, epochs = nsteps == STAGES[-1][0], 2 if quick else epochs
        trainer = lightning.Trainer(
            max_epochs=epochs, check_val_every_n_epoch=1 if last else epochs, gradient_clip_val=1.0,
            callbacks=[FitProgress(f"{state_map}, {nsteps} steps"), BestWeights("val_fit", restore=last)],
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        schedule = {"scheduler": "CosineAnnealingLR", "scheduler_args": {"T_max": epochs, "eta_min": last_lr}}
        module = LitProblem(problem, "AdamW", lr, optimizer_args={"weight_decay": 0.03}, **schedule)
        trainer.fit(module, LitDataModule(train, val, batch_size=-(-len(train["u"]) // 5), seed=seed))
    return problem.eval()


def main():
    """Fit every map, tell the errors, draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", nargs="+", default=["linear", "pf"], help="state maps, by their names in slim.maps")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two epochs per stage, to see that it runs")
    args = parser.parse_args()
    try:
        _ = [slim.maps[name] for name in args.maps]  # a name that does not exist is told before the first fit
    except SlimgraphError as error:
        parser.error(str(error))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    series, scale = load()
    test, mean, std = samples(series, with_past(TEST)), scale.mean_0.item(), scale.std_0.item()
    arx, order = best_arx(series, TEST)
    curves = {"measured": test["T"][0, 1:], "hold": hold_last(series, TEST), f"ARX({order})": arx}
    eigenvalues, reports = {}, {}
    for name in args.maps:
        problem = fit(name, series, mean, std, args.seed, args.quick)
        curves[name] = problem.step(test)["y"][0, 1:].detach()
        eigenvalues[name] = problem.node("house").node("state map").callable.eig(eigenvectors=False).detach()
        reports[name] = problem.report(test)
    curves = {name: scale.inverse({"T": curve})["T"] for name, curve in curves.items()}
    print(error_table(curves, eigenvalues, reports))
    print("pictures:", *draw_all(args.out.resolve(), problem, curves, eigenvalues), sep="\n  ")


if __name__ == "__main__":
    main()
