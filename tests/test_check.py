"""problem.check: mistakes planted into working problems, each found by one message; and what a dry run must not do."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from slimgraph import (
    AugmentedLagrangeLoss,
    BarrierLoss,
    DictDataset,
    MovingHorizon,
    Node,
    PenaltyLoss,
    Problem,
    System,
    slim,
    variable,
)
from slimgraph.errors import (
    CycleError,
    DataError,
    DtypeError,
    ExpressionError,
    MissingKeyError,
    OverwriteError,
    ShapeError,
    SlimgraphError,
    WiringError,
)
from tests.helpers import keys

BATCH = 4


def policy(insize=4, outsize=1):
    """x, r -> u by a network on both."""
    net = nn.Sequential(nn.Linear(insize, 8), nn.Tanh(), nn.Linear(8, outsize))

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, *inputs):
            return self.net(torch.cat(inputs, -1))

    return Policy()


def plant(x, u):
    return 0.9 * x + 0.1 * u.expand_as(x)


def closed_loop(reads=("x", "r"), insize=4, move=plant, net=None, objectives=None, constraints=None, more=()):
    """A policy that steers a plant to r in a roll-out: the working twin of the problems below."""
    net = policy(insize) if net is None else net
    nodes = [Node(net, reads, ["u"], name="policy"), Node(move, ["x", "u"], ["x"], name="plant")]
    loop = System(nodes, name="loop", nstep_key="r")
    x, u, r = variable("x"), variable("u"), variable("r")
    track = ((x[:, 1:] - r) ** 2).minimize(name="track")
    return Problem([loop, *more], PenaltyLoss(objectives or [track], constraints or [u <= 1, x >= -2]))


def tracking():
    return {"x": torch.randn(BATCH, 1, 2), "r": torch.randn(BATCH, 5, 2)}


def regression(net=None, objectives=None, constraints=(), reads=("x",), writes=("y",)):
    """y of x fitted to t: the working twin of the problems without time."""
    net = nn.Linear(3, 1) if net is None else net
    fit = ((variable("y") - variable("t")) ** 2).minimize(name="fit")
    return Problem([Node(net, reads, writes, name="net")], PenaltyLoss(objectives or [fit], [*constraints]))


def points():
    return {"x": torch.randn(BATCH, 3), "t": torch.randn(BATCH, 1)}


def frozen():
    problem = regression()
    problem.freeze()
    return problem


def with_value(data, key, place, value):
    data[key][place] = value
    return data


def on_meta():
    problem = regression()
    problem.nodes.to("meta")
    return problem


def divide(x):
    raise ZeroDivisionError("1 / 0 in the user's own code")


def named(term, name):
    term.name = name
    return term


X, Y, T, U = variable("x"), variable("y"), variable("t"), variable("u")

# What is planted: how the problem is made, its data, the error, and words that its one message must hold.
MISTAKES = {
    "misspelt key in a node": (
        lambda: regression(reads=("xx",)), points, MissingKeyError,
        ["node 'net' reads 'xx'", "['t', 'x']", "Did you mean 'x'?"],
    ),
    "misspelt key in a term": (
        lambda: regression(objectives=[(variable("yy") - T).minimize(name="fit")]), points, MissingKeyError,
        ["objective 'fit' reads 'yy'", "['t', 'x']", "Did you mean 'y'?", "It comes from node 'net'."],
    ),
    "wrong in-size": (
        lambda: regression(nn.Linear(5, 1)), points, RuntimeError,
        ["4x3 and 5x1", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "wrong in-size of a map": (
        lambda: regression(slim.OrthogonalLinear(5, 5)), points, ValueError,
        ["5", "3", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "wrong size of a concatenation": (
        lambda: closed_loop(insize=6), tracking, RuntimeError,
        ["4x4 and 6x8", "in node 'policy', (x, r) -> (u)", "system 'loop'", "x (4, 2) float32, r (4, 2) float32"],
    ),
    "wrong number of outputs": (
        lambda: regression(lambda x: x.split(1, -1)[:2], writes=("y", "z", "w")), points, WiringError,
        ["node 'net' must give 3 tensors for ['y', 'z', 'w']; its callable gave 2"],
    ),
    "(B,) against (B, 1) in an objective": (
        regression, lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["objective 'fit', mean((y - t)^2), reads 'y' (4, 1), 't' (4,)", "(4, 1) against (4,)", "broadcast to (4, 4)"],
    ),
    "(B,) against (B, 1) in a constraint": (
        lambda: regression(objectives=[Y.minimize()], constraints=[named(Y <= T, "cap")]),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["constraint 'cap' compares shapes (4, 1) of ['y'] and (4,) of ['t']"],
    ),
    "(B,) against (B, 1) in one of torch's losses": (
        lambda: regression(objectives=[variable([Y, T], nn.functional.mse_loss).minimize(torch.sum, name="fit")]),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["objective 'fit'", "'y' (4, 1), 't' (4,)", "target size (torch.Size([4]))", "input size (torch.Size([4, 1]))"],
    ),
    "(B,) against (B, 1) between a node's inputs": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["y"], name="net"), Node(torch.sub, ["y", "t"], ["e"], name="error")],
            PenaltyLoss([variable("e").minimize()]),
        ),
        lambda: {**points(), "t": torch.randn(BATCH)}, ShapeError,
        ["node 'error', reads 'y' (4, 1), 't' (4,)", "broadcast to (4, 4)"],
    ),
    "float64 data with a float32 net": (
        regression, lambda: {key: value.double() for key, value in points().items()}, DtypeError,
        ["node 'net' reads 'x', (4, 3) float64, and its parameter 'weight', (1, 3) float32"],
    ),
    "a float64 target": (
        regression, lambda: {**points(), "t": points()["t"].double()}, DtypeError,
        ["objective 'fit', mean((y - t)^2), reads 'y', (4, 1) float32, and 't', (4, 1) float64"],
    ),
    "integers where a net needs numbers with a point": (
        regression, lambda: {**points(), "x": torch.ones(BATCH, 3, dtype=torch.int64)}, RuntimeError,
        ["dtype", "in node 'net', (x) -> (y), called with x (4, 3) int64"],
    ),
    "a NaN": (
        regression, lambda: with_value(points(), "x", (2, 1), float("nan")), DataError,
        ["the batch: 'x' holds NaN in row 2, column 1"],
    ),
    "an infinity in a series": (
        closed_loop, lambda: with_value(tracking(), "r", (3, 1, 0), float("inf")), DataError,
        ["the batch: 'r' holds an infinite value in row 3, step 1, column 0"],
    ),
    "different batch sizes": (
        regression, lambda: {**points(), "t": torch.randn(7, 1)}, DataError,
        ["4 samples of 'x', (4, 3) float32, and 7 of 't', (7, 1) float32"],
    ),
    "a start without an axis of time": (
        closed_loop, lambda: {**tracking(), "x": torch.randn(BATCH, 2)}, ShapeError,
        ["system 'loop' produces 'x' itself", "got (4, 2)", "Write data['x'][:, None]"],
    ),
    "a series that is too short": (
        lambda: closed_loop(reads=("x", "r", "d"), insize=5),
        lambda: {**tracking(), "d": torch.randn(BATCH, 3, 1)}, ShapeError,
        ["system 'loop' runs 5 steps, but 'd' of shape (4, 3, 1) has 3 entries"],
    ),
    "a flat series in a System without a name": (
        lambda: Problem([System([Node(nn.Linear(2, 2), ["x"], ["x"], name="f")], nstep_key="r")], PenaltyLoss([X.minimize()])),
        lambda: {**tracking(), "r": torch.randn(BATCH, 5)}, ShapeError,
        ["counts its steps on 'r', (batch, time, features); got (4, 5)", "in node 'node_1'"],
    ),
    "a parameter that no term reaches": (
        lambda: closed_loop(more=[Node(nn.Linear(2, 1), ["x"], ["v"], name="value")]), tracking, WiringError,
        ["no term of the loss reaches 'value.weight', 'value.bias'", "`ddp`", "The terms read ['r', 'u', 'x']"],
    ),
    "nothing trainable": (
        frozen, points, WiringError,
        ["no trainable parameter: all 2 are frozen, 'net.weight', 'net.bias'", "problem.unfreeze()"],
    ),
    "a loss cut off from the net": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["h"], name="net"), Node(torch.detach, ["h"], ["y"], name="cut")],
            PenaltyLoss([named(Y.minimize(), "size")]),
        ), points, WiringError,
        ["the loss of ['size'] depends on no trainable parameter; these are 'net.weight', 'net.bias'", "detach"],
    ),
    "a term that is constant": (
        lambda: regression(constraints=[named(T <= X, "cap"), Y <= 1]), points, WiringError,
        ["constraint 'cap', t <= x, is constant in training: it reads ['t', 'x']"],
    ),
    "a term that is no scalar": (
        lambda: regression(objectives=[Y.minimize(torch.square, name="size")]), points, ExpressionError,
        ["objective 'size'", "'square' gives shape (4, 1)"],
    ),
    "a cycle": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["u"], ["y"], name="a"), Node(nn.Linear(1, 3), ["y"], ["u"], name="b")],
            PenaltyLoss([Y.minimize()]),
        ), points, CycleError,
        ["a -(y)-> b -(u)-> a", "System"],
    ),
    "a string in the data": (
        regression, lambda: {**points(), "house": "north"}, DtypeError,
        ["the batch: 'house' is no tensor but str: 'north'"],
    ),
    "an array in the data": (
        regression, lambda: {**points(), "t": np.zeros((BATCH, 1))}, DtypeError,
        ["the batch: 't' is no tensor but ndarray", "torch.as_tensor"],
    ),
    "an empty batch": (
        regression, lambda: {key: value[:0] for key, value in points().items()}, DataError,
        ["the batch: 'x', (0, 3) float32, holds no sample"],
    ),
    "two devices": (
        on_meta, points, DataError,
        ["'x' of the data is on cpu, parameter 'net.weight' on meta"],
    ),
    "a function that returns None": (
        lambda: regression(lambda x: None), points, WiringError,
        ["node 'net' must give tensors for ['y']; its callable gave NoneType: None"],
    ),
    "a tuple with a None": (
        lambda: regression(lambda x: (x, None), writes=("y", "z")), points, WiringError,
        ["node 'net' must give a tensor for 'z'; its callable gave NoneType"],
    ),
    "a callable that raises": (
        lambda: regression(divide), points, ZeroDivisionError,
        ["1 / 0 in the user's own code", "in node 'net', (x) -> (y), called with x (4, 3) float32"],
    ),
    "a callable that raises inside a roll-out": (
        lambda: closed_loop(move=lambda x, u: divide(x)), tracking, ZeroDivisionError,
        ["1 / 0", "in node 'plant'", "at step 0 of 5 of system 'loop'", "x (4, 2) float32, u (4, 1) float32"],
    ),
    "data that a node overwrites": (
        regression, lambda: {**points(), "y": torch.randn(BATCH, 1)}, OverwriteError,
        ["key 'y' of the data is overwritten by node 'net' before anything reads it"],
    ),
    "two nodes that write one key": (
        lambda: Problem(
            [Node(nn.Linear(3, 1), ["x"], ["y"], name="a"), Node(nn.Linear(3, 1), ["x"], ["y"], name="b")],
            PenaltyLoss([Y.minimize()]),
        ), points, OverwriteError,
        ["key 'y' of node 'a' is overwritten by node 'b'"],
    ),
    "samples of different shapes": (
        regression, lambda: [{"x": torch.zeros(3), "t": torch.zeros(1)}, {"x": torch.zeros(2), "t": torch.zeros(1)}],
        DataError, ["'x' is (3,) float32 in sample 0, (2,) float32 in sample 1"],
    ),
    "a sample without a key": (
        regression, lambda: [{"x": torch.zeros(3), "t": torch.zeros(1)}, {"x": torch.zeros(3)}],
        DataError, ["sample 0 holds 't', sample 1 does not"],
    ),
}  # fmt: skip


def check(make, data, **options):
    return make().check(data(), **options)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found_by_one_message(mistake):
    make, data, kind, words = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        check(make, data)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    assert not [word for word in words if word not in text], text
    assert text.count("in node") <= 1 and text.count("would broadcast") <= 1


@pytest.mark.parametrize("make", [closed_loop, regression])
def test_the_problems_without_a_mistake_pass(make):
    data = tracking() if make is closed_loop else points()
    run = make().check(data)
    assert not [note for note in run.notes if "real samples" in note]
