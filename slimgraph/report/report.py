"""Report: what a problem's outputs say of each constraint, objective and regularisation, as a table or as data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from slimgraph.report.table import finite, label, table

# What a solver in single precision cannot tell from zero.
TOLERANCE = 1e-6


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

    >>> import torch
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


def _short(value: Any) -> str:
    """Numbers of a sample in four digits, of a long one the first four."""
    if not isinstance(value, list):
        return f"{value:.4g}"
    shown = " ".join(_short(item) for item in value[:4])
    return f"[{shown} ... of {len(value)}]" if len(value) > 4 else f"[{shown}]"
