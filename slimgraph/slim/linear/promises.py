"""Which promises survive a composition: `PROMISES`, one row a class, and how the rows are read.

A product `A @ B`, a sum `A + B` and a block-diagonal of maps keep what follows for sure from what the parts keep. The
row of a class says under which operation its promise survives and with which bounds; a class without a row, or without
a rule for an operation, promises nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slimgraph.slim.linear.registry import even_maps, maps, square_maps, tall_maps

if TYPE_CHECKING:
    from slimgraph.slim.linear.base import LinearBase

Options = dict[str, Any]
Size = tuple[int, int]
Rule = Callable[[list[Options], list[Size]], Options | None]
"""From the bounds and sizes of the parts to the bounds of the composition; None where the promise is lost."""


@dataclass(frozen=True)
class Promise:
    """What becomes of one class's promise. `bounds` names the options that its `contains` reads.

    `product`, `sum`, `blocks` are the rules where all parts keep the promise; with `any_factor`, a product keeps it as
    soon as one factor does. `means` says what else every member is: a key, and its bounds or a function that makes them
    (or None) from the member's own.
    """

    bounds: tuple[str, ...] = ()
    product: Rule | None = None
    sum: Rule | None = None
    blocks: Rule | None = None
    any_factor: bool = False
    means: Mapping[str, Options | Callable[[Options], Options | None]] = field(default_factory=dict)


# The rules


def kept(parts: list[Options], sizes: list[Size]) -> Options:
    """The promise has no bounds, and holds."""
    return {}


def kept_one_way(parts: list[Options], sizes: list[Size]) -> Options | None:
    """Kept where all sizes grow or all shrink."""
    return {} if _monotone(sizes) else None


def bounds_add(parts: list[Options], sizes: list[Size]) -> Options:
    """The bounds add."""
    return _interval(parts, sum, sum)


def bounds_multiply(parts: list[Options], sizes: list[Size]) -> Options:
    """The bounds multiply."""
    return _interval(parts, math.prod, math.prod)


def bounds_join(parts: list[Options], sizes: list[Size]) -> Options:
    """The smallest interval round all bounds."""
    return _interval(parts, min, max)


def singular_values_multiply(parts: list[Options], sizes: list[Size]) -> Options:
    """The bounds multiply; the lower one is 0 where the sizes grow and shrink again."""
    return _interval(parts, math.prod if _monotone(sizes) else _zero, math.prod)


def singular_values_join(parts: list[Options], sizes: list[Size]) -> Options:
    """The smallest interval round all bounds, from 0 with a tall and a wide block."""
    return _interval(parts, min if _monotone(sizes) else _zero, max)


def damping_joins(parts: list[Options], sizes: list[Size]) -> Options | None:
    """Only where the bounds fix one damping for all blocks."""
    joined = _interval(parts, min, max)
    return joined if joined["sigma_min"] == joined["sigma_max"] else None


def determinants_multiply(parts: list[Options], sizes: list[Size]) -> Options:
    """The determinants multiply, if all were asked for."""
    signs = [p["det"] for p in parts]
    return {"det": None if None in signs else math.prod(signs)}


def norms_multiply(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The upper bounds multiply, for one p; the lower one is 0."""
    return _one_norm(parts, _interval(parts, _zero, math.prod))


