"""Losses: objectives and constraints added up, by a penalty, a barrier or an augmented Lagrangian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import (
    DuplicateNameError,
    MissingKeyError,
    OptionError,
    ShapeError,
    StrictOptions,
    UnknownOptionError,
    did_you_mean,
)
from slimgraph.symbolic import Constraint, Objective, Plan, Variable

RESERVED = ("loss", "objective_loss", "penalty_loss", "reg_loss", "C_values", "C_violations")


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
        self.names()

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
        counted = [(term, place) for terms in (self.objectives, self.constraints) for place, term in enumerate(terms, 1)]
        names = [term.name or f"{term.kind}_{place}" for term, place in counted]
        if len({*names, *RESERVED}) < len(names) + len(RESERVED):
            self._tell_duplicate(names)
        return names

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        try:
            values = self.plan(data)
        except MissingKeyError:
            self._tell_missing(data)
            raise
        output: dict[str, Tensor] = {}
        names, n = self.names(), len(self.objectives)
        objective_terms = []
        for name, term, value in zip(names, self.objectives, values, strict=False):
            (output[name],) = term.losses([value])
            objective_terms.append(output[name])
        sides = zip(values[n::2], values[n + 1 :: 2], strict=True)
        penalties, entries, violations = [], [], []
        for name, term, pair in zip(names[n:], self.constraints, sides, strict=True):
            loss, value, violation = term.losses(pair)
            output[name], output[f"{name}_value"], output[f"{name}_violation"] = loss, value, violation
            penalties.append(loss)
            entries.append(value)
            violations.append(violation)
        if self.constraints:
            output |= self._side_by_side(entries, violations)
        output["objective_loss"] = _sum(objective_terms) if objective_terms else _zero(data, self)
        output["penalty_loss"] = self.penalty(output, penalties, data) if penalties else _zero(data, self)
        output["loss"] = output["objective_loss"] + output["penalty_loss"]
        return output

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        """What the constraints add to the loss, 0-dim: here the sum of their own losses."""
        return _sum(penalties)

    def _side_by_side(self, values: list[Tensor], violations: list[Tensor]) -> dict[str, Tensor]:
        """Every constraint's entries in one row per sample; without data keys a constraint holds for every sample."""
        counts = {v.shape[0] for each, v in zip(self._batched, values, strict=True) if each and v.ndim}
        if len(counts) > 1:
            shapes = {name: tuple(v.shape) for name, v in zip(self.names()[len(self.objectives) :], values, strict=True)}
            raise ShapeError(f"the constraints have values for different numbers of samples: {shapes}")
        count = counts.pop() if counts else 1
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

    @staticmethod
    def _rows(piece: Tensor, batched: bool, count: int) -> Tensor:
        if batched and piece.ndim:
            return piece if piece.ndim == 2 else piece.reshape(count, -1)
        return piece.reshape(1, -1).expand(count, -1)

    def _tell_duplicate(self, names: list[str]) -> None:
        for place, name in enumerate(names):
            if name in names[:place] or name in RESERVED:
                other = "a result of every loss" if name in RESERVED else str(self.terms[names.index(name)])
                raise DuplicateNameError(f"the name {name!r} of {self.terms[place]} belongs to {other} already; use another")

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
            raise OptionError(f"losses of one kind and options add; got {self!r} and {other!r}")
        return type(self)(self.objectives + other.objectives, self.constraints + other.constraints, **self.options)

    def __mul__(self, weight: float) -> PenaltyLoss:
        return type(self)([weight * o for o in self.objectives], [weight * c for c in self.constraints], **self.options)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        lines = [f"  {name}: {term}" for name, term in zip(self.names(), self.terms, strict=True)]
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return "\n".join([f"{type(self).__name__}({options})", *lines])


def _all_of(kind: type, terms: Sequence[Any], what: str) -> list[Any]:
    if isinstance(terms, kind | Variable):
        raise OptionError(f"{what} is a list; got one {type(terms).__name__}: {terms}. Write [{terms}]")
    for term in terms:
        if not isinstance(term, kind):
            advice = " Write it with .minimize()." if isinstance(term, Variable) else ""
            raise OptionError(f"{what} holds {kind.__name__}s; got {type(term).__name__}: {term!r}.{advice}")
    return list(terms)


def _sum(scalars: list[Tensor]) -> Tensor:
    # The built-in would start from a 0 that costs an addition.
    return sum(scalars[1:], scalars[0])


def _zero(data: dict[str, Tensor], module: nn.Module) -> Tensor:
    """A zero where the data or the parameters are."""
    floating = (t for t in [*data.values(), *module.parameters()] if isinstance(t, Tensor) and t.is_floating_point())
    return next((t.new_zeros(()) for t in floating), torch.zeros(()))


# ---- barrier --------------------------------------------------------------------------------------------------------

Barrier = Callable[[Tensor], Tensor]


