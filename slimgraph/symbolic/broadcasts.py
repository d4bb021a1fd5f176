"""The classic slip: `(y - t)**2` of y `(batch, 1)` and t `(batch,)` is `(batch, batch)`, every sample with every other.

torch allows it, so an expression, whose value is torch's, gives it with a warning. A constraint refuses it.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SIGNS: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.pow: "**",
    torch.sub: "-",
    torch.add: "+",
    torch.mul: "*",
    torch.div: "/",
    torch.maximum: "with",
    torch.minimum: "with",
}


def widens_the_batch(left: Any, right: Any) -> bool:
    """Whether both have the batch's axis, but at different places once their shapes are aligned."""
    return (
        isinstance(left, Tensor)
        and isinstance(right, Tensor)
        and left.ndim != right.ndim
        and left.ndim * right.ndim > 0
        and left.shape[0] == right.shape[0]
    )


def warn_of_broadcast(sign: str, left: Any, right: Any, keys: tuple[Any, Any]) -> None:
    """Warns where `left sign right`, which read those keys, would pair every sample with every other."""
    if widens_the_batch(left, right):
        warnings.warn(
            f"an expression takes {tuple(left.shape)} of {list(keys[0])} {sign} {tuple(right.shape)} of "
            f"{list(keys[1])}, which broadcasts one batch along another axis. Give both the same axes, as by "
            "t[:, None]; where every sample meets every other on purpose, write a[:, None] - b[None]",
            stacklevel=2,
        )
