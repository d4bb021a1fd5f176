r"""An expression as LaTeX, which notebooks show.

>>> from slimgraph import variable
>>> u, x = variable("u"), variable("x_1")
>>> print(latex(u.grad(x) / 2 + torch.sin(x) ** 2))
\frac{\frac{\partial u}{\partial x_{1}}}{2} + \sin\left(x_{1}\right)^{2}
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.text import (
    ATOM,
    FRACTION,
    INFIX,
    LONGEST,
    NEGATION,
    POWER,
    PREFIX,
    PRODUCT,
    Shown,
    container_text,
    function_name,
    leaf_text,
    name_strength,
    place_text,
)
from slimgraph.symbolic.walk import Operation, in_order

if TYPE_CHECKING:
    from slimgraph.symbolic.expression import Variable

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_GREEK_NAMES = {*_GREEK.split(" "), "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"}
_KNOWN = {"sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "log", "min", "max", "det"}
_SIGNS = {"*": r"\cdot", "@": r"\,", "<=": r"\leq", ">=": r"\geq", "==": "=", "&": r"\wedge", "|": r"\vee"}
_SIGNS["%"] = r"\,\mathrm{mod}\,"
_SPECIAL = {"\\": r"\backslash ", "~": r"\sim ", "^": r"\hat{\ }", " ": r"\ "}


def latex(root: Variable) -> str:
    """The expression in the notation of a paper; a part that is too long to read is left out as dots."""
    texts: dict[Variable, Shown] = {}
    for variable in in_order([root]):
        text, strength = _latex(variable, texts)
        texts[variable] = (text, strength) if len(text) <= 2 * LONGEST else (r"\ldots", ATOM)
    return texts[root][0]


def name_latex(name: str) -> str:
    """A key or name: a letter or Greek name in italics, a longer one upright, what follows `_` as its index."""
    head, _, index = name.partition("_")
    if not (head and index):
        head, index = name, ""
    if head in _GREEK_NAMES:
        head = f"\\{head}"
    elif len(head) > 1 or not head.isalnum():
        head = rf"\mathrm{{{_escaped(head)}}}"
    return f"{head}_{{{_escaped(index) if len(index) == 1 else _upright(index)}}}" if index else head


def _upright(text: str) -> str:
    return _escaped(text) if text.isdigit() else rf"\mathrm{{{_escaped(text)}}}"


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^{}_&%$# ]", lambda found: _SPECIAL.get(found[0], f"\\{found[0]}"), text)


def _latex(variable: Variable, texts: dict[Variable, Shown]) -> Shown:
    if (name := variable.input_key or variable.display_name) is not None:
        return name_latex(name), name_strength(name)
    if variable.operation is None:
        return _leaf(variable.value)
    return _operation(variable.operation, lambda thing: _argument(thing, texts))


def _leaf(value: Any) -> Shown:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    text, strength = leaf_text(value)
    plain = isinstance(value, Tensor) and not value.requires_grad and value.numel() <= 3
    return text if plain else _upright(text), strength


def _number(value: float) -> Shown:
    text, _, power = (f"{value:g}" if isinstance(value, float) else str(value)).partition("e")
    text = text.replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")
    if power:
        return rf"{text} \cdot 10^{{{int(power)}}}", PRODUCT
    return text, NEGATION if value < 0 else ATOM


def _operation(operation: Operation, show: Callable[[Any], Shown]) -> Shown:
    function, args = operation.function, operation.args
    if function in INFIX and len(args) == 2 and not operation.kwargs:
        return _infix(*INFIX[function], show(args[0]), show(args[1]))
    if function in PREFIX:
        sign = PREFIX[function].replace("~", r"\neg ")
        return f"{sign}{_wrapped(show(args[0]), FRACTION)}", NEGATION
    if function is operator.getitem:
        return f"{_wrapped(show(args[0]), ATOM)}{{}}_{{{place_text(args[1], show)}}}", POWER
    if function in (operator.abs, torch.abs):
        return rf"\left|{show(args[0])[0]}\right|", ATOM
    if function is torch.sqrt:
        return rf"\sqrt{{{show(args[0])[0]}}}", ATOM
    if function is gradient:
        return rf"\frac{{\partial {_derived(show(args[0]))}}}{{\partial {_derived(show(args[1]))}}}", FRACTION
    if function is getattr:
        mark = r"\top" if args[1] in ("T", "mT") else "*"
        return rf"{_wrapped(show(args[0]), ATOM)}{{}}^{{{mark}}}", POWER
    name = function_name(function)
    head = f"\\{name}" if name in _KNOWN else rf"\operatorname{{{_escaped(name)}}}"
    inner = [show(arg)[0] for arg in args]
    inner += [rf"\mathrm{{{_escaped(key)}}}={show(value)[0]}" for key, value in operation.kwargs.items()]
    return rf"{head}\left({', '.join(inner)}\right)", ATOM


def _infix(sign: str, strength: int, left: Shown, right: Shown) -> Shown:
    if sign == "/":
        return rf"\frac{{{left[0]}}}{{{right[0]}}}", FRACTION
    if sign == "//":
        return rf"\left\lfloor\frac{{{left[0]}}}{{{right[0]}}}\right\rfloor", ATOM
    if sign == "^":
        return f"{_wrapped(left, ATOM)}^{{{right[0]}}}", POWER
    # Two signs never meet, as in `a - -b`.
    least = max(strength + 1, FRACTION if right[1] == NEGATION else 0)
    return f"{_wrapped(left, strength)} {_SIGNS.get(sign, sign)} {_wrapped(right, least)}", strength


def _wrapped(shown: Shown, least: int) -> str:
    text, strength = shown
    return text if strength >= least else rf"\left({text}\right)"


def _derived(shown: Shown) -> str:
    return shown[0] if shown[1] == FRACTION else _wrapped(shown, ATOM)


def _argument(thing: Any, texts: dict[Variable, Shown]) -> Shown:
    from slimgraph.symbolic.expression import Variable

    if isinstance(thing, Variable):
        return texts[thing]
    if thing is Ellipsis:
        return r"\ldots", ATOM
    return container_text(thing, lambda inner: _argument(inner, texts)) or _leaf(thing)
