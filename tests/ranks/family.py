"""A family of quadratic programmes with known optima, fitted by a loop of one's own, on one rank or several.

python family.py RANK WORLD FOLDER    leaves what that rank reached in FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimgraph import AugmentedLagrangeLoss, DictDataset, Node, Problem, variable

SAMPLES = 12


def data() -> tuple[DictDataset, Tensor, Tensor]:
    """min |x|^2 / 2 - p'x where x_1 + x_2 = 1, for each p: x = p - lambda, lambda = (p_1 + p_2 - 1) / 2."""
    p = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dual = (p.sum(1, keepdim=True) - 1) / 2
    return DictDataset({"p": p}, index=True), p - dual, dual


def make() -> Problem:
    """x is affine in p, as the optima are, so that one policy can be optimal for every sample."""
    torch.manual_seed(0)
    x, p = variable("x"), variable("p")
    objective = torch.sum(0.5 * x**2 - p * x, -1).minimize()
    total = x[:, :1] + x[:, 1:] == 1
    loss = AugmentedLagrangeLoss([objective], [total], range(SAMPLES), mu_init=2.0, mu_max=2.0, per_sample=True)
    return Problem([Node(nn.Linear(2, 2), ["p"], ["x"], name="policy")], loss).double()


def batches(seed: int, size: int, rank: int, world: int) -> list[tuple[Tensor, float]]:
    """What a rank sees of each batch of an epoch, each `world`-th sample, and which share of the batch that is."""
    parts = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(seed)).split(size)
    return [(part[rank::world], len(part[rank::world]) / len(part)) for part in parts]


def gathered(rows: dict[str, Tensor], world: int) -> dict[str, Tensor]:
    """The rows of all ranks."""
    if world == 1:
        return rows
    every: list = [None] * world
    dist.all_gather_object(every, rows)
    return {key: torch.cat([rank[key] for rank in every]) for key in rows}


def fit(problem: Problem, size: int, outer: range = range(12), rank: int = 0, world: int = 1) -> None:
    """Twelve epochs of gradient steps in batches of `size`, all ranks' parts together, before each update."""
    samples, *_ = data()
    parameters = list(problem.parameters())
    for k in outer:
        for mine, share in [part for epoch in range(12) for part in batches(100 * k + epoch, size, rank, world)]:
            slopes = torch.autograd.grad(share * problem(samples[mine])["loss"], parameters)
            flat = torch.cat([slope.flatten() for slope in slopes])
            if world > 1:
                dist.all_reduce(flat)
            nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(parameters).detach() - 0.2 * flat, parameters)
        with torch.no_grad():
            outputs = [problem(samples[mine]) for mine, _ in batches(k, size, rank, world)]
        rows = {key: torch.cat([output[key] for output in outputs]) for key in ("C_values", "index")}
        problem.loss.update(gathered(rows, world))


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    problem = make()
    fit(problem, 7, rank=rank, world=world)
    torch.save(problem.state_dict(), folder / f"family{rank}.pt")
    dist.destroy_process_group()
