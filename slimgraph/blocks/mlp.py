"""Layers of maps and nonlinearities: `Linear`, `MLP`, `MLP_bounds`, `ResMLP`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph import slim
from slimgraph.blocks.base import Block, Nonlinearity, ordinal
from slimgraph.errors import OptionError
from slimgraph.graph import GraphModule, chain
from slimgraph.slim.cells import MapChoice
from slimgraph.slim.linear.functions import whole_number


class Linear(Block):
    """y = x W + bias, one structured map as a block; x: `(..., insize)`, y: `(..., outsize)`.

    `linear_map` is a class of maps or its key in `slim.maps`, `linargs` its options. `nonlin` and `hsizes` keep the
    places they have in an `MLP`, so that one call makes either; only None stands there, since there is no hidden layer.

    >>> Linear(3, 2, linear_map="softSVD", linargs={"sigma_max": 0.5})(torch.zeros(4, 1), torch.zeros(4, 2)).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: None = None,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(insize, outsize)
        if nonlin is not None or hsizes:
            raise OptionError(
                f"Linear has no hidden layer and takes no nonlin and no hsizes, got {nonlin!r} and {hsizes!r}; "
                "a network with them is an MLP"
            )
        self.linear = self._map("only", linear_map, self.insize, self.outsize, bias, linargs)

    def block_eval(self, x: Tensor) -> Tensor:
        return self.linear(x)


