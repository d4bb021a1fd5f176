"""Problem.compile: nodes, constraints and loss in one graph, equal to eager, compiled again only for new sizes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from slimgraph import AugmentedLagrangeLoss, Node, PenaltyLoss, Problem, System, slim, variable

x, u, p, t = (variable(key) for key in "xupt")


@pytest.fixture(autouse=True)
def forget_what_was_compiled():
    # torch compiles one function for at most eight different modules.
    torch.compiler.reset()
    counters.clear()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def quadratic(kind) -> Problem:
    """min (x_0^2 + x_1^2 - p_0 x_0) with x_0 + x_1 >= p_1, x_0 = x_1."""
    solution = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), slim.maps["softSVD"](3, 2))
    objective = (torch.sum(x**2, -1) - p[:, 0] * x[:, 0]).minimize(name="cost")
    return Problem(
        [Node(solution, ["p"], ["x"], name="solution")],
        kind([objective], [torch.sum(x, -1) >= p[:, 1], x[:, 0] == x[:, 1]]),
    )


def control(kind) -> Problem:
    """A double integrator over two steps under a policy with a bounded input."""
    A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.tensor([[0.0, 0.1]])
    policy = Node(
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), slim.PerronFrobeniusLinear(3, 1)), ["x"], ["u"], name="policy"
    )
    plant = Node(lambda x, u: x @ A.T + u @ B, ["x", "u"], ["x"], name="plant")
    loss = kind([(x**2).minimize(name="near"), (u**2).minimize(name="cheap")], [u <= 0.1, u >= -0.1, x[:, -1] == 0])
    return Problem([System([policy, plant], nsteps=2, name="loop")], loss)


def burgers(kind) -> Problem:
    """y_t + y y_x = 0.01 y_xx with y >= 0, by a network over the points (x, t)."""
    y = variable([torch.cat([x, t], -1)], nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)))
    residual = y.grad(t) + y * y.grad(x) - 0.01 * y.grad(x).grad(x)
    return Problem([Node(torch.neg, ["x"], ["minus_x"])], kind([(residual**2).minimize(name="residual")], [y >= 0]))


PROBLEMS = {
    "quadratic": (quadratic, lambda n: {"p": torch.randn(n, 2)}),
    "control": (control, lambda n: {"x": torch.randn(n, 1, 2)}),
    "burgers": (burgers, lambda n: {"x": torch.rand(n, 1), "t": torch.rand(n, 1)}),
}


def step(problem: Problem, batch):
    """The results, and the gradients by name."""
    problem.zero_grad()
    output = problem(batch)
    output["loss"].backward()
    return output, {name: w.grad for name, w in problem.named_parameters() if w.grad is not None}


@pytest.mark.parametrize(
    ("case", "kind"),
    [("quadratic", AugmentedLagrangeLoss), ("control", PenaltyLoss), ("burgers", AugmentedLagrangeLoss)],
)
def test_values_and_gradients_are_the_eager_ones_in_one_graph(case, kind):
    # Gradients are autograd's, of the graph that was captured.
    agree(case, kind, "eager", (6, 6, 9, 12))


def test_gradients_that_are_compiled_too_are_the_eager_ones():
    # The optimisation below shows it for a roll-out.
    agree("burgers", PenaltyLoss, "aot_eager", (6,))


def agree(case, kind, backend, sizes):
    """Values, gradients and multipliers are those of eager torch, and how often it compiled is as told."""
    torch.manual_seed(0)
    make, batch_of = PROBLEMS[case]
    problem = make(kind)
    eager = copy.deepcopy(problem)
    problem.compile(backend=backend)
    compiled_for = []
    for size in sizes:
        batch = batch_of(size)
        (ours, slopes), (expected, eager_slopes) = step(problem, batch), step(eager, batch)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(slopes, eager_slopes, atol=1e-6, rtol=1e-6)
        if kind is AugmentedLagrangeLoss:
            problem.loss.update(ours)
            eager.loss.update(expected)
            assert problem.loss.multipliers.abs().sum() > 0
            torch.testing.assert_close(problem.loss.multipliers, eager.loss.multipliers)
        compiled_for.append(graphs())
    # The first batch makes the multipliers; after that only the first other size is new, for all sizes at once.
    first = 2 if kind is AugmentedLagrangeLoss else 1
    assert compiled_for == [1, first, first + 1, first + 1][: len(sizes)]
    assert not counters["graph_break"]


def test_evaluation_and_training_are_each_compiled_once():
    problem = quadratic(AugmentedLagrangeLoss)
    eager, batch = copy.deepcopy(problem), {"p": torch.randn(4, 2)}
    problem.compile(backend="eager")
    for training in (True, False, True, False):
        output = problem.train(training)(batch)
        torch.testing.assert_close(output, eager.train(training)(batch))
        seen = graphs()
    assert seen == 3 and output["penalty_loss"] != problem.train()(batch)["penalty_loss"]
    ours, expected = (each.report(batch).constraints[0].metrics() for each in (problem, eager))
    assert ours == pytest.approx(expected)


def test_it_is_in_place_and_keeps_the_names_of_the_parameters():
    problem = quadratic(PenaltyLoss)
    names = list(problem.state_dict())
    assert problem.compile(backend="eager") is None
    assert list(problem.state_dict()) == names
    assert problem._compiled_call_impl is not None


@pytest.mark.parametrize("used", [False, True], ids=["before a call", "after a call"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"])
def test_copies_and_pickles_are_not_compiled(used, again):
    problem, batch = quadratic(AugmentedLagrangeLoss), {"p": torch.randn(4, 2)}
    problem.compile(backend="eager")
    if used:
        problem(batch)
    copied = again(problem)
    assert copied._compiled_call_impl is None
    torch.testing.assert_close(copied(batch), problem(batch))


def test_optimising_a_compiled_problem_is_optimising_the_eager_one():
    torch.manual_seed(0)
    problem = control(PenaltyLoss)
    eager, batch = copy.deepcopy(problem), {"x": torch.randn(6, 1, 2)}
    problem.compile(backend="aot_eager")
    for each in (problem, eager):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        for _ in range(5):
            step(each, batch)
            optimizer.step()
    torch.testing.assert_close(problem.state_dict(), eager.state_dict())
    assert graphs() == 1


def test_what_would_break_the_graph_is_an_error_unless_allowed():
    def breaking(p):
        torch._dynamo.graph_break()
        return 2 * p

    problem = Problem([Node(breaking, ["p"], ["x"])], PenaltyLoss([(x**2).minimize()]))
    batch = {"p": torch.ones(3, 1)}
    problem.compile(backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="graph_break"):
        problem(batch)
    problem.compile(backend="eager", fullgraph=False)
    assert problem(batch)["loss"] == 4


def test_a_missing_key_is_told_in_words_when_compiled_too():
    problem = quadratic(PenaltyLoss)
    problem.compile(backend="eager")
    with pytest.raises(Exception, match="node 'solution' reads 'p', the data holds"):
        problem({"P": torch.ones(3, 2)})


@pytest.mark.slow
def test_inductor_gives_the_same_numbers():
    torch.manual_seed(0)
    loss = PenaltyLoss([((x - p) ** 2).minimize()], [x <= 0.5])
    problem, batch = Problem([Node(nn.Linear(2, 2), ["p"], ["x"])], loss), {"p": torch.randn(6, 2)}
    eager = copy.deepcopy(problem)
    problem.compile()
    try:
        ours, slopes = step(problem, batch)
    except torch._inductor.exc.InvalidCxxCompiler as error:
        pytest.skip(f"inductor finds no C compiler here: {error}")
    expected, eager_slopes = step(eager, batch)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(slopes, eager_slopes, atol=1e-6, rtol=1e-6)