def norms_add(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The triangle inequality from above and from below, for one p."""
    highest = sum(p["sigma_max"] for p in parts)
    lowest = max(0.0, *(p["sigma_min"] + p["sigma_max"] - highest for p in parts))
    return _one_norm(parts, {"sigma_min": lowest, "sigma_max": highest})


def norms_join(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The largest bounds, for one p of 1, 2 and inf."""
    return _one_norm(parts, _interval(parts, max, max), {1, 2, math.inf})


def ranks_multiply(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The smallest rank of a factor, whatever the others are."""
    return _below(min(p["rank"] for p in parts), sizes[0][0], sizes[-1][1])


def ranks_add(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The ranks add."""
    return _below(sum(p["rank"] for p in parts), *sizes[0])


def ranks_join(parts: list[Options], sizes: list[Size]) -> Options | None:
    """The ranks add."""
    return {"rank": sum(p["rank"] for p in parts)}


def discs_join(parts: list[Options], sizes: list[Size]) -> Options:
    """The disc over the smallest interval round all bounds."""
    return bounds_join(parts, sizes) | {"real": all(p["real"] for p in parts)}


def join(name: str, choose: Callable[..., float]) -> Rule:
    """The rule of a promise with the one bound `name`."""

    def chosen(parts: list[Options], sizes: list[Size]) -> Options:
        return {name: choose(p[name] for p in parts)}

    chosen.__doc__ = f"The {choose.__name__} of {name}."
    return chosen


def magnitudes(bounds: Options) -> Options:
    """The bounds of |x| for x in [sigma_min, sigma_max]: of the singular values of a symmetric matrix."""
    low, high = bounds["sigma_min"], bounds["sigma_max"]
    return {"sigma_min": max(0.0, low, -high), "sigma_max": max(abs(low), abs(high))}


def _interval(parts: list[Options], low: Callable[..., float], high: Callable[..., float]) -> Options:
    return {"sigma_min": low(p["sigma_min"] for p in parts), "sigma_max": high(p["sigma_max"] for p in parts)}


def _monotone(sizes: list[Size]) -> bool:
    return all(n <= m for n, m in sizes) or all(n >= m for n, m in sizes)


def _zero(_: object) -> float:
    return 0.0


def _one_norm(parts: list[Options], bounds: Options, legal: set[Any] | None = None) -> Options | None:
    norms = {p["p"] for p in parts}
    known = len(norms) == 1 and (legal is None or norms <= legal)
    return bounds | {"p": parts[0]["p"]} if known else None


def _below(rank: int, insize: int, outsize: int) -> Options | None:
    # A rank that every matrix of this size has is no promise.
    return {"rank": rank} if rank < min(insize, outsize) else None


# The table

BOUNDS = ("sigma_min", "sigma_max")

PROMISES: dict[str, Promise] = {
    # the bounds, then what becomes of the promise in a product, in a sum, in a block-diagonal
    "identity": Promise(means={
        "orthogonal": {"det": 1}, "stiefel": {}, "spectral": dict.fromkeys(BOUNDS, 1.0), "psd": {}, "symplectic": {},
        "doubly_stochastic": {}, "nneg": {}, "toeplitz": {},
    }),
    "orthogonal": Promise(("det",), determinants_multiply, None, determinants_multiply, means={
        "stiefel": {}, "spectral": dict.fromkeys(BOUNDS, 1.0),
    }),
    "stiefel": Promise((), kept_one_way, None, kept_one_way, means={"spectral": dict.fromkeys(BOUNDS, 1.0)}),
    "symplectic": Promise((), kept),
    "symmetric_spectral": Promise(BOUNDS, None, bounds_add, bounds_join, means={
        "psd": lambda bounds: {} if bounds["sigma_min"] >= 0 else None, "symmetric": {}, "spectral": magnitudes,
    }),
    "symmetric_SVD": Promise(BOUNDS, None, bounds_add, bounds_join, means={"symmetric": {}, "softSVD": dict}),
    "spectral": Promise(BOUNDS, singular_values_multiply, None, singular_values_join, means={"softSVD": dict}),
    "softSVD": Promise(BOUNDS, singular_values_multiply, None, singular_values_join, means={
        "bounded_Lp_norm": lambda bounds: bounds | {"p": 2},
    }),
    # Bounds that are trained are no promise to others.
    "learnSVD": Promise(),
    "bounded_Lp_norm": Promise((*BOUNDS, "p"), norms_multiply, norms_add, norms_join),
    "psd": Promise((), None, kept, kept, means={"symmetric": {}}),
    "symmetric": Promise((), None, kept, kept),
    "skew_symmetric": Promise((), None, kept, kept, means={"damp_skew_symmetric": dict.fromkeys(BOUNDS, 0.0)}),
    "damp_skew_symmetric": Promise(BOUNDS, None, bounds_add, damping_joins, means={
        "hurwitz": lambda bounds: {"alpha": bounds["sigma_min"]} if bounds["sigma_min"] > 0 else None,
    }),
    "hurwitz": Promise(("alpha",), None, None, join("alpha", min)),
    "schur_stable": Promise(("radius",), None, None, join("radius", max)),
    "Power_bound": Promise(("max_p",), None, None, join("max_p", max)),
    "gershgorin": Promise((*BOUNDS, "real"), None, None, discs_join, means={
        "symmetric_spectral": lambda bounds: {name: bounds[name] for name in BOUNDS} if bounds["real"] else None,
    }),
    "stable_split": Promise(BOUNDS, means={"bounded_Lp_norm": lambda bounds: bounds | {"p": math.inf}}),
    "doubly_stochastic": Promise((), kept, None, kept, means={"rstochastic": {}, "lstochastic": {}}),
    "rstochastic": Promise((), kept, None, kept, means={"pf": dict.fromkeys(BOUNDS, 1.0)}),
    "lstochastic": Promise((), kept, None, kept, means={"nneg": {}}),
    "pf": Promise(BOUNDS, bounds_multiply, bounds_add, bounds_join, means={"nneg": {}}),
    "nneg": Promise((), kept, kept, kept),
    "toeplitz": Promise((), None, kept),
    "trivial_nullspace": Promise(("epsilon",)),
    "low_rank": Promise(("rank",), ranks_multiply, ranks_add, ranks_join, any_factor=True),
}  # fmt: skip
"""By the key of the class in `maps`; a stronger promise stands before those that it means."""


def promise_of(part: LinearBase) -> dict[str, Options]:
    """Every promise that a single map keeps: the key of its class and its bounds, and what that means."""
    for cls in type(part).__mro__:
        for key, promise in PROMISES.items():
            # A subclass with a `contains` of its own promises something else.
            if maps.get(key) is cls and type(part)._contains is getattr(cls, "_contains", None):
                bounds = {name: getattr(part, name) for name in promise.bounds}
                return dict(consequences(key, bounds, (part.in_features, part.out_features)))
    return {}


def consequences(key: str, bounds: Options, size: Size) -> Iterator[tuple[str, Options]]:
    """The promise `key` and what it means, wherever such a class exists at this size."""
    if not exists(key, size):
        return
    yield key, bounds
    for weaker, found in PROMISES[key].means.items():
        found = found(bounds) if callable(found) else found
        if found is not None:
            yield from consequences(weaker, found, size)


def exists(key: str, size: Size) -> bool:
    """Whether the registry has a map `key` of this size."""
    cls, (insize, outsize) = maps.get(key), size
    refused = (
        cls in square_maps and insize != outsize,
        cls in tall_maps and insize > outsize,
        cls in even_maps and (insize % 2 or outsize % 2),
    )
    return cls is not None and not any(refused)


def survivors(operation: str, parts: list[dict[str, Options]], sizes: list[Size], size: Size) -> dict[str, Options]:
    """What a composition of parts that keep `parts` keeps for sure: every promise by its key, with its bounds.

    operation: 'product', 'sum' or 'blocks'; `sizes` are those of the parts, `size` that of the whole.
    """
    if len(parts) == 1:
        return parts[0]
    found: dict[str, Options] = {}
    for key, promise in PROMISES.items():
        rule: Rule | None = getattr(promise, operation)
        members = [part[key] for part in parts if key in part]
        some = promise.any_factor and operation == "product" and members
        if rule is not None and exists(key, size) and (some or len(members) == len(parts)):
            bounds = rule(members, sizes)
            if bounds is not None:
                found[key] = bounds
    for key, bounds in list(found.items()):
        for weaker, implied in consequences(key, bounds, size):
            found.setdefault(weaker, implied)
    return found


def strongest(found: dict[str, Options], size: Size) -> dict[str, Options]:
    """`found` without the promises that another one in it means."""
    implied = {weaker for key in found for weaker, _ in consequences(key, found[key], size) if weaker != key}
    return {key: bounds for key, bounds in found.items() if key not in implied}
