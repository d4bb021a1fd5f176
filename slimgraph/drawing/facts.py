"""What a tooltip says of a part of a diagram: type, formula, promise, sizes, parameters; nothing is computed for it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from slimgraph.graph import GraphModuleBase
from slimgraph.node import Node
from slimgraph.slim import LinearBase
from slimgraph.symbolic import Constraint, Objective, Variable

Facts = tuple[tuple[str, str], ...]

SIZES = (
    ("in_features", "out_features"),
    ("insize", "outsize"),
    ("input_size", "hidden_size"),
    ("size_in", "size_out"),
)
# A box on the screen has room for these; more kinds of map in one node are counted.
SHOWN_MAPS = 6


def facts_of(part: Any) -> Facts:
    """What is known of `part`, a node, map, module, term or expression: pairs of a word and a text; () for None.

    >>> from slimgraph import slim
    >>> for word, text in facts_of(slim.OrthogonalLinear(3, 3)):
    ...     print(f"{word}: {text}")
    type: OrthogonalLinear(3, 3, bias=False, n_reflectors=2, det=None)
    formula: W = H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign), a product of Householder reflections
    promise: W W^T = I
    shapes: (..., 3) -> (..., 3)
    parameters: 6
    """
    return () if part is None else tuple((word, text) for word, text in _facts(part) if text)


def _facts(part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(part, Variable | Objective | Constraint):
        yield "formula", str(part)
        yield "reads", ", ".join(part.keys)
        return
    if isinstance(part, GraphModuleBase):
        inner = part.computational_module
        yield from (
            [("type", type(part).__name__), ("shapes", _shapes(part))] if inner is None else _facts_of_module(inner)
        )
        return
    if isinstance(part, Node):
        yield "keys", part.signature
        part = part.callable
    yield from _facts_of_module(part)


def _facts_of_module(module: Any) -> Iterator[tuple[str, str]]:
    """The facts of what computes: a map, any other module, or a function."""
    if isinstance(module, LinearBase):
        formula, promise = described(type(module))
        yield "type", f"{type(module).__name__}({module.extra_repr()})"
        yield "formula", formula
        yield "promise", promise
    else:
        named = module if inspect.isroutine(module) else type(module)
        yield "type", getattr(named, "__name__", repr(named))
        yield "does", _first_sentence(named)
    yield "shapes", _shapes(module)
    if isinstance(module, nn.Module):
        if not isinstance(module, LinearBase):
            yield from (("map", line) for line in _maps_in(module))
        yield "parameters", _parameters(module)


@lru_cache(maxsize=256)
def described(cls: type) -> tuple[str, str]:
    """Formula and promise of a class of maps, from the sentence that begins its docstring: `W = formula: promise.`

    A class that does not describe itself so has none.

    >>> from slimgraph import slim
    >>> described(slim.maps['nneg'])
    ('W = relu(weight)', 'every entry >= 0')
    """
    sentence = _first_sentence(cls)
    formula, _, promise = sentence.partition(": ")
    return (formula, promise) if formula.startswith("W") and " = " in formula else ("", "")


def _first_sentence(thing: Any) -> str:
    """The first sentence of the docstring of a class or function of slimgraph, or of a user."""
    # torch's docstrings, and those that Python writes itself, tell nothing to who looks at a picture.
    if str(getattr(thing, "__module__", "")).partition(".")[0] in ("torch", "builtins"):
        return ""
    paragraph = " ".join(
        inspect.cleandoc(vars(thing).get("__doc__") or "").partition("\n\n")[0].replace("`", "").split()
    )
    return re.split(r"(?<=[^.])\.(?: |$)", paragraph, maxsplit=1)[0]


def _shapes(part: Any) -> str:
    for names in SIZES:
        sizes = [getattr(part, name, None) for name in names]
        if all(isinstance(size, int) for size in sizes):
            return " -> ".join(f"(..., {size})" for size in sizes)
    return ""


def _maps_in(module: nn.Module) -> list[str]:
    """A line for each kind of map inside, each map once and those that it is made of not again."""
    lines: dict[str, int] = {}
    seen: set[nn.Module] = set()

    def walk(part: nn.Module) -> None:
        if part in seen:
            return
        seen.add(part)
        if isinstance(part, LinearBase):
            promise = described(type(part))[1]
            line = type(part).__name__ + (f": {promise}" if promise else "")
            lines[line] = lines.get(line, 0) + 1
            return
        for child in part.children():
            walk(child)

    walk(module)
    told = [f"{count} x {line}" if count > 1 else line for line, count in lines.items()]
    more = len(told) - SHOWN_MAPS
    return told if more <= 0 else [*told[:SHOWN_MAPS], f"and {more} more kinds"]


def _parameters(module: nn.Module) -> str:
    parameters = list(module.parameters())
    if any(is_lazy(parameter) for parameter in parameters):
        return "not known before the first data"
    count = sum(parameter.numel() for parameter in parameters)
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    return f"{count:,}" + (f", of which {frozen:,} frozen" if frozen else "") if count else ""
