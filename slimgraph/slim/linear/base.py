"""What every structured map is: `LinearBase`, `SquareLinear`."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.slim.linear.functions import (
    IdentityGradReLU,
    check_input,
    check_real,
    full_precision,
    whole_number,
)
from slimgraph.slim.linear.registry import even_maps, get_map, maps, register, square_maps, tall_maps

__all__ = [
    "IdentityGradReLU",
    "LinearBase",
    "SquareLinear",
    "even_maps",
    "get_map",
    "maps",
    "register",
    "square_maps",
    "tall_maps",
]


class LinearBase(nn.Module, Drawable, metaclass=StrictOptions):
    """A trainable linear map whose matrix keeps, while it is trained, the structure that its class is named after.

    `forward(x) = x @ W + bias` with `W = effective_W()`; x: `(..., insize)`, W: `(insize, outsize)`, bias:
    `(outsize,)`, result: `(..., outsize)`. A subclass defines `effective_W` and `_contains`, and `_set_dense` where a
    closed form exists. `weight`, if `provide_weights`, is uniform in +-1/sqrt(insize), as torch.nn.Linear starts.

    Raises `OptionError` for a size below 1, `ShapeError` and `DtypeError` for an input that does not fit.
    """

    torch_layout: ClassVar[bool] = False
    """Whether `weight` is torch's `(outsize, insize)` instead of `(insize, outsize)`."""

    weight: Tensor
    bias: Tensor | None

    # An array on the left would take the map for a number of its own, before `__rmatmul__` is asked.
    __array_ufunc__ = None

    def __init__(self, insize: int, outsize: int, bias: bool = False, provide_weights: bool = True):
        super().__init__()
        self.in_features = self._size("insize", insize)
        self.out_features = self._size("outsize", outsize)
        if not isinstance(bias, bool):
            # A bound in the place of the bias would silently make another map.
            raise OptionError(
                f"{type(self).__name__} needs bias to be True or False, got {bias!r}; options come after it"
            )
        self.use_bias = bias
        spread = 1 / math.sqrt(insize)
        if provide_weights:
            shape = (outsize, insize) if self.torch_layout else (insize, outsize)
            self.weight = nn.Parameter(torch.empty(shape).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(outsize).uniform_(-spread, spread)) if bias else None

    @abstractmethod
    def effective_W(self) -> Tensor:
        """W: `(insize, outsize)`, without the bias; inside `materialized` it is built once and then reused."""

    def forward(self, x: Tensor) -> Tensor:
        """`x @ W + bias`; x: `(..., insize)`, result: `(..., outsize)`."""
        W = self.effective_W()
        self._check_input(x, W.dtype)
        return F.linear(x, W.mT, self.bias)

    def reg_error(self) -> Tensor:
        """How far the weights are from keeping the promise, 0-dim; 0 where it is kept by construction."""
        return self._anchor().new_zeros(())

    @full_precision
    def contains(self, W: Tensor, tol: float | None = None) -> bool:
        """Whether the matrix `W` is finite, of this map's shape, and keeps the promise of the class within `tol`.

        It reads the map's sizes and bounds, never its weights. The default tolerance is 10 eps sqrt(size) of W's dtype,
        and at most 0.05. Raises `DtypeError` for a W that is no tensor of real floating-point numbers.
        """
        W = check_real(f"{type(self).__name__}.contains", W, "matrix").detach()
        if W.shape != (self.in_features, self.out_features) or not bool(W.isfinite().all()):
            return False
        rounding = self._rounding(W)
        W = W.to(torch.promote_types(W.dtype, torch.float32))
        return bool(self._contains(W, rounding if tol is None else tol))

    def _rounding(self, W: Tensor) -> float:
        """The default tolerance of `contains`."""
        # A member that was rounded to bfloat16 is off by about 0.01 at any size; 0.05 still tells it from others.
        return min(10 * torch.finfo(W.dtype).eps * math.sqrt(max(W.shape)), 0.05)

    def _contains(self, W: Tensor, tol: float) -> Tensor | bool:
        """The promise, for a finite `W` of the right shape in float32 or float64."""
        return True

    def distance(self, W: Tensor) -> Tensor:
        """The Frobenius norm of `effective_W() - W`, 0-dim: how far from `W` its `from_dense` or a fit has stayed.

        >>> maps['symmetric'].from_dense(torch.tensor([[0., 3.], [-5., 0.]])).distance(torch.eye(2)).item()
        2.0
        """
        name = f"{type(self).__name__}.distance"
        if check_real(name, W, "matrix").shape != (self.in_features, self.out_features):
            needed = self.in_features, self.out_features
            raise ShapeError(f"{name} needs a matrix of shape {needed}, got shape {tuple(W.shape)}")
        return torch.linalg.matrix_norm(self.effective_W() - W)

    def eig(self, eigenvectors: bool = True) -> Any:
        """The eigenvalues of a square W and its right eigenvectors, as `torch.linalg.eig`; or the values alone.

        Those that belong to `x @ W` are the left eigenvectors, the right ones of W^T. Raises `ShapeError` for a
        rectangular W.
        """
        W = self.effective_W()
        if W.shape[0] != W.shape[1]:
            raise ShapeError(f"{type(self).__name__}.eig needs a square matrix, got shape {tuple(W.shape)}")
        # LAPACK has no half precision.
        W = W.to(torch.promote_types(W.dtype, torch.float32))
        return torch.linalg.eig(W) if eigenvectors else torch.linalg.eigvals(W)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The `torch.nn.Linear` with the same function, its weights a copy, for deployment."""
        W = self.effective_W()
        bias = self.bias
        linear: Any = nn.utils.skip_init(nn.Linear, *W.shape, bias=bias is not None, device=W.device, dtype=W.dtype)
        linear.weight.copy_(W.mT)
        if bias is not None:
            linear.bias.copy_(bias)
        return linear

    @classmethod
    def from_dense(cls, W: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
        """A map in W's dtype and on its device whose matrix is `W`, or the nearest one that the class documents.

        W: `(insize, outsize)`, bias: `(outsize,)` or None; `options` are the constructor's. Ask the result for its
        `distance(W)`. Raises `OptionError` for a class without a closed form, `ShapeError` for a W that is no matrix or
        a bias that does not fit it, `DtypeError` for either that is no tensor of real floating-point numbers.
        """
        name = cls.__name__
        if cls._set_dense is LinearBase._set_dense:
            raise OptionError(f"{name} has no from_dense: no closed form gives its parameters; fit it to the matrix")
        if check_real(f"{name}.from_dense", W, "matrix").ndim != 2:
            raise ShapeError(f"{name}.from_dense needs a matrix (insize, outsize), got shape {tuple(W.shape)}")
        if not bool(W.isfinite().all()):
            raise OptionError(f"{name}.from_dense needs a finite matrix, got NaN or infinite entries")
        if bias is not None and check_real(f"{name}.from_dense", bias, "bias").shape != W.shape[1:]:
            raise ShapeError(f"{name}.from_dense needs a bias of {W.shape[1]} entries, got shape {tuple(bias.shape)}")
        new: Any = cls(*W.shape, bias=bias is not None, **options).to(W)
        with torch.no_grad():
            new._set_dense(W.detach())
            if bias is not None:
                new.bias.copy_(bias)
        return new

    def _set_dense(self, W: Tensor) -> None:
        """Move the parameters, in place, to those whose matrix is nearest to `W`."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the map's tensors are."""
        return self._anchor().device

    def __matmul__(self, other: LinearBase) -> Any:
        """The map that goes through this one and then through `other`: a `ProductLinear`."""
        # The room of compositions builds on this one.
        from slimgraph.slim.linear.composition import ProductLinear

        return ProductLinear([self, self._operand("@", other)])

    def __add__(self, other: LinearBase) -> Any:
        """The sum of both maps of the same input: a `SumLinear`."""
        from slimgraph.slim.linear.composition import SumLinear

        return SumLinear([self, self._operand("+", other)])

    def __rmatmul__(self, other: Any) -> Any:
        self._operand("@", other)

    def __radd__(self, other: Any) -> Any:
        self._operand("+", other)

    def _operand(self, symbol: str, other: Any) -> LinearBase:
        if isinstance(other, LinearBase):
            return other
        if hasattr(other, "ndim"):
            what = "map(x) applies a map to a tensor"
        elif isinstance(other, nn.Module):
            what = f"got a {type(other).__name__}; torch.nn.Sequential chains modules of any kind"
        else:
            what = f"got {other!r}"
        raise OptionError(f"{type(self).__name__} {symbol} takes another structured map; {what}")

    def to_networkx(self):
        """The map between its input and output, with its weights: a `networkx.MultiDiGraph`."""
        # networkx costs an eighth of torch's own import, and a map is drawn rarely.
        from networkx import MultiDiGraph

        graph, name = MultiDiGraph(), type(self).__name__
        graph.add_node("x", kind="data", label=f"x (..., {self.in_features})")
        graph.add_node("map", kind="map", label=name, part=self)
        graph.add_node("y", kind="data", label=f"y (..., {self.out_features})")
        graph.add_edge("x", "map", key="x")
        graph.add_edge("map", "y", key="y")
        for weight, value in self.named_parameters():
            graph.add_node(f"weights:{weight}", kind="weights", label=f"{weight} {tuple(value.shape)}")
            graph.add_edge(f"weights:{weight}", "map", key="")
        return graph

    def as_graph(self) -> Any:
        """Its component graph: `LinearWeights` with a copy of W and of the bias as they are now.

        A composition gives a `GraphHolder` of its terms. `from_graph` leads back.

        >>> (maps['orthogonal'](3, 3) @ maps['linear'](3, 2)).as_graph()
        GraphHolder 'ProductLinear' (3 -> 2)
        """
        from slimgraph.slim.linear.as_graph import map_graph

        return map_graph(self)

    @classmethod
    def from_graph(cls, graph: Any, **options: Any) -> Any:
        """The map whose matrix is that of `graph`, weights in any composition; `options` are the constructor's.

        Raises `OptionError`, with its name, for a graph that holds anything else; for a matrix that is no member of the
        class, of which `from_dense` gives the nearest; and for a class without `from_dense`.

        >>> graph = maps['orthogonal'](3, 3).as_graph()
        >>> bool(maps['linear'].from_graph(graph).effective_W().equal(graph.weights))
        True
        """
        from slimgraph.slim.linear.as_graph import map_from_graph

        return map_from_graph(cls, graph, options)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.use_bias}"

    def __getstate__(self) -> dict[str, Any]:
        # A W that `materialized` holds is of one moment: a copy or a pickle made inside it starts without.
        return {name: value for name, value in vars(self).items() if name != "effective_W"}

    @property
    def is_materialized(self) -> bool:
        """Whether a `materialized` context is open for this map, here and now: a checkpointed function is outside."""
        built = vars(self).get("effective_W")
        return built is not None and built.is_valid

    def _anchor(self) -> Tensor:
        """A tensor that tells the map's device and dtype."""
        return next(itertools.chain(self.parameters(), self.buffers()))

    def _size(self, word: str, size: int) -> int:
        return whole_number(self, word, size)

    def _check_input(self, x: Tensor, dtype: torch.dtype) -> None:
        check_input(self, x, self.in_features, dtype)


class SquareLinear(LinearBase):
    """A map that needs `insize == outsize`; raises `OptionError` with both otherwise."""

    def __init__(self, insize: int, outsize: int, bias: bool = False, provide_weights: bool = True):
        if insize != outsize:
            raise OptionError(
                f"{type(self).__name__} is square and needs insize == outsize,"
                f" got insize={insize} and outsize={outsize}"
            )
        super().__init__(insize, outsize, bias, provide_weights)