# Each is a function of the signed value z <= 0, of `shift` and `alpha`, rising towards the bound at 0.
# log and inverse: https://en.wikipedia.org/wiki/Barrier_function; softexp and softlog: the soft exponential of Godfrey
# and Gashler 2015 with positive and negative alpha.
def _log10(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log10(-z)


def _log(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log(-z)


def _inverse(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -1 / z


def _softexp(z: Tensor, shift: float, alpha: float) -> Tensor:
    return torch.expm1(alpha * z) / alpha + alpha


def _softlog(z: Tensor, shift: float, alpha: float) -> Tensor:
    return -torch.log1p(-alpha * (z + alpha)) / alpha


def _expshift(z: Tensor, shift: float, alpha: float) -> Tensor:
    return torch.exp(z + shift)


BARRIERS = {
    "log10": _log10,
    "log": _log,
    "inverse": _inverse,
    "softexp": _softexp,
    "softlog": _softlog,
    "expshift": _expshift,
}


class BarrierLoss(PenaltyLoss):
    """A penalty that inequalities begin to pay before they are violated.

    With z the signed value (z <= 0 holds), an inequality pays its penalty and weight * mean(b(z)), where b is the
    `barrier` (log10, log, inverse, softexp, softlog, expshift, or a callable of z), never below 0, up to `upper_bound`; from
    there on it is its own tangent, so that value and gradient are finite on the bound and beyond. Equalities pay their
    penalty, from both sides. `shift` belongs to expshift, `alpha` to softexp and softlog.

    Raises UnknownOptionError for an unknown barrier, OptionError for one that does not rise to a finite value below 0.

    >>> from slimgraph import variable
    >>> loss = BarrierLoss([], [variable("x") <= 1.])
    >>> [round(loss({"x": torch.tensor([[x]])})["loss"].item(), 3) for x in (0., 0.5, 1., 1.5)]
    [0.0, 0.301, 1.434, 4.106]
    """

    def __init__(
        self,
        objectives: Sequence[Objective] = (),
        constraints: Sequence[Constraint] = (),
        barrier: str | Barrier = "log10",
        upper_bound: float = 1.0,
        shift: float = 1.0,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(objectives, constraints)
        if isinstance(barrier, str) and barrier not in BARRIERS:
            raise UnknownOptionError(
                f"there is no barrier {barrier!r}.{did_you_mean(barrier, BARRIERS)} There are {', '.join(BARRIERS)}"
            )
        self.barrier, self.upper_bound, self.shift, self.alpha = barrier, upper_bound, shift, alpha
        self._end, self._slope = self._tangent()

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("barrier", "upper_bound", "shift", "alpha")}

    def _barrier(self, z: Tensor) -> Tensor:
        return BARRIERS[self.barrier](z, self.shift, self.alpha) if isinstance(self.barrier, str) else self.barrier(z)

    def _tangent(self) -> tuple[float, float]:
        """Where the barrier reaches `upper_bound`, or the bound itself if it never does, and its slope there."""
        low, high = -1e6, 0.0
        for _ in range(100):
            middle = (low + high) / 2
            value = self._barrier(torch.tensor(middle, dtype=torch.float64)).item()
            low, high = (middle, high) if value <= self.upper_bound else (low, middle)
        z = torch.tensor(low, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            value = self._barrier(z)
            slope = torch.autograd.grad(value, z)[0].item()
        if not (math.isfinite(value.item()) and math.isfinite(slope) and slope > 0):
            raise OptionError(
                f"the barrier {self.barrier!r} must rise to upper_bound={self.upper_bound} below 0; "
                f"at {low:.3g} it is {value.item():.3g} with slope {slope:.3g}"
            )
        return low, slope

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        total = super().penalty(output, penalties, data)
        for name, constraint in zip(self.names()[len(self.objectives) :], self.constraints, strict=True):
            if not constraint.is_equality:
                z = output[f"{name}_value"]
                inside = torch.relu(self._barrier(z.clamp(max=self._end)))
                total = total + constraint.weight * (inside + self._slope * torch.relu(z - self._end)).mean()
        return total


# ---- augmented Lagrangian -------------------------------------------------------------------------------------------


class AugmentedLagrangeLoss(PenaltyLoss):
    """Objectives plus multipliers that find the exact optimum of the constrained problem.

    With c the signed values and lambda, mu the multipliers and their weight, an equality entry adds
    lambda c + mu c^2 / 2, an inequality (relu(lambda + mu c)^2 - lambda^2) / (2 mu), each averaged over the samples.
    `update(output)` makes one outer step: lambda <- mean(lambda + mu c), for inequalities lambda <- mean(relu(lambda + mu c));
    mu grows by `sigma`, up to `mu_max`, unless the largest violation fell below `eta / sigma` of its best so far.
    `inner_loop` is the number of epochs between two updates, which `LitProblem` makes.

    There is one multiplier per constraint entry (a column of `C_values`), or with `per_sample=True` one per sample and
    entry, found by the data's `index` key, `(batch,)`; then `train_data` gives the number of samples.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 17.4. Raises OptionError for options outside
    their range, MissingKeyError for data without `index` where that is needed.

    >>> from slimgraph import variable
    >>> loss = AugmentedLagrangeLoss([], [variable("x") <= 1.], mu_init=2.)
    >>> output = loss({"x": torch.tensor([[1.5]])})
    >>> output["penalty_loss"].item()
    0.25
    >>> loss.update(output)
    >>> loss.multipliers
    tensor([1.])
    """

    multipliers: Tensor
    is_equality: Tensor

    def __init__(
        self,
        objectives: Sequence[Objective] = (),
        constraints: Sequence[Constraint] = (),
        train_data: Any = None,
        inner_loop: int = 10,
        sigma: float = 2.0,
        mu_max: float = 1000.0,
        mu_init: float = 0.001,
        eta: float = 1.0,
        *,
        per_sample: bool = False,
    ) -> None:
        super().__init__(objectives, constraints)
        for name, value, least in (("inner_loop", inner_loop, 1), ("sigma", sigma, 1), ("eta", eta, 0), ("mu_init", mu_init, 0)):
            if not value >= least:
                raise OptionError(f"AugmentedLagrangeLoss needs {name} >= {least}; got {value}")
        if mu_max < mu_init or mu_init == 0:
            raise OptionError(f"AugmentedLagrangeLoss needs 0 < mu_init <= mu_max; got mu_init={mu_init}, mu_max={mu_max}")
        if per_sample and train_data is None:
            raise OptionError("AugmentedLagrangeLoss with per_sample=True needs train_data, whose length is the number of samples")
        self.inner_loop, self.per_sample = inner_loop, per_sample
        # The data themselves would be pickled with the problem; only their number is needed.
        self.samples = len(getattr(train_data, "dataset", train_data)) if per_sample else None
        self.sigma, self.mu_max, self.mu_init, self.eta = sigma, mu_max, mu_init, eta
        self.register_buffer("multipliers", None)
        self.register_buffer("is_equality", None, persistent=False)
        self.register_buffer("weights", None, persistent=False)
        self.register_buffer("mu", torch.tensor(float(mu_init)))
        self.register_buffer("best_violation", torch.tensor(math.inf))

    @property
    def options(self) -> dict[str, Any]:
        names = ("inner_loop", "sigma", "mu_max", "mu_init", "eta", "per_sample")
        train_data = None if self.samples is None else range(self.samples)
        return {name: getattr(self, name) for name in names} | {"train_data": train_data}

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        values = output["C_values"]
        if self.is_equality is None:
            self._make_buffers(output)
        multipliers = self._of(self.multipliers, data)
        shifted = multipliers + self.mu * values
        terms = torch.where(
            self.is_equality,
            values * (multipliers + 0.5 * self.mu * values),
            (torch.relu(shifted).square() - multipliers.square()) / (2 * self.mu),
        )
        return (self.weights * terms).mean(0).sum()

    @torch.no_grad()
    def update(self, output: dict[str, Tensor]) -> None:
        """One outer step from `C_values`, `(samples, entries)`, of all samples; with `per_sample` their `index` too."""
        if self.is_equality is None:
            raise OptionError("AugmentedLagrangeLoss.update needs what a forward pass returned; there was none yet")
        values = output["C_values"].detach()
        moved = self._of(self.multipliers, output) + self.mu * values
        moved = torch.where(self.is_equality, moved, torch.relu(moved))
        if self.per_sample:
            self.multipliers[output["index"].long()] = moved
        else:
            self.multipliers.copy_(moved.mean(0))
        worst = torch.where(self.is_equality, values.abs(), torch.relu(values)).max()
        enough = worst <= self.eta / self.sigma * self.best_violation
        self.mu.copy_(torch.where(enough, self.mu, (self.sigma * self.mu).clamp(max=self.mu_max)))
        self.best_violation.copy_(torch.minimum(self.best_violation, worst))

    def _make_buffers(self, output: dict[str, Tensor]) -> None:
        """The buffers whose shape only a forward pass tells: multipliers, and what each column of `C_values` is."""
        flags: list[bool] = []
        weights: list[float] = []
        names = self.names()[len(self.objectives) :]
        for name, constraint, batched in zip(names, self.constraints, self._batched, strict=True):
            value = output[f"{name}_value"]
            entries = value[0].numel() if batched and value.ndim else value.numel()
            flags += [constraint.is_equality] * entries
            weights += [float(constraint.weight)] * entries
        values = output["C_values"].detach()
        self.is_equality = torch.tensor(flags, device=values.device)
        self.weights = values.new_tensor(weights)
        if self.multipliers is None:
            rows = () if self.samples is None else (self.samples,)
            self.multipliers = values.new_zeros(*rows, values.shape[1])

    def _of(self, multipliers: Tensor, data: dict[str, Tensor]) -> Tensor:
        """The multipliers of the samples at hand."""
        if not self.per_sample:
            return multipliers
        if "index" not in data:
            raise MissingKeyError(
                f"per-sample multipliers need the key 'index' in the data, which hold {sorted(data)}; "
                "DictDataset(..., index=True) adds it"
            )
        return multipliers[data["index"].long()]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A fresh loss has no multipliers yet; those of a checkpoint say how many there are.
        saved = state_dict.get(f"{prefix}multipliers")
        if saved is not None and self.multipliers is None:
            self.multipliers = torch.zeros_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
