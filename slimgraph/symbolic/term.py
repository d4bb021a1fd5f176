"""What an objective and a constraint share: `Term`, one scalar of a batch with a weight and perhaps a name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slimgraph.doors import Drawable
from slimgraph.errors import ExpressionError, MissingKeyError, OptionError, StrictOptions, did_you_mean
from slimgraph.symbolic.derivative import gradient, require_grad
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.planned import Planned, constant_when_compiled


def checked_weight(weight: Any, who: str) -> Any:
    """`weight`, if it is a finite number >= 0. Raises OptionError."""
    if isinstance(weight, np.generic | np.ndarray) and weight.ndim == 0:
        return checked_weight(weight.item(), who)
    real = isinstance(weight, int | float) and not isinstance(weight, bool)
    # A weight that is trained would be driven to zero.
    real = real or (isinstance(weight, Tensor) and not (weight.ndim or weight.requires_grad or weight.is_complex()))
    if real and (not isinstance(weight, Tensor) or weight.dtype != torch.bool) and 0 <= weight <= sys.float_info.max:
        return weight
    shown = repr(weight)
    if isinstance(weight, Tensor) and (weight.ndim or weight.requires_grad):
        shown = f"tensor of shape {tuple(weight.shape)}{', which is trained' if weight.requires_grad else ''}"
    raise OptionError(f"the weight of {who} is a finite number >= 0; got {shown}")


def _no_operand(self: Term, *others: Any) -> Any:
    """What every operator without a meaning for a term does, but for those whose other side is an expression."""
    if others and isinstance(others[0], Variable):
        return NotImplemented
    raise ExpressionError(f"the {self.kind} '{self}' takes no part in arithmetic; {self.advice}")


class Term(Planned, Drawable, metaclass=StrictOptions):
    """What objectives and constraints share: a weight, an optional name, and their place in a drawing."""

    kind = "term"
    # What can be done with one instead of arithmetic.
    advice = "weigh it by 2 * term"

    def __init__(self, weight: float, name: str | None) -> None:
        self.name = self._checked_name(name)
        self.weight = checked_weight(weight, f"{self.kind} {name!r}" if name else f"this {self.kind}")

    # numpy leaves its operators with a term to us: `array * constraint` would be an array of constraints.
    __array_ufunc__ = None

    def _checked_name(self, name: Any) -> str | None:
        if name is None or (isinstance(name, str) and name):
            return name
        raise OptionError(f"the name of this {self.kind} is a text that is not empty, or None; got {name!r}")

    @cached_property
    def keys(self) -> list[str]:
        """The data keys that it reads."""
        return list(dict.fromkeys(key for expression in self.expressions for key in expression.keys))

    @property
    def label(self) -> str:
        """Its name, or its text where it has none."""
        return self.name or self._text()

    # As with the plan: torch.compile cannot trace how a text is made.
    @constant_when_compiled
    def _text(self) -> str:
        return str(self)

    @property
    def _who(self) -> str:
        return f"{self.kind} {self.label!r}"

    @property
    def input_keys(self) -> list[str]:
        """neuromancer's word for `keys`."""
        return self.keys

    def update_name(self, name: str) -> None:
        """Rename it; its output keys follow."""
        self.name = self._checked_name(name)

    def weighed(self, scalar: Tensor) -> Tensor:
        """`weight * scalar`."""
        # A product with 1 would cost as much as the term itself, forward and backward.
        return scalar if type(self.weight) is not Tensor and self.weight == 1 else self.weight * scalar

    def __getstate__(self) -> dict[str, Any]:
        # The plan holds the expressions' structure a second time; it is made again when needed.
        return {key: value for key, value in self.__dict__.items() if key != "_made_plan"}

    def losses(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        """The weighted scalar and what else the term gives, from the values of its expressions."""
        raise NotImplementedError

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its outputs for a batch, under `output_keys`."""
        return dict(zip(self.output_keys, self.losses(self._values(data)), strict=True))

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
            return gradient(self.losses(self._values(data))[0], data[input_key], create_graph=False)

    def _scaled(self, weight: Any) -> Any:
        raise NotImplementedError

    def __mul__(self, weight: float) -> Any:
        return self._scaled(self.weight * checked_weight(weight, self._who))

    __rmul__ = __mul__

    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = _no_operand
    __mod__ = __floordiv__ = __matmul__ = __le__ = __lt__ = __ge__ = __gt__ = __neg__ = __abs__ = _no_operand
    __iter__ = __getitem__ = _no_operand

    def to_networkx(self) -> Any:
        """The keys it reads and the term itself."""
        import networkx as nx

        graph = nx.MultiDiGraph()
        graph.add_node("term", kind=self.kind, label=self.label, part=self)
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
