"""What stands behind a NaN or an infinity in a fit: the term, the first key that holds it, the samples, the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import NonFiniteError
from slimgraph.problem import Problem
from slimgraph.problem.reach import parameters_of

AGGREGATES = ("loss", "objective_loss", "penalty_loss", "reg_loss")
KEYS = 3
"""How many keys a message names."""


def named_parameters(problem: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by the name that messages give it: in a Problem that of its node and its place there."""
    return parameters_of(problem) if isinstance(problem, Problem) else dict(problem.named_parameters())


@torch.no_grad()
def explained(
    problem: nn.Module,
    terms: Mapping[str, float],
    batch: Mapping[str, Any],
    output: Mapping[str, Any],
    prefix: str,
    where: str,
) -> NonFiniteError:
    """The error for `terms`, some of them not finite, by the `output` of `batch`, whose keys begin with `prefix`."""
    output = {key.removeprefix(prefix): value for key, value in output.items()}
    wrong = {term: value for term, value in terms.items() if not abs(value) < float("inf")}
    # A sum is not to blame for its parts.
    parts = [term for term in wrong if term not in AGGREGATES] or [term for term in wrong if term != "loss"]
    named = {term: wrong[term] for term in parts or wrong}
    what = ", ".join(f"{term!r} is {value}" for term, value in named.items())
    return NonFiniteError(f"{what} in {where}; {_cause(problem, named, batch, output)}")


def refuse_parameters(problem: nn.Module, where: str) -> None:
    """Raises NonFiniteError where a parameter holds a NaN or an infinity."""
    if cause := _parameters(problem):
        raise NonFiniteError(f"{where}: {cause}")


def _cause(problem: nn.Module, terms: Mapping[str, float], batch: Mapping[str, Any], output: Mapping[str, Any]) -> str:
    if cause := _parameters(problem):
        return cause
    found = [f"{who}, in {which}" for who, which in _keys(problem, batch, output)]
    if found:
        more = f" and {len(found) - KEYS} keys more" if len(found) > KEYS else ""
        return (
            f"not finite are, in the order in which they come about, {'; '.join(found[:KEYS])}{more}. Look at these"
            " samples (problem.check(data) looks at all), bound what the node reads, or lower lr"
        )
    if "reg_loss" in terms and isinstance(problem, Problem):
        maps = [name for name, error in problem.reg_errors().items() if not torch.isfinite(error)]
        return f"the reg_error of {', '.join(map(repr, maps))} is not finite; lower lr or bound the map"
    read = [key for term, name in _terms_of(problem) if name in terms for key in term.keys]
    ranges = [f"{key!r} from {low:.4g} to {high:.4g}" for key, low, high in _ranges(read, output)]
    return (
        f"every key is finite ({', '.join(ranges)}), so it comes about within the term: a log, a root, a division or an"
        " overflow; bound what it is taken of, or lower lr"
    )


def _parameters(problem: nn.Module) -> str:
    wrong = [repr(name) for name, p in named_parameters(problem).items() if not torch.isfinite(p).all()]
    if not wrong:
        return ""
    more = f" and {len(wrong) - KEYS} more" if len(wrong) > KEYS else ""
    return (
        f"parameter {', '.join(wrong[:KEYS])}{more} is not finite since the step before, whose loss was: its gradient"
        " was not, as that of a root, a norm or a division at 0, or the step overflowed."
        " Trainer(detect_anomaly=True) names the operation; lower lr, or clip"
    )


def _keys(problem: nn.Module, batch: Mapping[str, Any], output: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What holds a NaN or an infinity, the data first, then by run order, with the samples that do."""
    named = [(f"{key!r} of the batch", value) for key, value in batch.items()]
    if isinstance(problem, Problem):
        for label, node in zip(problem.labels, problem.run_order, strict=True):
            named += [(f"{key!r} of node {label!r}", output.get(key)) for key in node.output_keys]
    for who, value in named:
        if which := _samples(value):
            yield who, which


def _samples(value: Any) -> str:
    """Which samples of `value` are not finite, and what they hold; nothing where all are."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return ""
    wrong = ~torch.isfinite(value)
    if not wrong.any():
        return ""
    what = "NaN" if value[wrong].isnan().any() else "an infinity"
    if not value.ndim:
        return f"its one number ({what})"
    rows = wrong.reshape(len(value), -1).any(1)
    return f"{int(rows.sum())} of {len(rows)} samples ({what}, first in sample {int(rows.nonzero()[0])} of the batch)"


def _terms_of(problem: nn.Module) -> list[tuple[Any, str]]:
    return list(zip(problem.loss.terms, problem.loss.names(), strict=True)) if isinstance(problem, Problem) else []


def _ranges(keys: list[str], output: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    for key in dict.fromkeys(keys):
        value = output.get(key)
        if isinstance(value, Tensor) and value.numel() and not value.is_complex():
            yield key, value.min().item(), value.max().item()
