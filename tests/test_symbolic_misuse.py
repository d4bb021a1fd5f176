"""Every slip with symbols is told where it was made, by the names of who made it; none gives a number in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from slimgraph import Constraint, Loss, PenaltyLoss, variable
from slimgraph.errors import DtypeError, ExpressionError, MissingKeyError, OptionError, ShapeError
from slimgraph.symbolic import LT

x, y, t = variable("x"), variable("y"), variable("t")
c, o = x <= 1, x.minimize()
BATCH = {"x": torch.ones(4, 3), "y": torch.ones(4, 3)}


def written_into(target, value):
    target[0] = value


NO_WEIGHTS = [-1, float("inf"), float("nan"), True, "2", None, 1j, torch.ones(2), torch.tensor(-1.0)]
NO_WEIGHTS += [torch.tensor(True), nn.Parameter(torch.tensor(1.0)), np.ones(2), 10**400]


@pytest.mark.parametrize("weight", NO_WEIGHTS, ids=lambda weight: str(weight)[:12].replace("\n", ""))
def test_a_weight_is_a_finite_number_that_is_not_trained(weight):
    for weigh, who in (
        (lambda: weight * c, "constraint 'x <= 1'"),
        (lambda: c * weight, "constraint 'x <= 1'"),
        (lambda: weight * o, r"objective 'mean\(x\)'"),
        (lambda: x.minimize(weight=weight, name="fit"), "objective 'fit'"),
        (lambda: Constraint(x, 1, LT(), weight=weight), "this constraint"),
    ):
        with pytest.raises(OptionError, match=f"the weight of {who} is a finite number >= 0; got "):
            weigh()


@pytest.mark.parametrize("weight", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)], ids=type)
def test_numbers_of_every_library_are_weights(weight):
    for weighed in (weight * c, c * weight):
        assert isinstance(weighed, Constraint) and str(weighed) == "2 * (x <= 1)"
    assert (weight * o)(BATCH) == x.minimize(weight=weight)(BATCH) == {"2 * mean(x)": torch.tensor(2.0)}


ARITHMETIC = {
    "le": lambda term: term <= 1,
    "ge": lambda term: term >= 1,
    "power": lambda term: term**2,
    "add": lambda term: term + 1,
    "radd": lambda term: 1 + term,
    "sum": lambda term: sum([term, term]),
    "sub": lambda term: term - 1,
    "div": lambda term: term / 2,
    "neg": lambda term: -term,
    "abs": abs,
    "item": lambda term: term[0],
    "iter": list,
    "array": lambda term: np.ones(3) + term,
}


@pytest.mark.parametrize("use", ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_terms_take_no_part_in_arithmetic_and_say_what_to_write(use):
    with pytest.raises(ExpressionError, match="the constraint 'x <= 1' takes no part in arithmetic; weigh it by 2 . c"):
        use(c)
    with pytest.raises(ExpressionError, match=r"the objective 'mean\(x\)' takes no part .*before .minimize\(\)"):
        use(o)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (
            lambda: written_into(torch.zeros(4, 3), x),
            ExpressionError,
            r"torch.where or torch.cat instead of a\[i\] = x",
        ),
        (lambda: written_into(x, 1.0), ExpressionError, "an expression is not written into: x"),
        (lambda: x + None, ExpressionError, "expected an expression, a tensor or a number; got NoneType: None"),
        (lambda: [1] * x, ExpressionError, r"expected an expression.*got list: \[1\]"),
        (lambda: x - o, ExpressionError, "expected an expression.*got Objective"),
        (lambda: x <= c, ExpressionError, "got the constraint 'x <= 1' as a side"),
        (lambda: Constraint(c, x, LT()), ExpressionError, "got the constraint 'x <= 1' as a side"),
        (lambda: c ^ x, OptionError, "norm of a constraint is 1 or 2; got x"),
        (lambda: len(x), ExpressionError, "x is no number and no list"),
        (lambda: float(x), ExpressionError, r"written variable\(\[inputs\], function\)"),
        (lambda: torch.tensor([x, 1.0]), ExpressionError, "make one by torch.stack"),
        (lambda: 1 in x, ExpressionError, "x is no number and no list"),
        (lambda: torch.max(x, dim=-1).values, AttributeError, r"write \[0\] and \[1\], or .unpack\(2\)"),
        (lambda: nn.GRUCell(3, 3)(x), AttributeError, r"module that needs it is written variable\(\[inputs\]"),
        (lambda: x.minimise(), AttributeError, "no attribute 'minimise'. Did you mean 'minimize'"),
        (lambda: x.between(1, 0), OptionError, r"x.between\(lower, upper\) needs lower <= upper; got 1 and 0"),
        (lambda: x.between(0.0, float("nan")), OptionError, "needs lower <= upper; got 0.0 and nan"),
        (lambda: x.unpack(0), ExpressionError, "by a count >= 1 or a list of names; got 0"),
        (lambda: x.unpack(2.0), ExpressionError, "by a count >= 1 or a list of names; got 2.0"),
        (lambda: x.unpack("ab"), ExpressionError, "by a count >= 1 or a list of names; got 'ab'"),
        (lambda: x.minimize(name=3), OptionError, "name of this objective is a text that is not empty, or None; got 3"),
        (lambda: c.with_name(""), OptionError, "name of this constraint is a text that is not empty, or None; got ''"),
        (lambda: x.minimize().update_name(x), OptionError, "name of this objective is a text.*got x"),
        (lambda: variable(""), ExpressionError, "a key or display name is a text that is not empty; got ''"),
        (lambda: variable(2, display_name=3), ExpressionError, "a key or display name is a text.*got 3"),
        (lambda: variable("x", key="z"), ExpressionError, "variable takes one key; got 'x' and key='z'"),
        (lambda: Loss(["x"], None), OptionError, r"a Loss needs a function of the values of \['x'\]; got None"),
        (lambda: Loss(["x"], torch.sin, name="q")(BATCH), ExpressionError, "needs a function .*'sin' gives shape"),
        (lambda: x.minimize(lambda v: v.mean() > 0)(BATCH), ExpressionError, r"'f' gives shape \(\) of bool"),
        (lambda: x.minimize(lambda v: v.mean() * 1j)(BATCH), ExpressionError, r"'f' gives shape \(\) of complex64"),
        (lambda: o([1]), ExpressionError, r"objective 'mean\(x\)' takes a dict of tensors; got list"),
        (
            lambda: c.with_name("cap")({"xx": 1, 3: 1}),
            MissingKeyError,
            "constraint 'cap' reads 'x', .*holds .*'xx'.*Did you mean 'xx'",
        ),
        (lambda: (x**2).grad(x)({"x": torch.arange(3)}), DtypeError, "derivative by 'x' needs .* got torch.int64"),
        (lambda: torch.sort(x).grad(x)(BATCH), ExpressionError, r"got sort by Tensor.*as by y\[0\].grad\(x\)"),
        (lambda: (x <= y)({key: v > 0 for key, v in BATCH.items()}), DtypeError, "'x <= y' compares shapes .* bool"),
        (lambda: c({"x": torch.ones(3, dtype=torch.int64)}), DtypeError, r"constraint 'x <= 1' compares shapes \(3,\)"),
        (lambda: (torch.sort(x) <= 1)(BATCH), DtypeError, "compares shapes sort of"),
    ],
)
def test_a_slip_is_told_where_it_was_made(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()


def test_an_error_of_torchs_says_in_which_expression_and_with_which_shapes():
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        (x + y)({"x": torch.ones(3), "y": torch.ones(4)})
    assert caught.value.__notes__ == ["in expression x + y, with x (3,), y (4,)"]
    with pytest.raises(TypeError) as caught:
        (x + 1).minimize(name="fit")({"x": None})
    assert caught.value.__notes__ == ["in objective 'fit', with x NoneType"]


@pytest.mark.parametrize(
    "shapes", [((4, 1), (4,)), ((4,), (4, 1)), ((4, 1), (1, 4)), ((4, 1), (3,)), ((4, 2, 1), (1, 2))], ids=str
)
def test_a_constraint_refuses_shapes_that_would_broadcast(shapes):
    data = {"x": torch.zeros(shapes[0]), "y": torch.zeros(shapes[1])}
    with pytest.raises(ShapeError, match="'cap' compares shapes .* which would broadcast") as caught:
        (x <= y).with_name("cap")(data)
    assert all(str(shape) in str(caught.value) for shape in shapes)


@pytest.mark.parametrize("shapes", [((4, 2), (4, 1)), ((4, 2), (1, 2)), ((4, 3, 2), (4, 1, 2)), ((4, 2), ())], ids=str)
def test_a_constraint_takes_bounds_for_each_sample_for_all_and_for_each_time(shapes):
    data = {"x": torch.zeros(shapes[0]), "y": torch.ones(shapes[1])}
    assert (x <= y).with_name("cap")(data)["cap_value"].shape == shapes[0]


def test_an_objective_of_shapes_that_broadcast_has_torchs_value_and_one_warning():
    loss, data = PenaltyLoss([((y - t) ** 2).minimize(name="fit")]), {"y": torch.rand(4, 1), "t": torch.rand(4)}
    with pytest.warns(UserWarning, match=r"takes \(4, 1\) of \['y'\] - \(4,\) of \['t'\], which broadcasts"):
        assert torch.equal(loss(data)["fit"], ((data["y"] - data["t"]) ** 2).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(data)
        loss({"y": torch.rand(4, 1), "t": torch.rand(4, 1)})
        (y[:, None] - t[None])({"y": torch.rand(4), "t": torch.rand(4)})
        (y - torch.ones(4))({"y": torch.rand(4, 1)})


def test_a_shape_that_warns_changes_neither_chance_nor_the_number_of_calls():
    calls = []
    f = variable(["y"], lambda v: calls.append(1) or v) - torch.rand_like(t)
    torch.manual_seed(0)
    values = [f({"y": torch.zeros(4, 2), "t": torch.zeros(4, 2)}) for _ in range(2)]
    torch.manual_seed(0)
    for value in values:
        assert torch.equal(value, -torch.rand(4, 2))
    assert len(calls) == 2


def test_truths_and_bits_combine_as_torchs():
    whole = {"x": torch.tensor([1, 2, 6]), "y": torch.tensor([3, 2, 4])}
    a, b = whole["x"], whole["y"]
    for symbolic, eager in (
        ((x > 1) & (y > 2) & (x < 9), (a > 1) & (b > 2) & (a < 9)),
        (True & (x > 1) | (y > 2), True & (a > 1) | (b > 2)),
        ((a > 1) & (y > 2), (a > 1) & (b > 2)),
        (x & y, a & b),
        (x | 1, a | 1),
        (~x, ~a),
        (+x, +a),
    ):
        assert torch.equal(symbolic(whole), eager)
