"""Symbols: an expression's value and gradient are torch's own, in every argument order and place."""

from __future__ import annotations

import copy
import gc
import operator
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimgraph import Constraint, Objective, PenaltyLoss, Variable, variable
from slimgraph.errors import ExpressionError, MissingKeyError, OptionError, ShapeError
from slimgraph.symbolic import GT, LT, Eq, Plan, gradient, jacobian

t = torch.tensor([[0.5, 2.0], [1.5, -1.0]], dtype=torch.float64)

# Each is written once and called with tensors and with Variables.
EXPRESSIONS = {
    "sub": lambda x, y: torch.sub(x, 2.0),
    "rsub": lambda x, y: torch.rsub(x, 2.0),
    "sub_alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "number_first": lambda x, y: 2.0 - x,
    "div_first": lambda x, y: 1 / (x + 3),
    "pow_first": lambda x, y: 2.0**x,
    "torch_pow_first": lambda x, y: torch.pow(2.0, x),
    "mod": lambda x, y: x % 0.7,
    "floor_divide": lambda x, y: torch.where(x // 0.7 > 1, x, y),
    "strict_and_not": lambda x, y: torch.where(x <= t, torch.where(x < t, 1.0, x), y),
    "matmul": lambda x, y: x @ y.mT,
    "transpose": lambda x, y: x.T + y.mT,
    "neg_abs": lambda x, y: -abs(x),
    "slice": lambda x, y: x[:, 1:] * y[..., 0, None],
    "index_by_expression": lambda x, y: x[x > y],
    "tensor_first": lambda x, y: t - x,
    "tensor_matmul": lambda x, y: t @ x,
    "numpy_first": lambda x, y: np.float64(3.0) * x,
    "where": lambda x, y: torch.where(x > 0.7, x, y),
    "where_tensor": lambda x, y: torch.where(t > x, 0.0, x),
    "where_numbers": lambda x, y: torch.where(x >= y, 1.0, -1.0),
    "cat": lambda x, y: torch.cat([x, y], -1),
    "stack_keyword": lambda x, y: torch.stack((x, y), dim=1),
    "clamp": lambda x, y: torch.clamp(x, 0, 1),
    "clamp_keyword": lambda x, y: torch.clamp(x, max=1),
    "clamp_expression": lambda x, y: torch.clamp(x, -1.0 * abs(y), abs(y)),
    "einsum": lambda x, y: torch.einsum("ij,kj->ik", x, y),
    "softmax": lambda x, y: F.softmax(x, dim=-1),
    "mse": lambda x, y: F.mse_loss(x, target=y),
    "linalg": lambda x, y: torch.linalg.norm(x, dim=-1),
    "max_values": lambda x, y: torch.max(x, dim=-1)[0],
    "sort": lambda x, y: (
        torch.sort(x, dim=-1, descending=True).unpack(2)[0]
        if isinstance(x, Variable)
        else torch.sort(x, dim=-1, descending=True)[0]
    ),
    "logical": lambda x, y: torch.where(torch.logical_and(x > 0, y > 0), x, y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.5),
    "nested": lambda x, y: torch.cat([torch.sin(x), torch.stack([y[:, 0], x[:, 1]], -1)], 0),
    "shared": lambda x, y: (lambda s: s * s + torch.exp(s))(torch.tanh(x + y)),
}


@pytest.mark.parametrize("write", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_value_and_gradient_equal_torchs(write):
    def both(make):
        x, y = t.clone().requires_grad_(), (t.flip(0) * 0.8).requires_grad_()
        value = make(x, y)
        slopes = torch.autograd.grad(value.sum(), (x, y), allow_unused=True) if value.requires_grad else ()
        return value, *slopes

    expression = write(variable("x"), variable("y"))
    for eager, symbolic in zip(both(write), both(lambda x, y: expression({"x": x, "y": y})), strict=True):
        assert (eager is None) == (symbolic is None)
        assert eager is None or (eager.dtype == symbolic.dtype and torch.equal(eager, symbolic))


BINARY = [operator.add, operator.sub, operator.mul, torch.maximum, torch.minimum, torch.atan2, torch.hypot]
UNARY = [operator.neg, abs, torch.sin, torch.tanh, torch.sigmoid, F.softplus, lambda v: v**2, lambda v: 2.0 - v]


def trees():
    leaf = st.sampled_from([lambda x, y: x, lambda x, y: y, lambda x, y: 0.5])
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.builds(
                lambda f, a, b: lambda x, y: f(a(x, y) + 0 * x, b(x, y) + 0 * y), st.sampled_from(BINARY), inner, inner
            ),
            st.builds(lambda f, a: lambda x, y: f(a(x, y) + 0 * x), st.sampled_from(UNARY), inner),
        ),
        max_leaves=12,
    )


