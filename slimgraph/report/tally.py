"""Tally: what batches say of each constraint, kept until a report is asked for; ranks merge theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import OptionError, ShapeError
from slimgraph.report.report import TOLERANCE, ConstraintReport, Report


class Tally:
    """What batches say of each constraint of `loss`, kept until a report is asked for; parts of several ranks merge.

    A sample is known by its place in the data: in a part that `rank` of `world` saw, the i-th is number i * world +
    rank, as a distributed sampler that does not shuffle deals them out. So the merged report does not depend on who
    saw what.
    """

    def __init__(self, loss: Any, rank: int = 0, world: int = 1) -> None:
        self.loss, self.rank, self.world = loss, rank, world
        self.samples = 0
        # Per constraint the signed values of each batch, (samples, entries), and its worst sample yet.
        self.values: dict[str, list[Tensor]] = {name: [] for name, _ in self._named()}
        self.worst: dict[str, tuple[float, int, dict[str, Any]]] = {}
        # Per objective the sum of its batch means, each times the batch's samples.
        self.objectives = dict.fromkeys(loss.names()[: len(loss.objectives)], 0.0)

    def _named(self) -> list[tuple[str, Any]]:
        return list(zip(self.loss.names()[len(self.loss.objectives) :], self.loss.constraints, strict=True))

    @torch.no_grad()
    def add(
        self, output: Mapping[str, Tensor], inputs: Mapping[str, Any], samples: int | None = None, prefix: str = ""
    ) -> None:
        """Counts what the problem gave for `inputs`, or the first `samples` rows of it."""
        if samples is None:
            samples = next((len(v) for v in inputs.values() if isinstance(v, Tensor) and v.ndim), 1)
        if not samples:
            return
        for name, constraint in self._named():
            value = output[f"{prefix}{name}_value"].detach().double()
            if not constraint.keys:
                self.values[name] = [value.reshape(1, -1)]
                continue
            # A constraint on the mean of a batch has one row in each.
            rows = value[:samples].flatten(1) if value.ndim > 1 else value.reshape(-1, 1)[:samples]
            if not rows.numel():
                raise ShapeError(f"constraint {name!r}, {constraint}, has no entries: shape {tuple(value.shape)}")
            self._keep_worst(name, constraint.comparator.violation(rows).amax(1), inputs)
            self.values[name].append(rows)
        for name in self.objectives:
            self.objectives[name] += samples * output[f"{prefix}{name}"].item()
        self.samples += samples

    def _keep_worst(self, name: str, violations: Tensor, inputs: Mapping[str, Any]) -> None:
        place = int(violations.argmax())
        violation = violations[place].item()
        # NaN is worse than any number.
        violation = math.inf if math.isnan(violation) else violation
        if violation > 0 and (name not in self.worst or violation > self.worst[name][0]):
            number = (sum(map(len, self.values[name])) + place) * self.world + self.rank
            tensors = {key: v for key, v in inputs.items() if isinstance(v, Tensor) and v.ndim and len(v) > place}
            self.worst[name] = violation, number, {key: v[place].tolist() for key, v in tensors.items()}

    def part(self) -> dict[str, Any]:
        """What another rank needs of this one, on the CPU."""
        values = {name: torch.cat(pieces).cpu() if pieces else None for name, pieces in self.values.items()}
        return {
            "rank": self.rank,
            "samples": self.samples,
            "values": values,
            "worst": self.worst,
            "objectives": self.objectives,
        }

    def report(
        self,
        reg_errors: Mapping[str, Tensor],
        tolerance: float = TOLERANCE,
        parts: Sequence[Mapping[str, Any]] | None = None,
    ) -> Report:
        """The report on all batches: of this tally, or of every rank where their `parts` are given.

        Raises OptionError for a tolerance below 0, and where no sample was counted.
        """
        if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= tolerance < math.inf:
            raise OptionError(f"a report needs a finite tolerance >= 0, got {tolerance!r}")
        parts = [self.part()] if parts is None else parts
        total = sum(part["samples"] for part in parts)
        if not total:
            raise OptionError("a report needs at least one sample, the data have none")
        constraints = [self._constraint(name, c, parts, tolerance) for name, c in self._named()]
        objectives = {name: sum(part["objectives"][name] for part in parts) / total for name in self.objectives}
        return Report(constraints, objectives, {name: e.item() for name, e in reg_errors.items()}, tolerance)

    def _constraint(
        self, name: str, constraint: Any, parts: Sequence[Mapping[str, Any]], tolerance: float
    ) -> ConstraintReport:
        values = self._merged(name, constraint, parts)
        violation = constraint.comparator.violation(values)
        kept = violation <= tolerance
        touching = torch.ones_like(kept) if constraint.is_equality else values >= -tolerance
        # Of equal violations the first sample counts, whoever saw it.
        worst = min(
            (part["worst"][name] for part in parts if name in part["worst"]), key=lambda w: (-w[0], w[1]), default=None
        )
        return ConstraintReport(
            name=name,
            text=str(constraint),
            satisfied=kept.all(1).double().mean().item(),
            entries=kept.double().mean().item(),
            max_violation=violation.max().item(),
            mean_violation=violation.mean().item(),
            p95_violation=_quantile(violation.flatten(), 0.95),
            worst_sample=None if worst is None else worst[1],
            worst_inputs=None if worst is None else worst[2],
            active=touching.any(1).double().mean().item(),
            multiplier=self._multiplier(name, parts),
        )

    def _merged(self, name: str, constraint: Any, parts: Sequence[Mapping[str, Any]]) -> Tensor:
        """The values of all parts in the order of the data, so that even the rounding of a sum is that of one rank."""
        held = [part for part in parts if part["values"][name] is not None]
        if not constraint.keys:
            return held[0]["values"][name]
        values = torch.cat([part["values"][name] for part in held])
        numbers = [part["rank"] + len(parts) * torch.arange(len(part["values"][name])) for part in held]
        return values[torch.cat(numbers).argsort()]

    def _multiplier(self, name: str, parts: Sequence[Mapping[str, Any]]) -> float | None:
        multipliers = getattr(self.loss, "multipliers", None)
        part = next(part for part in parts if part["samples"])
        widths = {key: values.shape[1] for key, values in part["values"].items()}
        if multipliers is None or multipliers.shape[-1] != sum(widths.values()):
            return None
        pieces = dict(zip(widths, multipliers.detach().split(list(widths.values()), dim=-1), strict=True))
        own = pieces[name].flatten()
        return own[own.abs().argmax()].item()


def _quantile(entries: Tensor, share: float) -> float:
    # torch.quantile refuses more than 16 million entries.
    ranked = entries.sort().values
    place = share * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], place - low).item()
