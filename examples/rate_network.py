"""Rate neurons with an orthogonal recurrence that are asked for a sine, once, and go on with it by themselves.

A cue of 0.1 s says the phase, a constant the frequency, 1 to 3 Hz. Fitted to sines of 1.5 s, the network is tested on
frequencies and phases that it has not seen, and then run by its clock for three times as long.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import lightning
import torch
from rate_network_sines import CUE, DT, SECONDS, TEST, TRAIN, nearest, relative, sines

from slimgraph import Node, PenaltyLoss, Problem, variable
from slimgraph.modules import Linear, Rate, Sequential, TSContinuous
from slimgraph.training import FitProgress, LitDataModule, LitProblem

NEURONS = 64


def steep(x):
    """Slope 1.2 at zero: a leaky neuron loses what an orthogonal matrix only turns."""
    return torch.tanh(1.2 * x)


def network():
    """From what is asked to the sine."""
    rates = Rate(NEURONS, tau=2 * DT, weight_map="orthogonal", activation_func=steep, dt=DT)
    rates.tau.requires_grad_(False)  # the steps of Adam that suit the weights are too long for 20 ms
    return Sequential({"asked": Linear((3, NEURONS)), "rates": rates, "sine": Linear((NEURONS, 1))})


def make_problem(net):
    """The network, and how far it is from the sine that was wanted."""
    error = ((variable("y") - variable("wanted")) ** 2).minimize(name="error")
    return Problem([Node(net, ["asked"], ["y"], name="network")], PenaltyLoss([error]))


def fit(seed=0, epochs=200):
    """The network, fitted to the sines of that seed."""
    lightning.seed_everything(seed, verbose=False)
    net, (asked, wanted, _) = network(), sines(TRAIN, seed)
    data = LitDataModule({"asked": asked, "wanted": wanted}, batch_size=32)
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress("sines", ("train_loss",))], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    module = LitProblem(make_problem(net), "Adam", 1e-2, "CosineAnnealingLR", scheduler_args={"T_max": epochs})
    trainer.fit(module, data)
    return net


@torch.no_grad()
def show(net, seed, out):
    """Print its errors, on unseen sines and by its clock, and draw it."""
    asked, wanted, _ = sines(TEST, seed + 1)
    print(f"relative RMSE on {TEST} unseen sines: {relative(net(asked)[0], wanted):.1%}")
    print(f"the same of the nearest training sine: {relative(nearest(seed), wanted):.1%}")
    # Two moments, in seconds, say it all: the cue for phase 0, its end. The network reads them at the steps of its dt.
    question = TSContinuous([0.0, CUE], [[1.0, 0.0, 0.2], [0.0, 0.0, 0.2]], t_stop=CUE + 3 * SECONDS)
    sine = net.timed()(question)[0]
    for start in (0.0, SECONDS, 2 * SECONDS):
        t = start + DT * torch.arange(round(SECONDS / DT))
        print(f"2.2 Hz from {start} s on: {relative(sine(CUE + t)[:, 0], torch.sin(4.4 * math.pi * t)):.1%}")
    out.mkdir(parents=True, exist_ok=True)
    for path in (out.resolve() / "rate_network.svg", out.resolve() / "rate_network.png"):
        net.as_graph().draw(path)
        print(f"picture: {path}")


def main():
    """Fit the network, then show it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the pictures go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    show(fit(args.seed, 2 if args.quick else 200), args.seed, args.out)


if __name__ == "__main__":
    main()