@settings(max_examples=60, deadline=None)
@given(trees())
def test_random_expressions_equal_eager_evaluation(tree):
    eager, symbolic = tree(t, t.T.contiguous()), tree(variable("x"), variable("y"))
    if isinstance(symbolic, Variable):
        value = symbolic({"x": t, "y": t.T.contiguous()})
        assert torch.equal(eager, value)
        # What is printed is what was written.
        names = {
            name: getattr(torch, name) for name in ("maximum", "minimum", "atan2", "hypot", "sin", "tanh", "sigmoid")
        }
        text = repr(symbolic)
        if "..." not in text:
            again = eval(
                text.replace("^", "**"), {**names, "softplus": F.softplus, "x": t, "y": t.T.contiguous(), "abs": abs}
            )
            assert torch.equal(eager, again)


def test_truths_combine_and_a_tensor_in_front_is_a_weight():
    x, y = variable("x"), variable("y")
    data = {"x": t, "y": t.flip(0)}
    assert torch.equal(((x > 0) & ~(y > 1))(data), (t > 0) & ~(t.flip(0) > 1))
    assert torch.equal(((x > 0) * y)(data), (t > 0) * t.flip(0))
    for weighed in (torch.tensor(10.0) * (x <= 1), (x <= 1) * torch.tensor(10.0)):
        assert isinstance(weighed, Constraint) and str(weighed) == "10 * (x <= 1)"
    assert str((x <= 1) ^ 2) == "(x <= 1)^2"


def test_two_parameters_never_share_a_name():
    a = variable(nn.Parameter(torch.tensor([10.0])), display_name="variable_2")
    b, c = variable(nn.Parameter(torch.tensor([1.0]))), variable(nn.Parameter(torch.tensor([5.0])))
    assert (a + b + c)({}).item() == 16.0


def test_derivatives_by_parts_by_trainables_and_alone_in_every_grad_mode():
    x, k = variable("x"), variable(nn.Parameter(torch.tensor([3.0], dtype=torch.float64)))
    part = x[:, :1]
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            point = t.clone()
            assert torch.equal((part**2).grad(part)({"x": point}).detach(), 2 * t[:, :1])
            assert (k**2).grad(k)({}).item() == 6.0
            slope = x.minimize(torch.sum).grad({"x": point}, "x")
            assert torch.equal(slope, torch.ones_like(t))
    with pytest.raises(ExpressionError, match=r"needs gradients: x of shape \(2, 2\) has requires_grad=False"):
        gradient(t, t)


def test_shared_parts_are_evaluated_once_and_chance_is_not_shared():
    calls = []

    def count(v):
        calls.append(1)
        return v + 1

    s = variable(["x"], count)
    Plan([s * s, torch.sin(s)])({"x": t})
    assert len(calls) == 1
    x = variable("x")
    plan = Plan([torch.sin(x) + 1, torch.sin(x) * 2, torch.rand_like(x), torch.rand_like(x)])
    assert len(plan._program) == 5
    _, _, one, other = plan({"x": t})
    assert not torch.equal(one, other)


