"""Roll-outs and problem steps against the loops and steps that one would write by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Work, held_memory, row
from slimgraph import Node, PenaltyLoss, Problem, System, variable

BATCH = 64


def closed_loop() -> tuple[nn.Module, nn.Module, nn.Module]:
    """A policy of two layers and linear dynamics that stay bounded."""
    policy = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
    A, B = nn.Linear(4, 4, bias=False), nn.Linear(2, 4, bias=False)
    with torch.no_grad():
        A.weight.copy_(0.9 * torch.eye(4))
    return policy, A, B


def roll_out(nsteps: int) -> tuple[Work, Work]:
    """`System` and the loop by hand, forward and backward."""
    policy, A, B = closed_loop()
    act, move = lambda x, r: policy(torch.cat([x, r], -1)), lambda x, u: A(x) + B(u)
    nodes = [Node(act, ["x", "r"], ["u"], name="policy"), Node(move, ["x", "u"], ["x"], name="dynamics")]
    system = System(nodes, nstep_key="r")
    data = {"x": torch.randn(BATCH, 1, 4), "r": torch.randn(BATCH, nsteps, 2)}

    def backward(x: Tensor, u: Tensor) -> None:
        (x.square().mean() + u.square().mean()).backward()

    def ours() -> None:
        result = system(data)
        backward(result["x"], result["u"])

    def by_hand() -> None:
        x = data["x"][:, 0]
        states, actions = [x], []
        for r in data["r"].unbind(1):
            u = act(x, r)
            x = move(x, u)
            states.append(x)
            actions.append(u)
        backward(torch.stack(states, 1), torch.stack(actions, 1))

    return ours, by_hand


@row("System T=1000, policy and dynamics, batch 64 / the loop by hand", at_most=1.05)
def _() -> tuple[Work, Work]:
    return roll_out(1000)


@row("System T=4000 / T=1000", at_most=4.4)
def _() -> tuple[Work, Work]:
    return roll_out(4000)[0], roll_out(1000)[0]


def lossy(nsteps: int, **options: Any) -> Work:
    """A loss that holds on to nothing but what its backward pass needs; options of System."""
    policy, A, B = closed_loop()
    act, move = lambda x, r: policy(torch.cat([x, r], -1)), lambda x, u: A(x) + B(u)
    nodes = [Node(act, ["x", "r"], ["u"], name="policy"), Node(move, ["x", "u"], ["x"], name="dynamics")]
    system = System(nodes, nstep_key="r", **options)
    data = {"x": torch.randn(BATCH, 1, 4), "r": torch.randn(BATCH, nsteps, 2)}
    return lambda: system(data)["x"].sum()


@row("System T=10000 / T=5000, held for the backward pass", at_most=2.1, cost=held_memory)
def _() -> tuple[Work, Work]:
    return lossy(10_000), lossy(5000)


@row("System T=10000, checkpoint_every=100 / without, held for the backward pass", at_most=0.1, cost=held_memory)
def _() -> tuple[Work, Work]:
    return lossy(10_000, checkpoint_every=100), lossy(10_000)


@row("System T=1000, checkpoint_every=100 / without, forward and backward", at_most=2)
def _() -> tuple[Work, Work]:
    recomputed, stored = lossy(1000, checkpoint_every=100), lossy(1000)
    return lambda: recomputed().backward(), lambda: stored().backward()


@row("System T=51, compiled 10 steps at a time / as it is", at_most=1)
def _() -> tuple[Work, Work]:
    (compiled, system), (stored, _) = pendulum(51), pendulum(51)
    system.compile(10)
    return compiled, stored


def pendulum(nsteps: int) -> tuple[Work, System]:
    """Forward and backward of a controlled pendulum: many small functions a step."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def swing(x: Tensor, u: Tensor) -> Tensor:
        angle, speed = x.unbind(-1)
        speed = speed + 0.05 * (u[:, 0] - torch.sin(angle) - 0.1 * speed)
        return torch.stack([angle + 0.05 * speed, speed], -1)

    system = System([Node(policy, ["x"], ["u"]), Node(swing, ["x", "u"], ["x"])], nsteps=nsteps)
    x = torch.randn(BATCH, 1, 2)
    return lambda: system({"x": x})["x"].square().mean().backward(), system


@row("Problem step, 3 nodes, 4 terms, batch 256, with Adam / the step by hand", at_most=1.1)
def _() -> tuple[Work, Work]:
    def net(insize: int, outsize: int) -> nn.Module:
        return nn.Sequential(nn.Linear(insize, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outsize))

    encode, look, act = net(8, 8), net(8, 8), net(16, 4)
    data = {"a": torch.randn(256, 8), "b": torch.randn(256, 8), "t": torch.randn(256, 4)}
    y, t, h = variable("y"), variable("t"), variable("h")
    nodes = [
        Node(encode, ["a"], ["h"], name="encode"),
        Node(look, ["b"], ["g"], name="look"),
        Node(lambda h, g: act(torch.cat([h, g], -1)), ["h", "g"], ["y"], name="act"),
    ]
    objectives = [((y - t) ** 2).minimize(name="fit"), (h**2).minimize(weight=0.1, name="small")]
    problem = Problem(nodes, PenaltyLoss(objectives, [y <= 1.0, 10 * (y >= -1.0)]))
    parameters = [*encode.parameters(), *look.parameters(), *act.parameters()]
    optimizer = torch.optim.Adam(parameters)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def by_hand() -> None:
        h, g = encode(data["a"]), look(data["b"])
        y = act(torch.cat([h, g], -1))
        fit, small = ((y - data["t"]) ** 2).mean(), 0.1 * (h**2).mean()
        step(fit + small + (torch.relu(y - 1.0).mean() + 10 * torch.relu(-1.0 - y).mean()))

    return lambda: step(problem(data)["loss"]), by_hand
