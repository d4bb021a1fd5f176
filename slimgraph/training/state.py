"""What a fit keeps between steps: means of the terms over an epoch, and the state of the random generators."""

from __future__ import annotations

import random
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
