"""Maps made of maps: `ProductLinear` (`a @ b`), `SumLinear` (`a + b`), `BlockDiagonal`."""

from __future__ import annotations

import functools
import operator
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slimgraph.errors import DtypeError, OptionError
from slimgraph.slim.linear import promises
from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import full_precision, under_autocast
from slimgraph.slim.linear.registry import maps
from slimgraph.slim.linear.walks import materialized


class ComposedLinear(LinearBase):
    """What all compositions share: a map that is computed from others, `terms`, and has no parameters of its own.

    `parts` holds every single map in it once, however often and however deep it stands in the terms, so that each
    parameter has one name. `promises` names what follows for sure from the promises of the terms (see promises.py), and
    `contains` checks that and nothing else. `reg_error` is the sum over the parts.
    """

    looked_through = True
    operation: ClassVar[str]
    symbol: ClassVar[str]

    terms: tuple[LinearBase, ...]

    def __init__(self, terms: Iterable[LinearBase], *more: object):
        nn.Module.__init__(self)
        name = type(self).__name__
        if more or isinstance(terms, nn.Module | str) or not isinstance(terms, Iterable):
            got = f"{len(more) + 1} arguments" if more else repr(terms)
            raise OptionError(f"{name} needs a list of maps, {name}([a, b]), got {got}")
        # Chains flatten, so that `a @ b @ c` is one product of three.
        self.terms = tuple(inner for term in terms for inner in (term.terms if type(term) is type(self) else [term]))
        if not self.terms:
            raise OptionError(f"{name} needs at least 1 map, got none")
        for term in self.terms:
            if not isinstance(term, LinearBase):
                raise OptionError(f"{name} needs structured maps, got {term!r}")
        # A term that is itself composed stands here by its own parts; terms, a plain tuple, is not walked by torch.
        singles = [p for t in self.terms for p in (t.parts if isinstance(t, ComposedLinear) else [t])]
        self.parts = nn.ModuleList(dict.fromkeys(singles))
        self._check_kinds()
        self.in_features, self.out_features = self._sizes()
        self.use_bias = any(term.use_bias for term in self.terms)

    def _check_kinds(self) -> None:
        first, *others = self.parts
        for other in others:
            kinds = [f"{m._anchor().dtype} on {m.device}" for m in (first, other)]  # pyright: ignore
            if kinds[0] != kinds[1]:
                names = f"{type(first).__name__} of {kinds[0]} and {type(other).__name__} of {kinds[1]}"
                raise DtypeError(f"{type(self).__name__} needs maps of one dtype on one device, got {names}")

    @abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """insize and outsize; raises `OptionError` for terms that do not fit."""

    @abstractmethod
    def _apply_terms(self, x: Tensor) -> Tensor:
        """`forward` through the terms."""

    @abstractmethod
    def _composed_bias(self) -> Tensor:
        """The bias, where some term has one."""

    @property
    def bias(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`(outsize,)`, computed from the terms'; None where none has one."""
        return self._composed_bias() if self.use_bias else None

    def forward(self, x: Tensor) -> Tensor:
        # With W at hand one product does; and what is rounded between two terms would be rounded twice.
        anchor = self._anchor()
        if self.is_materialized:
            return super().forward(x)
        if under_autocast(anchor.device) or anchor.dtype.itemsize < 4:
            # W and the bias both read the terms; a term drawn by chance must be the same for both.
            with materialized(self):
                return super().forward(x)
        self._check_input(x, anchor.dtype)
        return self._apply_terms(x)

    def reg_error(self) -> Tensor:
        return sum((part.reg_error() for part in self.parts), start=self._anchor().new_zeros(()))  # pyright: ignore

    @property
    def promises(self) -> tuple[str, ...]:
        """The names of the classes whose promise this map keeps for sure; what those mean in turn is left out.

        >>> from slimgraph import slim
        >>> q, s = slim.OrthogonalLinear(3, 3), slim.SymmetricLinear(3, 3)
        >>> (q @ q).promises, (s + s).promises, (s @ s).promises
        (('OrthogonalLinear',), ('SymmetricLinear',), ())
        """
        return tuple(maps[key].__name__ for key in self._strongest())

    def _kept(self) -> dict[str, promises.Options]:
        """Every promise by key, with its bounds."""
        inner = [t._kept() if isinstance(t, ComposedLinear) else promises.promise_of(t) for t in self.terms]
        return promises.survivors(self.operation, inner, [_size(t) for t in self.terms], _size(self))

    def _strongest(self) -> dict[str, promises.Options]:
        return promises.strongest(self._kept(), _size(self))

    def _contains(self, W: Tensor, tol: float) -> bool:
        # A `contains` reads sizes and bounds alone, so a map without numbers can say it.
        with torch.device("meta"):
            members = [maps[key](*_size(self), **bounds) for key, bounds in self._strongest().items()]
        return all(bool(member._contains(W, tol)) for member in members)

    def _rounding(self, W: Tensor) -> float:
        return super()._rounding(W) * len(self.terms)

    def to_networkx(self):
        """The terms between input and output, each in a cluster of its own: a `networkx.MultiDiGraph`."""
        from networkx import MultiDiGraph

        graph = MultiDiGraph()
        graph.add_node("x", kind="data", label=f"x (..., {self.in_features})")
        ends = ["x"] * len(self.terms)
        for i, term in enumerate(self.terms):
            ends[i] = _embed(graph, f"{i}: {type(term).__name__}", term, self._source(graph, ends, i))
        graph.add_node("y", kind="data", label=f"y (..., {self.out_features})")
        last = self._join(graph, ends)
        graph.add_edge(last, "y", key="y")
        return graph

    def _source(self, graph: Any, ends: list[str], i: int) -> str:
        """The node that the term `i` reads."""
        return "x"

    def _join(self, graph: Any, ends: list[str]) -> str:
        """The node that gives the result, made from the ends of the terms."""
        graph.add_node("join", kind="operation", label=self.symbol)
        for end in ends:
            graph.add_edge(end, "join", key="y")
        return "join"

    def formula(self) -> str:
        """The terms by the numbers of their parts, such as `0 @ (1 + 2)`."""
        place = {part: str(i) for i, part in enumerate(self.parts)}
        return self._formula(place)

    def _formula(self, place: dict[nn.Module, str]) -> str:
        words = [f"({t._formula(place)})" if isinstance(t, ComposedLinear) else place[t] for t in self.terms]
        return f" {self.symbol} ".join(words)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.formula()}, promises={self.promises}"


