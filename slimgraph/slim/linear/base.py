"""What every structured map is: `LinearBase`, `SquareLinear`, and the walks over the maps below a module."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import DtypeError, OptionError, ShapeError, StrictOptions
from slimgraph.slim.linear.functions import IdentityGradReLU, under_autocast, whole_number
from slimgraph.slim.linear.registry import get_map, maps, register, square_maps, tall_maps

__all__ = [
    "IdentityGradReLU",
    "LinearBase",
    "SquareLinear",
    "get_map",
    "maps",
    "materialized",
    "reg_error_terms",
    "register",
    "square_maps",
    "tall_maps",
    "total_reg_error",
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

    def contains(self, W: Tensor, tol: float | None = None) -> bool:
        """Whether the matrix `W` is finite, of this map's shape, and keeps the promise of the class within `tol`.

        It reads the map's sizes and bounds, never its weights. The default tolerance is 10 eps sqrt(size) of W's dtype.
        """
        if W.shape != (self.in_features, self.out_features) or not bool(W.isfinite().all()):
            return False
        rounding = 10 * torch.finfo(W.dtype).eps * math.sqrt(max(W.shape))
        W = W.detach().to(torch.promote_types(W.dtype, torch.float32))
        return bool(self._contains(W, rounding if tol is None else tol))

    def _contains(self, W: Tensor, tol: float) -> Tensor | bool:
        """The promise, for a finite `W` of the right shape in float32 or float64."""
        return True

    def eig(self, eigenvectors: bool = True) -> Any:
        """The eigenvalues of a square W and its right eigenvectors, as `torch.linalg.eig`; or the values alone.

        Those that belong to `x @ W` are the left eigenvectors, the right ones of W^T. Raises `ShapeError` for a
        rectangular W.
        """
        W = self.effective_W()
        if W.shape[0] != W.shape[1]:
            raise ShapeError(f"{type(self).__name__}.eig needs a square matrix, got shape {tuple(W.shape)}")
        return torch.linalg.eig(W) if eigenvectors else torch.linalg.eigvals(W)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The `torch.nn.Linear` with the same function, its weights a copy, for deployment."""
        W = self.effective_W()
        biased = self.bias is not None
        linear: Any = nn.utils.skip_init(nn.Linear, *W.shape, bias=biased, device=W.device, dtype=W.dtype)
        linear.weight.copy_(W.mT)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear

    @classmethod
    def from_dense(cls, W: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
        """A map in W's dtype and on its device whose matrix is `W`, or the nearest one that the class documents.

        W: `(insize, outsize)`, bias: `(outsize,)` or None; `options` are the constructor's. Raises `OptionError` for a
        class without a closed form, `ShapeError` for a W that is no matrix or a bias that does not fit it.
        """
        name = cls.__name__
        if cls._set_dense is LinearBase._set_dense:
            raise OptionError(f"{name} has no from_dense: no closed form gives its parameters; fit it to the matrix")
        if W.ndim != 2:
            raise ShapeError(f"{name}.from_dense needs a matrix (insize, outsize), got shape {tuple(W.shape)}")
        if not W.is_floating_point():
            raise DtypeError(f"{name}.from_dense needs a real floating-point matrix, got {W.dtype}")
        if not bool(W.isfinite().all()):
            raise OptionError(f"{name}.from_dense needs a finite matrix, got NaN or infinite entries")
        if bias is not None and bias.shape != W.shape[1:]:
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

    def to_networkx(self):
        """The map between its input and output, with its weights: a `networkx.MultiDiGraph`."""
        # networkx costs an eighth of torch's own import, and a map is drawn rarely.
        from networkx import MultiDiGraph

        graph, name = MultiDiGraph(), type(self).__name__
        graph.add_node("x", kind="data", label=f"x (..., {self.in_features})")
        graph.add_node("map", kind="map", label=name)
        graph.add_node("y", kind="data", label=f"y (..., {self.out_features})")
        graph.add_edge("x", "map", key="x")
        graph.add_edge("map", "y", key="y")
        for weight, value in self.named_parameters():
            graph.add_node(f"weights:{weight}", kind="weights", label=f"{weight} {tuple(value.shape)}")
            graph.add_edge(f"weights:{weight}", "map", key="")
        return graph

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.use_bias}"

    def __getstate__(self) -> dict[str, Any]:
        # A W that `materialized` holds is of one moment: a copy or a pickle made inside it starts without.
        return {name: value for name, value in vars(self).items() if name != "effective_W"}

    @property
    def is_materialized(self) -> bool:
        """Whether a `materialized` context is open for this map."""
        return "effective_W" in vars(self)

    def _anchor(self) -> Tensor:
        """A tensor that tells the map's device and dtype."""
        return next(itertools.chain(self.parameters(), self.buffers()))

    def _size(self, word: str, size: int) -> int:
        return whole_number(self, word, size)

    def _check_input(self, x: Tensor, dtype: torch.dtype) -> None:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"{type(self).__name__} needs a last axis of size {self.in_features},"
                f" got {x.shape[-1] if x.ndim else 'none'} (shape {tuple(x.shape)})"
            )
        # Autocast brings both sides to one dtype itself, as long as both are real.
        if x.dtype != dtype and not (x.is_floating_point() and under_autocast(x.device)):
            raise DtypeError(
                f"{type(self).__name__} has weights of {dtype}, got an input of {x.dtype}; convert one with .to(dtype)"
            )


