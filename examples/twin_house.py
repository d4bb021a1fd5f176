"""A house learnt from measurements: a linear state-space model of seven zone temperatures, its state map chosen by name.

x[k+1] = x[k] A + u[k] B, y[k] = x[k] C over half hours, the start told from the twelve hours before. Fitted on days 0-24
of the twin house N2, the epoch chosen on days 24-30, then one free run over days 30-41, beside two baselines.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
import warnings
from pathlib import Path

import lightning
import torch
from house_data import HEATED, INPUTS, PAST, TEST, TRAIN, VAL, ZONES, best_arx, hold_last, load, samples, with_past
from house_plots import plot_eigenvalues, plot_temperatures

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.training import BestWeights, FitProgress, LitDataModule, LitProblem

STATES = 14  # seven zones and seven masses behind them
# Length of the windows in half hours, epochs, first and last learning rate: many short windows, then fewer long ones.
STAGES = ((48, 180, 3e-3, 1e-3), (240, 32, 1e-3, 1e-4))
SHIFTS = (-6.0, -3.0, 0.0, 3.0, 6.0)  # K


def make_problem(state_map="linear", mean=0.0, std=1.0):
    """The model as nodes, and its loss: the fit, and bounds on the zone temperatures in degrees Celsius."""
    # Starts as a house that holds its heat, whose heaters warm their own zone, as measured half an hour ago.
    A = slim.maps[state_map].from_dense(0.945 * torch.eye(STATES) + 0.1 / STATES * torch.rand(STATES, STATES))
    B, C = slim.Linear(INPUTS, STATES, bias=True), slim.Linear(STATES, 7)
    past = slim.Linear(PAST * (7 + INPUTS), STATES, bias=True)
    with torch.no_grad():
        for linear, spread in ((B, 2e-3), (C, 5e-3), (past, 2e-3)):
            linear.weight.normal_(std=spread)
        C.weight[:, :7] += torch.eye(7)
        B.weight[list(HEATED.values()), range(len(HEATED))] += 0.1
        past.weight.unflatten(1, (PAST, -1))[:, -1, :7] += torch.eye(7).repeat(2, 1)
    estimator = Node(torch.nn.Sequential(past, torch.nn.Unflatten(1, (1, STATES))), ["past"], ["x"], name="estimator")
    inputs, rest = Node(B, ["u"], ["gains"], name="input map"), Node(A, ["x"], ["kept"], name="state map")
    house = System([inputs, rest, Node(torch.add, ["kept", "gains"], ["x"], name="sum")], name="house", nstep_key="u")
    y, T = variable("y"), variable("T")
    celsius = std * y + mean
    loss = PenaltyLoss([((y - T) ** 2).minimize(name="fit")], [celsius >= 10.0, celsius <= 45.0])
    return Problem([estimator, house, Node(C, ["x"], ["y"], name="output map")], loss)


def fit(state_map, series, mean, std, seed=0, quick=False):
    """The problem, fitted: `STAGES` one after the other, of the last one the best epoch on days 24-30."""
    lightning.seed_everything(seed, verbose=False)
    problem = make_problem(state_map, mean, std)
    val = samples(series, with_past(VAL))
    for number, (nsteps, epochs, lr, last_lr) in enumerate(STAGES, 1):
        train = samples(series, TRAIN, nsteps, shifts=[shift / std for shift in SHIFTS])
        data = LitDataModule(train=train, val=val, batch_size=math.ceil(len(train["u"]) / 5), seed=seed)
        epochs = 2 if quick else epochs
        schedule = {"T_max": epochs, "eta_min": last_lr}
        trainer = lightning.Trainer(
            max_epochs=epochs,
            gradient_clip_val=1.0,
            callbacks=[FitProgress(f"{state_map}, {nsteps} steps"), *([BestWeights("val_fit")] if nsteps > 48 else [])],
            check_val_every_n_epoch=1 if number == len(STAGES) else epochs,
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        optimizer = {"optimizer": "AdamW", "lr": lr, "optimizer_args": {"weight_decay": 0.03}}
        trainer.fit(LitProblem(problem, **optimizer, scheduler="CosineAnnealingLR", scheduler_args=schedule), data)
    return problem.eval()