class ProductLinear(ComposedLinear):
    """W = W_1 W_2 ... W_k: x goes through the first map, then through the next; written `a @ b`.

    The bias of each map goes through those behind it. Raises `OptionError` where an outsize is not the next insize.

    >>> from slimgraph import slim
    >>> chain = slim.OrthogonalLinear(3, 3) @ slim.SpectralLinear(3, 5)
    >>> chain.in_features, chain.out_features, chain.promises
    (3, 5, ('SpectralLinear',))
    """

    operation, symbol = "product", "@"

    def _sizes(self) -> tuple[int, int]:
        for a, b in zip(self.terms, self.terms[1:], strict=False):
            if a.out_features != b.in_features:
                pair = f"{_named(a)} @ {_named(b)}"
                raise OptionError(f"ProductLinear needs each outsize to be the insize of the next map, got {pair}")
        return self.terms[0].in_features, self.terms[-1].out_features

    @full_precision
    def effective_W(self) -> Tensor:
        return functools.reduce(torch.matmul, (term.effective_W() for term in self.terms))

    def _apply_terms(self, x: Tensor) -> Tensor:
        return functools.reduce(lambda y, term: term(y), self.terms, x)

    @full_precision
    def _composed_bias(self) -> Tensor:
        bias = self._anchor().new_zeros(self.in_features)
        for term in self.terms:
            bias = bias @ term.effective_W()
            bias = bias if term.bias is None else bias + term.bias
        return bias

    def _source(self, graph: Any, ends: list[str], i: int) -> str:
        return ends[i - 1] if i else "x"

    def _join(self, graph: Any, ends: list[str]) -> str:
        return ends[-1]


