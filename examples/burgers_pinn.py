"""Burgers' equation by a network that sees no solution: u_t + u u_x = nu u_xx on [-1, 1], nu = 0.01 / pi.

u = -sin(pi x) at t = 0 and u = 0 at both walls become a shock at x = 0 with a slope of 152. Equation, start and walls
are constraints, written in symbols, on a network u(t, x) at random points. A stock Trainer fits, validates, tests
against the Cole-Hopf integral and predicts; derivatives are taken in all four.
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
from burgers_plots import draw
from burgers_reference import NU, SHAPE, grid
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, variable
from slimgraph.blocks import MLP
from slimgraph.training import FitProgress, LitDataModule, LitProblem

POINTS, ADAM, LBFGS = 2000, 300, 120  # points of each kind, steps of Adam, steps of LBFGS of 50 iterations each
SHOWN = ("t", "x", "u", "reference")


def problems(net):
    """What is fitted, and what is tested: the equation everywhere, and the error relative to the reference."""
    t, x, u, x_0, u_0, u_b, reference = map(variable, ("t", "x", "u", "x_0", "u_0", "u_b", "reference"))
    equation = (u.grad(t) + u * u.grad(x) == NU * u.grad(x).grad(x)) ^ 2
    start, walls = 10 * ((u_0 == -torch.sin(math.pi * x_0)) ^ 2), 10 * ((u_b == 0) ^ 2)
    error = torch.linalg.norm(u - reference) / torch.linalg.norm(reference)
    inside = Node(net, ["t", "x"], ["u"], name="inside")
    others = [Node(net, ["t_0", "x_0"], ["u_0"], name="start"), Node(net, ["t_b", "x_b"], ["u_b"], name="walls")]
    terms = [equation.with_name("equation"), start.with_name("at_start"), walls.with_name("at_walls")]
    tested = Problem([inside], PenaltyLoss([error.minimize(name="error")], terms[:1]))
    return Problem([inside, *others], PenaltyLoss([], terms)), tested


def points(n, rng):
    """n points inside, half of them near the shock, n at the start and n at the walls, as rows of one dict."""
    x = np.where(rng.random(n) < 0.5, rng.uniform(-1, 1, n), rng.laplace(0, 0.1, n).clip(-1, 1))
    edges = {"t_0": np.zeros(n), "x_0": rng.uniform(-1, 1, n), "t_b": rng.random(n), "x_b": rng.choice([-1.0, 1.0], n)}
    return columns({"t": rng.random(n), "x": x, **edges})


def columns(data):
    return {key: torch.as_tensor(value, dtype=torch.float32)[:, None] for key, value in data.items()}


def steps(problem, data, method, count, *, lr, **arguments):
    """The trainer after that many steps of a method on all points at once."""
    trainer = lightning.Trainer(
        max_epochs=count, callbacks=[FitProgress(method)], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, check_val_every_n_epoch=10,
    )  # fmt: skip
    trainer.fit(LitProblem(problem, method, lr, **arguments), data)
    return trainer


def fit(seed=0, quick=False):
    """The trainer, the two problems and the data; the steps of Adam only lead to where LBFGS begins well."""
    lightning.seed_everything(seed, verbose=False)
    rng, (t, x, reference) = np.random.default_rng(seed), grid()
    whole = columns({"t": t, "x": x, "reference": reference})
    data = LitDataModule(points(POINTS, rng), points(500, rng), whole, whole, batch_size=None, shuffle=False)
    fitted, tested = problems(MLP(2, 1, nonlin=nn.Tanh, hsizes=[32] * 4))
    adam, lbfgs = (10, 2) if quick else (ADAM, LBFGS)
    steps(fitted, data, "Adam", adam, lr=3e-3, scheduler="CosineAnnealingLR", scheduler_args={"T_max": adam})
    options = {"max_iter": 50, "history_size": 50, "line_search_fn": "strong_wolfe", "tolerance_change": 0}
    return steps(fitted, data, "LBFGS", lbfgs, lr=1.0, optimizer_args=options), fitted, tested, data


def main():
    """Fit the network, test it, print its error and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0, help="of the points and of the network")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    start = time.process_time()
    trainer, fitted, tested, data = fit(args.seed, args.quick)
    print(f"fitted in {time.process_time() - start:.0f} s of CPU time")
    (unseen,) = trainer.validate(LitProblem(fitted), data, verbose=False)
    (told,) = trainer.test(LitProblem(tested), data, verbose=False)
    (predicted,) = trainer.predict(LitProblem(tested), data)
    print(f"equation at unseen points, root mean square: {unseen['val_equation'] ** 0.5:.4f}")
    print(f"relative error to the Cole-Hopf integral: {told['test_error']:.2%}")
    draw(args.out.resolve() / "burgers.png", *(predicted[key].numpy().reshape(SHAPE) for key in SHOWN))


if __name__ == "__main__":
    main()
