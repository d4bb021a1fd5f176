"""What an objective and a constraint share: `Term`, one scalar of a batch with a weight and perhaps a name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import MissingKeyError, OptionError, StrictOptions, did_you_mean
from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.plan import Plan, require_grad


class Term(Drawable, metaclass=StrictOptions):
    """What objectives and constraints share: a weight, an optional name, and their place in a drawing."""

    kind = "term"

    def __init__(self, weight: float, name: str | None) -> None:
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        is_number = is_number or (isinstance(weight, Tensor) and weight.ndim == 0)
        if not is_number or isinstance(weight, nn.Parameter) or not (math.isfinite(weight) and weight >= 0):
            raise OptionError(f"the weight of {self.kind} {name or ''!r} is a finite number >= 0; got {weight!r}")
        self.weight = weight
        self.name = name

    @property
    def expressions(self) -> list[Variable]:
        """What a plan must evaluate for it."""
        raise NotImplementedError

    @cached_property
    def keys(self) -> list[str]:
        """The data keys that it reads."""
        return list(dict.fromkeys(key for expression in self.expressions for key in expression.keys))

    @property
    def label(self) -> str:
        """Its name, or its text where it has none."""
        return self.name or str(self)

    @property
    def input_keys(self) -> list[str]:
        """neuromancer's word for `keys`."""
        return self.keys

    def update_name(self, name: str) -> None:
        """Rename it; its output keys follow."""
        self.name = name

    def weighed(self, scalar: Tensor) -> Tensor:
        """`weight * scalar`."""
        # A product with 1 would cost as much as the term itself, forward and backward.
        return scalar if type(self.weight) is not Tensor and self.weight == 1 else self.weight * scalar

    @cached_property
    def _plan(self) -> Plan:
        return Plan(self.expressions)

    def __getstate__(self) -> dict[str, Any]:
        # The plan holds the expressions' structure a second time; it is made again when needed.
        return {key: value for key, value in self.__dict__.items() if key != "_plan"}

    def losses(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        """The weighted scalar and what else the term gives, from the values of its expressions."""
        raise NotImplementedError

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its outputs for a batch, under `output_keys`."""
        return dict(zip(self.output_keys, self.losses(self._plan(data)), strict=True))

    @property
    def output_keys(self) -> list[str]:
        """The keys of what calling it gives; inside a loss an unnamed term is numbered by its place instead."""
        return [self.label]

    def grad(self, data: dict[str, Tensor], input_key: str) -> Tensor:
        """The gradient of its scalar with respect to `data[input_key]`."""
        if input_key not in self.keys:
            raise MissingKeyError(
                f"{self.kind} {self.label!r} reads {self.keys}, not {input_key!r}.{did_you_mean(input_key, self.keys)}"
            )
        with torch.inference_mode(False), torch.enable_grad():
            data = require_grad(data, [input_key])
            return gradient(self.losses(self._plan(data))[0], data[input_key], create_graph=False)

    def _scaled(self, weight: float) -> Any:
        raise NotImplementedError

    def __mul__(self, weight: float) -> Any:
        return self._scaled(self.weight * weight)

    __rmul__ = __mul__

    def to_networkx(self) -> Any:
        """The keys it reads and the term itself."""
        import networkx as nx

        graph = nx.MultiDiGraph()
        graph.add_node("term", kind=self.kind, label=self.label)
        for key in self.keys:
            graph.add_node(f"data:{key}", kind="data", label=key)
            graph.add_edge(f"data:{key}", "term", key=key)
        return graph


def weight_text(weight: float | Tensor) -> str:
    """A weight as it stands before a term, and nothing for 1."""
    return "" if weight == 1 else f"{float(weight):g} * "


def weight_latex(weight: float | Tensor) -> str:
    """The same as LaTeX."""
    return "" if weight == 1 else rf"{float(weight):g} \cdot "
