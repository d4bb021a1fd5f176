"""The model of examples/long_memory.py: a layer that reads each step, a recurrence, a layer that reads its states."""

from __future__ import annotations

import torch
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, slim
from slimgraph.symbolic import Loss

# A linear recurrence keeps or forgets as its map does, and nothing else fades.
NONLINEARITIES = {"identity": nn.Identity, "tanh": torch.tanh, "relu": torch.relu}


class States(nn.Module):
    """The states of a recurrence `(batch, time, hidden)`, or the last of them alone, `(batch, hidden)`."""

    def __init__(self, rnn, every_step):
        super().__init__()
        self.rnn, self.every_step = rnn, every_step

    def forward(self, x):
        states = self.rnn(x)[0]
        return states if self.every_step else states[:, -1]


def make_problem(task, recipe, cell="RNN", hidden_map="orthogonal", nonlin="identity"):
    """Encoder, recurrence and decoder as nodes, and the task's own loss."""
    features = task.inputs.shape[-1]
    width = recipe.encoder or features
    encoder = nn.Sequential(slim.Linear(features, width, bias=True), nn.ReLU()) if recipe.encoder else nn.Identity()
    options = {"hidden_map": hidden_map}
    if cell == "RNN":
        options["nonlin"] = NONLINEARITIES[nonlin]
    if slim.maps[hidden_map] is slim.OrthogonalLinear:
        # Of even size and determinant -1 it has the eigenvalues 1 and -1: one number can be kept for ever.
        options["hidden_args"] = {"det": -1}
    rnn = getattr(slim, cell)(width, recipe.hidden, cell_args=options, batch_first=True)
    every_step = task.targets.shape[1:2] == task.inputs.shape[1:2]
    decoder = slim.Linear(recipe.decoder or recipe.hidden, task.outputs, bias=True)
    if recipe.decoder:
        first = slim.Linear(recipe.hidden, recipe.decoder, bias=True)
        decoder = nn.Sequential(first, nn.ReLU(), nn.Dropout(recipe.dropout), decoder)
    nodes = [
        Node(encoder, ["x"], ["e"], name="encoder"),
        Node(States(rnn, every_step), ["e"], ["h"], name="recurrence"),
        Node(decoder, ["h"], ["y"], name="decoder"),
    ]
    return Problem(nodes, PenaltyLoss([Loss(["y", "target"], task.loss, name="fit")]))
