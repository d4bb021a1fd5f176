"""Laws of the report and of FeasibilityCallback: numbers as numpy gives them, on two ranks as on one, 100 columns."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from slimgraph import AugmentedLagrangeLoss, DictDataset, Node, PenaltyLoss, Problem, variable
from slimgraph.errors import OptionError
from slimgraph.report import Report, Tally
from slimgraph.training import FeasibilityCallback, LitDataModule, LitProblem

RANKS = Path(__file__).parent / "ranks"
sys.path.insert(0, str(RANKS))

import feasibility  # noqa: E402
import problems  # noqa: E402

x, y = variable("x"), variable("y")


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)


def named(constraint, name):
    constraint.update_name(name)
    return constraint


def double(constraints, loss=PenaltyLoss, **options):
    node = Node(lambda x: 2 * x, ["x"], ["y"], name="double")
    return Problem([node], loss([y.minimize(name="low")], constraints, **options))


# ---- the numbers


def test_the_numbers_are_those_of_numpy():
    data = {"x": torch.randn(57, 3, dtype=torch.float64), "unused": torch.zeros(57)}
    problem = double([named(y <= 0.5, "ceiling"), named(y >= -9, "floor"), named(y == x, "same")])
    ceiling, floor, same = problem.report(data).constraints
    value = 2 * data["x"].numpy()
    violation = np.maximum(value - 0.5, 0)
    assert ceiling.satisfied == pytest.approx((violation <= 1e-6).all(1).mean())
    assert ceiling.entries == pytest.approx((violation <= 1e-6).mean())
    assert ceiling.max_violation == pytest.approx(violation.max())
    assert ceiling.mean_violation == pytest.approx(violation.mean())
    assert ceiling.p95_violation == pytest.approx(np.quantile(violation, 0.95))
    assert ceiling.active == pytest.approx((value >= 0.5 - 1e-6).any(1).mean())
    worst = int(violation.max(1).argmax())
    assert ceiling.worst_sample == worst and ceiling.worst_inputs == {"x": data["x"][worst].tolist()}
    assert (floor.active, floor.worst_sample, floor.worst_inputs) == (0.0, None, None)
    assert same.active == 1.0 and same.max_violation == pytest.approx(np.abs(value / 2).max())


def test_a_series_is_one_sample():
    series = torch.zeros(4, 5, 1)
    series[2, 3] = 7.0
    (ceiling,) = double([y <= 10]).report({"x": series}).constraints
    assert (ceiling.satisfied, ceiling.entries, ceiling.worst_sample) == (0.75, 0.95, 2)
    assert ceiling.worst_inputs == {"x": [[0.0], [0.0], [0.0], [7.0], [0.0]]}


def test_the_multiplier_is_that_of_the_loss():
    problem = double([named(y >= 1, "floor"), named(y <= 9, "ceiling")], AugmentedLagrangeLoss, mu_init=2.0)
    data = {"x": torch.tensor([[0.0, 0.25]])}
    # A report runs in evaluation mode; multipliers come with the first training step.
    assert [c.multiplier for c in problem.report(data).constraints] == [None, None]
    output = problem(data)
    assert [c.multiplier for c in problem.report(data).constraints] == [0.0, 0.0]
    problem.loss.update(output)
    floor, ceiling = problem.report(data).constraints
    # One multiplier an entry, mu * violation: 2 * (1 - 0) and 2 * (1 - 0.5).
    assert problem.loss.multipliers.tolist() == [2.0, 1.0, 0.0, 0.0]
    assert (floor.multiplier, ceiling.multiplier) == (2.0, 0.0)
    assert "multiplier" in str(problem.report(data)) and "multiplier" not in str(double([y <= 1]).report(data))


def test_a_report_runs_without_dropout_and_leaves_the_mode_as_it_was():
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(1, 1)).train()
    net[1].eval()
    problem = Problem([Node(net, ["x"], ["y"])], PenaltyLoss([], [y <= 0]))
    data = {"x": torch.ones(50, 1)}
    expected = torch.relu(net[1](data["x"])).double().mean().item()
    assert problem.report(data).constraints[0].mean_violation == pytest.approx(expected)
    assert problem.training and net.training and net[0].training and not net[1].training


def test_a_nan_is_the_worst_sample_and_null_in_json():
    report = double([y <= 0]).report({"x": torch.tensor([[1.0], [float("nan")], [3.0]])})
    (ceiling,) = report.constraints
    assert (ceiling.worst_sample, ceiling.satisfied) == (1, 0.0)
    read = json.loads(report.as_json(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert read["constraints"][0]["max_violation"] is None and read["constraints"][0]["worst_inputs"] == {"x": [None]}


def test_json_gives_the_data_back():
    report = double([y <= 0, y >= 0]).report({"x": torch.randn(9, 2)})
    assert json.loads(report.as_json(indent=1)) == report.as_dict()


@pytest.mark.parametrize("columns", [1, 40])
def test_no_line_is_longer_than_100_columns(columns):
    long = sum((variable(f"a_rather_long_key_{i}") for i in range(4)), y)
    inputs = {f"a_rather_long_key_{i}": torch.randn(3, columns) * 1e-7 for i in range(4)}
    problem = double([named(long <= -1e9, "n" * 70), y >= 1e30], AugmentedLagrangeLoss)
    problem.loss.objectives[0].name = "o" * 200
    problem({"x": inputs["a_rather_long_key_0"], **inputs})
    text = str(problem.report({"x": inputs["a_rather_long_key_0"], **inputs}))
    assert max(map(len, text.splitlines())) <= 100
    assert "1e+30" in text and "1e+09" in text


# ---- batches and ranks


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_and_ranks_merge_to_the_whole(world):
    """301 samples, dealt out to ranks and cut into batches of two, are the report on all at once, to the last bit."""
    data = {"x": torch.exp(8 * torch.randn(301, 2, dtype=torch.float64))}
    problem = double([named(y <= 0.5, "ceiling"), named(y == 0.1, "same"), variable(torch.tensor(3.0)) <= 2])
    whole = problem.report(data)
    parts = []
    for rank in range(world):
        tally = Tally(problem.loss, rank, world)
        for piece in data["x"][rank::world].split(2):
            tally.add(problem({"x": piece}), {"x": piece})
        parts.append(tally.part())
    merged = Tally(problem.loss).report({}, parts=parts)
    assert merged.constraints == whole.constraints
    assert merged.objectives["low"] == pytest.approx(whole.objectives["low"], rel=1e-6)


def test_two_ranks_report_what_one_does(tmp_path):
    path = os.pathsep.join([str(RANKS), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    arguments = [sys.executable, str(RANKS / "feasibility.py"), str(tmp_path)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second
    for name, case in feasibility.CASES.items():
        feasible, metrics, _ = feasibility.validate(**case)
        reports, logged = first[name]
        for whole, report in zip(feasible.reports, reports, strict=True):
            (one,), (two,) = whole.as_dict()["constraints"], report["constraints"]
            assert one.keys() == two.keys() and one["worst_sample"] == two["worst_sample"], name
            # Batches of another size are multiplied in another order.
            for key in one.keys() - {"name", "text", "worst_sample", "worst_inputs"}:
                same = one[key] if one[key] is None else pytest.approx(one[key], rel=0, abs=1e-12)
                assert two[key] == same, (name, key)
            assert two["worst_inputs"] == one["worst_inputs"]
        assert logged == pytest.approx(metrics, rel=0, abs=1e-6), name


# ---- the callback


def test_the_callback_reports_what_problem_report_does_on_the_whole_set():
    feasible, metrics, run = feasibility.validate(23)
    problem = run.lightning_module.problem
    whole = problem.report(problems.data(23, seed=3))
    (one,), (other,) = whole.constraints, feasible.report.constraints
    assert other.worst_sample == one.worst_sample and other.worst_inputs == one.worst_inputs
    assert other.metrics() == pytest.approx(one.metrics(), abs=1e-12)
    assert feasible.report.objectives == pytest.approx(whole.objectives)
    assert feasible.report.reg_errors == whole.reg_errors
    logged = {key: value for key, value in metrics.items() if "/" in key}
    assert logged == pytest.approx({f"val/ceiling/{key}": value for key, value in one.metrics().items()}, abs=1e-6)
    assert set(logged) == {f"val/ceiling/{what}" for what in ("max", "mean", "p95", "satisfied", "active")}


def test_a_test_is_logged_under_its_name_with_a_prefixed_batch():
    feasible = FeasibilityCallback(tolerance=0.5)
    run = problems.trainer(callbacks=[feasible])
    data = DictDataset(problems.data(5), name="dev")
    run.test(LitProblem(problems.make()), DataLoader(data, batch_size=2, collate_fn=data.collate_fn), verbose=False)
    assert "test/ceiling/max" in run.callback_metrics
    assert feasible.report.tolerance == 0.5 and isinstance(feasible.report, Report)


def test_a_fit_without_validation_leaves_no_report():
    feasible = FeasibilityCallback()
    run = problems.trainer(callbacks=[feasible], max_epochs=1)
    run.fit(LitProblem(problems.make()), LitDataModule(problems.data(8)))
    assert feasible.report is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FeasibilityCallback(tolerance=-1.0), "needs tolerance >= 0, got -1.0"),
        (lambda: problems.make().report(problems.data(3), tolerance=-1.0), "a finite tolerance >= 0, got -1.0"),
        (lambda: problems.make().report(problems.data(3), tolerance="a"), "a finite tolerance >= 0, got 'a'"),
        (lambda: problems.make().report(problems.data(0)), "at least one sample, the data have none"),
        (lambda: problems.trainer(callbacks=[FeasibilityCallback()]).validate(
            LitProblem(double([])), LitDataModule(val={"x": torch.ones(2, 1)})),
         "nothing to say: it needs a LitProblem whose loss has constraints; got LitProblem with PenaltyLoss"),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_is_told(make, words):
    with pytest.raises(OptionError, match=words):
        make()