class MLP(Block):
    """A multi-layer perceptron on any map: h_k = nonlin(map_k(h_(k-1))) with h_0 = x, and y = map_n(h_(n-1)).

    `hsizes` are the widths of the hidden layers, by default `[64]`; none makes it one map. `linear_map` is a class of
    maps or its key in `slim.maps`, and `linargs` its options, both for all layers; `nonlin` is a class, of which each
    layer gets one of its own, or a function. x: `(..., insize)`, y: `(..., outsize)`.

    Raises `OptionError` where the map refuses the sizes of a layer, with the layer: square maps need all sizes equal.

    >>> policy = MLP(3, 1, linear_map="pf", nonlin=torch.tanh, hsizes=[8, 8], linargs={"sigma_max": 0.9})
    >>> policy(torch.zeros(4, 2), torch.zeros(4, 1)).shape
    torch.Size([4, 1])
    >>> MLP(3, 1, linear_map="orthogonal")
    Traceback (most recent call last):
    slimgraph.errors.OptionError: MLP cannot make its first layer, 3 -> 64: OrthogonalLinear is square and needs...
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: Nonlinearity = nn.SiLU,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
    ):
        super().__init__(insize, outsize)
        self.hsizes = self._sizes(hsizes, (64,))
        sizes = [self.insize, *self.hsizes, self.outsize]
        names = [ordinal(place) for place in range(len(sizes) - 2)] + ["last"]
        self.linear = nn.ModuleList(
            self._map(layer, linear_map, *pair, bias, linargs)
            for layer, pair in zip(names, zip(sizes[:-1], sizes[1:], strict=True), strict=True)
        )
        self.nonlin = nn.ModuleList(self._nonlinearity(nonlin) for _ in self.hsizes)

    def block_eval(self, x: Tensor) -> Tensor:
        for linear, nonlin in zip(self.linear, self.nonlin, strict=False):
            x = nonlin(linear(x))
        return self.linear[-1](x)

    def as_graph(self) -> Any:
        """Its component graph: the maps and the nonlinearities, one behind the other, in one `GraphHolder`.

        A kind of MLP that computes something else is one GraphModule.
        """
        name = type(self).__name__
        if type(self).block_eval is not MLP.block_eval:
            return GraphModule.of_size(self.insize, self.outsize, name, self)
        members = [part for pair in zip(self.linear, self.nonlin, strict=False) for part in pair]
        return chain(((str(i), part) for i, part in enumerate([*members, self.linear[-1]])), None, name, self)


class MLP_bounds(MLP):
    """An `MLP` whose outputs stay between `min` and `max`, numbers or one for each output.

    `method="sigmoid_scale"`: min + (max - min) sigmoid(y), which never ceases to have a gradient but for rounding;
    `"relu_clamp"`: y cut off at both bounds, without a gradient beyond them; or a function of y, min and max.

    Raises `OptionError` for bounds that are no numbers, do not fit the outputs or are in the wrong order.

    >>> valve = MLP_bounds(2, 1, min=-1.0, max=1.0)
    >>> bool((valve(1e6 * torch.randn(100, 2)).abs() <= 1).all())
    True
    """

    min: Tensor
    max: Tensor

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: Nonlinearity = nn.SiLU,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
        min: float | Sequence[float] | Tensor = 0.0,
        max: float | Sequence[float] | Tensor = 1.0,
        method: str | Callable[[Tensor, Tensor, Tensor], Tensor] = "sigmoid_scale",
    ):
        super().__init__(insize, outsize, bias, linear_map, nonlin, hsizes, linargs)
        if method not in ("sigmoid_scale", "relu_clamp") and not callable(method):
            raise OptionError(f"MLP_bounds needs method 'sigmoid_scale', 'relu_clamp' or a function, got {method!r}")
        self.method = method
        # Options, so no part of the state: the weights of an MLP fit, and new bounds come with the code.
        self.register_buffer("min", self._bound("min", min), persistent=False)
        self.register_buffer("max", self._bound("max", max), persistent=False)
        if not bool((self.min <= self.max).all()):
            raise OptionError(f"MLP_bounds needs min <= max, got min={min} and max={max}")

    def _bound(self, word: str, bound: Any) -> Tensor:
        try:
            made = torch.as_tensor(bound, dtype=torch.get_default_dtype()).detach().clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptionError(f"MLP_bounds needs numbers for {word}, got {bound!r}") from error
        if made.shape not in ((), (1,), (self.outsize,)) or not bool(made.isfinite().all()):
            raise OptionError(
                f"MLP_bounds needs for {word} a finite number, or {self.outsize} of them, one an output; got {bound!r}"
            )
        return made

    def block_eval(self, x: Tensor) -> Tensor:
        y = super().block_eval(x)
        # Autocast gives y in half precision, in which the bounds themselves would be rounded.
        y = y.to(torch.promote_types(y.dtype, self.min.dtype))
        if callable(self.method):
            return self.method(y, self.min, self.max)
        if self.method == "relu_clamp":
            return torch.clamp(y, self.min, self.max)
        # lerp counts from the nearer bound, so that no rounding goes past it.
        return torch.lerp(self.min, self.max, torch.sigmoid(y))


class ResMLP(MLP):
    """An `MLP` with a path around every `skip` hidden layers, from the input to the output.

    h_0 = x, p = inmap(x); h_k = nonlin(map_k(h_(k-1))), and for k = 1, 1 + skip, 1 + 2 skip, ... then h_k = h_k + p and
    p = h_k; y = map_n(h_(n-1)) + outmap(p). All hidden layers have one width. Options as in `MLP`; raises `OptionError`
    for widths that differ, or for no hidden layer.

    >>> ResMLP(3, 1, hsizes=[8] * 4, skip=2)(torch.zeros(4, 3)).shape
    torch.Size([4, 1])
    """

    def __init__(
        self,
        insize: int,
        outsize: int,
        bias: bool = True,
        linear_map: MapChoice = slim.Linear,
        nonlin: Nonlinearity = nn.SiLU,
        hsizes: Sequence[int] | None = None,
        linargs: Mapping[str, Any] | None = None,
        skip: int = 1,
    ):
        super().__init__(insize, outsize, bias, linear_map, nonlin, hsizes, linargs)
        self.skip = whole_number(self, "skip", skip)
        if len(set(self.hsizes)) != 1:
            raise OptionError(f"ResMLP adds hidden layers and needs them of one width, got hsizes={self.hsizes}")
        self.inmap = self._map("input", linear_map, self.insize, self.hsizes[0], bias, linargs)
        self.outmap = self._map("output", linear_map, self.hsizes[0], self.outsize, bias, linargs)

    def block_eval(self, x: Tensor) -> Tensor:
        path = self.inmap(x)
        for place, (linear, nonlin) in enumerate(zip(self.linear, self.nonlin, strict=False)):
            x = nonlin(linear(x))
            if place % self.skip == 0:
                x = path = x + path
        return self.linear[-1](x) + self.outmap(path)
