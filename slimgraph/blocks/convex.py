"""Convex and positive-definite functions: `InputConvexNN`, `PosDef`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph import slim
from slimgraph.blocks.base import Block, Nonlinearity, ordinal
from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.slim import LookedThrough, NonNegativeLinear, materialized
from slimgraph.slim.cells import MapChoice
from slimgraph.slim.linear.functions import check_number


class InputConvexNN(Block):
    """A network each of whose outputs is a convex function of x, whatever the weights; x: `(..., insize)`.

    z_1 = s(map_0(x)), z_(k+1) = s(U_k(z_k) + map_k(x)), y = U_n(z_n) + map_n(x), with matrices U_k >= 0 and a
    nonlinearity s that is convex and nowhere falls, by default softplus. `linear_map` and `linargs` are for the maps
    of x, as in `MLP`; y: `(..., outsize)`.

    Raises `OptionError` for a nonlinearity that is not convex, falls somewhere or has parameters of its own.

    >>> bowl = InputConvexNN(2, 1, hsizes=[8, 8])
    >>> a, b = torch.randn(100, 2), torch.randn(100, 2)
    >>> bool((bowl((a + b) / 2) <= (bowl(a) + bowl(b)) / 2 + 1e-6).all())
    True

    Source: Amos, Xu, Kolter, Input Convex Neural Networks, ICML 2017.
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: Nonlinearity = nn.Softplus,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(insize, outsize)
        self.hsizes = self._sizes(hsizes, (64,))
        if not self.hsizes:
            raise OptionError("InputConvexNN needs a hidden layer, got hsizes=[]; without one it is a Linear")
        sizes = [*self.hsizes, self.outsize]
        self.linear = nn.ModuleList(
            self._map(ordinal(place), linear_map, self.insize, size, bias, linargs) for place, size in enumerate(sizes)
        )
        # The bias stands in the map of x.
        self.positive = nn.ModuleList(map(NonNegativeLinear, sizes[:-1], sizes[1:]))
        self.nonlin = nn.ModuleList(self._nonlinearity(nonlin) for _ in self.hsizes)
        self._check_convex(nonlin)

    @torch.no_grad()
    def _check_convex(self, nonlin: Nonlinearity) -> None:
        made = self.nonlin[0]
        if list(made.parameters()) or not _is_convex(made):
            raise OptionError(
                "InputConvexNN needs a nonlinearity that is convex, nowhere falls, takes each number by itself and has "
                f"no parameters, such as nn.Softplus, nn.ReLU or nn.ELU; got {nonlin!r}"
            )

    def block_eval(self, x: Tensor) -> Tensor:
        z = self.linear[0](x)
        for nonlin, positive, linear in zip(self.nonlin, self.positive, self.linear[1:], strict=True):
            z = positive(nonlin(z)) + linear(x)
        return z


def _is_convex(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether it is convex and nowhere falls, and takes each number by itself, as far as 401 of them show."""
    points = torch.linspace(-20, 20, 401, dtype=torch.float64)
    values = function(points[:, None])[:, 0]
    # A softmax over one entry is 1 everywhere.
    alone = torch.allclose(values, function(points[None])[0])
    return alone and bool(values.diff().min() >= -1e-9) and bool(values.diff(n=2).min() >= -1e-9)


class PosDef(LookedThrough, metaclass=StrictOptions):
    """V(x) = s(g(x) - g(0)) + eps |x|^2: 0 at 0 and positive elsewhere, as a Lyapunov function has to be.

    `g` is any function or module from x `(..., n)` to `(..., m)`, and V has g's shape; s(t) is 0 for t <= 0,
    t^2 / (2 d) up to t = d and t - d/2 beyond, so that V is as smooth as that. Where g is an `InputConvexNN`, V is
    convex. With `max`, V is cut off there.

    Raises `OptionError` for a g that cannot be called, or max, eps or d that are not > 0.

    >>> V = PosDef(InputConvexNN(2, 1))
    >>> V(torch.zeros(1, 2)).item(), bool((V(torch.randn(100, 2)) > 0).all())
    (0.0, True)

    Source: Kolter, Manek, Learning Stable Deep Dynamics Models, NeurIPS 2019, arXiv:2001.06116.
    """

    def __init__(self, g: Callable[[Tensor], Tensor], max: float | None = None, eps: float = 0.01, d: float = 1.0):
        super().__init__()
        if not callable(g):
            raise OptionError(f"PosDef needs a function or module for g, got {type(g).__name__}: {g!r}")
        self.g: Any = g
        self.insize = self.in_features = getattr(g, "insize", getattr(g, "in_features", None))
        self.outsize = self.out_features = getattr(g, "outsize", getattr(g, "out_features", None))
        self.max = None if max is None else check_number(self, "max", max, above=0.0)
        self.eps, self.d = check_number(self, "eps", eps, above=0.0), check_number(self, "d", d, above=0.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """V at the inputs, joined on their last axis; `(..., m)`."""
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1)
        if x.ndim == 0:
            raise ShapeError("PosDef needs an input (..., n), got a tensor without axes")
        with materialized(self):
            t = self.g(x) - self.g(x.new_zeros(*[1] * (x.ndim - 1), x.shape[-1]))
        inside = t.clamp(0.0, self.d)
        V = inside * (t.clamp(min=0.0) - inside / 2) / self.d + self.eps * x.square().sum(-1, keepdim=True)
        return V if self.max is None else V.clamp(max=self.max)

    def extra_repr(self) -> str:
        return ("" if self.max is None else f"max={self.max:g}, ") + f"eps={self.eps:g}, d={self.d:g}"
