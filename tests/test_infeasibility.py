"""Laws of explain_infeasibility: planted conflicts are named and no others, slacks are those of a linear program."""

from __future__ import annotations

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from slimgraph import AugmentedLagrangeLoss, Node, PenaltyLoss, Problem, System, explain_infeasibility, variable
from slimgraph.errors import DtypeError, MissingKeyError, OptionError

p, x, y, u = variable("p"), variable("x"), variable("y"), variable("u")
data = {"p": torch.randn(4, 2)}


def named(**constraints):
    for name, constraint in constraints.items():
        constraint.update_name(name)
    return list(constraints.values())


def net(constraints, outsize=1, loss=PenaltyLoss):
    torch.manual_seed(0)
    node = Node(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, outsize)), ["p"], ["x"], name="net")
    return Problem([node], loss([(x * x).minimize()], constraints))


# ---- conflicts


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_planted_conflict_is_named_and_the_harmless_is_not(order):
    constraints = named(floor=x >= 2, ceiling=x <= 1, harmless=x >= -5)
    found = explain_infeasibility(net([constraints[i] for i in order]), data)
    assert not found.feasible and found.smallest
    assert sorted(found.conflict) == ["ceiling", "floor"]
    assert found.samples == [0, 1, 2, 3] and found.free == ["x"]
    slacks = {slack.name: slack for slack in found.slacks}
    # Whatever x in [1, 2] is chosen, the two give way by 1 together.
    assert slacks["floor"].mean + slacks["ceiling"].mean == pytest.approx(1, abs=1e-3)
    assert slacks["harmless"].largest == slacks["harmless"].samples == 0


def test_without_either_of_them_all_hold():
    for constraints in ([x >= 2, x >= -5], [x <= 1, x >= -5], [x == 1, (x - 2) ** 2 <= 1.5]):
        found = explain_infeasibility(net(constraints), data)
        assert found.feasible and not found.conflict and not found.samples
        assert all(slack.largest == 0 for slack in found.slacks)


def test_three_that_conflict_only_together():
    """x1 + x2 <= 1 with x1 >= 1 and x2 >= 1: any two hold."""
    a, b = x[:, :1], x[:, 1:]
    constraints = named(budget=a + b <= 1, first=a >= 1, other=a - b <= 9, second=b >= 1, cap=a <= 50)
    found = explain_infeasibility(net(constraints, outsize=2), data)
    assert found.conflict == ["budget", "first", "second"] and found.smallest
    total = sum(slack.mean for slack in found.slacks)
    assert total == pytest.approx(1, abs=1e-3)


def test_the_smaller_of_two_conflicts_is_named():
    """The deletion filter alone drops the pair, which stands first, and keeps the three."""
    a, b, c = x[:, :1], x[:, 1:2], x[:, 2:]
    pair = named(low=c <= 0, high=c >= 1)
    three = named(budget=a + b <= 1, first=a >= 1, second=b >= 1)
    found = explain_infeasibility(net([*pair, *three], outsize=3), data)
    assert found.conflict == ["low", "high"] and found.smallest


def test_where_smaller_sets_are_too_many_to_try_the_conflict_is_irreducible(monkeypatch: pytest.MonkeyPatch):
    """The pair stands first, so that the deletion filter drops it and keeps the three."""
    monkeypatch.setattr("slimgraph.infeasibility.search.SETS", 0)
    a, b, c = x[:, :1], x[:, 1:2], x[:, 2:]
    pair = named(low=c <= 0, high=c >= 1)
    three = named(budget=a + b <= 1, first=a >= 1, second=b >= 1)
    found = explain_infeasibility(net([*pair, *three], outsize=3), data)
    assert found.conflict == ["budget", "first", "second"] and not found.smallest
    assert "without any one of them the others can" in str(found)


def test_only_the_samples_in_conflict_are_listed():
    """x >= p and x <= 1 conflict where p > 1."""
    problem = net(named(floor=x >= p[:, :1], ceiling=x <= 1, harmless=x >= -99))
    found = explain_infeasibility(problem, {"p": torch.tensor([[0.0, 0], [3.0, 0], [0.5, 0], [1.5, 0]])})
    assert sorted(found.conflict) == ["ceiling", "floor"] and found.samples == [1, 3]
    by_name = {slack.name: slack for slack in found.slacks}
    assert by_name["floor"].samples == 0.5 or by_name["ceiling"].samples == 0.5
    assert (by_name["floor"].mean + by_name["ceiling"].mean) * 4 == pytest.approx(2 + 0.5, abs=1e-3)


