"""Maps that an l1 penalty makes sparse: `LassoLinear`, `LassoLinearRELU`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import check_number
from slimgraph.slim.linear.registry import register


class TwoHalves(LinearBase):
    """What both share: W = u - v of two non-negative halves, and gamma * sum(u + v) as `reg_error`.

    u, v: `(insize, outsize)`, started from the absolute value of the usual draw; gamma >= 0.
    """

    def __init__(self, insize: int, outsize: int, bias: bool, gamma: float):
        super().__init__(insize, outsize, bias, provide_weights=False)
        self.gamma = check_number(self, "gamma", gamma, floor=0.0)
        self.u = nn.Parameter(torch.rand(insize, outsize) / insize**0.5)
        self.v = nn.Parameter(torch.rand(insize, outsize) / insize**0.5)

    @abstractmethod
    def halves(self) -> tuple[Tensor, Tensor]:
        """u and v as W reads them: non-negative."""

    def effective_W(self) -> Tensor:
        u, v = self.halves()
        return u - v

    def reg_error(self) -> Tensor:
        u, v = self.halves()
        return self.gamma * (u + v).sum()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}"


@register("lasso")
class LassoLinear(TwoHalves):
    """W = u - v with u, v >= 0: the lasso, whose optimum has exact zeros.

    `reg_error` is gamma * sum(u + v); at the optimum one half of each entry is 0, and that is gamma * sum(abs(W)).
    u, v: `(insize, outsize)`, read as max(u, 0) and max(v, 0) with the gradient of the identity; gamma >= 0. This is
    projected gradient descent: `project_()` belongs after each optimiser step, or a half below 0 goes on falling.
    `LitProblem` calls it; a loop of your own calls it, or `slim.project_(model)` for all maps of a model. `from_dense`
    is exact. The reference clamps the parameters in the forward pass.
    Source: Bottou 2010, Large-scale machine learning with stochastic gradient descent, COMPSTAT.

    >>> m = LassoLinear.from_dense(torch.tensor([[2., -3.]]), gamma=0.1)
    >>> round(m.reg_error().item(), 4)
    0.5
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, gamma: float = 1.0):
        super().__init__(insize, outsize, bias, gamma)

    def halves(self) -> tuple[Tensor, Tensor]:
        # As `IdentityGradReLU`, exactly, in operations that have a forward mode too.
        return self.u + (self.u.clamp(min=0) - self.u).detach(), self.v + (self.v.clamp(min=0) - self.v).detach()

    @torch.no_grad()
    def project_(self) -> None:
        """Sets what is negative in `u` and `v` to 0, in place; W and `reg_error` stay what they are."""
        self.u.clamp_(min=0)
        self.v.clamp_(min=0)

    def _set_dense(self, W: Tensor) -> None:
        self.u.copy_(W.clamp(min=0))
        self.v.copy_((-W).clamp(min=0))


@register("lasso_relu")
class LassoLinearRELU(TwoHalves):
    """W = relu(u) - relu(v): a lasso that needs no projection.

    u, v: `(insize, outsize)`, started positive; gamma >= 0. `reg_error` is gamma * sum(relu(u) + relu(v)). A half that
    has reached 0 has no slope and stays there, unlike in `LassoLinear`. `from_dense` is exact.
    Source: Bottou 2010, Large-scale machine learning with stochastic gradient descent, COMPSTAT.

    >>> m = LassoLinearRELU.from_dense(torch.tensor([[2., -3.]]), gamma=0.1)
    >>> round(m.reg_error().item(), 4)
    0.5
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False, gamma: float = 1.0):
        super().__init__(insize, outsize, bias, gamma)

    def halves(self) -> tuple[Tensor, Tensor]:
        return F.relu(self.u), F.relu(self.v)

    def _set_dense(self, W: Tensor) -> None:
        # At 0 itself relu has no slope, and the entry could never be trained again.
        tiny = torch.finfo(W.dtype).tiny
        self.u.copy_(W.clamp(min=tiny))
        self.v.copy_((-W).clamp(min=tiny))


def project_(module: nn.Module) -> None:
    """Calls `project_()` of every module at or below `module` that has one; belongs after each optimiser step.

    >>> model = nn.Sequential(LassoLinear(2, 2), nn.Tanh())
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> project_(model)
    """
    for part in module.modules():
        # A module is slow to say that it lacks an attribute; its class is not.
        if callable(getattr(type(part), "project_", None)):
            cast(Any, part).project_()
