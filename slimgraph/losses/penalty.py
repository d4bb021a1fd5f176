"""PenaltyLoss: objectives and the violations of constraints, added up; the base of the other losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import (
    DuplicateNameError,
    MissingKeyError,
    OptionError,
    ShapeError,
    StrictOptions,
    did_you_mean,
)
from slimgraph.symbolic import Constraint, Objective, Plan, Variable

RESERVED = (
    *("loss", "objective_loss", "penalty_loss", "reg_loss"),
    *(f"C_{part}{what}" for part in ("", "eq_", "ineq_") for what in ("values", "violations")),
)


class PenaltyLoss(nn.Module, metaclass=StrictOptions):
    """The sum of the objectives and of the constraints' losses.

    Calling it with a batch gives a dict: `loss`, `objective_loss`, `penalty_loss` and each term under its own name (an
    unnamed one as `objective_1`, `constraint_2`, ... by its place in its list), 0-dim; a constraint's
    `<name>_value` (signed, <= 0 holds) and `<name>_violation` (>= 0); all of them side by side in `C_values` and
    `C_violations`, `(batch, entries)`, and of equalities or inequalities alone in `C_eq_values`, `C_ineq_values`,
    `C_eq_violations`, `C_ineq_violations`.

    Losses of one kind add, and a number scales every weight. Raises OptionError for a thing that is no term,
    DuplicateNameError for two terms of one name.

    >>> from slimgraph import variable
    >>> x = variable("x")
    >>> loss = PenaltyLoss([x.minimize()], [10 * (x >= 1)])
    >>> {key: value.item() for key, value in loss({"x": torch.zeros(2, 1)}).items() if value.ndim == 0}
    {'objective_1': 0.0, 'constraint_1': 10.0, 'objective_loss': 0.0, 'penalty_loss': 10.0, 'loss': 10.0}
    """

    def __init__(self, objectives: Sequence[Objective] = (), constraints: Sequence[Constraint] = ()) -> None:
        super().__init__()
        self.objectives = _all_of(Objective, objectives, "objectives")
        self.constraints = _all_of(Constraint, constraints, "constraints")
        self.plan = Plan([expression for term in self.terms for expression in term.expressions])
        # A constraint on trainable variables alone has no batch axis.
        self._batched = [bool(constraint.keys) for constraint in self.constraints]
        self._equality = [constraint.is_equality for constraint in self.constraints]
        self._refuse_duplicates(self.output_keys)

    @property
    def terms(self) -> list[Any]:
        """The objectives, then the constraints."""
        return [*self.objectives, *self.constraints]

    @property
    def options(self) -> dict[str, Any]:
        """What else its constructor was given; sums and multiples keep it."""
        return {}

    def names(self) -> list[str]:
        """The terms' names: their own, or their kind numbered by place. Raises DuplicateNameError."""
        counted = [
            (term, place) for terms in (self.objectives, self.constraints) for place, term in enumerate(terms, 1)
        ]
        names = [term.name or f"{term.kind}_{place}" for term, place in counted]
        if len(set(names)) < len(names):
            self._refuse_duplicates(names)
        return names

    @property
    def output_keys(self) -> list[str]:
        """Every key of what calling it gives."""
        names, n = self.names(), len(self.objectives)
        parts = [f"{name}_{part}" for name in names[n:] for part in ("value", "violation")]
        return [*names, *parts, *RESERVED]

    def _refuse_duplicates(self, keys: list[str]) -> None:
        for place, term in enumerate(self.terms):
            if keys.count(name := keys[place]) > 1:
                raise DuplicateNameError(f"the name {name!r} of {term} belongs to another result already; use another")

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        names, n = self.names(), len(self.objectives)
        try:
            values = self.plan(data)
            objectives = [term.losses([value])[0] for term, value in zip(self.objectives, values, strict=False)]
            sides = zip(values[n::2], values[n + 1 :: 2], strict=True)
            constraints = [term.losses(pair) for term, pair in zip(self.constraints, sides, strict=True)]
        except MissingKeyError:
            self._tell_missing(data)
            raise
        except Exception as error:
            self._explain(error, data)
            raise
        output: dict[str, Tensor] = dict(zip(names, objectives, strict=False))
        for name, parts in zip(names[n:], constraints, strict=True):
            output[name], output[f"{name}_value"], output[f"{name}_violation"] = parts
        output["objective_loss"] = sum_of(objectives) if objectives else _zero(data, self)
        if not constraints:
            output["penalty_loss"] = _zero(data, self)
        else:
            penalties, entries, violations = map(list, zip(*constraints, strict=True))
            output |= self._side_by_side(entries, violations, data)
            output["penalty_loss"] = self.penalty(output, penalties, data)
        output["loss"] = output["objective_loss"] + output["penalty_loss"]
        return output

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        """What the constraints add to the loss, 0-dim: here the sum of their own losses."""
        return sum_of(penalties)

    def _side_by_side(
        self, values: list[Tensor], violations: list[Tensor], data: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Every constraint's entries in one row per sample; what has no samples of its own holds for every sample."""
        count = self._count(values, data)
        output: dict[str, Tensor] = {}
        for what, pieces in (("values", values), ("violations", violations)):
            rows = [self._rows(piece, each, count) for piece, each in zip(pieces, self._batched, strict=True)]
            output[f"C_{what}"] = whole = torch.cat(rows, dim=1)
            if len(set(self._equality)) == 1:
                parts = whole, whole.new_empty(count, 0)
                output[f"C_eq_{what}"], output[f"C_ineq_{what}"] = parts if self._equality[0] else parts[::-1]
            else:
                for part, wanted in (("eq", True), ("ineq", False)):
                    chosen = [row for row, equality in zip(rows, self._equality, strict=True) if equality is wanted]
                    output[f"C_{part}_{what}"] = torch.cat(chosen, dim=1)
        return output

    def _count(self, values: list[Tensor], data: dict[str, Tensor]) -> int:
        """The number of samples: the first axis of the values, but of those that are one for the whole batch."""
        # Lists, not sets: a hash would fix the batch size for a compiler.
        counts: list[int] = []
        read: list[int] = []
        for place, (constraint, value) in enumerate(zip(self.constraints, values, strict=True), len(self.objectives)):
            samples = [t.shape[0] for key in constraint.keys if isinstance(t := data[key], Tensor) and t.ndim]
            if not value.ndim or value.shape[0] == 1:
                read += samples
            elif samples and value.shape[0] not in samples:
                raise ShapeError(
                    f"constraint {self.names()[place]!r}, {constraint}, has values of shape {tuple(value.shape)} from "
                    f"{_shapes(constraint, data)}; their first axis must be that of the samples. Keep it, or write "
                    "keepdim=True for values of the whole batch"
                )
            elif samples:
                counts.append(value.shape[0])
        if any(count != counts[0] for count in counts):
            names = self.names()[len(self.objectives) :]
            shapes = {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}
            raise ShapeError(f"the constraints have values for different numbers of samples: {shapes}")
        if counts:
            return counts[0]
        return read[0] if read and all(count == read[0] for count in read) else 1

    @staticmethod
    def _rows(piece: Tensor, batched: bool, count: int) -> Tensor:
        if batched and piece.ndim and piece.shape[0] == count:
            return piece if piece.ndim == 2 else piece.reshape(count, -1)
        return piece.reshape(1, -1).expand(count, -1)

    def _explain(self, error: Exception, data: dict[str, Tensor]) -> None:
        """Notes on `error` which term it came from, and the shapes that the term reads."""
        for name, term in zip(self.names(), self.terms, strict=True):
            try:
                term(data)
            except type(error):
                error.add_note(f"in {term.kind} {name!r}, {term}, with {_shapes(term, data)}")
                return

    def _tell_missing(self, data: dict[str, Tensor]) -> None:
        for name, term in zip(self.names(), self.terms, strict=True):
            for key in term.keys:
                if key not in data:
                    raise MissingKeyError(
                        f"{term.kind} {name!r}, {term}, reads {key!r}, the data holds {sorted(data)}."
                        f"{did_you_mean(key, data)}"
                    ) from None

    def __add__(self, other: PenaltyLoss) -> PenaltyLoss:
        if type(other) is not type(self) or other.options != self.options:
            what = other._title if isinstance(other, PenaltyLoss) else repr(other)
            raise OptionError(f"losses of one kind and options add; got {self._title} and {what}")
        return type(self)(self.objectives + other.objectives, self.constraints + other.constraints, **self.options)

    def __radd__(self, other: Any) -> PenaltyLoss:
        # The built-in sum starts from 0.
        return self if type(other) is int and other == 0 else NotImplemented

    def __mul__(self, weight: float) -> PenaltyLoss:
        if not isinstance(weight, Real | Tensor):
            return NotImplemented
        return type(self)([weight * o for o in self.objectives], [weight * c for c in self.constraints], **self.options)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        lines = [f"  {name}: {term}" for name, term in zip(self.names(), self.terms, strict=True)]
        return "\n".join([self._title, *lines])

    @property
    def _title(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{type(self).__name__}({options})"


def _all_of(kind: type, terms: Sequence[Any], what: str) -> list[Any]:
    if isinstance(terms, kind | Variable):
        raise OptionError(f"{what} is a list; got one {type(terms).__name__}: {terms}. Write [...] around it")
    if not isinstance(terms, Iterable):
        raise OptionError(f"{what} is a list of {kind.__name__}s; got {terms!r}. Write [] for none")
    # A generator can be read once only.
    terms = list(terms)
    for term in terms:
        if not isinstance(term, kind):
            advice = " Write it with .minimize()." if isinstance(term, Variable) else ""
            advice = " Write * before what gives several." if isinstance(term, tuple) else advice
            raise OptionError(f"{what} holds {kind.__name__}s; got {type(term).__name__}: {term!r}.{advice}")
    return terms


def _shapes(term: Any, data: dict[str, Any]) -> str:
    """The keys that `term` reads, with their shapes."""
    return ", ".join(f"{key} {tuple(getattr(data[key], 'shape', ()))}" for key in term.keys)


def sum_of(scalars: list[Tensor]) -> Tensor:
    """The sum of at least one scalar."""
    # The built-in would start from a 0 that costs an addition.
    return sum(scalars[1:], scalars[0])


def _zero(data: dict[str, Tensor], module: nn.Module) -> Tensor:
    """A zero where the data or the parameters are."""
    floating = (t for t in [*data.values(), *module.parameters()] if isinstance(t, Tensor) and t.is_floating_point())
    return next((t.new_zeros(()) for t in floating), torch.zeros(()))
