"""Derivatives: residuals of the heat and Burgers equations equal nested autograd, eagerly and compiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, variable
from slimgraph.symbolic import Plan


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    # torch compiles one function for at most eight different modules.
    torch.compiler.reset()


def field() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


def by_hand(net, x, t, residual):
    """The residual by nested autograd."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    u = net(torch.cat([x, t], -1))

    def slope(y, by):
        return torch.autograd.grad(y, by, torch.ones_like(y), create_graph=True)[0]

    return residual(u, slope(u, t), slope(u, x), slope(slope(u, x), x))


EQUATIONS = {
    "heat": lambda u, u_t, u_x, u_xx: u_t - 0.1 * u_xx,
    "burgers": lambda u, u_t, u_x, u_xx: u_t + u * u_x - 0.01 * u_xx,
}


def symbolic(net, residual):
    x, t = variable("x"), variable("t")
    u = variable([x, t], lambda x, t: net(torch.cat([x, t], -1)), display_name="u")
    return residual(u, u.grad(t), u.grad(x), u.grad(x).grad(x))


def points():
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(32, 1, generator=generator), "t": torch.rand(32, 1, generator=generator)}


def slopes(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)


@pytest.mark.parametrize("residual", EQUATIONS.values(), ids=EQUATIONS.keys())
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_residuals_and_their_slopes_equal_nested_autograd(residual, how):
    net, data = field(), points()
    plan = Plan([symbolic(net, residual)])
    run = plan if how == "eager" else torch.compile(plan, fullgraph=True, backend="aot_eager")
    (ours,), hand = run(data), by_hand(net, data["x"], data["t"], residual)
    torch.testing.assert_close(ours, hand, atol=1e-6, rtol=0)
    for mine, theirs in zip(slopes(net, ours.square().mean()), slopes(net, hand.square().mean()), strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_derivatives_of_one_value_are_one_walk_back_in_every_batch(monkeypatch):
    net, data = field(), points()
    plan, walks, grad = Plan([symbolic(net, EQUATIONS["burgers"])]), [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda y, x, *a, **k: walks.append(x) or grad(y, x, *a, **k))
    (first,), (second,) = plan(data), plan(data)
    # u by t and x at once, then u_x by x; the first batch, whose shapes are looked at, is no other.
    assert [len(x) if isinstance(x, tuple) else 1 for x in walks] == [2, 1, 2, 1]
    for one, other in zip(*(slopes(net, r.square().mean()) for r in (first, second)), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_a_derivative_by_what_comes_later_waits_for_it():
    x, k = variable("x"), variable("k")
    y = x**2 * k
    by_x = y.grad(x)
    plan, data = Plan([by_x, y.grad(by_x), y.grad(k)]), {"x": torch.tensor([3.0]), "k": torch.tensor([2.0])}
    for _ in range(2):
        assert [value.tolist() for value in plan(data)] == [[12.0], [0.0], [9.0]]


@pytest.mark.parametrize("residual", EQUATIONS.values(), ids=EQUATIONS.keys())
def test_a_node_may_write_what_is_derived_eagerly(residual):
    net, data = field(), points()
    x, t, u = variable("x"), variable("t"), variable("u")
    node = Node(lambda x, t: net(torch.cat([x, t], -1)), ["x", "t"], ["u"], name="net")
    loss = PenaltyLoss([(residual(u, u.grad(t), u.grad(x), u.grad(x).grad(x)) ** 2).minimize(name="residual")])
    hand = by_hand(net, data["x"], data["t"], residual).square().mean()
    torch.testing.assert_close(Problem([node], loss)(data)["residual"], hand, atol=1e-6, rtol=0)


def test_a_problem_with_derivatives_compiles_whole():
    net, data = field(), points()
    residual = symbolic(net, EQUATIONS["burgers"])
    double = Node(lambda x: 2 * x, ["x"], ["twice"], name="double")
    problem = Problem([double], PenaltyLoss([(residual**2).minimize()], [residual <= 1.0]))
    compiled = torch.compile(problem, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(data)["loss"], problem(data)["loss"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("trained", [True, False])
def test_what_compilation_cannot_follow_is_refused_not_wrong(trained):
    u, x = variable("u"), variable("x")
    net = nn.Linear(1, 1).requires_grad_(trained)
    problem = Problem([Node(net, ["x"], ["u"], name="net")], PenaltyLoss([u.grad(x).minimize()]))
    with pytest.raises(Exception, match=r"by way of node 'net', which writes 'u'; write variable\("):
        torch.compile(problem, fullgraph=True, backend="eager")({"x": torch.ones(2, 1)})


def test_a_computed_tensor_in_the_data_is_refused_when_compiled():
    u, x = variable("u"), variable("x")
    plan = Plan([(u * x).grad(x)])
    data = {"x": torch.ones(2, 1, requires_grad=True)}
    data["u"] = data["x"] ** 2
    assert plan(data)[0].tolist() == [[3.0], [3.0]]
    with pytest.raises(Exception, match="a derivative reads 'u', which was computed outside the expression"):
        torch.compile(plan, fullgraph=True, backend="eager")(data)


CASES = {
    "by a part": lambda x, a: (lambda part: (part**2 * torch.sin(x)).grad(part))(x[:, :1]),
    "by a trainable": lambda x, a: (a**2 * x).grad(a),
    "by itself": lambda x, a: x.grad(x),
    "of what does not depend": lambda x, a: (a * 2).grad(x),
    "third": lambda x, a: torch.exp(2 * x).grad(x).grad(x).grad(x),
    "twice in a keyword": lambda x, a: torch.clamp(x**2, max=x * 3).grad(x),
    "mixed": lambda x, a: (x**2 * a**3).grad(x).grad(a),
}


@pytest.mark.parametrize("write", CASES.values(), ids=CASES.keys())
def test_a_compiled_derivative_equals_the_eager_one(write):
    a, data = variable(torch.tensor([1.5], requires_grad=True), display_name="a"), {"x": torch.randn(3, 2)}
    plan = Plan([write(variable("x"), a)])
    (compiled,) = torch.compile(plan, fullgraph=True, backend="eager")(data)
    torch.testing.assert_close(compiled, plan(data)[0])


def test_a_compiled_expression_equals_the_eager_one_with_its_gradient():
    x, a = variable("x"), variable(torch.tensor([0.3, 0.4], requires_grad=True))
    expression = torch.cat([torch.sin(x) * a, torch.where(x > 0, x, a)], dim=-1)
    data = {"x": torch.randn(5, 2)}
    values = [Plan([expression])(data)[0]]
    for callable_ in (Plan([expression]), lambda data: [expression(data)]):
        values.append(torch.compile(callable_, fullgraph=True, backend="aot_eager")(data)[0])
    gradients = [torch.autograd.grad(value.square().sum(), a.value)[0] for value in values]
    for value, gradient in zip(values, gradients, strict=True):
        torch.testing.assert_close(value, values[0])
        torch.testing.assert_close(gradient, gradients[0])


COLD = {
    "expression": lambda x, y: torch.sin(x) * y,
    "derivative": lambda x, y: (torch.sin(x) * x).grad(x),
    "attribute": lambda x, y: x @ y.mT,
    "objective": lambda x, y: (x * y).minimize(name="o"),
    "constraint": lambda x, y: (x * y <= 1).with_name("c"),
    "unnamed constraint": lambda x, y: 2 * (x >= y) ^ 2,
}


@pytest.mark.parametrize("write", COLD.values(), ids=COLD.keys())
@pytest.mark.parametrize("how", ["itself", "inside a function"])
def test_what_was_never_called_compiles_whole(write, how):
    data = {"x": torch.randn(5, 2), "y": torch.randn(5, 2)}
    cold, known = (write(variable("x"), variable("y")) for _ in range(2))
    compiled = torch.compile(cold if how == "itself" else lambda data: cold(data), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(data), known(data))


def test_one_compiled_function_tells_cold_expressions_apart():
    x, data = variable("x"), {"x": torch.randn(5, 2)}
    call = torch.compile(lambda expression, data: expression(data), fullgraph=True, backend="eager")
    expressions = [
        (torch.sin(x), torch.sin),
        (torch.cos(x), torch.cos),
        (x * 2, lambda v: v * 2),
        (x * 3, lambda v: v * 3),
    ]
    for expression, function in expressions * 2:
        torch.testing.assert_close(call(expression, data), function(data["x"]))


def test_a_guarded_truth_is_open_to_torch_compile_alone():
    for guarded in (variable("x"), variable("x") <= 1):
        torch.compile(guarded, backend="eager")
        with pytest.raises(TypeError, match="no truth value"):
            bool(guarded)
