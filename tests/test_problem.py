"""Problem: nodes, loss and reg_error added up; what it says of itself and of its constraints."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from slimgraph import BarrierLoss, MovingHorizon, Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import DuplicateNameError, OptionError, UnknownOptionError

x, y, t = variable("x"), variable("y"), variable("t")
batch = {"x": torch.randn(5, 3), "t": torch.randn(5, 2)}


class Regularised(nn.Module):
    """A map with a reg_error of 2, and a part of its own that must not be counted beside it."""

    def __init__(self, outsize=2):
        super().__init__()
        self.inner = slim.maps["softSVD"](3, outsize)

    def forward(self, x):
        return self.inner(x)

    def reg_error(self):
        return self.inner.U.new_tensor(2.0) + 0 * self.inner.U.sum()


def named(term, name):
    term.name = name
    return term


def example(**options):
    net = Node(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), ["x"], ["y"], name="net")
    loss = PenaltyLoss([((y - t) ** 2).minimize(name="fit")], [y <= 0.1, 2 * (y >= -0.1)])
    return Problem([net], loss, **options)


def test_the_loss_is_what_one_would_write_by_hand():
    problem = example()
    out = problem(batch)
    value = problem.node("net").callable(batch["x"])
    fit = ((value - batch["t"]) ** 2).mean()
    penalty = torch.relu(value - 0.1).mean() + 2 * torch.relu(-0.1 - value).mean()
    assert torch.equal(out["y"], value) and torch.equal(out["fit"], fit)
    torch.testing.assert_close(out["penalty_loss"], penalty)
    torch.testing.assert_close(out["loss"], fit + penalty)
    assert out["reg_loss"] == 0
    assert set(problem.terms) == {k for k, v in out.items() if v.ndim == 0}
    assert list(batch) == ["x", "t"]


def test_reg_error_counts_every_map_once_and_is_weighed():
    shared = Regularised()
    sequence = nn.Sequential(slim.maps["orthogonal"](3, 3), Regularised())
    system = System([Node(Regularised(3), ["h"], ["h"])], nsteps=2)
    nodes = [Node(shared, ["x"], ["y"]), Node(shared, ["x"], ["z"]), Node(sequence, ["x"], ["w"]), system]
    problem = Problem(nodes, PenaltyLoss([y.minimize()]), reg_weight=0.5)
    out = problem({**batch, "h": torch.zeros(5, 1, 3)})
    assert out["reg_loss"] == 0.5 * 3 * 2.0
    torch.testing.assert_close(out["loss"], out["objective_loss"] + out["penalty_loss"] + out["reg_loss"])


def test_a_named_batch_gives_prefixed_keys():
    problem = example()
    named, plain = problem({**batch, "name": "train"}), problem(batch)
    assert {f"train_{key}" for key in plain} == set(named)
    assert torch.equal(named["train_loss"], plain["loss"])


@pytest.mark.parametrize("used", [False, True], ids=["before a forward", "after a forward"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"])
def test_copies_and_pickles_give_the_same_numbers(used, again):
    a = variable(2, display_name="a")
    net = Node(slim.maps["softSVD"](3, 2), ["x"], ["y"])
    problem = Problem([net], BarrierLoss([torch.cos(a * y).minimize()], [a * y <= 1], barrier="log"), reg_weight=0.1)
    if used:
        problem(batch)
    twin = again(problem)
    assert torch.equal(twin(batch)["loss"], problem(batch)["loss"])
    assert list(twin.state_dict()) == list(problem.state_dict())
    twin.load_state_dict({k: v + 1 for k, v in problem.state_dict().items()})
    assert not torch.equal(twin(batch)["loss"], problem(batch)["loss"])


def test_it_moves_to_another_dtype_whole():
    problem = example().double()
    out = problem({key: value.double() for key, value in batch.items()})
    assert all(value.dtype == torch.float64 for value in out.values())


def test_functional_call_and_compile_give_the_same_numbers():
    a = variable(2, display_name="a")
    decay = System([Node(lambda s, x: 0.5 * s + x, ["s", "x"], ["s"])], nsteps=3)
    nodes = [Node(nn.Linear(3, 2), ["x"], ["y"]), Node(lambda x: 0 * x[:, None], ["x"], ["s"], name="start"), decay]
    problem = Problem(nodes, PenaltyLoss([(a * y).minimize(), variable("s").minimize()], [y <= 1]))
    state = {key: value + 1 for key, value in problem.state_dict().items()}
    called = torch.func.functional_call(problem, state, (batch,))["loss"]
    moved = copy.deepcopy(problem)
    moved.load_state_dict(state)
    assert torch.equal(called, moved(batch)["loss"])
    compiled = torch.compile(problem, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch)["loss"], problem(batch)["loss"])


def test_a_key_that_a_plain_node_writes_can_be_derived_by():
    double, square = Node(lambda p: 2 * p, ["p"], ["x"], name="double"), Node(torch.square, ["x"], ["y"], name="square")
    problem = Problem([double, square], PenaltyLoss([y.grad(x).minimize(torch.sum, name="slope")]))
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            assert problem({"p": torch.tensor([[1.0], [2.0]])})["slope"] == 12.0


def test_a_moving_horizon_in_a_problem_forgets_between_batches():
    window = MovingHorizon(Node(lambda x: x.sum(1), ["x"], ["s"], name="sum"), ndelay=2)
    problem = Problem([window], PenaltyLoss([variable("s").minimize(name="mean")]))
    assert problem({"x": torch.ones(2, 1)})["mean"] == 2 and problem({"x": torch.full((3, 1), 10.0)})["mean"] == 20
    assert copy.deepcopy(problem)({"x": torch.ones(2, 1)})["mean"] == 2


def test_a_node_that_is_replaced_runs():
    problem = Problem([Node(torch.neg, ["x"], ["y"])], PenaltyLoss([y.minimize(name="mean")]))
    problem.nodes[0] = Node(lambda x: 3 * x, ["x"], ["y"])
    assert problem({"x": torch.ones(2, 1)})["mean"] == 3


def test_an_error_inside_a_term_names_the_term_and_its_shapes():
    problem = example()
    problem.loss = PenaltyLoss([x.minimize(), (x @ t).minimize(name="bad")])
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        problem(batch)
    assert caught.value.__notes__ == ["in objective 'bad', mean(x @ t), with x (5, 3), t (5, 2)"]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_derivatives_through_nodes_work_in_every_grad_mode(mode):
    net = Node(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), ["x"], ["y"])
    residual = (y.grad(x).grad(x) + torch.sin(x)) ** 2
    problem = Problem([net], PenaltyLoss([residual.minimize(name="pde")]))
    assert problem.grad_inference
    with mode():
        points = torch.linspace(0, 1, 7).reshape(7, 1)
        ours = problem({"x": points})["pde"]
    points = torch.linspace(0, 1, 7).reshape(7, 1).requires_grad_()
    first = torch.autograd.grad(net.callable(points).sum(), points, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), points)[0]
    torch.testing.assert_close(ours.detach(), ((second + torch.sin(points)) ** 2).mean().detach())


def test_the_report_says_who_is_violated_by_how_much_and_where():
    value = torch.tensor([[0.0, 1.0], [1.0, 5.0], [1.0, 2.0], [1.0, 1.0]])
    loss = PenaltyLoss([y.minimize(name="mean")], [y <= 1, y >= -1])
    report = Problem([Node(slim.maps["softSVD"](2, 2), ["x"], ["z"], name="map")], loss).report(
        {"x": value, "y": value}
    )
    upper, lower = report.constraints
    assert (upper.name, upper.text) == ("constraint_1", "y <= 1")
    assert (upper.satisfied, upper.entries) == (0.5, 0.75)
    assert upper.max_violation == 4.0 and upper.mean_violation == 0.625
    assert upper.p95_violation == pytest.approx(torch.quantile(torch.relu(value - 1).double().flatten(), 0.95).item())
    assert upper.worst_sample == 1
    assert lower.satisfied == 1.0 and lower.max_violation == 0.0 and lower.worst_sample is None
    assert report.objectives == {"mean": 1.5} and list(report.reg_errors) == ["map"]
    assert json.loads(json.dumps(report.as_dict()))["constraints"][0]["worst_sample"] == 1
    assert "constraint_1: y <= 1      50.0 %   100.0 %" in str(report)


def test_what_counts_as_satisfied_can_be_said():
    problem = Problem([Node(torch.neg, ["x"], ["z"])], PenaltyLoss([], [x == 0]))
    data = {"x": torch.tensor([[1e-3], [0.0], [0.1], [0.0]])}
    assert problem.report(data).constraints[0].satisfied == 0.5
    assert problem.report(data, tolerance=1e-2).constraints[0].satisfied == 0.75


def test_reg_error_is_drawn_from_the_nodes_that_have_one():
    rollout = System(
        [Node(Regularised(3), ["h"], ["h"], name="map"), Node(torch.neg, ["h"], ["g"], name="minus")], nsteps=2
    )
    problem = Problem([Node(Regularised(), ["x"], ["y"], name="net"), rollout], PenaltyLoss([y.minimize()]))
    graph = problem.to_networkx()
    assert set(graph.predecessors("reg_error")) == {"node:net", "node_2/map"}
    assert graph.nodes["reg_error"]["label"] == "reg_error of Regularised"


def test_what_a_problem_prints():
    assert repr(example()).splitlines() == [
        "Problem",
        "  reads   x, t",
        "  writes  y",
        "  net: (x) -> (y)",
        "  PenaltyLoss()",
        "    fit: mean((y - t)^2)",
        "    constraint_1: y <= 0.1",
        "    constraint_2: 2 * (y >= -0.1)",
    ]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Problem([torch.neg], PenaltyLoss()), OptionError, "holds Nodes and Systems; got builtin"),
        (lambda: Problem([], nn.MSELoss()), OptionError, "needs a loss such as PenaltyLoss; got MSELoss"),
        (lambda: example(reg_wight=1.0), UnknownOptionError, "no option 'reg_wight'. Did you mean 'reg_weight'"),
        (lambda: example().node("nett"), OptionError, r"no node 'nett' among \['net'\]. Did you mean 'net'"),
        (lambda: Problem([Node(torch.neg, ["x"], ["y"])], PenaltyLoss([y.minimize(name="y")])), DuplicateNameError,
         "'y' is a key and a result of the loss; rename one"),
        (lambda: Problem([Node(torch.neg, ["x"], ["q_value"])], PenaltyLoss([], [named(y <= 1, "q")])),
         DuplicateNameError,
         "'q_value' is a key and a result of the loss"),
        (lambda: Problem([Node(torch.neg, ["x"], ["loss"])], PenaltyLoss()), DuplicateNameError,
         "'loss' is a key and a"),
        (lambda: example()({**batch, "fit": batch["x"]}), DuplicateNameError,
         "'fit' is a key and a result of the loss"),
        (lambda: Problem([Node(torch.neg, ["x"], ["name"])], PenaltyLoss()), DuplicateNameError,
         "no node can write it"),
        (lambda: Problem(Node(torch.neg, ["x"], ["y"]), PenaltyLoss()), OptionError, "takes a list of nodes; got Node"),
        (lambda: example(reg_weight=-1.0), OptionError, "reg_weight is a finite number >= 0; got -1.0"),
        (lambda: example(check_overwrite="eror"), OptionError, "True, False or 'error'; got 'eror'"),
        (lambda: example()(batch["x"]), OptionError, r"takes a dict of tensors; got \(5, 3\) float32"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
