r"""An expression as LaTeX, which notebooks show.

>>> from slimgraph import variable
>>> u, x = variable("u"), variable("x_1")
>>> print(latex(u.grad(x) / 2 + torch.sin(x) ** 2))
\frac{\frac{\partial u}{\partial x_{1}}}{2} + \sin\left(x_{1}\right)^{2}
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slimgraph.symbolic.derivative import gradient
from slimgraph.symbolic.text import ATOM, INFIX, LONGEST, NEGATION, function_name, leaf_text
from slimgraph.symbolic.walk import Operation, in_order

if TYPE_CHECKING:
    from slimgraph.symbolic.expression import Variable

_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega"
_GREEK_NAMES = {*_GREEK.split(" "), "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"}
_KNOWN = {"sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "exp", "log", "min", "max", "det"}
_SIGNS = {"*": r"\cdot", "@": "", "<=": r"\leq", ">=": r"\geq", "==": "=", "%": r"\bmod", "//": r"\mathbin{/\!/}"}
_SPECIAL = {"\\": r"\backslash ", "~": r"\sim ", "^": r"\hat{\ }"}


def latex(root: Variable) -> str:
    """The expression in the notation of a paper; a part that is too long to read is left out as dots."""
    texts: dict[Variable, tuple[str, int]] = {}
    for variable in in_order([root]):
        text, strength = _latex(variable, texts)
        texts[variable] = (text, strength) if len(text) <= 2 * LONGEST else (r"\ldots", ATOM)
    return texts[root][0]


def sign_latex(sign: str) -> str:
    """A comparison's sign."""
    return _SIGNS.get(sign, sign)


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
    return re.sub(r"[\\~^{}_&%$#]", lambda found: _SPECIAL.get(found[0], f"\\{found[0]}"), text)


def _latex(variable: Variable, texts: dict[Variable, tuple[str, int]]) -> tuple[str, int]:
    if (name := variable.input_key or variable.display_name) is not None:
        return name_latex(name), ATOM
    if variable.operation is None:
        return _leaf(variable.value)
    return _operation(variable.operation, texts)


def _leaf(value: Any) -> tuple[str, int]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value), NEGATION if value < 0 else ATOM
    text = leaf_text(value)
    return (
        text if isinstance(value, Tensor) and not value.requires_grad and value.numel() <= 3 else _upright(text)
    ), ATOM


def _operation(operation: Operation, texts: dict[Variable, tuple[str, int]]) -> tuple[str, int]:
    function, args = operation.function, operation.args
    shown = [_argument(arg, texts) for arg in args]
    if function in INFIX and len(args) == 2 and not operation.kwargs:
        return _infix(*INFIX[function], *shown)
    if function is operator.neg:
        return f"-{_wrapped(shown[0], NEGATION)}", NEGATION
    if function is operator.getitem:
        return f"{_wrapped(shown[0], ATOM)}{{}}_{{{shown[1][0]}}}", ATOM
    if function in (operator.abs, torch.abs):
        return rf"\left|{shown[0][0]}\right|", ATOM
    if function is torch.sqrt:
        return rf"\sqrt{{{shown[0][0]}}}", ATOM
    if function is gradient:
        return rf"\frac{{\partial {_wrapped(shown[0], ATOM)}}}{{\partial {_wrapped(shown[1], ATOM)}}}", ATOM
    if isinstance(function, operator.attrgetter):
        return rf"{_wrapped(shown[0], ATOM)}{{}}^{{\top}}", ATOM
    name = function_name(function)
    head = f"\\{name}" if name in _KNOWN else rf"\operatorname{{{_escaped(name)}}}"
    inner = [text for text, _ in shown]
    inner += [rf"\mathrm{{{_escaped(key)}}}={_argument(value, texts)[0]}" for key, value in operation.kwargs.items()]
    return rf"{head}\left({', '.join(inner)}\right)", ATOM


def _infix(sign: str, strength: int, left: tuple[str, int], right: tuple[str, int]) -> tuple[str, int]:
    if sign == "/":
        return rf"\frac{{{left[0]}}}{{{right[0]}}}", ATOM
    if sign == "^":
        return f"{_wrapped(left, strength + 1)}^{{{right[0]}}}", strength
    text = f"{_wrapped(left, strength)} {sign_latex(sign)} {_wrapped(right, strength + 1)}"
    return text.replace("  ", r" \, "), strength


def _wrapped(shown: tuple[str, int], least: int) -> str:
    text, strength = shown
    return text if strength >= least else rf"\left({text}\right)"


def _argument(thing: Any, texts: dict[Variable, tuple[str, int]]) -> tuple[str, int]:
    from slimgraph.symbolic.expression import Variable

    if isinstance(thing, Variable):
        return texts[thing]
    if isinstance(thing, slice):
        parts = ["" if part is None else _argument(part, texts)[0] for part in (thing.start, thing.stop, thing.step)]
        return ":".join(parts[: 2 + (thing.step is not None)]), ATOM
    if isinstance(thing, list | tuple):
        inner = ", ".join(_argument(item, texts)[0] for item in thing)
        return (rf"\left[{inner}\right]" if isinstance(thing, list) else inner), ATOM
    return (r"\ldots", ATOM) if thing is Ellipsis else _leaf(thing)
