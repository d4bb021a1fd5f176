"""EpochRows: what an augmented Lagrangian is updated with: every sample of every device, of one epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class EpochRows:
    """The values of the constraints of one epoch, by batch: `(samples, entries)`, and each sample's `index`."""

    def __init__(self, batches: Mapping[int, dict[str, Tensor]] | None = None) -> None:
        self.batches = dict(batches or {})

    @classmethod
    def from_ranks(cls, states: Sequence[Mapping[int, dict[str, Tensor]]], rank: int, world: int) -> EpochRows:
        """What `rank` of `world` goes on with after a fit whose ranks left these states.

        Where their number has changed the first rank holds the rows of all, and the others know the batches.

        >>> states = [{0: {"C_values": torch.zeros(2, 1)}}, {0: {"C_values": torch.ones(1, 1)}}]
        >>> [EpochRows.from_ranks(states, 0, 1).batches[0]["C_values"].tolist()]
        [[[0.0], [0.0], [1.0]]]
        >>> [len(EpochRows.from_ranks(states[:1], rank, 2).batches[0]["C_values"]) for rank in (0, 1)]
        [2, 0]
        """
        if len(states) == world:
            return cls(states[rank])
        whole = {
            place: {key: torch.cat([state[place][key] for state in states if place in state]) for key in kept}
            for place, kept in states[0].items()
        }
        if rank:
            whole = {place: {key: rows[:0] for key, rows in kept.items()} for place, kept in whole.items()}
        return cls(whole)

    def keep(self, batch_idx: int, output: Mapping[str, Tensor], prefix: str, counted: int) -> None:
        """Keeps the first `counted` rows of a problem's output, whose keys begin with `prefix`."""
        # By batch: an optimiser that calls the closure several times, as LBFGS, leaves the last call's.
        self.batches[batch_idx] = {
            key: output[prefix + key].detach()[:counted] for key in ("C_values", "index") if prefix + key in output
        }

    def gathered(self, device: torch.device, world: int) -> dict[str, Tensor]:
        """The rows of all batches of all `world` ranks, by key."""
        batches = [self.batches[place] for place in sorted(self.batches)]
        return {key: all_rows([batch[key] for batch in batches], device, world) for key in batches[0]}

    def state(self) -> dict[int, dict[str, Any]]:
        """What a checkpoint holds of it."""
        return {place: {key: rows.cpu() for key, rows in kept.items()} for place, kept in self.batches.items()}


def all_rows(parts: list[Tensor], device: torch.device, world: int) -> Tensor:
    """The rows of every part, rank after rank; a rank may hold fewer than another."""
    mine = torch.cat([part.to(device) for part in parts])
    if world == 1:
        return mine
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    torch.distributed.all_gather(counts, torch.tensor([len(mine)], device=device))
    longest = max(int(n) for n in counts)
    padded = mine.new_zeros((longest, *mine.shape[1:]))
    padded[: len(mine)] = mine
    gathered = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(gathered, padded)
    return torch.cat([rows[: int(n)] for rows, n in zip(gathered, counts, strict=True)])