def test_a_constraint_on_fixed_data_conflicts_alone():
    found = explain_infeasibility(net(named(given=p <= -9, free=x <= 1)), data)
    assert found.conflict == ["given"]


def test_equalities_and_series():
    series = {"p": torch.randn(3, 6, 2)}
    constraints = named(same=x == 1, rate=(x[:, 1:] - x[:, :-1]) ** 2 >= 4, far=x <= 100)
    assert explain_infeasibility(net(constraints), series).conflict == ["same", "rate"]


def test_several_starts_find_what_one_does_not():
    """From x = 0, where x^2 has no slope, no step leads to x^2 >= 4."""
    node = Node(lambda p: 0 * p, ["p"], ["x"])
    problem = Problem([node], PenaltyLoss([], [x * x >= 4, x <= 10]))
    assert explain_infeasibility(problem, data).feasible
    assert not explain_infeasibility(problem, data, starts=1).feasible


def test_samples_that_start_where_a_constraint_is_no_number_do_not_spoil_the_others():
    """The net gives negative x for some samples, where log(x) is none; x = e keeps all three."""
    problem = net([torch.log(x) >= 0.99, x >= -9, torch.sqrt(x) <= 4])
    samples = {"p": torch.randn(60, 2)}
    assert (problem.step(samples)["x"] < 0).any() and (problem.step(samples)["x"] > 0).any()
    assert explain_infeasibility(problem, samples).feasible
    found = explain_infeasibility(net(named(log=torch.log(x) >= 1, low=x <= 1, far=x <= 99)), samples)
    assert found.conflict == ["log", "low"] and len(found.samples) == 60


@pytest.mark.parametrize("seed", range(4))
def test_least_slacks_are_those_of_a_linear_program(seed):
    rng = np.random.default_rng(seed)
    A, b = rng.normal(size=(7, 2)), rng.normal(size=7) - 1.5
    constraints = [x @ torch.tensor(row[:, None]) <= float(bound) for row, bound in zip(A, b, strict=True)]
    found = explain_infeasibility(net(constraints, outsize=2), {"p": torch.zeros(1, 2)})

    def least(rows):
        n = len(rows)
        cost, sides = np.r_[0, 0, np.ones(n)], np.c_[A[rows], -np.eye(n)]
        return linprog(cost, sides, b[rows], bounds=[(None, None)] * 2 + [(0, None)] * n).fun

    assert sum(slack.mean for slack in found.slacks) == pytest.approx(least(list(range(7))), rel=1e-3, abs=1e-4)
    smallest = next(
        k for k in range(1, 8) if any(least(list(rows)) > 1e-6 for rows in itertools.combinations(range(7), k))
    )
    chosen = [int(name.rsplit("_", 1)[1]) - 1 for name in found.conflict]
    assert found.smallest and len(chosen) == smallest and least(chosen) > 1e-6
    assert all(least([j for j in chosen if j != left]) < 1e-6 for left in chosen)


# ---- what is free


def test_what_fixed_nodes_make_of_a_free_key_is_computed():
    """x is what the policy's u gives through a model that cannot be trained: x >= 4 and u <= 1 cannot both be."""
    policy = Node(nn.Linear(2, 1), ["p"], ["u"], name="policy")
    model = Node(lambda u: 2 * u + 1, ["u"], ["x"], name="model")
    problem = Problem([model, policy], PenaltyLoss([], named(reach=x >= 4, effort=u <= 1, sign=u >= 0)))
    found = explain_infeasibility(problem, data)
    assert found.free == ["u"] and found.conflict == ["reach", "effort"]
    assert explain_infeasibility(problem, data, free=["u", x]).feasible
    assert explain_infeasibility(problem, data, free=[p]).conflict == ["reach", "effort"]


def test_parameters_are_one_choice_for_all_samples():
    """w p = x reaches 1 and -1 at p = 1 and p = 2 for a free x, but not for one weight."""
    problem = Problem([Node(nn.Linear(1, 1, bias=False), ["p"], ["x"])], PenaltyLoss([], named(aim=x == variable("t"))))
    points = {"p": torch.tensor([[1.0], [2.0]]), "t": torch.tensor([[1.0], [-1.0]])}
    assert explain_infeasibility(problem, points).feasible
    found = explain_infeasibility(problem, points, free="parameters")
    assert found.conflict == ["aim"] and not found.samples and "in all together" in str(found)
    assert found.free == ["nodes.0.callable.weight"]
    assert explain_infeasibility(problem, {**points, "t": 3 * points["p"]}, free="parameters").feasible


