"""What is minimised: `Objective`, a metric of an expression, and `Loss`, a function of several keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import ExpressionError, OptionError
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.latex import latex, name_latex
from slimgraph.symbolic.leaves import as_expression, variable
from slimgraph.symbolic.term import Term, weight_latex, weight_text


class Objective(Term):
    """`weight * metric(var)`, to be minimised; made by `var.minimize(metric, weight, name)`.

    Raises OptionError for a weight that is negative or not finite, ExpressionError if `metric` gives no scalar.

    >>> x = variable("x")
    >>> ((x - 1) ** 2).minimize(weight=2., name="fit")({"x": torch.tensor([3., 1.])})
    {'fit': tensor(4.)}
    """

    kind = "objective"

    def __init__(
        self,
        var: Variable,
        metric: Callable[[Tensor], Tensor] = torch.mean,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(weight, name)
        if not callable(metric):
            raise OptionError(f"an objective needs a metric to call, such as torch.mean; got {metric!r}")
        self.var = as_expression(var)
        self.metric = metric

    @property
    def expressions(self) -> list[Variable]:
        return [self.var]

    def losses(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        value = self.metric(values[0])
        if isinstance(value, int | float):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor):
            raise ExpressionError(
                f"objective {self.label!r} needs a metric that gives one number per batch; "
                f"{getattr(self.metric, '__name__', self.metric)!r} gives {type(value).__name__}: {value!r}"
            )
        if value.ndim:
            raise ExpressionError(
                f"objective {self.label!r} needs a metric that gives one number per batch; "
                f"{getattr(self.metric, '__name__', self.metric)!r} gives shape {tuple(value.shape)}"
            )
        return (self.weighed(value),)

    def _scaled(self, weight: float) -> Objective:
        return Objective(self.var, self.metric, weight, self.name)

    def __str__(self) -> str:
        metric = getattr(self.metric, "__name__", type(self.metric).__name__)
        return f"{weight_text(self.weight)}{metric}({self.var!r})"

    def _repr_latex_(self) -> str:
        weight = weight_latex(self.weight)
        metric = getattr(self.metric, "__name__", type(self.metric).__name__)
        inner = latex(self.var)
        return (
            f"${weight}{inner}$" if self.metric is _scalar else rf"${weight}{name_latex(metric)}\left({inner}\right)$"
        )

    def __repr__(self) -> str:
        return f"Objective({f'{self.name}: ' if self.name else ''}{self})"


def _scalar(value: Tensor) -> Tensor:
    return value


class Loss(Objective):
    """`weight * loss(*values of input_keys)`: an objective given by a function that returns one number.

    >>> Loss(["x", "y"], torch.nn.functional.mse_loss, name="fit")({"x": torch.zeros(2), "y": torch.ones(2)})
    {'fit': tensor(1.)}
    """

    def __init__(
        self,
        input_keys: Sequence[str | Variable],
        loss: Callable[..., Tensor],
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        if isinstance(input_keys, str):
            raise OptionError(f"the input_keys of a Loss is a list of keys; got {input_keys!r}. Write [{input_keys!r}]")
        super().__init__(variable(list(input_keys), loss), _scalar, weight, name)
        self._inputs = list(input_keys)
        self.loss = loss

    def _scaled(self, weight: float) -> Loss:
        return Loss(self._inputs, self.loss, weight, self.name)

    def __str__(self) -> str:
        return f"{weight_text(self.weight)}{self.var!r}"
