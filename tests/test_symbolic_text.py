"""What an expression reads as: its text is the Python that it was written in, its LaTeX is whole."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgraph import variable

X = torch.tensor([[0.5, 2.0], [1.5, 0.25]], dtype=torch.float64)
NAMES = {"x": X, "y": X.T.contiguous(), **{name: getattr(torch, name) for name in ("sin", "where", "cat", "abs")}}

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod]
BINARY = [*ARITHMETIC, operator.pow, operator.matmul]
UNARY = [operator.neg, operator.pos, abs, torch.sin, lambda v: v[0], lambda v: v[:, ::2], lambda v: v[..., None, 0]]
UNARY += [lambda v: v.T, lambda v: v.mT, lambda v: v[[1, 0],], lambda v: v[(1, 0), 0], lambda v: torch.cat([v, v], 0)]


def trees():
    """Functions of x and y, of every operator around every other."""
    leaves = st.sampled_from([lambda x, y: x, lambda x, y: y])
    numbers = st.sampled_from([2, 0.5, -1.5, -2])

    def grown(inner):
        return st.one_of(
            st.builds(lambda f, a, b: lambda x, y: f(a(x, y), b(x, y)), st.sampled_from(BINARY), inner, inner),
            st.builds(lambda f, a, n: lambda x, y: f(a(x, y), n), st.sampled_from(BINARY[:-1]), inner, numbers),
            st.builds(lambda f, a, n: lambda x, y: f(n, a(x, y)), st.sampled_from(BINARY[:-1]), inner, numbers),
            st.builds(lambda f, a: lambda x, y: f(a(x, y)), st.sampled_from(UNARY), inner),
        )

    return st.recursive(leaves, grown, max_leaves=8)


def value_or_none(evaluate):
    try:
        return evaluate()
    except (RuntimeError, IndexError, ValueError):
        return None


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(trees())
def test_a_text_read_by_python_has_the_value_of_what_was_written(tree):
    eager = value_or_none(lambda: tree(NAMES["x"], NAMES["y"]))
    text = repr(tree(variable("x"), variable("y")))
    if eager is not None and "..." not in text.replace("[..., None, 0]", ""):
        again = eval(text.replace("^", "**"), dict(NAMES))
        assert torch.equal(eager.nan_to_num(), again.nan_to_num()), text


@settings(max_examples=60, deadline=None)
@given(trees())
def test_latex_is_drawn_by_mathtext(tree):
    from matplotlib.mathtext import MathTextParser

    text = tree(variable("x"), variable("y"))._repr_latex_()
    assert text.count("{") == text.count("}")
    if len(text) < 300:
        MathTextParser("path").parse(text)


x, y = variable("x"), variable("y")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ((x > 0) & ((y > 1) | ~(x < 2)), "(x > 0) & ((y > 1) | ~(x < 2))"),
        (2 * (x + 1).with_name("a + b"), "2 * (a + b)"),
        (variable("rate-of flow") * 2, "(rate-of flow) * 2"),
        (torch.zeros(4, 3)[x > 0], "tensor(4, 3)[x > 0]"),
        (torch.full((2,), x), "full((2,), x)"),
        (torch.sum(x, dtype=torch.float64), "sum(x, dtype=torch.float64)"),
        (torch.einsum("ij->i", x), "einsum('ij->i', x)"),
        (x ** torch.tensor(-2.0), "x^(-2.0)"),
        (torch.tensor(-2.0) ** x, "(-2.0)^x"),
        (x[()], "x[()]"),
        (x.H, "x.H"),
        (torch.bernoulli(x, generator=torch.Generator()), "bernoulli(x, generator=Generator)"),
    ],
)
def test_texts_that_say_what_was_written(expression, text):
    assert repr(expression) == text


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ((x / y) ** 2, r"\left(\frac{x}{y}\right)^{2}"),
        (x.T**2, r"\left(x{}^{\top}\right)^{2}"),
        (x.grad(y) ** 2, r"\left(\frac{\partial x}{\partial y}\right)^{2}"),
        (x - -1.5, r"x - \left(-1.5\right)"),
        (x // y, r"\left\lfloor\frac{x}{y}\right\rfloor"),
        (1e-10 * x, r"1 \cdot 10^{-10} \cdot x"),
        (x * float("inf"), r"x \cdot \infty"),
        (variable("my key"), r"\mathrm{my\ key}"),
    ],
)
def test_formulas_of_a_paper(expression, text):
    assert expression._repr_latex_() == f"${text}$"
