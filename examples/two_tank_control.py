"""Two tanks, a pump and a valve: a network learns to follow references through a differentiable model of the tanks.

dx1/dt = c1 (1 - v) p - c2 sqrt(x1), dx2/dt = c1 v p + c2 sqrt(x1) - c2 sqrt(x2), with levels x, pump p and valve v in
[0, 1]. It is trained on its own roll-outs, without a controller to copy; then nonlinear model predictive control by
scipy follows the same references with the same model and cost.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import lightning
import torch
from two_tank_model import closed_loop, cost, make_problem, overshoot, references
from two_tank_mpc import MPC
from two_tank_plots import draw, show

from slimgraph.blocks import MLP_bounds
from slimgraph.problem import Subgraph
from slimgraph.training import FitProgress, LitDataModule, LitProblem

SAMPLES, BATCH, EPOCHS, LR = 640, 64, 300, 5e-3
UNSEEN = 20_000  # the seed of the references that controllers are compared on; fits have the seeds below


def fit(seed=0, epochs=EPOCHS):
    """The problem with the trained policy (x, r) -> (pump, valve)."""
    lightning.seed_everything(seed, verbose=False)
    problem = make_problem(MLP_bounds(4, 2, hsizes=[32, 32], min=0.0, max=1.0))
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress("two tanks", ("train_loss",))], gradient_clip_val=1.0,
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    module = LitProblem(problem, "Adam", LR, "CosineAnnealingLR", scheduler_args={"T_max": epochs})
    trainer.fit(module, LitDataModule(references(SAMPLES, 1, seed), batch_size=BATCH, seed=seed))
    return problem.eval()


class Timed:
    """A controller, and the process time that its calls have taken."""

    def __init__(self, controller):
        self.controller, self.seconds, self.calls = controller, 0.0, 0

    def __call__(self, x, r):
        start = time.process_time()
        u = self.controller(x, r)
        self.seconds, self.calls = self.seconds + time.process_time() - start, self.calls + 1
        return u


@torch.no_grad()
def compare(controllers, data):
    """The closed loop with each controller, a new one for each sample: all series by its name, and rows of a table."""
    runs, rows = {}, []
    for name, make in controllers.items():
        timed = [Timed(make()) for _ in data["x"]]
        each = [closed_loop(one)({"x": x[None], "r": r[None]}) for one, x, r in zip(timed, *data.values(), strict=True)]
        runs[name] = {key: torch.cat([run[key] for run in each]) for key in each[0]}
        total, milliseconds = cost(**runs[name]).sum().item(), 1e3 * sum(one.seconds for one in timed)
        rows.append({"controller": name, "cost": f"{total:.3f}", "violation": f"{overshoot(runs[name]['x']):.1e}"})
        rows[-1]["ms a step"] = f"{milliseconds / sum(one.calls for one in timed):.2f}"
    return runs, rows


def main():
    """Train the policy, compare it with MPC, draw one reference, export the policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the picture and the policy go")
    parser.add_argument("--seed", type=int, default=0, help="of the fit")
    parser.add_argument("--horizon", type=int, default=20, help="of the MPC, in seconds")
    parser.add_argument("--quick", action="store_true", help="a few steps and two references, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    start = time.process_time()
    policy = fit(args.seed, 30 if args.quick else EPOCHS).node("closed loop").node("policy")
    print(f"fitted in {time.process_time() - start:.0f} s of CPU time")
    unseen = references(2 if args.quick else 20, 2, UNSEEN)
    mpc = f"MPC, {args.horizon} s"
    runs, rows = compare({mpc: lambda: MPC(args.horizon), "policy": lambda: policy.callable}, unseen)
    ratio = cost(**runs["policy"]) / cost(**runs[mpc])
    show(rows)
    total = cost(**runs["policy"]).sum() / cost(**runs[mpc]).sum()
    print(f"policy / MPC: {total:.4f}, of single references {ratio.min():.4f} to {ratio.max():.4f}")
    picture, file = args.out.resolve() / "two_tank_control.png", args.out.resolve() / "two_tank_policy.pt2"
    draw(picture, runs)
    Subgraph([policy], ["u"]).export(file, {"x": unseen["x"][:, 0], "r": unseen["r"][:, 0]})
    print(f"picture: {picture}\npolicy: {file}")


if __name__ == "__main__":
    main()
