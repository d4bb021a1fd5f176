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
from slimgraph.symbolic.text import function_name


class Objective(Term):
    """`weight * metric(var)`, to be minimised; made by `var.minimize(metric, weight, name)`.

    Raises OptionError for a weight that is negative or not finite, ExpressionError if `metric` gives no scalar.

    >>> x = variable("x")
    >>> ((x - 1) ** 2).minimize(weight=2., name="fit")({"x": torch.tensor([3., 1.])})
    {'fit': tensor(4.)}
    """

    kind = "objective"
    advice = "weigh it by 2 * o, give several as a list, change the expression before .minimize()"

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
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor) or value.ndim or value.is_complex() or value.dtype == torch.bool:
            given = f"{type(value).__name__}: {value!r}"
            if isinstance(value, Tensor):
                given = f"shape {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
            raise ExpressionError(
                f"objective {self.label!r} needs a {self._giver} that gives one number per batch; "
                f"{self._function_name!r} gives {given}"
            )
        return (self.weighed(value),)

    # What gives its number, and the name of that.
    _giver = "metric"

    @property
    def _function_name(self) -> str:
        return function_name(self.metric)

    def _scaled(self, weight: float) -> Objective:
        return Objective(self.var, self.metric, weight, self.name)

    def __str__(self) -> str:
        return f"{weight_text(self.weight)}{self._function_name}({self.var!r})"

    def _repr_latex_(self) -> str:
        weight = weight_latex(self.weight)
        inner = latex(self.var)
        return rf"${weight}{name_latex(self._function_name)}\left({inner}\right)$"

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
        if not callable(loss):
            raise OptionError(f"a Loss needs a function of the values of {list(input_keys)}; got {loss!r}")
        super().__init__(variable(list(input_keys), loss), _scalar, weight, name)
        self._inputs = list(input_keys)
        self.loss = loss

    _giver = "function"

    @property
    def _function_name(self) -> str:
        return function_name(self.loss)

    def _scaled(self, weight: float) -> Loss:
        return Loss(self._inputs, self.loss, weight, self.name)

    def __str__(self) -> str:
        return f"{weight_text(self.weight)}{self.var!r}"

    def _repr_latex_(self) -> str:
        return f"${weight_latex(self.weight)}{latex(self.var)}$"
