"""Every example runs as a user runs it, and the main one keeps what it promises."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from slimgraph import Node, PenaltyLoss, Problem, slim
from slimgraph.symbolic import Loss

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, **options):
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, **options)


@pytest.fixture
def house(monkeypatch):
    """The modules of the twin-house example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import house_data
    import twin_house

    return twin_house, house_data


def test_the_twin_house_runs_from_any_folder_and_leaves_its_pictures(tmp_path):
    done = run("twin_house.py", "--quick", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("problem.svg", "problem.png", "temperatures.png", "eigenvalues.png"):
        picture = tmp_path / "out" / name
        assert str(picture) in done.stdout and picture.stat().st_size > 5_000
    for word in ("hold", "ARX(12)", "linear: dominant eigenvalue", "pf: dominant eigenvalue", "celsius >= 10.0"):
        assert word in done.stdout
    assert "60/60" not in done.stderr and "2/2" in done.stderr  # the bar, at its end
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_diagram_leads_from_the_past_to_the_loss(house):
    graph = house[0].make_problem().to_networkx()
    import networkx as nx

    assert nx.has_path(graph, "data:past", "loss") and nx.has_path(graph, "data:u", "loss")
    assert graph.edges["house/sum", "house/state map", "x"]["feedback"]


def test_a_second_run_with_the_same_seed_gives_the_same_numbers(house):
    example, data = house
    series, scale = data.load()
    one, two = (example.fit("pf", series, scale.mean_0.item(), scale.std_0.item(), quick=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_samples_line_up_with_the_series(house):
    _, data = house
    series, scale = data.load()
    cut = data.samples(series, range(48, 96), nsteps=10, stride=5, shifts=(0.0, 1.0))
    n = len(cut["u"]) // 2
    # The second window starts at row 53: 24 rows of past, the last of which is the start of T.
    assert torch.equal(cut["T"][1], series["T"][76:87]) and torch.equal(cut["u"][1], series["u"][77:87])
    assert torch.equal(cut["past"][1].reshape(24, 25)[:, :7], series["T"][53:77])
    assert torch.equal(cut["T"][n + 1], series["T"][76:87] + 1)
    heat, boundary, weather = (cut["u"][n + 1] - series["u"][77:87]).split([7, 4, 7], dim=1)
    assert not heat.any() and not weather.any() and torch.allclose(boundary, torch.ones(()), atol=1e-6)
    # The past of the free run ends where the training and validation days end.
    assert data.with_past(data.TEST) == range(30 * 48 - 24, 41 * 48)


def test_the_baselines_are_what_their_names_say(house):
    _, data = house
    series, scale = data.load()
    test = series["T"][data.TEST.start :]
    held = scale.std_0 * (data.hold_last(series, data.TEST) - test).abs().mean()
    assert held.item() == pytest.approx(6.44, abs=0.005)
    # A series that an ARX model of order 2 makes is found again by its free run.
    torch.manual_seed(0)
    u, T = 0.1 * torch.randn(len(series["u"]), 18), torch.zeros(len(series["u"]), 7)
    B = torch.randn(18, 7)
    for k in range(2, len(T)):
        T[k] = 1.2 * T[k - 1] - 0.4 * T[k - 2] + u[k] @ B
    torch.testing.assert_close(data.arx({"T": T, "u": u}, data.TEST, 2), T[data.TEST.start :], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--maps", "orthogonl"], "there is no map 'orthogonl'. Did you mean 'orthogonal'"),
        (["--sed", "1"], "unrecognized arguments: --sed"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments, words):
    done = run("twin_house.py", *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


# ---- long memory


@pytest.fixture
def memory(monkeypatch):
    """The modules of the long-memory example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import long_memory
    import long_memory_model
    import long_memory_tasks

    return long_memory, long_memory_model, long_memory_tasks


@pytest.mark.parametrize(
    ("arguments", "picture", "words"),
    [
        (["--task", "copying", "--hidden-map", "orthogonal", "linear"], "copying.png", ["linear", "baseline 0.5199"]),
        (["--task", "add"], "add.png", ["orthogonal", "baseline 0.1667"]),
        (["--task", "digits", "--permuted"], "permuted_pixels.png", ["permuted pixels, 64 steps", "baseline 2.298"]),
    ],
    ids=["copying", "add", "digits"],
)
def test_the_long_memory_example_leaves_a_table_and_a_picture(tmp_path, arguments, picture, words):
    if "digits" in arguments:
        pytest.importorskip("sklearn")
    done = run("long_memory.py", *arguments, "--quick", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / picture) in done.stdout
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [picture]
    for word in ("hidden map", "test loss", "minutes", *words):
        assert word in done.stdout
    assert "train_loss" in done.stderr  # the bar, at its end


def test_a_wrong_hidden_map_is_told_in_one_line():
    done = run("long_memory.py", "--hidden-map", "orthogonl")
    assert done.returncode == 2 and "Did you mean 'orthogonal'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lr", "0"], "--lr needs a number above 0, got 0.0"),
        (["--lr", "nan"], "--lr needs a number above 0, got nan"),
        (["--seed", "-1"], "--seed needs a number from 0 to 4294967295, got -1"),
        (["--permuted"], "--permuted is for --task digits, got --task copying"),
        (["--cell", "LSTM", "--nonlin", "tanh"], "--nonlin is for --cell RNN, got --cell LSTM"),
        (["--out", __file__], "--out needs a folder"),
        (["--task", "digits"], "--task digits needs scikit-learn"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_arguments_that_would_be_ignored_or_fail_late_are_told_at_once(memory, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(memory[0], "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["long_memory.py", "--quick", *arguments])
    with pytest.raises(SystemExit, match="2"):
        memory[0].main()
    assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("cell", [cell for cell in ("RNN", "GRU", "LSTM") if hasattr(slim, cell)])
@pytest.mark.parametrize("task", ["add", "copying"])
def test_a_second_fit_of_a_task_gives_the_same_numbers_and_a_second_seed_others(memory, cell, task):
    example, _, tasks = memory
    recipe, train, val, _ = tasks.make(task, quick=True)
    problems, curves = zip(*(example.fit(recipe, train, val, cell, seed=seed) for seed in (0, 0, 1)), strict=True)
    assert len(curves[0].train) == recipe.steps and len(curves[0].val) > 0
    assert curves[0].train == curves[1].train != curves[2].train
    assert all(torch.equal(a, b) for a, b in zip(problems[0].parameters(), problems[1].parameters(), strict=True))


def test_a_fit_that_explodes_is_told_and_still_has_its_row(memory, capsys):
    from long_memory_plots import result

    example, _, tasks = memory
    recipe, train, val, test = tasks.make("copying", quick=True)
    problem, curve = example.fit(replace(recipe, lr=1e3), train, val, hidden_map="linear")
    assert "linear: 'fit' is " in capsys.readouterr().err and len(curve.train) < recipe.steps
    row = result(problem, test)
    assert row["test loss"] in ("nan", "inf") and row["right"] == "-"


def test_a_sample_is_right_when_every_step_of_it_is(memory):
    from long_memory_plots import result

    task = memory[2].make("copying", quick=True)[3]
    told = F.one_hot(task.targets, task.outputs).float()
    # A quarter of the samples is wrong, each at one step.
    told[: len(task) // 4, 7] = torch.eye(task.outputs)[0]
    copied = Problem([Node(lambda x: told, ["x"], ["y"])], PenaltyLoss([Loss(["y", "target"], task.loss)]))
    assert result(copied, task)["right"] == "75.00%"


def test_the_sets_of_a_task_share_no_sequence(memory):
    _, train, val, test = memory[2].make("copying", quick=True)
    said = [tuple(row) for task in (train, val, test) for row in task.targets[:, -10:].tolist()]
    assert len(set(said)) == len(said) == len(train) + len(val) + len(test)


def test_the_orthogonal_state_can_keep_a_number_for_ever(memory):
    _, model, tasks = memory
    recipe, train, _, _ = tasks.make("add", quick=True)
    W = model.make_problem(train, recipe).node("recurrence").callable.rnn.cells[0].hidden_map.effective_W()
    assert (torch.linalg.eigvals(W.detach()) - 1).abs().min() < 1e-5


def test_the_moved_digits_come_after_the_ones_that_were_measured(memory):
    pytest.importorskip("sklearn")
    train, val, test = memory[2].digits(copies=3)
    assert val is None and len(train) == 3 * 1347 and len(test) == 450
    one, two, three = train.inputs.split(1347)
    # The numbers of grey in the measured ones are sixteenths; a move mixes them, and differently in each copy.
    assert torch.equal(one * 16, (one * 16).round()) and not torch.equal(two, three)
    for moved in (two, three):
        assert 0.02 < (moved - one).abs().mean() < 0.15 and moved.min() >= 0 and moved.max() <= 1 + 1e-6
    assert torch.equal(*train.targets.split(1347)[:2])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("task", "at_most"), [("add", 0.01), ("copying", 0.002)])
def test_an_orthogonal_state_remembers_over_two_hundred_steps(memory, task, at_most):
    example, _, tasks = memory
    recipe, train, val, test = tasks.make(task)
    problem, _ = example.fit(recipe, train, val)
    with torch.no_grad():
        assert problem(test.dataset("test").datadict)["loss"] < at_most < test.baseline / 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_permuted_digits_are_read_pixel_by_pixel(memory):
    pytest.importorskip("sklearn")
    example, _, tasks = memory
    recipe, train, val, test = tasks.make("digits", permuted=True)
    problem, _ = example.fit(recipe, train, val)
    with torch.no_grad():
        right = problem(test.dataset("test").datadict)["y"].argmax(-1) == test.targets
    assert right.float().mean() >= 0.965


@pytest.mark.slow
def test_the_twin_house_reaches_its_accuracy(house):
    example, data = house
    series, scale = data.load()
    test = data.samples(series, data.with_past(data.TEST))
    problem = example.fit("linear", series, scale.mean_0.item(), scale.std_0.item())
    with torch.no_grad():
        error = scale.std_0 * (problem.step(test)["y"] - test["T"])[0, 1:]
    assert error.abs().mean() <= 0.40
    assert all(constraint.satisfied == 1.0 for constraint in problem.report(test).constraints)


@pytest.fixture
def transforms(monkeypatch):
    """The module of the butterfly example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import butterfly_transforms

    return butterfly_transforms


def test_the_transforms_run_from_any_folder_and_leave_their_picture(tmp_path):
    done = run("butterfly_transforms.py", "--quick", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "out" / "butterfly_transforms.png"
    assert str(picture) in done.stdout and picture.stat().st_size > 20_000
    for word in ("DFT", "Hadamard", "DCT", "RMSE"):
        assert word in done.stdout
    assert "100%" in done.stderr


def test_the_exact_transforms_are_those_of_scipy(transforms):
    import numpy as np
    import scipy.fft
    import scipy.linalg

    x, n = np.random.default_rng(0).standard_normal(16), 16
    backwards = [int(f"{i:04b}"[::-1], 2) for i in range(n)]
    even_odd = np.concatenate([x[0::2], x[1::2][::-1]])
    assert np.allclose(x[backwards] @ transforms.exact("DFT", n).numpy(), scipy.fft.fft(x, norm="ortho"))
    assert np.allclose(even_odd[backwards] @ transforms.exact("DCT", n).numpy(), scipy.fft.dct(x, norm="ortho"))
    assert np.allclose(transforms.exact("Hadamard", n).numpy(), scipy.linalg.hadamard(n) / 4)


@pytest.mark.parametrize("name", ["DFT", "Hadamard", "DCT"])
def test_a_small_transform_is_learnt(transforms, name):
    m, W, A, errors = transforms.learn(name, 8)
    assert (W - A).abs().square().mean().sqrt() == errors[-1] < 1e-5 < errors[0]
    assert m.contains(m.effective_W())


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 16, 32, 64])
@pytest.mark.parametrize("name", ["DFT", "Hadamard", "DCT"])
def test_every_transform_is_learnt_from_three_seeds(transforms, name, n):
    assert all(transforms.learn(name, n, seed)[-1][-1] < 1e-4 for seed in range(3))
    # With n/2 blocks for each factor the real part alone leaves the DCT too many ways to go astray.
    if name != "DCT":
        assert transforms.learn(name, n, tied_weight=False)[-1][-1] < 1e-4


# ---- a neural ODE


def test_the_neural_ode_leaves_numbers_and_a_picture(tmp_path):
    pytest.importorskip("torchdiffeq")
    done = run("neural_ode.py", "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "out" / "neural_ode.png"
    assert str(picture) in done.stdout and picture.stat().st_size > 20_000
    for word in ("CPU time", "free run by RK4:", "free run by dopri5:"):
        assert word in done.stdout
    assert "train_loss" in done.stderr  # the bar, at its end


def test_the_free_run_of_the_true_oscillator_is_scipys(monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import neural_ode

    def slope(x):
        a, b = x.unbind(-1)
        return torch.stack(neural_ode.van_der_pol(0.0, (a, b)), -1)

    told = neural_ode.free_run(neural_ode.RK4(slope, h=neural_ode.H))
    assert told.shape == (neural_ode.TEST + 1, 2)
    assert (told - neural_ode.solved(neural_ode.TEST_START, neural_ode.TEST)).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_oscillator_is_learnt_to_five_percent_of_an_unseen_trajectory(monkeypatch):
    pytest.importorskip("torchdiffeq")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import neural_ode

    truth = neural_ode.solved(neural_ode.TEST_START, neural_ode.TEST)
    learnt = neural_ode.free_run(neural_ode.DiffEqIntegrator(neural_ode.fit(), h=neural_ode.H))
    assert (learnt - truth).norm() <= 0.05 * truth.norm()


# ---- parametric optimisation


@pytest.fixture
def parametric(monkeypatch):
    """The modules of the parametric example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import parametric_nlp
    import parametric_nlp_functions

    return parametric_nlp, parametric_nlp_functions


@pytest.mark.parametrize("loss", ["penalty", "barrier", "lagrange"])
def test_the_parametric_example_leaves_a_table_and_a_picture(tmp_path, loss):
    done = run("parametric_nlp.py", "--function", "beale", "--loss", loss, "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picture = tmp_path / "out" / f"beale_{loss}.png"
    assert str(picture) in done.stdout and picture.stat().st_size > 20_000
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [picture]
    for word in ("function", "gap", "violation", "CPU s", loss):
        assert word in done.stdout
    assert "train_loss" in done.stderr  # the bar, at its end


def test_a_wrong_function_is_told_in_one_line():
    done = run("parametric_nlp.py", "--function", "ackley")
    assert done.returncode == 2 and "invalid choice: 'ackley'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("function", "p", "point", "f"),
    [
        ("rosenbrock", 2.0, (1, 1), 0),
        ("rosenbrock", 4.5, None, None),  # SLSQP alone ends in the wrong valley here
        ("himmelblau", 4.0, (3, 2), 0),
        ("beale", 4.0, (3, 0.5), 0),
        ("mccormick", 2.0, (-0.54720, -1.54720), -1.91322),
        ("mccormick", 5.0, None, None),
    ],
)
def test_the_exact_optimum_is_the_known_one_and_no_grid_point_is_better(parametric, function, p, point, f):
    _, functions = parametric
    best = functions.exact(function, p)
    assert functions.violation(p, *best[1:]) < 1e-6
    if point is not None:
        assert best == pytest.approx((f, *point), abs=1e-3)
    points = torch.tensor(functions.polar(p, 150, 700))
    assert functions.violation(p, *points.numpy().T).max() < 1e-12
    assert best[0] <= functions.FUNCTIONS[function](*points.T).min() + 1e-9


def test_the_gap_and_the_violation_are_what_their_names_say(parametric):
    import numpy as np

    example, functions = parametric
    f = np.linspace(0.0, 2.0, 23)
    best = np.c_[f, functions.GRID, np.zeros(23)]
    told = best + [0.1, 0, 0]
    told[0, 1:] = 0.25, 0.5  # x - y = -0.25; the other points lie on the outer circle
    assert example.errors(best, told) == pytest.approx((0.05, 0.25))
    told[1, 1:] = 1.0, 0.0
    told[0, 1:] = 0.5, 0.0
    assert example.errors(best, told)[1] == pytest.approx(1 - 0.75**2)


def test_a_second_fit_of_a_path_gives_the_same_numbers(parametric):
    one, two, other = (parametric[0].fit("beale", seed=seed, quick=True) for seed in (0, 0, 1))
    same, differ = (
        [torch.equal(a, b) for a, b in zip(one.parameters(), p.parameters(), strict=True)] for p in (two, other)
    )
    assert all(same) and not all(differ)


def test_the_weight_of_a_barrier_falls_and_that_of_a_penalty_stays(parametric):
    example, _ = parametric
    weights = [[c.weight for c in example.fit("beale", loss, quick=True).loss.constraints] for loss in example.LOSSES]
    fallen = 0.1 * 0.01 ** (4 / 5)  # in the last of five epochs
    assert sum(weights, []) == pytest.approx(3 * [30] + 3 * [fallen] + 3 * [1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss", ["penalty", "barrier", "lagrange"])
@pytest.mark.parametrize("function", ["rosenbrock", "himmelblau", "beale"])
def test_the_path_of_the_optimum_is_learnt(parametric, function, loss):
    import numpy as np

    example, functions = parametric
    best = np.array([functions.exact(function, p) for p in functions.GRID])
    gap, worst = example.errors(best, example.follow(example.fit(function, loss), function, functions.GRID))
    assert gap <= 0.01 and worst <= 1e-3


# ---- cascaded tanks


@pytest.fixture
def tanks(monkeypatch):
    """The modules of the cascaded-tanks example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import cascaded_tanks
    import cascaded_tanks_data
    import cascaded_tanks_model

    return cascaded_tanks, cascaded_tanks_data, cascaded_tanks_model


def test_the_tanks_run_from_any_folder_and_leave_their_pictures(tmp_path):
    done = run("cascaded_tanks.py", "--quick", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("cascaded_tanks.svg", "cascaded_tanks.png"):
        picture = tmp_path / "out" / name
        assert str(picture) in done.stdout and picture.stat().st_size > 5_000
    for word in ("k1 = ", "sqrt(V)/s", "x1 at the start", "share of the overflow", "the mean level 2.106 V"):
        assert word in done.stdout
    # A few steps on 192 samples already beat the mean level more than threefold.
    assert float(done.stdout.split("free run: RMSE ")[1].split()[0]) < 0.7


def test_the_balance_is_a_hand_written_loop_and_the_overflow_falls_down(tanks):
    _, _, model = tanks
    problem = model.make_problem("physics")
    u = torch.tensor([4.0] * 5 + [12.0] * 25 + [0.0] * 60).double()
    with torch.no_grad():
        unused = dict.fromkeys(("y", "counted"), u[None, :, None])
        x = problem.step({"u": u[None, :, None], "y0": torch.tensor([[9.0]]).double(), **unused})["x"][0]
    upper, lower, spilt = 5.0, 9.0, False
    for k, pump in enumerate(u.tolist()):
        assert x[k].tolist() == pytest.approx([upper, lower], abs=1e-6)
        roots = max(upper, 0.01) ** 0.5, max(lower, 0.01) ** 0.5
        upper, lower = upper + 4 * (0.04 * pump - 0.05 * roots[0]), lower + 4 * 0.05 * (roots[0] - roots[1])
        spilt = spilt or upper > 10
        upper, lower = min(upper, 10), min(lower + 0.5 * max(upper - 10, 0), 10)
    assert spilt and x.max() == 10


def test_gradients_are_finite_where_the_tanks_are_empty(tanks):
    _, _, model = tanks
    problem = model.make_problem()
    torch.nn.init.zeros_(problem.node("start").callable.upper)
    series = dict.fromkeys(("u", "y", "counted"), torch.zeros(1, 400, 1).double())
    problem(series | {"y0": torch.zeros(1, 1).double(), "counted": series["u"] + 1})["loss"].backward()
    assert all(p.grad.isfinite().all() for p in problem.parameters() if p.grad is not None)


def test_the_last_quarter_alone_chooses_the_epoch(tanks):
    _, data, _ = tanks
    records = data.load()
    held = data.sample(*records["Est"], fitted=data.FITTED)
    assert held["counted"][0, :, 0].nonzero().min() == data.FITTED - 1  # y starts at sample 1
    assert held["counted"].mean() == pytest.approx(1.0)
    u, y = records["Est"]
    levels = y[0].expand(-1, 2) + 0.25
    assert data.rmse(levels, y) == pytest.approx(0.25)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tanks_reach_their_accuracy(tanks):
    example, data, _ = tanks
    records = data.load()
    run = example.free_run(example.fit(records), *records["Val"])
    assert data.rmse(run, records["Val"][1]) <= 0.35


# ---- a rate network


@pytest.fixture
def rate_network(monkeypatch):
    """The modules of the rate network."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import rate_network
    import rate_network_sines

    return rate_network, rate_network_sines


def test_the_rate_network_leaves_numbers_and_its_graph(tmp_path):
    done = run("rate_network.py", "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("rate_network.svg", "rate_network.png"):
        picture = tmp_path / "out" / name
        assert str(picture) in done.stdout and picture.stat().st_size > 5_000
    for word in ("unseen sines:", "nearest training sine: 26.2%", "2.2 Hz from 3.0 s on:"):
        assert word in done.stdout
    assert "train_loss" in done.stderr  # the bar, at its end


def test_the_sines_are_asked_for_before_they_start_and_the_nearest_is_none_of_them(rate_network):
    _, task = rate_network
    asked, wanted, (hz, phase) = task.sines(20, seed=3)
    t = torch.arange(150) * task.DT
    assert asked.shape == (20, 160, 3) and wanted.shape == (20, 160, 1) and not wanted[:, :10].any()
    exact = torch.sin(2 * torch.pi * hz[:, None] * t + phase[:, None])
    torch.testing.assert_close(wanted[:, 10:, 0], exact, atol=1e-4, rtol=0)
    assert not asked[:, 10:, :2].any() and torch.equal(asked[:, 0, 2] + 2, hz)
    torch.testing.assert_close(asked[:, 9, :2].norm(dim=-1), torch.ones(20))
    # Silence is wrong by as much as there is.
    assert task.relative(torch.zeros_like(wanted), wanted) == 1
    assert 0.2 < task.relative(task.nearest(0), task.sines(task.TEST, 1)[1]) < 0.3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_rate_network_learns_unseen_sines_to_a_half_of_the_nearest_one_and_goes_on(rate_network):
    example, task = rate_network
    net = example.fit()
    asked, wanted, _ = task.sines(task.TEST, 1)
    with torch.no_grad():
        assert task.relative(net(asked)[0], wanted) <= 0.12 < task.relative(task.nearest(0), wanted) / 2
    assert net["rates"].rec.weight_map.contains(net["rates"].w_rec)


# ---- control of two tanks


@pytest.fixture
def two_tanks(monkeypatch):
    """The modules of the two-tank example."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import two_tank_control
    import two_tank_model
    import two_tank_mpc

    return two_tank_control, two_tank_model, two_tank_mpc


def test_a_few_steps_already_bring_the_policy_near_mpc_and_leave_it_as_a_file(tmp_path):
    done = run("two_tank_control.py", "--quick", "--horizon", "8", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    picture, file = (tmp_path / "out" / name for name in ("two_tank_control.png", "two_tank_policy.pt2"))
    assert str(picture) in done.stdout and picture.stat().st_size > 20_000
    for word in ("controller", "cost", "violation", "ms a step", "MPC, 8 s"):
        assert word in done.stdout
    # A pump and a valve held at a half have more than seven times the cost of MPC here.
    assert 0.9 < float(done.stdout.split("policy / MPC: ")[1].split(",")[0]) < 1.5
    deployed = torch.export.load(file).module()
    u = deployed({"x": torch.rand(5, 2).double(), "r": torch.rand(5, 2).double()})["u"]
    assert u.shape == (5, 2) and u.min() >= 0 and u.max() <= 1


def test_tanks_at_rest_stay_and_their_cost_is_that_of_the_pump(two_tanks):
    _, model, _ = two_tanks
    levels = torch.tensor([[0.36, 0.64], [0.25, 0.25]]).double()
    # At rest the pump brings what leaves the second tank, the valve sends past the first what the first cannot pass on.
    p = model.C2 / model.C1 * levels[:, 1].sqrt()
    u = torch.stack([p, 1 - (levels[:, 0] / levels[:, 1]).sqrt()], dim=1)
    r = levels[:, None].repeat(1, 30, 1)
    rest = model.closed_loop(lambda x, r: u)({"x": levels[:, None], "r": r})
    torch.testing.assert_close(rest["x"][:, 1:], r)
    torch.testing.assert_close(model.cost(**rest), 30 * 0.01 * p**2)
    shifted = model.cost(rest["x"], r + 0.1, rest["u"]) - model.cost(**rest)
    torch.testing.assert_close(shifted, torch.full((2,), 60 * 0.1**2).double())
    assert model.overshoot(rest["x"]) == 0 and model.overshoot(rest["x"] + 0.5) == pytest.approx(0.14)


def test_the_slopes_of_the_plan_are_those_of_differences(two_tanks):
    import numpy as np

    mpc = two_tanks[2].MPC(6)
    mpc.x, mpc.r, mpc.seen = torch.tensor([0.3, 0.7]).double(), np.array([0.4, 0.6]), None
    plan, h = np.random.default_rng(0).uniform(0.1, 0.4, 12), 1e-6 * np.eye(12)
    cost = [(mpc.cost(plan + d)[0] - mpc.cost(plan - d)[0]) / 2e-6 for d in h]
    room = [(mpc.room(plan + d) - mpc.room(plan - d)) / 2e-6 for d in h]
    assert mpc.cost(plan)[1] == pytest.approx(np.array(cost), abs=1e-7)
    assert mpc.room_slopes(plan) == pytest.approx(np.array(room).T, abs=1e-7)


def test_mpc_finds_one_plan_from_any_start_and_none_beside_it_is_better(two_tanks):
    import numpy as np

    rng, found = np.random.default_rng(0), []
    for start in (0.0, 0.45, rng.uniform(0, 0.5, 16)):
        mpc = two_tanks[2].MPC(8)
        mpc.plan = np.broadcast_to(start, 16).copy()
        # More than the tank holds: the bound on the second level is active.
        first = mpc(torch.tensor([[0.5, 0.85]]).double(), torch.tensor([[0.6, 1.05]]).double())
        plan = np.concatenate([[(1 - first[0, 1]) * first[0, 0], first[0, 1] * first[0, 0]], mpc.plan[:-2]])
        found.append(mpc.cost(plan)[0])
    assert found == pytest.approx([found[0]] * 3, rel=1e-4) and abs(mpc.room(plan)).min() < 1e-6
    near = (plan + rng.normal(-0.5, 1.0, (500, 16)) * 10.0 ** rng.uniform(-4, -1, (500, 1))).clip(0)
    kept = [other for other in near if mpc.room(other).min() >= 0]
    assert len(kept) > 20 and min(mpc.cost(other)[0] for other in kept) > found[-1] - 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_policy_is_as_good_as_mpc_and_keeps_the_levels(two_tanks):
    example, model, mpc = two_tanks
    policy = example.fit().node("closed loop").node("policy").callable
    unseen = model.references(20, 2, example.UNSEEN)
    runs, _ = example.compare({"mpc": mpc.MPC, "policy": lambda: policy}, unseen)
    assert model.cost(**runs["policy"]).sum() <= 1.05 * model.cost(**runs["mpc"]).sum()
    assert model.overshoot(runs["policy"]["x"]) <= model.overshoot(runs["mpc"]["x"])


# ---- Burgers' equation


@pytest.fixture
def burgers(monkeypatch):
    """The modules of the example on Burgers' equation."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import burgers_pinn
    import burgers_reference

    return burgers_pinn, burgers_reference


def test_burgers_is_fitted_validated_tested_predicted_and_drawn(tmp_path):
    done = run("burgers_pinn.py", "--quick", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "burgers.png") in done.stdout
    assert (tmp_path / "out" / "burgers.png").stat().st_size > 20_000
    # Silence would be off by 100 %, and so is where a network starts.
    assert float(done.stdout.split("Cole-Hopf integral: ")[1].split("%")[0]) < 80
    for word in ("CPU time", "at unseen points"):
        assert word in done.stdout
    assert "train_loss" in done.stderr and "val_loss" in done.stderr  # the bars, at their end


def test_the_reference_solves_burgers_equation(burgers):
    import numpy as np

    _, reference = burgers
    rng, h, k = np.random.default_rng(0), 1e-4, 1e-4
    t, x = rng.uniform(0.01, 0.99, 500), rng.uniform(-1, 1, 500)
    u = reference.exact(t, x)
    assert np.abs(reference.exact(t, x, order=80) - u).max() < 1e-12
    assert np.abs(reference.exact(t, -x) + u).max() < 1e-14
    assert reference.exact(0, x) == pytest.approx(-np.sin(np.pi * x), abs=1e-14)
    assert reference.exact(t, 1.0) == pytest.approx(0, abs=1e-14)
    ahead, behind = reference.exact(t, x + h), reference.exact(t, x - h)
    u_t = (reference.exact(t + k, x) - reference.exact(t - k, x)) / (2 * k)
    u_x, u_xx = (ahead - behind) / (2 * h), (ahead - 2 * u + behind) / h**2
    assert np.abs(u_t + u * u_x - reference.NU * u_xx).max() < 1e-4 * np.abs(u_x).max()
    # The steepest slope and its time, as Basdevant et al. give them.
    assert -reference.exact(1.6037 / np.pi, 1e-6) / 1e-6 == pytest.approx(152.00516, abs=1e-4)


def test_the_terms_of_burgers_vanish_on_the_reference(burgers):
    import numpy as np

    example, reference = burgers
    s, w = (torch.as_tensor(a) for a in np.polynomial.hermite.hermgauss(100))

    def exact(t, x):
        y = x - (4 * reference.NU * t).sqrt() * s
        weight = w * torch.exp(-torch.cos(np.pi * y) / (2 * np.pi * reference.NU))
        return (weight * -torch.sin(np.pi * y)).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)

    fitted, tested = example.problems(exact)
    points = {key: value.double() for key, value in example.points(200, np.random.default_rng(0)).items()}
    points["t"] = points["t"].clamp(min=0.01)
    assert fitted(points)["loss"] < 1e-12
    points["reference"] = exact(points["t"], points["x"]) / 1.01
    assert tested(points)["error"].item() == pytest.approx(0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_burgers_is_solved(burgers):
    example, _ = burgers
    trainer, _, tested, data = example.fit()
    (told,) = trainer.test(example.LitProblem(tested), data, verbose=False)
    assert told["test_error"] <= 0.02