class SumLinear(ComposedLinear):
    """W = W_1 + W_2 + ... + W_k: every map reads the same x; written `a + b`.

    Raises `OptionError` for maps of different sizes.

    >>> from slimgraph import slim
    >>> (slim.SymmetricLinear(3, 3) + slim.SkewSymmetricLinear(3, 3)).promises
    ()
    """

    operation, symbol = "sum", "+"

    def _sizes(self) -> tuple[int, int]:
        for a, b in zip(self.terms, self.terms[1:], strict=False):
            if _size(a) != _size(b):
                raise OptionError(f"SumLinear needs maps of one size, got {_named(a)} + {_named(b)}")
        return _size(self.terms[0])

    @full_precision
    def effective_W(self) -> Tensor:
        return functools.reduce(operator.add, (term.effective_W() for term in self.terms))

    def _apply_terms(self, x: Tensor) -> Tensor:
        # Where every term multiplies by its W anyway, one product is enough.
        if all(type(term).forward is LinearBase.forward for term in self.terms):
            return LinearBase.forward(self, x)
        return functools.reduce(operator.add, (term(x) for term in self.terms))

    def _composed_bias(self) -> Tensor:
        return functools.reduce(operator.add, (term.bias for term in self.terms if term.bias is not None))


class BlockDiagonal(ComposedLinear):
    """W = diag(W_1, ..., W_k): each map reads its own stretch of x and writes its own stretch of the result.

    >>> from slimgraph import slim
    >>> m = BlockDiagonal([slim.OrthogonalLinear(2, 2), slim.OrthogonalLinear(3, 3)])
    >>> m.in_features, m.promises
    (5, ('OrthogonalLinear',))
    """

    operation, symbol = "blocks", "|"

    def _sizes(self) -> tuple[int, int]:
        return sum(t.in_features for t in self.terms), sum(t.out_features for t in self.terms)

    @full_precision
    def effective_W(self) -> Tensor:
        return torch.block_diag(*(term.effective_W() for term in self.terms))

    def _apply_terms(self, x: Tensor) -> Tensor:
        stretches = x.split([term.in_features for term in self.terms], dim=-1)
        return torch.cat([term(own) for term, own in zip(self.terms, stretches, strict=True)], dim=-1)

    def _source(self, graph: Any, ends: list[str], i: int) -> str:
        start = sum(term.in_features for term in self.terms[:i])
        stretch = f"x[{start}:{start + self.terms[i].in_features}]"
        graph.add_node(f"{i}: x", kind="operation", label=stretch)
        graph.add_edge("x", f"{i}: x", key="x")
        return f"{i}: x"

    def _composed_bias(self) -> Tensor:
        zero = self._anchor().new_zeros
        return torch.cat([zero(t.out_features) if t.bias is None else t.bias for t in self.terms])


def _size(m: LinearBase) -> tuple[int, int]:
    return m.in_features, m.out_features


def _named(m: LinearBase) -> str:
    return f"{type(m).__name__} ({m.in_features}, {m.out_features})"


def _embed(graph: Any, box: str, term: LinearBase, source: str) -> str:
    """Puts the graph of `term` into `graph`, in the cluster `box`, reading from `source`; returns its last node."""
    inner, last = term.to_networkx(), source
    for node, attributes in inner.nodes(data=True):
        if node not in ("x", "y"):
            clusters = (box, *attributes.get("cluster", ()))
            graph.add_node(f"{box}:{node}", **{**attributes, "cluster": clusters})
    for tail, head, key, attributes in inner.edges(keys=True, data=True):
        tail = source if tail == "x" else f"{box}:{tail}"
        if head == "y":
            last = tail
        else:
            graph.add_edge(tail, f"{box}:{head}", key=key, **attributes)
    return last
