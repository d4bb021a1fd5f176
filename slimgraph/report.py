"""Report: what a problem's outputs say of each constraint, objective and regularisation, as a table or as data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

# What a solver in single precision cannot tell from zero.
TOLERANCE = 1e-6
WIDTH = 100


@dataclass(frozen=True)
class ConstraintReport:
    """How well one constraint is kept over a batch; violations in the units of its two sides.

    `satisfied` is the share of samples that keep it in every entry, `entries` the share of entries; `worst_sample`, and
    what the problem reads there, `worst_inputs`, are None where nothing is violated, and for a constraint on trainable
    variables alone, which has no samples. `active` is the share of samples with an entry at the bound or beyond: 1 for
    an equality. `multiplier` is the largest in magnitude of its entries, None without an augmented Lagrangian.
    """

    name: str
    text: str
    satisfied: float
    entries: float
    max_violation: float
    mean_violation: float
    p95_violation: float
    worst_sample: int | None
    worst_inputs: dict[str, Any] | None = None
    active: float = 0.0
    multiplier: float | None = None

    def metrics(self) -> dict[str, float]:
        """Its numbers by the short names under which they are logged."""
        numbers = {
            "satisfied": self.satisfied,
            "max": self.max_violation,
            "mean": self.mean_violation,
            "p95": self.p95_violation,
            "active": self.active,
        }
        return numbers if self.multiplier is None else {**numbers, "multiplier": self.multiplier}


@dataclass(frozen=True)
class Report:
    """`objectives` and `reg_errors` by name, `constraints` in the order of the loss; printing it gives a table.

    An entry is satisfied when its violation is at most `tolerance`, active when it is no further inside than that.

    >>> from slimgraph import Node, PenaltyLoss, Problem, variable
    >>> double = Node(lambda x: 2 * x, ["x"], ["y"], name="double")
    >>> problem = Problem([double], PenaltyLoss([], [variable("y") <= 3.]))
    >>> print(problem.report({"x": torch.tensor([[1.], [2.]])}))
    constraint                satisfied  active       max      mean       p95  worst sample
    constraint_1: y <= 3.0       50.0 %  50.0 %         1       0.5      0.95             1
    <BLANKLINE>
    worst sample      inputs
    1 (constraint_1)  x [2]
    """

    constraints: list[ConstraintReport]
    objectives: dict[str, float] = field(default_factory=dict)
    reg_errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, as JSON takes it."""
        return asdict(self)

    def as_json(self, indent: int | None = None) -> str:
        """Everything as JSON; what is not finite becomes null, for which JSON has no other word."""
        return json.dumps(finite(self.as_dict()), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        blocks = []
        if self.constraints:
            blocks.append(self._constraint_table())
        worst = [
            [f"{c.worst_sample} ({c.name})", ", ".join(f"{key} {_short(v)}" for key, v in c.worst_inputs.items())]
            for c in self.constraints
            if c.worst_inputs
        ]
        if worst:
            blocks.append(table(["worst sample", "inputs"], worst, texts=2))
        for title, values in (("objective", self.objectives), ("reg_error", self.reg_errors)):
            if values:
                blocks.append(table([title, "value"], [[key, f"{v:.6g}"] for key, v in values.items()]))
        return "\n\n".join(blocks)

    def _constraint_table(self) -> str:
        heads = ["constraint", "satisfied", "active", "max", "mean", "p95", "worst sample"]
        with_multipliers = any(c.multiplier is not None for c in self.constraints)
        rows = []
        for c in self.constraints:
            violations = [f"{v:.4g}" for v in (c.max_violation, c.mean_violation, c.p95_violation)]
            worst = "" if c.worst_sample is None else str(c.worst_sample)
            rows.append([label(c), f"{100 * c.satisfied:.1f} %", f"{100 * c.active:.1f} %", *violations, worst])
            if with_multipliers:
                rows[-1].append("" if c.multiplier is None else f"{c.multiplier:.4g}")
        return table([*heads, "multiplier"] if with_multipliers else heads, rows)


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
        """The report on all batches: of this tally, or of every rank where their `parts` are given."""
        parts = [self.part()] if parts is None else parts
        total = sum(part["samples"] for part in parts)
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


def label(constraint: Any) -> str:
    """The name and the text of what has both, once where they are the same."""
    return constraint.text if constraint.name == constraint.text else f"{constraint.name}: {constraint.text}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of at most 100 columns: the first `texts` columns to the left, cut where they must be; numbers right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    widths[texts:] = [max(8, width) for width in widths[texts:]]
    # The last text takes what the others leave; one before it at most half the line.
    for place in range(texts - 1):
        widths[place] = min(widths[place], WIDTH // 2)
    others = sum(width + 2 for width in widths) - widths[texts - 1] - 2
    widths[texts - 1] = min(widths[texts - 1], WIDTH - others)
    lines = []
    for row in (heads, *rows):
        left = [cut(cell, w).ljust(w) for cell, w in zip(row[:texts], widths, strict=False)]
        right = [cell.rjust(w) for cell, w in zip(row[texts:], widths[texts:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _short(value: Any) -> str:
    """Numbers of a sample in four digits, of a long one the first four."""
    if not isinstance(value, list):
        return f"{value:.4g}"
    shown = " ".join(_short(item) for item in value[:4])
    return f"[{shown} ... of {len(value)}]" if len(value) > 4 else f"[{shown}]"


def finite(thing: Any) -> Any:
    """`thing` with None for every number that is not finite, as strict JSON wants it."""
    if isinstance(thing, dict):
        return {key: finite(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [finite(value) for value in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing


def _quantile(entries: Tensor, share: float) -> float:
    # torch.quantile refuses more than 16 million entries.
    ranked = entries.sort().values
    place = share * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], place - low).item()
