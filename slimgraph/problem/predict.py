"""predict: what the nodes give for new data, in the units of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.node import describe
from slimgraph.node.keys import check_tensors


def predict(problem: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What `Problem.predict` does."""
    if not isinstance(data, Mapping):
        raise OptionError(f"predict takes a dict of tensors; got {describe(data)}")
    for node in problem.nodes:
        check_tensors(node, data)
    inputs = {key: _normalized(problem, key, value) for key, value in data.items()}
    with evaluation(problem), torch.inference_mode(False), torch.set_grad_enabled(problem.grad_inference):
        inputs = {key: v.clone() if isinstance(v, Tensor) and v.is_inference() else v for key, v in inputs.items()}
        output = problem.step(inputs, only_nodes=True)
    written = {key for node in problem.nodes for key in node.output_keys}
    found = {key: output[key].detach() for key in output if key in written}
    # What the nodes only read comes back as it was given, to the last digit.
    return {**data, **(problem.normalizer.inverse(found) if problem.normalizer else found)}


def _normalized(problem: Any, key: str, value: Any) -> Any:
    if problem.normalizer is None or not isinstance(value, Tensor):
        return value
    return problem.normalizer({key: value})[key]


@contextmanager
def evaluation(problem: nn.Module) -> Iterator[None]:
    """Inside, the problem is in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    training = [module for module in problem.modules() if module.training]
    problem.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
