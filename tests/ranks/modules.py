"""Trains every module of module_cases.py on one of two gloo ranks and leaves what it became in a folder.

python modules.py RANK WORLD FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import module_cases as cases


def fit(module: nn.Module, rank: int = 0, world: int = 1) -> None:
    """Three steps on this rank's share of the batch."""
    share = cases.batch().chunk(world)[rank]
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cases.loss(module(share)[0]).backward()
        optimizer.step()


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    found = {}
    for name in cases.CASES:
        module = cases.make(name)
        fit(nn.parallel.DistributedDataParallel(module), rank, world)
        found[name] = module.state_dict()
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
