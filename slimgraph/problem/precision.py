"""Mixed precision: the nodes run under autocast, the terms, multipliers and reg_error in float32."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from slimgraph.slim.linear.functions import at_least_single, under_autocast


def in_single(data: dict[str, Any], held: Iterable[str]) -> tuple[dict[str, Any], AbstractContextManager[Any]]:
    """`data` for the loss, and the context to evaluate it in: under autocast float32 and one without autocast.

    Half precision has three digits: a violation below a hundredth of a bound would be rounded off. The keys in `held`
    stay the tensors that they are.
    """
    device = next((value.device for value in data.values() if isinstance(value, Tensor)), None)
    if device is None or not under_autocast(device):
        return data, nullcontext()
    raised = {
        key: at_least_single(value)
        for key, value in data.items()
        if isinstance(value, Tensor) and value.is_floating_point() and key not in held
    }
    return {**data, **raised}, torch.autocast(device.type, enabled=False)
