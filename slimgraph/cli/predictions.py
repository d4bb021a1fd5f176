"""What `slimgraph predict` found, as one set of samples, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.errors import MissingFileError, OptionError, did_you_mean


class Predictions:
    """What the nodes of a problem read and write for each sample, in the units of its normaliser where it has one.

    `values` are tensors `(samples, ...)` by key; the terms of the loss, which are means over a batch, are left out.
    """

    ENDINGS = (".npz", ".pt")

    def __init__(self, problem: Any, batches: Sequence[Mapping[str, Any]]):
        keys = [*problem.input_keys, *(key for node in problem.nodes for key in node.output_keys)]
        first = batches[0] if batches else {}
        found = [key for key in dict.fromkeys(keys) if isinstance(first.get(key), Tensor) and first[key].ndim]
        values = {key: torch.cat([batch[key] for batch in batches]).cpu() for key in found}
        self.values: dict[str, Tensor] = problem.normalizer.inverse(values) if problem.normalizer else values

    def __str__(self) -> str:
        samples = max((len(value) for value in self.values.values()), default=0)
        return f"{samples} samples of {', '.join(f'{key} {tuple(v.shape[1:])}' for key, v in self.values.items())}"

    def save(self, path: str) -> None:
        """Writes them as numpy's `.npz`, or as a dict of tensors, `.pt`."""
        if Path(path).suffix.lower() == ".pt":
            torch.save(self.values, path)
        else:
            # numpy knows no bfloat16.
            arrays: Any = {key: v.float() if v.dtype == torch.bfloat16 else v for key, v in self.values.items()}
            with open(path, "wb") as file:
                # Given a path, numpy would add its own ending to another spelling of it.
                np.savez(file, **arrays)


def refuse_path(path: str, endings: Sequence[str]) -> None:
    """Raises an error for a file that could not be written, before anything is computed for it."""
    ending = Path(path).suffix
    if ending.lower() not in endings:
        raise OptionError(f"--output {path!r}: the ending is {' or '.join(endings)}.{did_you_mean(ending, endings)}")
    if not Path(path).parent.is_dir():
        raise MissingFileError(f"--output {path!r}: there is no folder {str(Path(path).parent)!r}")
