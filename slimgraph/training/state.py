"""What a fit keeps between steps: means of the terms over an epoch, and the state of the random generators."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Means:
    """Means over samples of several terms at once: one addition per step, one look at the numbers per epoch."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, values: Tensor, count: int) -> None:
        """Adds `values` `(terms,)`, each the mean over `count` samples."""
        if self.sums is None:
            self.sums = torch.zeros_like(values, dtype=_widest(values.device))
        elif self.sums.device != values.device:
            # A checkpoint is read before the model is on its device.
            self.sums = self.sums.to(values.device, _widest(values.device))
        self.sums.add_(values, alpha=count)
        self.count += count

    def totals(self) -> Tensor:
        """The sums and, last, the number of samples, `(terms + 1,)`: what ranks add up."""
        sums = self.sums if self.sums is not None else torch.zeros(0)
        return torch.cat([sums, sums.new_full((1,), self.count)])

    def state(self) -> dict[str, Any]:
        return {"sums": None if self.sums is None else self.sums.tolist(), "count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Means:
        means = cls()
        means.count = state["count"]
        means.sums = None if state["sums"] is None else torch.tensor(state["sums"], dtype=torch.float64)
        return means


def loader_suffix(dataloader_idx: int) -> str:
    """What Lightning puts behind the name of a metric of this loader; the first of several keeps the plain name.

    >>> loader_suffix(0), loader_suffix(2)
    ('', '/dataloader_idx_2')
    """
    return f"/dataloader_idx_{dataloader_idx}" if dataloader_idx else ""


def named_means(
    means: Mapping[str, Means], stage: str, terms: list[str], reduce: Callable[..., Any] | None
) -> dict[str, Tensor]:
    """The means of a stage by the names of the log; `means` goes by stage and `loader_suffix`.

    `reduce(tensor, reduce_op="sum")` adds up over all ranks, once for all loaders; None is for one rank.

    >>> means = {"val": Means(), "val/dataloader_idx_1": Means()}
    >>> means["val"].add(torch.tensor([1.0]), 2)
    >>> means["val/dataloader_idx_1"].add(torch.tensor([3.0]), 1)
    >>> {name: mean.item() for name, mean in named_means(means, "val", ["loss"], None).items()}
    {'val_loss': 1.0, 'dev_loss': 1.0, 'val_loss/dataloader_idx_1': 3.0, 'dev_loss/dataloader_idx_1': 3.0}
    """
    held = {key: kept for key, kept in means.items() if key.partition("/")[0] == stage and kept.sums is not None}
    if not held:
        return {}
    totals = torch.stack([kept.totals() for kept in held.values()])
    totals = totals if reduce is None else reduce(totals, reduce_op="sum")
    named = {}
    for key, (*sums, count) in zip(held, totals, strict=True):
        suffix = key.removeprefix(stage)
        named |= {f"{stage}_{term}{suffix}": total / count for term, total in zip(terms, sums, strict=True)}
        if stage == "val":
            named["dev_loss" + suffix] = named["val_loss" + suffix]
    return named


def _widest(device: torch.device) -> torch.dtype:
    # MPS has no float64.
    return torch.float32 if device.type == "mps" else torch.float64


def random_state() -> dict[str, Any]:
    """The state of every global generator, in types that load under `weights_only=True`."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))