def test_a_trained_system_and_a_derivative_are_asked_by_their_parameters():
    step = Node(nn.Linear(1, 1), ["x"], ["x"], name="step")
    problem = Problem([System([step], nsteps=3)], PenaltyLoss([], named(low=x[:, 1:] <= 0, high=x[:, 1:] >= 1)))
    start = {"x": torch.ones(2, 1, 1)}
    assert explain_infeasibility(problem, start, free="parameters").conflict == ["low", "high"]
    slope = Problem([Node(nn.Linear(1, 1), ["p"], ["y"])], PenaltyLoss([], [y.grad(p) >= 2, y.grad(p) <= 1]))
    points = {"p": torch.ones(2, 1)}
    assert len(explain_infeasibility(slope, points, free="parameters").conflict) == 2
    with pytest.raises(OptionError, match='derives by .* write free="parameters"'):
        explain_infeasibility(slope, points)


def test_a_trainable_variable_is_free():
    a = variable(1, display_name="a")
    problem = Problem([Node(torch.neg, ["p"], ["q"])], PenaltyLoss([], named(low=a <= 1, high=a >= 2, fixed=p <= 99)))
    found = explain_infeasibility(problem, data)
    assert "a" in found.free and found.conflict == ["low", "high"]


# ---- the problem, the result


def test_the_problem_and_the_data_stay_as_they_are():
    problem = net([x >= 2, x <= 1], loss=AugmentedLagrangeLoss).train()
    before, values = copy.deepcopy(problem.state_dict()), data["p"].clone()
    explain_infeasibility(problem, {**data, "name": "train"})
    assert all(torch.equal(value, before[key]) for key, value in problem.state_dict().items())
    assert torch.equal(data["p"], values) and problem.training
    assert all(q.requires_grad and q.dtype == torch.float32 for q in problem.parameters())


def test_the_answer_is_the_same_each_time_and_leaves_the_generator_alone():
    problem = net([x * x >= 4, x <= 1, x >= -1])
    torch.manual_seed(3)
    one, drawn = explain_infeasibility(problem, data), torch.rand(1)
    assert explain_infeasibility(problem, data) == one
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)