class SquareLinear(LinearBase):
    """A map that needs `insize == outsize`; raises `OptionError` with both otherwise."""

    def __init__(self, insize: int, outsize: int, bias: bool = False, provide_weights: bool = True):
        if insize != outsize:
            raise OptionError(
                f"{type(self).__name__} is square and needs insize == outsize,"
                f" got insize={insize} and outsize={outsize}"
            )
        super().__init__(insize, outsize, bias, provide_weights)


class _BuiltOnce:
    """Stands before `effective_W` of one map inside `materialized`."""

    def __init__(self, owner: LinearBase):
        self.build = owner.effective_W
        self.built: dict[tuple[bool, bool], Tensor] = {}

    def __call__(self) -> Tensor:
        # A W built without gradients would cut them, so each grad mode has its own.
        mode = torch.is_grad_enabled(), not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
        if mode not in self.built:
            self.built[mode] = self.build()
        return self.built[mode]


@contextmanager
def materialized(module: nn.Module) -> Iterator[None]:
    """Inside, every map at or below `module` builds its W once, at first use, for one backward pass.

    The parameters must not change there, not through `functional_call` either.

    Contexts nest: an inner one reuses what the outer one has built.

    >>> cell = maps['orthogonal'](3, 3)
    >>> with materialized(cell):
    ...     cell.effective_W() is cell.effective_W()
    True
    """
    mine = [m for m in module.modules() if isinstance(m, LinearBase) and not m.is_materialized]
    try:
        for m in mine:
            # An entry of the instance goes before the method of the class, and costs nothing when it is not there.
            vars(m)["effective_W"] = _BuiltOnce(m)
        yield
    finally:
        for m in mine:
            vars(m).pop("effective_W", None)


def reg_error_terms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules at or below `module` whose `reg_error()` counts, by dotted name, each object once.

    A module that defines `reg_error` is taken whole and not entered, unless its class is marked `looked_through = True`
    (slimgraph's own containers); a map that keeps its promise by construction has none to give and is left out.

    >>> reg_error_terms(nn.Sequential(maps['orthogonal'](3, 3), maps['softSVD'](3, 3)))
    [('1', SVDLinear(3, 3, bias=False, sigma_min=0.1, sigma_max=1.0))]
    """
    terms: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()

    def walk(name: str, m: nn.Module) -> None:
        if m in seen:
            return
        seen.add(m)
        reg_error = getattr(type(m), "reg_error", None)
        # A map made of maps that says nothing of its own is looked through: its parts may have something to say.
        if reg_error not in (None, LinearBase.reg_error) and not getattr(m, "looked_through", False):
            terms.append((name, m))
            return
        for child_name, child in m.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", module)
    return terms


def total_reg_error(module: nn.Module) -> Tensor | None:
    """The sum of `reg_error()` over `reg_error_terms(module)`, a 0-dim tensor; None when there is no term."""
    errors = [torch.as_tensor(term.reg_error()).sum() for _, term in reg_error_terms(module)]  # pyright: ignore
    return sum(errors[1:], errors[0]) if errors else None
