"""A network of rate neurons with an orthogonal recurrence that is asked for a sine, and goes on by itself.

A cue of 0.1 s says the phase, a constant says the frequency, 1 to 3 Hz. The network is fitted to sines of 1.5 s, tested
on frequencies and phases that it has not seen, and then run by its clock, in seconds, over a change of frequency.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from pathlib import Path

import lightning
import torch

from slimgraph import DictDataset, Node, PenaltyLoss, Problem, variable
from slimgraph.modules import Linear, Rate, Sequential, TSContinuous
from slimgraph.training import FitProgress, LitDataModule, LitProblem

DT, SECONDS, CUE, NEURONS = 0.01, 1.5, 0.1, 64  # seconds a step, of a sine, of the cue before it; neurons
TRAIN, TEST = 128, 256


def steep(x):
    """Slope 2 at zero: without gain an orthogonal recurrence dies away in a leaky neuron."""
    return torch.tanh(2 * x)


def sines(count, seed):
    """Cues and frequencies `(count, time, 3)`, sines `(count, time, 1)`, and what was drawn: Hz and phase."""
    generator = torch.Generator().manual_seed(seed)
    hz, phase = torch.rand(2, count, 1, generator=generator)
    hz, phase = 1 + 2 * hz, 2 * math.pi * phase
    t = DT * torch.arange(round((CUE + SECONDS) / DT)) - CUE
    during = (t < -DT / 2).float()
    asked = [during * torch.cos(phase), during * torch.sin(phase), (hz - 2).expand(-1, len(t))]
    sine = (1 - during) * torch.sin(2 * math.pi * hz * t + phase)
    return torch.stack(asked, -1), sine[..., None], (hz[:, 0], phase[:, 0])


def network():
    """From what is asked to the sine."""
    rates = Rate(NEURONS, tau=5 * DT, weight_map="orthogonal", activation_func=steep, dt=DT)
    return Sequential({"asked": Linear((3, NEURONS)), "rates": rates, "sine": Linear((NEURONS, 1))})


def fit(seed=0, epochs=1500):
    """The network, fitted to the training sines."""
    lightning.seed_everything(seed, verbose=False)
    net = network()
    asked, wanted, _ = sines(TRAIN, seed)
    y, target = variable("y"), variable("target")
    problem = Problem([Node(net, ["asked"], ["y"], name="network")], PenaltyLoss([((y - target) ** 2).minimize(name="fit")]))
    data = LitDataModule(DictDataset({"asked": asked, "target": wanted}), batch_size=None, shuffle=False)
    trainer = lightning.Trainer(
        max_epochs=epochs, callbacks=[FitProgress("sines", ("train_loss",))], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(LitProblem(problem, "Adam", 3e-3, "CosineAnnealingLR", scheduler_args={"T_max": epochs}), data)
    return net


if __name__ == "__main__":
    import sys
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    s=time.process_time()
    net = fit(epochs=int(sys.argv[1]))
    print(time.process_time()-s, net["rates"].tau)
    a,w,_=sines(TEST,1)
    with torch.no_grad(): o=net(a)[0]
    print(((o-w).norm()/w.norm()).item())