def test_it_prints_at_most_100_columns_and_is_json():
    wide = named(**{"floor_" + "n" * 120: x >= 2}, ceiling=x <= 1)
    found = explain_infeasibility(net(wide), data)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    assert text.startswith("infeasible: the 2 marked x cannot hold together; no fewer conflict")
    assert "sure where the constraints are convex" in text and "in samples 0, 1, 2, 3" in text
    assert json.loads(found.as_json()) == found.as_dict()
    assert str(explain_infeasibility(net([x >= 2]), data)) == "feasible: all 1 constraints can hold together; free: x"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: explain_infeasibility(net([]), data), OptionError, "needs a problem with constraints; its loss has"),
        (lambda: explain_infeasibility(Problem([], PenaltyLoss([], [p <= 1])), data), OptionError, "nothing to choose"),
        (lambda: explain_infeasibility(net([x <= 1]), data, free=["xx"]), MissingKeyError, "free='xx' is neither"),
        (lambda: explain_infeasibility(net([x <= 1]), data, free="x"), OptionError, r"a list of keys; got str: 'x'"),
        (lambda: explain_infeasibility(net([x <= 1]), {**data, "i": torch.arange(4)}, free=["i"]), DtypeError,
         "free='i' has the dtype torch.int64"),
        (lambda: explain_infeasibility(net([x <= 1]), data, starts=1.5), OptionError, "starts >= 1; got starts=1.5"),
        (lambda: explain_infeasibility(net([x <= 1]), data, seed="a"), OptionError, "number seed >= 0; got seed='a'"),
        (lambda: explain_infeasibility(net([x <= 1]), data, tolerance=float("inf")), OptionError, "got tolerance=inf"),
        (lambda: explain_infeasibility(nn.Linear(1, 1), data), OptionError, "needs a Problem; got Linear"),
        (lambda: explain_infeasibility(net([x <= 1]), [1]), OptionError, "data as a dict of tensors; got list"),
        (lambda: explain_infeasibility(net([x <= 1]), {"p": torch.ones(0, 2)}), OptionError, r"sample; got p \(0, 2\)"),
        (lambda: explain_infeasibility(net([x <= 1]), data, starts=0), OptionError, "starts >= 1; got starts=0"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---- a System with a trained node inside


def controlled(constraints, x0=1.0, nsteps=10, outer=(), **options):
    """x <- 0.8 x + 0.2 u with a trained policy x -> u, from x0."""
    torch.manual_seed(0)
    policy = Node(nn.Linear(1, 1), ["x"], ["u"], name="policy")
    plant = Node(lambda x, u: 0.8 * x + 0.2 * u, ["x", "u"], ["x"], name="plant")
    system = System([policy, plant], nsteps=nsteps, **options)
    return Problem([system, *outer], PenaltyLoss([], constraints)), {"x": torch.full((2, 1, 1), x0)}


@pytest.mark.parametrize("options", [{}, {"keep": ["x"]}], ids=["all kept", "the state kept"])
def test_within_a_system_what_the_trained_node_gives_is_free_and_the_model_computes(options):
    """From x = 1 with u <= 1 x stays at most 1: reach and power conflict, though x alone could be anything."""
    given = [] if options else named(power=u <= 1, sign=u >= 0)
    if options:
        # What is not kept cannot stand in a constraint; x rises by at most a fifth of 1 - x where u <= 1.
        given = named(power=x[:, 1:] <= 0.8 * x[:, :-1] + 0.2, sign=x >= 0)
    found = explain_infeasibility(*controlled([*named(reach=x[:, -1:] >= 3), *given], **options))
    assert found.free == ["u"] and found.conflict == ["reach", "power"] and found.samples == [0, 1]
    kept = [*named(reach=x[:, -1:] >= 0.99), *given]
    assert explain_infeasibility(*controlled(kept, **options)).feasible


def test_how_far_a_free_series_reaches_is_what_the_model_says():
    """The largest x after n steps of u = 1 from 0 is 1 - 0.8^n."""
    most = 1 - 0.8**4
    for reach, feasible in ((most - 1e-3, True), (most + 1e-3, False)):
        problem, start = controlled(named(reach=x[:, -1:] >= reach, power=u <= 1), x0=0.0, nsteps=4)
        assert explain_infeasibility(problem, start).feasible is feasible


def test_a_start_that_the_data_give_is_not_free():
    """A trained model of the whole step: its x may be anything but the first."""
    problem = Problem([System([Node(nn.Linear(1, 1), ["x"], ["x"])], nsteps=3)], PenaltyLoss([], named(low=x <= 0)))
    found = explain_infeasibility(problem, {"x": torch.ones(2, 1, 1)})
    assert found.conflict == ["low"] and found.slacks[0].mean == pytest.approx(1 / 4, abs=1e-3)
    assert explain_infeasibility(problem, {"x": -torch.ones(2, 1, 1)}).feasible


def test_keys_inside_a_system_may_be_listed():
    problem, start = controlled(named(reach=x[:, -1:] >= 3, power=u <= 1))
    assert explain_infeasibility(problem, start, free=["u"]).conflict == ["reach", "power"]
    # A free x leaves the policy as it stands: its u is what it makes of that x.
    found = explain_infeasibility(problem, start, free=[x])
    assert found.free == ["x"] and explain_infeasibility(problem, start, free=["u", "x"]).feasible
    fixed = Problem(list(problem.nodes), PenaltyLoss([], named(still=u[:, 1:] == 0, moved=x[:, 1:] == 5)))
    assert explain_infeasibility(fixed, start, free=[x]).conflict == ["still", "moved"]


def test_a_part_of_what_a_node_in_a_system_gives_is_refused():
    both = Node(lambda x: (x, 2 * x), ["x"], ["u", "w"], name="both")
    plant = Node(lambda x, u: x + u, ["x", "u"], ["x"], name="plant")
    problem = Problem([System([both, plant], nsteps=2)], PenaltyLoss([], [x <= 1]))
    with pytest.raises(
        OptionError, match=r"free=\['u'\] holds a part of what node 'both' in a System writes; add \['w"
    ):
        explain_infeasibility(problem, {"x": torch.ones(2, 1, 1)}, free=["u"])
