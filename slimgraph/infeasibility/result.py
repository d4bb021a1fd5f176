"""What explain_infeasibility found, as data, as a table, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from slimgraph.report import cut, finite, label, table


@dataclass(frozen=True)
class Slack:
    """How far one constraint must give way, in the units of its two sides, where the sum of all slacks is least.

    `largest` and `mean` over the entries, `samples` the share of samples with any.
    """

    name: str
    text: str
    largest: float
    mean: float
    samples: float


@dataclass(frozen=True)
class Infeasibility:
    """What `explain_infeasibility` found; printing it gives a table.

    `conflict` names the constraints that cannot hold together, none where all can; leaving out any one of them, the
    others can. `smallest` says that no conflict has fewer members. `samples` are those for which it stands, `free` what
    could be chosen.
    """

    feasible: bool
    slacks: list[Slack]
    conflict: list[str]
    smallest: bool
    samples: list[int]
    free: list[str]
    starts: int
    tolerance: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, as JSON takes it."""
        return asdict(self)

    def as_json(self, indent: int | None = None) -> str:
        """Everything as JSON; what is not finite becomes null."""
        return json.dumps(finite(self.as_dict()), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        free = ", ".join(self.free)
        if self.feasible:
            return f"feasible: all {len(self.slacks)} constraints can hold together; free: {cut(free, 40)}"
        rows = [
            [label(s), "x" if s.name in self.conflict else "", f"{s.largest:.4g}", f"{s.mean:.4g}", f"{s.samples:.1%}"]
            for s in self.slacks
        ]
        shown = ", ".join(map(str, self.samples[:6])) + (", ..." if len(self.samples) > 6 else "")
        kind = "no fewer conflict" if self.smallest else "without any one of them the others can"
        return "\n".join(
            [
                f"infeasible: the {len(self.conflict)} marked x cannot hold together; {kind}",
                table(["constraint", "conflict", "slack", "mean", "samples"], rows),
                f"in samples {shown}" if self.samples else "in no single sample, but in all together",
                f"free: {cut(free, 90)}",
                f"by local search from {self.starts} starts: sure where the constraints are convex in what is free",
            ]
        )
