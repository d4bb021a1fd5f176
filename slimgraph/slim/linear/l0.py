"""A map whose inputs are switched off one by one: `L0Linear`; `hold_gates_` of all maps of a model."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import check_number
from slimgraph.slim.linear.registry import register

# The interval onto which a concrete variable is stretched before it is cut at 0 and 1, so that both have weight.
LOW, HIGH = -0.1, 1.1


@register("l0")
class L0Linear(LinearBase):
    """W = diag(z) weight, one random gate z in [0, 1] per input: whole rows of W can be exactly 0.

    weight: `(insize, outsize)`. `qz_loga` `(insize,)` are the log-odds of the gates, started at those of probability
    1 - droprate_init to be open; 0 < droprate_init < 1, temperature > 0. Training draws the gates once for each
    `effective_W()` or `materialized` block, a LitProblem once a step, the same on all devices (`hold_gates_`);
    evaluation takes their deterministic values. `reg_error` is lamda times
    the expected number of weights behind gates that are not 0, plus weight_decay/2 times their squares and those of
    the bias; the reference gives it a negative sign. `from_dense` is exact in evaluation, with all gates open; in
    training 1 gate in 1000 is drawn below 1.
    Source: Louizos, Welling, Kingma 2018, Learning sparse neural networks through L0 regularization, arXiv:1712.01312.

    >>> m = L0Linear.from_dense(torch.eye(2)).eval()
    >>> m.effective_W().tolist(), round(m.reg_error().item(), 3)
    ([[1.0, 0.0], [0.0, 1.0]], 5.0)
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        weight_decay: float = 1.0,
        droprate_init: float = 0.5,
        temperature: float = 2 / 3,
        lamda: float = 1.0,
    ):
        super().__init__(insize, outsize, bias)
        name = type(self).__name__
        self.weight_decay = check_number(self, "weight_decay", weight_decay, floor=0.0)
        self.lamda = check_number(self, "lamda", lamda, floor=0.0)
        self.temperature = check_number(self, "temperature", temperature, above=0.0)
        self.droprate_init = check_number(self, "droprate_init", droprate_init)
        if not 0 < self.droprate_init < 1:
            raise OptionError(f"{name} needs 0 < droprate_init < 1, got droprate_init={droprate_init}")
        start = math.log(1 - self.droprate_init) - math.log(self.droprate_init)
        # Gates that start alike to the last digit would all be shut by the same step.
        self.qz_loga = nn.Parameter(start + 0.01 * torch.randn(insize))
        self._held: Tensor | None = None

    def effective_W(self) -> Tensor:
        return self.gates().unsqueeze(1) * self.weight

    def gates(self) -> Tensor:
        """z, `(insize,)`: drawn anew in training, or those that are held; the deterministic values in evaluation."""
        if self.training:
            eps = self.get_eps(self.in_features) if self._held is None else self._held
            return self.quantile_concrete(eps).clamp(0, 1)
        return (LOW + (HIGH - LOW) * torch.sigmoid(self.qz_loga)).clamp(0, 1)

    def cdf_qz(self, x: float | Tensor) -> Tensor:
        """The probability that a gate, before it is cut at 0 and 1, is at most `x`: `(..., insize)`."""
        x = torch.as_tensor(x, dtype=self.qz_loga.dtype, device=self.qz_loga.device)
        place = ((x - LOW) / (HIGH - LOW)).clamp(0, 1)
        return torch.sigmoid(self.temperature * torch.logit(place) - self.qz_loga)

    def quantile_concrete(self, u: Tensor) -> Tensor:
        """The inverse of `cdf_qz`: gates, before they are cut at 0 and 1, from uniform numbers; u: `(..., insize)`."""
        return LOW + (HIGH - LOW) * torch.sigmoid((torch.logit(u) + self.qz_loga) / self.temperature)

    def get_eps(self, size: int | tuple[int, ...]) -> Tensor:
        """Uniform random numbers of shape `size`, away from 0 and 1 by one rounding error."""
        return self._inside(torch.rand(size, dtype=self.qz_loga.dtype, device=self.qz_loga.device))

    def hold_gates_(self, generator: torch.Generator | None) -> None:
        """Training takes, from now on, the gates that the CPU's `generator` gives; with None it draws them anew again.

        The gates still follow `qz_loga`: what is held are the uniform numbers that they are made of, which a copy or a
        pickle does not take along.
        """
        self._held = None
        if generator is not None:
            # From the CPU, so that a seed means the same gates on every device.
            drawn = torch.rand(self.in_features, dtype=self.qz_loga.dtype, generator=generator)
            self._held = self._inside(drawn).to(self.qz_loga.device, non_blocking=True)

    def _inside(self, uniform: Tensor) -> Tensor:
        edge = torch.finfo(uniform.dtype).eps
        return uniform.clamp(edge, 1 - edge)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_held": None}

    def reg_error(self) -> Tensor:
        # 1 - cdf_qz(0) without the cancellation.
        not_shut = torch.sigmoid(self.qz_loga - self.temperature * math.log(-LOW / HIGH))
        cost = self.weight_decay / 2 * self.weight.square().sum(1) + self.lamda * self.out_features
        error = (not_shut * cost).sum()
        return error if self.bias is None else error + self.weight_decay / 2 * self.bias.square().sum()

    def to_linear(self) -> nn.Linear:
        """As for any map, with the gates of evaluation: a draw is not to be deployed."""
        training, self.training = self.training, False
        try:
            return super().to_linear()
        finally:
            self.training = training

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_(W)
        # At log(11) the deterministic gate is 1; at temperature * log(11) half of the drawn ones are.
        self.qz_loga.fill_(max(1.0, self.temperature) * math.log(HIGH / -LOW) + math.log(999))

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, weight_decay={self.weight_decay}, droprate_init={self.droprate_init},"
            f" temperature={self.temperature:.4g}, lamda={self.lamda}"
        )


def hold_gates_(module: nn.Module, generator: torch.Generator | None) -> None:
    """Calls `hold_gates_(generator)` of every module at or below `module` that has one.

    Called before each step with a generator of the same seed everywhere, every device draws the same gates, however
    often the step uses or recomputes a map. `LitProblem` does so; a loop of your own calls it, with None at the end.

    >>> model = nn.Sequential(L0Linear(20, 2), nn.Tanh())
    >>> hold_gates_(model, torch.Generator().manual_seed(3))
    >>> bool(model[0].gates().equal(model[0].gates()))
    True
    >>> hold_gates_(model, None)
    """
    for part in module.modules():
        # A module is slow to say that it lacks an attribute; its class is not.
        if callable(getattr(type(part), "hold_gates_", None)):
            cast(Any, part).hold_gates_(generator)