def test_equal_numbers_of_different_kinds_stay_apart():
    x = variable("x")
    one, whole = Plan([x * 1, x * 1.0])({"x": torch.ones(1, dtype=torch.int64)})
    assert (one.dtype, whole.dtype) == (torch.int64, torch.float32)


def test_evaluation_leaves_the_data_alone_and_keeps_no_tensor():
    f = torch.exp(variable("x")) * 2
    value = t.clone()
    data, ref = {"x": value}, weakref.ref(value)
    result = f(data)
    assert list(data) == ["x"]
    ref_result = weakref.ref(result)
    del value, data, result
    gc.collect()
    assert ref() is None and ref_result() is None


def test_one_expression_serves_several_threads():
    f, errors = sum((variable("x") * i for i in range(20)), torch.sin(variable("x"))), []

    def work(number):
        x = torch.full((10,), float(number))
        for _ in range(50):
            if not torch.equal(f({"x": x}), sum((x * i for i in range(20)), torch.sin(x))):
                errors.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors


@pytest.mark.parametrize("used", [False, True], ids=["before a forward", "after a forward"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"])
def test_copies_keep_values_identities_and_parameters(used, again):
    x, a = variable("x"), variable(2, display_name="a")
    f, g = torch.cat([a * x, x[:, :1]], -1), a**2
    if used:
        f({"x": t})
    f2, g2, a2 = again((f, g, a))
    assert torch.equal(f2({"x": t}), f({"x": t}))
    assert a2.value is not a.value
    with torch.no_grad():
        a2.value.fill_(3.0)
    assert torch.equal(g2({}), torch.full((2,), 9.0))
    assert f2.operation.args[0][0].operation.args[0] is a2


def test_a_chain_of_ten_thousand_operations_works_copies_and_pickles():
    f = variable("x")
    for _ in range(10_000):
        f = f + 1
    for chain in (f, copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        assert chain({"x": torch.zeros(1)}).item() == 10_000
    assert repr(f).endswith("...")


def test_a_loss_has_one_entry_per_trainable_variable_however_often_it_is_used():
    a, x = variable(3, display_name="a"), variable("x")
    f = x
    for _ in range(1000):
        f = f + a
    loss = PenaltyLoss([f.minimize(), (a * 2).minimize()], [a <= 1, f >= torch.ones(3)])
    assert list(loss.state_dict()) == ["plan.a"]
    assert [p is a.value for p in loss.parameters()] == [True]
    assert len(list(loss.modules())) == 3


def test_constants_follow_the_dtype_and_parameters_inside_functions_are_trained():
    net, x = nn.Linear(2, 1), variable("x")
    plan = Plan([torch.mul(x, torch.full((2,), 0.1)), variable([x], net), net(x)]).double()
    scaled, inside, outside = plan({"x": t})
    assert scaled.dtype == torch.float64
    assert torch.equal(inside, outside)
    assert {id(p) for p in plan.parameters()} == {id(p) for p in net.parameters()}


def test_derivatives_equal_nested_autograd():
    x = variable("x")
    y = torch.sin(x) * x**3
    first, second = y.grad(x), y.grad(x).grad(x)
    point = t.clone().requires_grad_()
    value = torch.sin(point) * point**3
    expected = gradient(value, point)
    torch.testing.assert_close(first({"x": t}), expected)
    with torch.no_grad():
        torch.testing.assert_close(second({"x": t}), gradient(expected, point))
    assert torch.equal((2 * x).grad(x).grad(x)({"x": t}), torch.zeros_like(t))


def test_jacobian_is_sample_wise():
    a, point = torch.randn(3, 2, dtype=torch.float64), t.clone().requires_grad_()
    torch.testing.assert_close(jacobian(torch.sin(point) @ a.T, point), torch.cos(t)[:, None, :] * a)


def test_the_six_forms_of_variable():
    assert variable("x").keys == ["x"]
    assert variable().value.shape == variable(display_name="k").value.shape == (1,)
    assert variable(2, 3).value.shape == variable((2, 3)).value.shape == (2, 3)
    values = torch.ones(2), nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)
    assert [isinstance(variable(value).value, nn.Parameter) for value in values] == [False, True, True]
    with pytest.raises(ExpressionError, match="not computed from others; write .detach"):
        variable(values[2] + 1)
    f = variable(["x", variable("y")], lambda a, b: a - b, display_name="d")
    assert f.keys == ["x", "y"] and repr(f) == "d"
    for wrong in (3.0, None, "x"):
        with pytest.raises(ExpressionError, match=f"variable takes a key, sizes, a tensor.*got .*{wrong}"):
            variable(wrong, wrong)


@pytest.mark.parametrize(
    ("comparator", "value", "violation"),
    [(LT, [-1.0, 1.0], [0.0, 1.0]), (GT, [1.0, -1.0], [1.0, 0.0]), (Eq, [-1.0, 1.0], [1.0, 1.0])],
)
def test_value_is_signed_violation_is_not(comparator, value, violation):
    for norm, power in ((1, 1), (2, 2)):
        loss, signed, size = comparator(norm)(torch.tensor([1.0, 3.0]), 2.0)
        assert signed.tolist() == value and size.tolist() == violation
        assert loss.item() == pytest.approx(sum(v**power for v in violation) / 2)


def test_comparisons_make_the_constraint_that_was_written():
    x, bound = variable("x"), torch.ones(2)
    assert [str(c) for c in (x <= 1, x < 1, x <= 1, bound >= x)] == ["x <= 1", "x < 1", "x <= 1", "x <= [1.0, 1.0]"]
    assert [str(c) for c in (x >= 1, x > 1, x >= 1, bound < x)] == ["x >= 1", "x > 1", "x >= 1", "x > [1.0, 1.0]"]
    assert str(x == 1) == "x == 1"
    assert str(x**2 + variable("y") ** 2 <= variable("p") ** 2) == "x^2 + y^2 <= p^2"
    lower, upper = x.between(0, 1)
    assert (str(lower), str(upper)) == ("x >= 0", "x <= 1")


def test_weights_norms_and_names():
    c = (2 * (variable("x") <= 1.0) * 3) ^ 2
    c.update_name("cap")
    out = c({"x": torch.tensor([[2.0], [4.0]])})
    assert out["cap"].item() == pytest.approx(6 * (1 + 9) / 2)
    assert out["cap_value"].tolist() == out["cap_violation"].tolist() == [[1.0], [3.0]]
    torch.testing.assert_close(c.grad({"x": torch.tensor([[2.0], [4.0]])}, "x"), torch.tensor([[6.0], [18.0]]))


def test_variables_live_in_sets_and_dicts():
    x, y = variable("x"), variable("x")
    assert x in [y, x] and x not in [y] and len({x, y}) == 2 and {x: 1}[x] == 1
    assert x != y
    ones, zeros = variable(torch.ones(1)), variable(torch.zeros(1))
    assert zeros in [ones, zeros]


def test_names_do_not_depend_on_the_process():
    x, a = variable("x"), variable(3)
    assert (x + a).key == (variable("x") + variable(3)).key == "x + parameter(3,)"
    loss = PenaltyLoss([x.minimize(), x.minimize(name="n")], [x <= 1, x >= 0])
    assert loss.names() == ["objective_1", "n", "constraint_1", "constraint_2"]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda x: 0 <= x <= 1, ExpressionError, r"write 0 <= x <= 1 as x.between\(0, 1\), or as two"),
        (lambda x: bool(x == 1), ExpressionError, "'x == 1' has no truth value"),
        (lambda x: bool(x + 1), ExpressionError, r"expression x \+ 1 has no truth value"),
        (lambda x: list(x), ExpressionError, r"write x.unpack\(n\)"),
        (lambda x: x != 0, ExpressionError, r"for its truth write torch.ne\(x, 0\)"),
        (lambda x: x ^ 2, ExpressionError, r"a power is written x \*\* 2"),
        (lambda x: torch.relu_(x), ExpressionError, r"relu_ changes a tensor in place.*torch.relu instead"),
        (lambda x: F.relu(x, inplace=True), ExpressionError, "changes a tensor in place"),
        (lambda x: torch.zeros(2).add_(x), ExpressionError, "write a = a \\+ x instead of a \\+= x"),
        (lambda x: x(t), ExpressionError, "x takes a dict of tensors; got Tensor"),
        (lambda x: Constraint(x, 1, "<="), OptionError, r"comparator, LT\(\), GT\(\) or Eq\(\); got '<='"),
        (lambda x: x.minimize("fit"), OptionError, "a metric to call, such as torch.mean; got 'fit'"),
        (lambda x: (x <= 1) * torch.ones(2), OptionError, "finite number >= 0; got tensor"),
        (lambda x: x.minimize(name="f").grad({"x": t}, "z"), MissingKeyError, r"objective 'f' reads \['x'\], not 'z'"),
        (lambda x: variable(-1), ExpressionError, r"variable takes a key, sizes.*got \(-1\)"),
        (lambda x: x.sum(), AttributeError, r"no method 'sum'; write torch.sum\(x\)"),
        (lambda x: x.shape, AttributeError, "x has no 'shape': it has a value only for a batch"),
        (lambda x: x.foo, AttributeError, "no attribute 'foo'"),
        (lambda x: x <= "y", ExpressionError, "expected an expression, a tensor or a number; got str: 'y'"),
        (lambda x: (x <= 1) ^ 3, OptionError, "norm of a constraint is 1 or 2; got 3"),
        (lambda x: -1 * (x <= 1), OptionError, r"finite number >= 0; got -1"),
        (lambda x: x.minimize(weight=float("nan"), name="f"), OptionError, "weight of objective 'f' .* got nan"),
        (lambda x: x.grad("x"), ExpressionError, "derived by a Variable; got str: 'x'"),
        (
            lambda x: Objective(x, metric=torch.abs)({"x": t}),
            ExpressionError,
            r"one number per batch; 'abs' gives shape \(2, 2\)",
        ),
        (lambda x: (x + 1)({"z": t}), MissingKeyError, r"reads 'x', the data holds \['z'\]"),
        (lambda x: Constraint(x, None, LT()), ExpressionError, "got NoneType: None"),
    ],
)
def test_a_wrong_use_says_what_to_write(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong(variable("x"))


NAMES_IN_A_PROCESS = """
import torch
from slimgraph import PenaltyLoss, variable
x, y, a = variable("x"), variable("y"), variable(3)
f = torch.where(x > a, torch.cat([x, y], -1), torch.sin(y)) + a
loss = PenaltyLoss([f.minimize(), x.minimize()], [*f.between(0, 1), 2 * (x + y == a) ^ 2])
print(f.key, f.keys, loss.output_keys, list(loss.state_dict()), [*map(str, loss.terms)], sep=chr(10))
"""


def test_names_and_keys_are_the_same_under_another_hash_seed():
    said = [
        subprocess.run(
            [sys.executable, "-c", NAMES_IN_A_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and "constraint_3_violation" in said[0]


def test_numpy_arrays_and_numbers_stand_on_either_side():
    x, array = variable("x"), np.array([2.0, 3.0])
    tensor = torch.as_tensor(array)
    for symbolic, eager in (
        (array * x, tensor * t),
        (array - x, tensor - t),
        (x - array, t - tensor),
        (array @ x, tensor @ t),
        (array**x, tensor**t),
        (np.float32(2) / x, 2.0 / t),
        (torch.maximum(x, torch.as_tensor(array)), torch.maximum(t, tensor)),
    ):
        assert torch.equal(symbolic({"x": t}), eager)
    assert str(array >= x) == "x <= [2.0, 3.0]"


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda x: np.sin(x), ExpressionError, "numpy.sin takes arrays; write torch.sin for x"),
        (lambda x: np.mean(x), ExpressionError, "numpy.mean takes arrays; write torch.mean for x"),
        (lambda x: np.concatenate([x, x]), ExpressionError, "numpy.concatenate takes arrays; write torch.cat"),
        (lambda x: np.asarray(x), ExpressionError, "x is no array: it has a value only for a batch"),
        (lambda x: (x <= 1) ^ True, OptionError, "norm of a constraint is 1 or 2; got True"),
        (lambda x: x.minimize(weight=True), OptionError, "finite number >= 0; got True"),
        (lambda x: x.with_name("y"), ExpressionError, r"read from the data under that key; write variable\('y'\)"),
        (lambda x: (x + 1).with_name(""), ExpressionError, "a name is a text that is not empty; got ''"),
        (
            lambda x: Objective(x, lambda v: (v, v), name="f")({"x": t}),
            ExpressionError,
            "objective 'f' needs a metric that gives one number per batch; .* gives tuple",
        ),
        (
            lambda x: (x <= variable("y")).with_name("cap")({"x": torch.zeros(3), "y": torch.zeros(3, 1)}),
            ShapeError,
            r"constraint 'cap' compares shapes \(3,\) of \['x'\] and \(3, 1\) of \['y'\]",
        ),
    ],
)
def test_bad_input_is_told(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong(variable("x"))


def test_a_bound_without_the_batchs_axis_may_broadcast():
    cap = variable("x") <= torch.ones(2)
    assert cap.with_name("cap")({"x": torch.zeros(2, 2)})["cap"].item() == 0.0


def test_with_name_keeps_the_value_and_the_parameter():
    x, a = variable("x"), variable(2)
    f, b = (x * a).with_name("scaled"), a.with_name("b")
    assert f.key == repr(f) == "scaled" and repr(f + 1) == "scaled + 1"
    assert torch.equal(f({"x": t}), t * a.value)
    plan = Plan([f, a + b])
    assert [p is a.value for p in plan.parameters()] == [True]


def test_latex_reads_as_the_formula():
    x, u = variable("x"), variable("u_max")
    c = 2 * (x**2 + 1 <= variable("theta") / u) ^ 2
    assert c._repr_latex_() == r"$2 \cdot \left(x^{2} + 1 \leq \frac{\theta}{u_{\mathrm{max}}}\right)^{2}$"
    assert (x @ (x - 1))._repr_latex_() == r"$x \, \left(x - 1\right)$"
    assert u.grad(x)._repr_latex_() == r"$\frac{\partial u_{\mathrm{max}}}{\partial x}$"
    assert torch.sqrt(abs(-x[:, 0]))._repr_latex_() == r"$\sqrt{\left|-x{}_{:, 0}\right|}$"
    assert x.minimize(torch.sum)._repr_latex_() == r"$\mathrm{sum}\left(x\right)$"
    for _ in range(1000):
        x = torch.softmax(x, dim=-1) + x
    text = x._repr_latex_()
    assert len(text) < 2000 and text.count("{") == text.count("}")


def test_a_used_expression_keeps_no_tensor_after_a_gradient():
    x = variable("x")
    f = (torch.sin(x) * x).grad(x)
    value = t.clone()
    result, ref = f({"x": value}), weakref.ref(value)
    refs = ref, weakref.ref(result)
    del value, result
    gc.collect()
    assert [r() for r in refs] == [None, None]


def test_a_value_is_freed_when_nobody_reads_it_any_more():
    seen, alive = [], []

    def step(v):
        alive.append(sum(ref() is not None for ref in seen))
        result = v + 1
        seen.append(weakref.ref(result))
        return result

    f = variable("x")
    for _ in range(6):
        f = variable([f], step)
    f({"x": t})
    assert max(alive) <= 2
