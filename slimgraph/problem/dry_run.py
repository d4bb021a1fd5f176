"""DryRun: what a problem would do with a batch, as a table or as data."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from slimgraph.report import WIDTH, cut, table

# How much of a name or an expression a table shows at least.
TEXT = 26


@dataclass(frozen=True)
class KeyRow:
    """One key: who gives it, its `shape` with the names of the `axes`, its dtype."""

    key: str
    given_by: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: str

    @classmethod
    def of(cls, key: str, given_by: str, value: Tensor, samples: int | None) -> KeyRow:
        """The row of a tensor; a first axis as long as the batch counts its `samples`."""
        shape = tuple(value.shape)
        known = bool(shape) and shape[0] == samples
        names = {1: ("batch",), 2: ("batch", "features"), 3: ("batch", "time", "features")}
        axes = names.get(len(shape), ("batch",)) if known else ()
        axes += ("",) * (len(shape) - len(axes))
        return cls(key, given_by, shape, axes, str(value.dtype).removeprefix("torch."))

    @property
    def shape_text(self) -> str:
        """The shape as `(batch 32, features 2)`; axes that have no name as numbers alone."""
        parts = [f"{axis} {size}".strip() for axis, size in zip(self.axes, self.shape, strict=True)]
        return f"({', '.join(parts)})" if parts else "one number"


@dataclass(frozen=True)
class DryRun:
    """What `problem.check` found in order: `rows`, one for each key, and `notes`; printing it gives a table.

    `parameters` is the number of trained numbers.

    >>> import torch
    >>> from slimgraph import Node, PenaltyLoss, Problem, variable
    >>> net = Node(torch.nn.Linear(2, 1), ["x"], ["u"], name="net")
    >>> problem = Problem([net], PenaltyLoss([variable("u").minimize(name="effort")], [variable("u") <= 1]))
    >>> problem.check({"x": torch.zeros(8, 2)})
    key           given by            dtype    shape
    x             the data            float32  (batch 8, features 2)
    u             node 'net'          float32  (batch 8, features 1)
    effort        objective: mean(u)  float32  one number
    constraint_1  constraint: u <= 1  float32  one number
    loss          terms and reg_loss  float32  one number
    <BLANKLINE>
    3 parameters, all reached by the loss.
    """

    rows: list[KeyRow]
    parameters: int
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, as JSON takes it."""
        return json.loads(json.dumps(asdict(self)))

    def __str__(self) -> str:
        # Names and expressions are cut to what dtypes and shapes leave.
        room = WIDTH - 6 - max(len(row.dtype) + len(row.shape_text) for row in self.rows)
        width = max(len(cut(row.key, TEXT)) for row in self.rows)
        cells = [
            [cut(row.key, TEXT), cut(row.given_by, max(room - width, TEXT)), row.dtype, row.shape_text]
            for row in self.rows
        ]
        keys = table(["key", "given by", "dtype", "shape"], cells, texts=4)
        return "\n".join([keys, "", *(line for note in self.notes for line in textwrap.wrap(note, WIDTH))])

    __repr__ = __str__
