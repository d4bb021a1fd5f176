"""What `slimgraph predict` found, as one set of samples, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import MissingFileError, OptionError, did_you_mean

ENDINGS = (".npz", ".pt")


class Predictions:
    """What the nodes of a problem read and write for each sample, in the units of its normaliser where it has one.

    `values` are tensors `(samples, ...)` by key; the terms of the loss, which are means over a batch, are left out.
    """

    def __init__(self, problem: Any, batches: Sequence[Mapping[str, Any]]):
        keys = [*problem.input_keys, *(key for node in problem.nodes for key in node.output_keys)]
        first = batches[0] if batches else {}
        found = [key for key in dict.fromkeys(keys) if isinstance(first.get(key), Tensor) and first[key].ndim]
        values = {key: torch.cat([batch[key] for batch in batches]).cpu() for key in found}
        self.values: dict[str, Tensor] = problem.normalizer.inverse(values) if problem.normalizer else values

    def __str__(self) -> str:
        samples = max((len(value) for value in self.values.values()), default=0)
        return f"{samples} samples of {', '.join(f'{key} {tuple(v.shape[1:])}' for key, v in self.values.items())}"

    @staticmethod
    def refuse(path: str | None, world: int) -> None:
        """Raises an error for a file that `save` could not write, before anything was computed for it."""
        if path is None:
            return
        ending = Path(path).suffix
        if ending not in ENDINGS:
            known = " or ".join(ENDINGS)
            raise OptionError(f"--output {path!r}: predictions take {known}.{did_you_mean(ending, ENDINGS)}")
        if not Path(path).parent.is_dir():
            raise MissingFileError(f"--output {path!r}: there is no folder {str(Path(path).parent)!r}")
        if world > 1:
            raise OptionError(
                f"--output wants all predictions in one process, these come from {world}; add --trainer.devices 1"
            )

    def save(self, path: str) -> None:
        """Writes them as numpy's `.npz`, or as a dict of tensors, `.pt`."""
        if Path(path).suffix == ".pt":
            torch.save(self.values, path)
        else:
            # numpy knows no bfloat16.
            arrays: Any = {key: v.float() if v.dtype == torch.bfloat16 else v for key, v in self.values.items()}
            np.savez(path, **arrays)
