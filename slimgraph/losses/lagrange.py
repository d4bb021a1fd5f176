"""AugmentedLagrangeLoss: multipliers that find the exact optimum of a constrained problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import MissingKeyError, OptionError, ShapeError
from slimgraph.losses.penalty import PenaltyLoss, sum_of
from slimgraph.symbolic import Constraint, Objective


class AugmentedLagrangeLoss(PenaltyLoss):
    """Objectives plus multipliers that find the exact optimum of the constrained problem.

    With c the signed values and lambda, mu the multipliers and their weight, an equality entry adds
    lambda c + mu c^2 / 2, an inequality (relu(lambda + mu c)^2 - lambda^2) / (2 mu), each averaged over the samples.
    `update(output)` makes one outer step: lambda <- mean(lambda + mu c) for an equality, mean(relu(lambda + mu c)) for
    an inequality; mu grows by `sigma`, up to `mu_max`, unless the largest violation fell below `eta / sigma` of its
    best so far.
    `inner_loop` is the number of epochs between two updates, which `LitProblem` makes.

    There is one multiplier per constraint entry (a column of `C_values`), or with `per_sample=True` one per sample and
    entry, found by the data's `index` key, `(batch,)`; then `train_data` gives the number of samples, and in evaluation
    the constraints count as in PenaltyLoss.

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
        for name, value, least in (
            ("inner_loop", inner_loop, 1),
            ("sigma", sigma, 1),
            ("eta", eta, 0),
            ("mu_init", mu_init, 0),
        ):
            if not value >= least:
                raise OptionError(f"AugmentedLagrangeLoss needs {name} >= {least}; got {value}")
        if mu_max < mu_init or mu_init == 0:
            raise OptionError(
                f"AugmentedLagrangeLoss needs 0 < mu_init <= mu_max; got mu_init={mu_init}, mu_max={mu_max}"
            )
        if per_sample and train_data is None:
            raise OptionError(
                "AugmentedLagrangeLoss with per_sample=True needs train_data, whose length is the number of samples"
            )
        self.inner_loop, self.per_sample = inner_loop, per_sample
        # The data themselves would be pickled with the problem; only their number is needed.
        self.samples = _count(train_data) if per_sample else None
        self.sigma, self.mu_max, self.mu_init, self.eta = sigma, mu_max, mu_init, eta
        self.register_buffer("multipliers", None)
        self.register_buffer("is_equality", None)
        self._widths: list[int] = []
        self.register_buffer("mu", torch.tensor(float(mu_init)))
        self.register_buffer("best_violation", torch.tensor(math.inf))

    @property
    def options(self) -> dict[str, Any]:
        names = ("inner_loop", "sigma", "mu_max", "mu_init", "eta", "per_sample")
        train_data = None if self.samples is None else range(self.samples)
        return {name: getattr(self, name) for name in names} | {"train_data": train_data}

    def penalty(self, output: dict[str, Tensor], penalties: list[Tensor], data: dict[str, Tensor]) -> Tensor:
        if self.per_sample and not self.training:
            # Other samples than those of the training have no multipliers.
            return super().penalty(output, penalties, data)
        values = output["C_values"]
        if not self._widths:
            self._make_buffers(output)
        if values.shape[1] != sum(self._widths):
            raise ShapeError(
                f"AugmentedLagrangeLoss has multipliers for {sum(self._widths)} constraint entries per sample, this "
                f"batch has {values.shape[1]}; every batch must have the same, so roll-outs the same number of steps"
            )
        multipliers = self._of(self.multipliers, data)
        shifted = multipliers + self.mu * values
        terms = torch.where(
            self.is_equality,
            values * (multipliers + 0.5 * self.mu * values),
            (torch.relu(shifted).square() - multipliers.square()) / (2 * self.mu),
        )
        pieces = terms.mean(0).split(self._widths)
        return sum_of([c.weighed(piece.sum()) for c, piece in zip(self.constraints, pieces, strict=True)])

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

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make_buffers(self, output: dict[str, Tensor]) -> None:
        """The buffers whose shape only a forward pass tells: multipliers, and what each column of `C_values` is."""
        names = self.names()[len(self.objectives) :]
        for name, batched in zip(names, self._batched, strict=True):
            value = output[f"{name}_value"]
            self._widths.append(value[0].numel() if batched and value.ndim else value.numel())
        values = output["C_values"]
        flags = [flag for flag, width in zip(self._equality, self._widths, strict=True) for _ in range(width)]
        self.is_equality = torch.tensor(flags, device=values.device)
        if self.multipliers is None:
            rows = () if self.samples is None else (self.samples,)
            self.multipliers = torch.zeros(*rows, len(flags), dtype=values.dtype, device=values.device)

    def _of(self, multipliers: Tensor, data: dict[str, Tensor]) -> Tensor:
        """The multipliers of the samples at hand."""
        if not self.per_sample:
            return multipliers
        if "index" not in data:
            raise MissingKeyError(
                f"per-sample multipliers need the key 'index' in the data, which hold {sorted(data)}; "
                "DictDataset(..., index=True) adds it"
            )
        index = data["index"].long()
        if (largest := int(index.max())) >= len(multipliers):
            raise OptionError(
                f"per-sample multipliers were made for {len(multipliers)} samples, the data hold index {largest}; "
                "give train_data= of the whole training set"
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
    return len(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)
