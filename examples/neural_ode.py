"""A neural ODE: the Van der Pol oscillator learnt from what scipy solved, as dx/dt = f(x) with a network f.

x1' = x2, x2' = (1 - x1^2) x2 - x1. The network never sees a slope: it is rolled out by RK4 over one second of each
trajectory and fitted to the states. The test is a free run of 10 s from a start of its own, by an adaptive solver.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import lightning
import numpy as np
import torch
from neural_ode_plots import draw
from scipy.integrate import solve_ivp
from torch import nn

from slimgraph import DictDataset, Node, PenaltyLoss, Problem, System, variable
from slimgraph.blocks import MLP
from slimgraph.data import windows
from slimgraph.integrators import RK4, DiffEqIntegrator
from slimgraph.training import FitProgress, LitDataModule, LitProblem

H, STARTS, LENGTH, HORIZON, TEST = 0.1, 48, 30, 10, 100  # step in s; trajectories, and steps of each; window; test
TEST_START = (-1.5, 2.0)


def van_der_pol(t, x):
    return [x[1], (1 - x[0] ** 2) * x[1] - x[0]]


def solved(start, nsteps):
    """The states `(nsteps + 1, 2)` from that start, by scipy."""
    times = H * np.arange(nsteps + 1)
    made = solve_ivp(van_der_pol, (0, times[-1]), start, t_eval=times, method="DOP853", rtol=1e-10, atol=1e-10)
    return torch.tensor(made.y.T, dtype=torch.float32)


def roll_out(step):
    """The system that steps the state under "x"."""
    return System([Node(step, ["x"], ["x"], name="RK4 step")], name="van der Pol", nsteps=HORIZON)


def make_problem(f):
    """The roll-out of dx/dt = f(x) over a second, and its distance from the measured states."""
    distance = (variable("x") - variable("measured")) ** 2
    return Problem([roll_out(RK4(f, h=H))], PenaltyLoss([distance.minimize(name="fit")]))


def fit(seed=0, epochs=2000):
    """The network f, fitted to windows of a second."""
    lightning.seed_everything(seed, verbose=False)
    starts = np.random.default_rng(seed).uniform(-3, 3, (STARTS, 2))
    cut = torch.cat([windows({"x": solved(s, LENGTH)}, HORIZON + 1, HORIZON // 2)["x"] for s in starts])
    f = MLP(2, 2, nonlin=nn.Tanh, hsizes=[48, 48])
    data = LitDataModule(DictDataset({"x": cut[:, :1], "measured": cut}), batch_size=None, shuffle=False)
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress("van der Pol", ("train_loss",))], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    module = LitProblem(make_problem(f), "Adam", 1e-2, "CosineAnnealingLR", scheduler_args={"T_max": epochs})
    trainer.fit(module, data)
    return f


@torch.no_grad()
def free_run(step, start=TEST_START, nsteps=TEST):
    """The states `(nsteps + 1, 2)` from that start, each from the one before."""
    system = roll_out(step)
    system.nsteps = nsteps
    return system({"x": torch.tensor(start).reshape(1, 1, 2)})["x"][0]


def main():
    """Fit the network, run it freely, print its error and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    DiffEqIntegrator(torch.neg)  # says what to install before anything is fitted
    start = time.process_time()
    f = fit(args.seed, epochs=5 if args.quick else 2000)
    print(f"fitted in {time.process_time() - start:.0f} s of CPU time")
    truth = solved(TEST_START, TEST)
    for name, step in {"RK4": RK4(f, h=H), "dopri5": DiffEqIntegrator(f, h=H)}.items():
        learnt = free_run(step)
        print(f"relative error of the free run by {name}: {(learnt - truth).norm() / truth.norm():.2%}")
    path = args.out.resolve() / "neural_ode.png"
    draw(path, H, truth, learnt)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
