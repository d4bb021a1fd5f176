"""AugmentedLagrangeLoss: multipliers that find the exact optimum of a constrained problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, MissingKeyError, OptionError, ShapeError
from slimgraph.losses.penalty import PenaltyLoss, sum_of
from slimgraph.slim.linear.functions import check_number, whole_number
from slimgraph.symbolic import Constraint, Objective


class AugmentedLagrangeLoss(PenaltyLoss):
    """Objectives plus multipliers that find the exact optimum of the constrained problem.

    With c the signed values and lambda, mu the multipliers and their weight, an equality entry adds
    lambda c + mu c^2 / 2, an inequality (relu(lambda + mu c)^2 - lambda^2) / (2 mu), each averaged over the samples.
    `update(output)` makes one outer step: lambda <- mean(lambda + mu c) for an equality, mean(relu(lambda + mu c)) for
    an inequality; mu grows by `sigma`, up to `mu_max`, unless the largest violation, and the largest step of a
    multiplier over mu, fell below `eta / sigma` of their best so far.
    `inner_loop` is the number of epochs between two updates, which `LitProblem` makes.

    There is one multiplier per constraint entry (a column of `C_values`), or with `per_sample=True` one per sample and
    entry, found by the data's `index` key, `(batch,)`; then `train_data` gives the number of samples. A weight
    multiplies its constraint's whole term: the dual solution is weight * `multipliers`.

    In evaluation mode each entry adds mu_max violation^2 / 2 instead, so that validation losses of different epochs,
    and samples that have no multipliers, can be compared.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 17.4. Raises OptionError for options outside
    their range, MissingKeyError for data without `index` where that is needed, DtypeError for one that is not whole,
    ShapeError where entries do not fit.

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
    mu: Tensor
    best_violation: Tensor

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
        self.inner_loop = whole_number(self, "inner_loop", inner_loop)
        self.sigma = check_number(self, "sigma", sigma, floor=1.0)
        self.eta = check_number(self, "eta", eta, floor=0.0)
        self.mu_init = check_number(self, "mu_init", mu_init, above=0.0)
        self.mu_max = check_number(self, "mu_max", mu_max, above=0.0)
        if self.mu_init > self.mu_max:
            raise OptionError(
                f"AugmentedLagrangeLoss needs mu_init <= mu_max, got mu_init={mu_init} and mu_max={mu_max}"
            )
        if not isinstance(per_sample, bool):
            raise OptionError(f"AugmentedLagrangeLoss needs per_sample to be True or False, got {per_sample!r}")
        if per_sample and train_data is None:
            raise OptionError(
                "AugmentedLagrangeLoss with per_sample=True needs train_data, whose length is the number of samples"
            )
        self.per_sample = per_sample
        # The data themselves would be pickled with the problem; only their number is needed.
        self.samples = _count(train_data) if per_sample else None
        self.register_buffer("multipliers", None)
        self.register_buffer("is_equality", None)
        self._widths: list[int] = []
        self.register_buffer("mu", torch.tensor(self.mu_init))
        self.register_buffer("best_violation", torch.tensor(math.inf))

    @property
    def options(self) -> dict[str, Any]:
        names = ("inner_loop", "sigma", "mu_max", "mu_init", "eta", "per_sample")
        train_data = None if self.samples is None else range(self.samples)
        return {name: getattr(self, name) for name in names} | {"train_data": train_data}

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        if not self.training:
            # Losses under other multipliers say nothing about each other, and other samples have none.
            terms = 0.5 * self.mu_max * output["C_violations"].square()
            return self._weighed(terms, self._widths_of(output))
        values = output["C_values"]
        if not self._widths:
            self._make_buffers(output)
        if values.shape[1] != self.multipliers.shape[-1]:
            raise ShapeError(
                f"AugmentedLagrangeLoss has multipliers for {self.multipliers.shape[-1]} entries per sample, this "
                f"batch has {values.shape[1]}; every batch must have the same, so roll-outs the same number of "
                f"steps. The entries: {dict(zip(self._constraint_names, self._widths_of(output), strict=True))}"
            )
        multipliers = self._of(self.multipliers, data, len(values))
        shifted = multipliers + self.mu * values
        terms = torch.where(
            self.is_equality,
            values * (multipliers + 0.5 * self.mu * values),
            (torch.relu(shifted).square() - multipliers.square()) / (2 * self.mu),
        )
        return self._weighed(terms, self._widths).to(values.dtype)

    def _weighed(self, terms: Tensor, widths: list[int]) -> Tensor:
        """The mean over the samples of `terms`, `(samples, entries)`, each constraint's entries times its weight."""
        pieces = terms.mean(0).split(widths)
        return sum_of([c.weighed(piece.sum()) for c, piece in zip(self.constraints, pieces, strict=True)])

    @torch.no_grad()
    def update(self, output: dict[str, Tensor]) -> None:
        """One outer step from `C_values`, `(samples, entries)`, of all samples; with `per_sample` their `index` too."""
        if not self.constraints:
            return
        if self.is_equality is None:
            raise OptionError(
                "AugmentedLagrangeLoss.update needs what a forward pass in training mode returned; there was none yet"
            )
        if "C_values" not in output:
            raise MissingKeyError(
                f"AugmentedLagrangeLoss.update needs 'C_values' of a forward pass, the output holds {sorted(output)}"
            )
        values = output["C_values"].detach()
        before = self._of(self.multipliers, output, len(values))
        after = before + self.mu * values
        after = torch.where(self.is_equality, after, torch.relu(after))
        after = after if self.per_sample else after.mean(0)
        worst = torch.where(self.is_equality, values.abs(), torch.relu(values)).max()
        # A slack constraint whose multiplier has yet to fall to zero is no better than a violated one.
        worst = torch.maximum(worst, (after - before).abs().max() / self.mu)
        if self.per_sample:
            self.multipliers[output["index"].long()] = after
        else:
            self.multipliers.copy_(after)
        enough = worst <= self.eta / self.sigma * self.best_violation
        self.mu.copy_(torch.where(enough, self.mu, (self.sigma * self.mu).clamp(max=self.mu_max)))
        self.best_violation.copy_(torch.minimum(self.best_violation, worst))

    @property
    def _constraint_names(self) -> list[str]:
        return self.names()[len(self.objectives) :]

    def _widths_of(self, output: dict[str, Tensor]) -> list[int]:
        """How many columns of `C_values` each constraint has."""
        values = [output[f"{name}_value"] for name in self._constraint_names]
        return [
            value.shape[1:].numel() if batched and value.ndim else value.numel()
            for batched, value in zip(self._batched, values, strict=True)
        ]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make_buffers(self, output: dict[str, Tensor]) -> None:
        """The buffers whose shape only a forward pass tells: multipliers, and what each column of `C_values` is."""
        values, widths = output["C_values"], self._widths_of(output)
        flags = [flag for flag, width in zip(self._equality, widths, strict=True) for _ in range(width)]
        if self.multipliers is None:
            rows = () if self.samples is None else (self.samples,)
            # Steps of a multiplier are small beside it: half precision would lose them.
            dtype = torch.promote_types(values.dtype, self.mu.dtype)
            self.multipliers = torch.zeros(*rows, len(flags), dtype=dtype, device=values.device)
        if len(flags) == self.multipliers.shape[-1]:
            self._widths = widths
            self.is_equality = torch.tensor(flags, device=values.device)

    def _of(self, multipliers: Tensor, data: dict[str, Tensor], samples: int) -> Tensor:
        """The multipliers of the samples at hand."""
        if not self.per_sample:
            return multipliers
        index = data.get("index")
        if index is None or index.ndim != 1 or samples not in (1, len(index)):
            read = {"index", *(key for constraint in self.constraints for key in constraint.keys)}
            shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in data.items() if key in read)
            error = MissingKeyError if index is None else ShapeError
            raise error(
                f"the per-sample multipliers of {', '.join(map(repr, self._constraint_names))} need the key 'index', "
                f"({samples},), in the data, which hold {shapes or sorted(data)}; DictDataset(..., index=True) adds it"
            )
        if index.is_floating_point() or index.dtype == torch.bool:
            raise DtypeError(f"the key 'index' numbers the samples; it needs whole numbers, got {index.dtype}")
        index = index.long()
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= len(multipliers):
            raise OptionError(
                f"per-sample multipliers were made for {len(multipliers)} samples, the data hold index "
                f"{high if low >= 0 else low}; give train_data= of the whole training set"
            )
        return multipliers[index]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if f"{prefix}multipliers" not in state_dict and f"{prefix}mu" in state_dict:
            # The state is that of a loss that had seen no batch yet, and so is this one now.
            self.multipliers = self.is_equality = None  # pyright: ignore[reportAttributeAccessIssue]
            self._widths = []
        # A fresh loss has seen no batch yet; the checkpoint says how many multipliers there are, and of which kind.
        for name in ("multipliers", "is_equality"):
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None and getattr(self, name) is None:
                setattr(self, name, torch.zeros_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _count(data: Any) -> int:
    """The number of samples in a data set, a loader of one, or a dict of tensors."""
    data = getattr(data, "dataset", data)
    data = next(iter(data.values()), ()) if isinstance(data, Mapping) else data
    if not hasattr(data, "__len__") or not len(data):
        raise OptionError(
            "train_data of an AugmentedLagrangeLoss is the training set, a loader of it, a dict of tensors, or "
            f"range(samples); got {data!r}"
        )
    return len(data)
