"""The task of examples/rate_network.py: sines of a frequency and a phase that are asked for, and the baseline."""

from __future__ import annotations

import math

import torch

DT, CUE, SECONDS = 0.01, 0.1, 1.5  # a step, the cue, and the sine behind it, in s
TRAIN, TEST = 256, 256


def sines(count, seed):
    """What is asked `(count, time, 3)`, the sines `(count, time, 1)`, and what was drawn for them, Hz and phase."""
    hz, phase = torch.rand(2, count, 1, generator=torch.Generator().manual_seed(seed))
    hz, phase = 1 + 2 * hz, 2 * math.pi * phase
    t = DT * torch.arange(round((CUE + SECONDS) / DT)) - CUE
    cue = (t < -DT / 2).float()
    asked = torch.stack([cue * torch.cos(phase), cue * torch.sin(phase), (hz - 2).expand(-1, len(t))], -1)
    return asked, ((1 - cue) * torch.sin(2 * math.pi * hz * t + phase))[..., None], (hz[:, 0], phase[:, 0])


def relative(told, wanted):
    """The RMSE by that of the sines themselves, which is what silence has."""
    return (told - wanted).norm().item() / wanted.norm().item()


def nearest(seed):
    """The baseline: for each test the training sine of the nearest frequency and phase."""
    (_, known, had), (_, _, drawn) = sines(TRAIN, seed), sines(TEST, seed + 1)
    places = [torch.stack([math.pi * SECONDS * hz, phi.cos(), phi.sin()], -1) for hz, phi in (drawn, had)]
    return known[torch.cdist(*places).argmin(1)]
