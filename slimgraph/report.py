"""Report: what a problem's outputs say of each constraint, objective and regularisation, as a table or as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

# What a solver in single precision cannot tell from zero.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class ConstraintReport:
    """How well one constraint is kept over a batch; violations in the units of its two sides.

    `satisfied` is the share of samples that keep it in every entry, `entries` the share of entries; `worst_sample` is
    None where nothing is violated, and for a constraint on trainable variables alone, which has no samples.
    """

    name: str
    text: str
    satisfied: float
    entries: float
    max_violation: float
    mean_violation: float
    p95_violation: float
    worst_sample: int | None


@dataclass(frozen=True)
class Report:
    """`objectives` and `reg_errors` by name, `constraints` in the order of the loss; printing it gives a table.

    An entry is satisfied when its violation is at most `tolerance`.

    >>> from slimgraph import Node, PenaltyLoss, Problem, variable
    >>> double = Node(lambda x: 2 * x, ["x"], ["y"], name="double")
    >>> problem = Problem([double], PenaltyLoss([], [variable("y") <= 3.]))
    >>> print(problem.report({"x": torch.tensor([[1.], [2.]])}))
    constraint                satisfied     entries         max        mean         p95  worst sample
    constraint_1: y <= 3.0       50.0 %      50.0 %           1         0.5        0.95             1
    """

    constraints: list[ConstraintReport]
    objectives: dict[str, float] = field(default_factory=dict)
    reg_errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, as JSON takes it."""
        return asdict(self)

    def __str__(self) -> str:
        blocks = []
        if self.constraints:
            labels = [c.text if c.name == c.text else f"{c.name}: {c.text}" for c in self.constraints]
            width = min(60, max(map(len, ["constraint", *labels])))
            heads = "".join(f"{head:>12}" for head in ("satisfied", "entries", "max", "mean", "p95"))
            lines = [f"{'constraint':<{width}}{heads}{'worst sample':>14}"]
            for label, c in zip(labels, self.constraints, strict=True):
                numbers = "".join(f"{v:>12.4g}" for v in (c.max_violation, c.mean_violation, c.p95_violation))
                shares = f"{100 * c.satisfied:>10.1f} %{100 * c.entries:>10.1f} %"
                worst = "" if c.worst_sample is None else c.worst_sample
                lines.append(f"{label[:width]:<{width}}{shares}{numbers}{worst:>14}")
            blocks.append("\n".join(lines))
        for title, values in (("objective", self.objectives), ("reg_error", self.reg_errors)):
            if values:
                width = max(map(len, [title, *values]))
                blocks.append(
                    "\n".join(
                        [f"{title:<{width}}{'value':>14}", *(f"{k:<{width}}{v:>14.6g}" for k, v in values.items())]
                    )
                )
        return "\n\n".join(blocks)


@torch.no_grad()
def report(loss: Any, output: dict[str, Tensor], reg_errors: dict[str, Tensor], tolerance: float = TOLERANCE) -> Report:
    """The report on what a problem with this `loss` gave as `output`."""
    names = loss.names()
    n = len(loss.objectives)
    constraints = [
        _constraint(name, str(constraint), output[f"{name}_violation"], bool(constraint.keys), tolerance)
        for name, constraint in zip(names[n:], loss.constraints, strict=True)
    ]
    objectives = {name: output[name].item() for name in names[:n]}
    return Report(constraints, objectives, {name: error.item() for name, error in reg_errors.items()}, tolerance)


def _constraint(name: str, text: str, violation: Tensor, has_samples: bool, tolerance: float) -> ConstraintReport:
    entries = violation.detach().double().flatten()
    count = len(violation) if has_samples and violation.ndim else 1
    per_sample = entries.reshape(count, -1).amax(1)
    return ConstraintReport(
        name=name,
        text=text,
        satisfied=(per_sample <= tolerance).double().mean().item(),
        entries=(entries <= tolerance).double().mean().item(),
        max_violation=entries.max().item(),
        mean_violation=entries.mean().item(),
        p95_violation=_quantile(entries, 0.95),
        worst_sample=int(per_sample.argmax()) if has_samples and per_sample.max() > 0 else None,
    )


def _quantile(entries: Tensor, share: float) -> float:
    # torch.quantile refuses more than 16 million entries.
    ranked = entries.sort().values
    place = share * (len(ranked) - 1)
    low = int(place)
    high = min(low + 1, len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], place - low).item()
