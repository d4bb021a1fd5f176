"""What a loss is made of: objectives and constraints, each one scalar of a batch.

A constraint has a *value* (signed, <= 0 holds), a *violation* (>= 0) and a *loss* (the violation's mean in its norm).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import ExpressionError, MissingKeyError, OptionError, ShapeError, StrictOptions, did_you_mean
from slimgraph.symbolic.comparators import GT, LT, Comparator, Eq
from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.expression import Variable, symbolic_function
from slimgraph.symbolic.latex import latex, name_latex, sign_latex
from slimgraph.symbolic.leaves import as_expression, variable
from slimgraph.symbolic.plan import Plan, require_grad
from slimgraph.symbolic.walk import Operation

_TRUTHS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}


class _Term(Drawable, metaclass=StrictOptions):
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


class Objective(_Term):
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
        return f"{_factor(self.weight)}{metric}({self.var!r})"

    def _repr_latex_(self) -> str:
        weight = "" if self.weight == 1 else rf"{float(self.weight):g} \cdot "
        metric = getattr(self.metric, "__name__", type(self.metric).__name__)
        inner = latex(self.var)
        return (
            f"${weight}{inner}$" if self.metric is _scalar else rf"${weight}{name_latex(metric)}\left({inner}\right)$"
        )

    def __repr__(self) -> str:
        return f"Objective({f'{self.name}: ' if self.name else ''}{self})"


def _factor(weight: float | Tensor) -> str:
    return "" if weight == 1 else f"{float(weight):g} * "


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
        return f"{_factor(self.weight)}{self.var!r}"


class Constraint(_Term):
    """`left <= right`, `left >= right` or `left == right`, made by comparing expressions.

    `weight * c` weighs it, `c ^ 2` penalises the square of the violation. Its outputs are its loss under its name, the
    signed value (<= 0 holds) under `<name>_value` and the violation (>= 0) under `<name>_violation`.

    >>> x = variable("x")
    >>> c = 10. * (x <= 1.) ^ 2
    >>> c.update_name("bound")
    >>> c({"x": torch.tensor([[0.], [3.]])})["bound"]
    tensor(20.)
    >>> 0 <= x <= 1
    Traceback (most recent call last):
    slimgraph.errors.ExpressionError: the constraint 'x >= 0' has no truth value; write 0 <= x <= 1 as x.between...
    """

    kind = "constraint"

    def __init__(
        self, left: Any, right: Any, comparator: Comparator, weight: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(weight, name)
        if not isinstance(comparator, Comparator):
            raise OptionError(f"a Constraint needs a comparator, LT(), GT() or Eq(); got {comparator!r}")
        self._of_variables = isinstance(left, Variable) and isinstance(right, Variable)
        self.left, self.right = as_expression(left), as_expression(right)
        self.comparator = comparator

    @property
    def expressions(self) -> list[Variable]:
        return [self.left, self.right]

    @property
    def is_equality(self) -> bool:
        """Whether both sides must be equal."""
        return isinstance(self.comparator, Eq)

    @property
    def truth(self) -> Variable:
        """The comparison as an expression that is true or false entry by entry, as torch functions take it."""
        return Variable(operation=Operation(_TRUTHS[self.comparator.sign], (self.left, self.right)))

    @property
    def output_keys(self) -> list[str]:
        return [self.label, f"{self.label}_value", f"{self.label}_violation"]

    def losses(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        self._refuse_broadcast(*values)
        loss, value, violation = self.comparator(*values)
        return self.weighed(loss), value, violation

    def _refuse_broadcast(self, left: Any, right: Any) -> None:
        """Where both sides have the batch's axis, they have as many axes: (B,) against (B, 1) would give (B, B)."""
        if (
            (
                isinstance(left, Tensor)
                and isinstance(right, Tensor)
                and left.ndim != right.ndim
                and left.ndim * right.ndim
                and left.shape[0] == right.shape[0]
            )
            and self.left.keys
            and self.right.keys
        ):
            raise ShapeError(
                f"constraint {self.label!r} compares shapes {tuple(left.shape)} of {self.left.keys} and "
                f"{tuple(right.shape)} of {self.right.keys}, which would broadcast; give both the same axes, "
                "as by x[:, None]"
            )

    def _scaled(self, weight: float) -> Constraint:
        return Constraint(self.left, self.right, self.comparator, weight, self.name)

    def __mul__(self, other: Any) -> Any:
        # A weight; but times an expression it is the truth that counts.
        return self.truth * other if isinstance(other, Variable | Constraint) else super().__mul__(other)

    __rmul__ = __mul__

    def with_name(self, name: str) -> Constraint:
        """The same constraint under `name`."""
        return Constraint(self.left, self.right, self.comparator, self.weight, name)

    def __and__(self, other: Any) -> Variable:
        return symbolic_function(torch.logical_and, (self, other), None)

    def __or__(self, other: Any) -> Variable:
        return symbolic_function(torch.logical_or, (self, other), None)

    def __invert__(self) -> Variable:
        return symbolic_function(torch.logical_not, (self,), None)

    def __xor__(self, norm: int) -> Constraint:
        return Constraint(self.left, self.right, self.comparator.with_norm(norm), self.weight, self.name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        # `tensor * constraint` is its weight; torch.mul is the product with its truth.
        if func is torch.Tensor.mul and isinstance(args[1], Constraint):
            return args[1] * args[0]
        return Variable.__torch_function__(func, types, args, kwargs)

    def __bool__(self) -> bool:
        if self.is_equality and self._of_variables:
            # What sets, dicts and `in` ask: are these two the same Variable?
            return self.left is self.right
        raise ExpressionError(
            f"the constraint '{self}' has no truth value; write 0 <= x <= 1 as x.between(0, 1), "
            "or as two constraints, (0 <= x) and (x <= 1)"
        )

    def __str__(self) -> str:
        text = f"{self.left!r} {self.comparator.sign} {self.right!r}"
        if self.comparator.norm == 1 and self.weight == 1:
            return text
        return f"{_factor(self.weight)}({text}){'^2' if self.comparator.norm == 2 else ''}"

    def _repr_latex_(self) -> str:
        text = f"{latex(self.left)} {sign_latex(self.comparator.sign)} {latex(self.right)}"
        if self.comparator.norm == 2 or self.weight != 1:
            weight = "" if self.weight == 1 else rf"{float(self.weight):g} \cdot "
            text = rf"{weight}\left({text}\right){'^{2}' if self.comparator.norm == 2 else ''}"
        return f"${text}$"

    def __repr__(self) -> str:
        return f"{self.name}: {self}" if self.name else str(self)


def compare(left: Any, sign: str, right: Any) -> Constraint:
    """The constraint that `left sign right` stands for."""
    kind = {"<": LT, ">": GT, "=": Eq}[sign[0]]
    return Constraint(left, right, kind(strict=len(sign) == 1))
