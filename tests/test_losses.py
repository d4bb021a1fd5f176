"""Losses: the sums they promise, finite gradients, and optima that are known exactly."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from slimgraph import AugmentedLagrangeLoss, BarrierLoss, Loss, PenaltyLoss, variable
from slimgraph.errors import (
    DtypeError,
    DuplicateNameError,
    MissingKeyError,
    OptionError,
    ShapeError,
    UnknownOptionError,
)
from slimgraph.losses import BARRIERS

x, y = variable("x"), variable("y")
batch = {"x": torch.tensor([[0.0, 2.0], [3.0, -1.0]]), "y": torch.tensor([[1.0], [2.0]])}


def with_name(term, name):
    term.name = name
    return term


def terms():
    return [(x**2).minimize(name="fit"), Loss(["x"], torch.sum, 0.5, name="sum")], [
        2 * (x <= 1),
        y == 1.5,
        y >= x,
    ]


def test_a_penalty_loss_is_the_sum_of_its_terms():
    out = PenaltyLoss(*terms())(batch)
    assert out["fit"] == (batch["x"] ** 2).mean() and out["sum"] == 2.0
    relu, bx, by = torch.relu, batch["x"], batch["y"]
    expected = [2 * relu(bx - 1).mean(), (by - 1.5).abs().mean(), relu(bx - by).mean()]
    assert [out[f"constraint_{i}"] for i in (1, 2, 3)] == expected
    assert out["objective_loss"] == out["fit"] + out["sum"]
    torch.testing.assert_close(out["penalty_loss"], sum(expected))
    torch.testing.assert_close(out["loss"], out["objective_loss"] + out["penalty_loss"])
    values = torch.cat([bx - 1, by - 1.5, bx - by], 1)
    assert torch.equal(out["C_values"], values)
    violations = torch.cat([relu(bx - 1), (by - 1.5).abs(), relu(bx - by)], 1)
    assert torch.equal(out["C_violations"], violations)
    assert torch.equal(out["C_eq_values"], values[:, 2:3]) and torch.equal(
        out["C_ineq_violations"], violations[:, [0, 1, 3, 4]]
    )


def test_losses_add_and_scale_and_keep_their_options():
    objectives, constraints = terms()
    one = BarrierLoss(objectives, [], barrier="log", upper_bound=2.0)
    other = BarrierLoss([], constraints, barrier="log", upper_bound=2.0)
    both, whole = one + other, BarrierLoss(objectives, constraints, barrier="log", upper_bound=2.0)
    torch.testing.assert_close(both(batch)["loss"], whole(batch)["loss"])
    torch.testing.assert_close((3 * whole)(batch)["loss"], 3 * whole(batch)["loss"])
    torch.testing.assert_close(sum([one, other])(batch)["loss"], whole(batch)["loss"])
    with pytest.raises(OptionError, match="losses of one kind and options add"):
        one + PenaltyLoss(objectives)


def test_a_loss_without_terms_is_zero_where_the_data_are():
    out = PenaltyLoss()({"x": torch.ones(2, 1, dtype=torch.float64)})
    assert out["loss"] == 0 and out["loss"].dtype == torch.float64


def test_constraints_on_trainable_variables_alone_hold_for_every_sample():
    a = variable(torch.nn.Parameter(torch.tensor([0.5, 2.0])))
    out = PenaltyLoss([], [a <= 1, y <= 1])(batch)
    assert torch.equal(out["C_values"], torch.tensor([[-0.5, 1.0, 0.0], [-0.5, 1.0, 1.0]]))
    assert PenaltyLoss([], [a <= 1])({})["C_violations"].tolist() == [[0.0, 1.0]]


def test_constraints_on_a_whole_batch_hold_for_every_sample():
    total, means = torch.sum(y) <= 1, torch.mean(x, 0, keepdim=True) <= 1
    out = PenaltyLoss([], [total, y <= 1, means])(batch)
    assert torch.equal(out["C_values"], torch.tensor([[2.0, 0.0, 0.5, -0.5], [2.0, 1.0, 0.5, -0.5]]))
    assert PenaltyLoss([], [means])(batch)["C_values"].shape == (2, 2)
    loss = AugmentedLagrangeLoss([], [total, means], mu_init=1.0)
    for rows in (batch, {key: value[:1] for key, value in batch.items()}):
        loss(rows)
    assert loss.multipliers.shape == (3,)
    three = {"x": torch.zeros(8, 3)}
    with pytest.raises(ShapeError, match=r"'constraint_1', .* <= 1, has values of shape \(3,\) from x \(8, 3\); "):
        PenaltyLoss([], [torch.mean(x, 0) <= 1])(three)


@pytest.mark.parametrize("barrier", BARRIERS)
def test_a_barrier_rises_smoothly_through_the_bound(barrier):
    loss = BarrierLoss([], [x <= 0.0], barrier=barrier)
    z = torch.linspace(-3, 2, 2001, dtype=torch.float64)
    z = torch.cat([z, torch.tensor([0.0, -1e-30, 1e-30], dtype=torch.float64)]).sort().values.requires_grad_()
    value = torch.stack([loss({"x": v.reshape(1, 1)})["loss"] for v in z])
    slope = torch.autograd.grad(value.sum(), z)[0]
    assert value.isfinite().all() and slope.isfinite().all()
    assert (value >= 0).all() and (value.diff() >= 0).all() and (slope[z > 0] >= 1).all()
    # The tangent goes on where the barrier ends: one step of the grid never jumps by more than its slopes allow.
    assert (value.diff() <= z.diff() * (torch.maximum(slope[1:], slope[:-1]) + 1e-6) + 1e-9).all()


def test_a_barrier_is_its_formula_inside_and_equalities_pay_from_both_sides():
    inside = {"x": torch.tensor([[-0.5]])}
    assert BarrierLoss([], [x <= 0.0])(inside)["loss"].item() == pytest.approx(0.30103, abs=1e-5)
    assert BarrierLoss([], [x <= 0.0], barrier=lambda z: torch.exp(4 * z))(inside)["loss"].item() == pytest.approx(
        0.135335, abs=1e-6
    )
    for side in (0.5, -0.5):
        assert BarrierLoss([], [x == 0.0])({"x": torch.tensor([[side]])})["loss"].item() == 0.5


@pytest.mark.parametrize("weight", [0.1, 0.001])
def test_a_log_barrier_stops_on_its_central_path(weight):
    # min x s.t. x >= 1 with -w log(x - 1): x = 1 + w, and w / (x - 1) is the multiplier 1.
    loss = BarrierLoss([y.minimize()], [weight * (y >= 1.0)], barrier="log", upper_bound=20.0)
    low, high = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    for _ in range(50):
        middle = ((low + high) / 2).requires_grad_()
        (slope,) = torch.autograd.grad(loss({"y": middle})["loss"], middle)
        low, high = (middle.detach(), high) if slope < 0 else (low, middle.detach())
    assert low.item() == pytest.approx(1 + weight, abs=1e-12)


def test_an_error_inside_a_term_names_it_with_its_shapes():
    with pytest.raises(ShapeError, match="must match the size") as caught:
        PenaltyLoss([y.minimize()], [y <= 1, with_name(x <= y, "order")])(
            {"x": torch.ones(2, 2), "y": torch.ones(2, 3)}
        )
    assert caught.value.__notes__ == ["in constraint 'order', x <= y, with x (2, 2), y (2, 3)"]


def solve(loss, start, outer=40, inner=60):
    """The optimum of `loss` over one trainable `x`, by LBFGS steps between multiplier updates."""
    point = torch.nn.Parameter(start.clone())

    def value():
        point.grad = None
        result = loss({"x": point})["loss"]
        result.backward()
        return result

    for _ in range(outer):
        torch.optim.LBFGS([point], max_iter=inner, line_search_fn="strong_wolfe", tolerance_grad=1e-12).step(value)
        with torch.no_grad():
            loss.update(loss({"x": point}))
    return point.detach()


@pytest.mark.parametrize("mu_init", [0.001, 1.0])
@pytest.mark.parametrize(
    ("make", "optimum", "multiplier"),
    [
        (lambda s: s == 1, [0.5, 0.5], -1.0),
        (lambda s: s >= 1, [0.5, 0.5], 1.0),
        (lambda s: s <= 1, [0.0, 0.0], 0.0),
    ],
    ids=["equality", "active", "inactive"],
)
def test_the_augmented_lagrangian_finds_primal_and_dual_optimum(make, optimum, multiplier, mu_init):
    # min x^2 + y^2 s.t. x + y = 1 (or >= 1, or <= 1): stationarity 2 x + lambda = 0.
    s = x[:, :1] + x[:, 1:]
    objective = torch.sum(x**2, -1).minimize()
    loss = AugmentedLagrangeLoss([objective], [make(s)], mu_init=mu_init)
    point = solve(loss, torch.tensor([[2.0, -1.0]], dtype=torch.float64))
    assert point[0].tolist() == pytest.approx(optimum, abs=1e-4)
    assert loss.multipliers.item() == pytest.approx(multiplier, abs=1e-3)


def test_an_update_averages_after_the_relu():
    # A violated and a slack sample must not cancel.
    loss = AugmentedLagrangeLoss([], [y <= 1.5], mu_init=1.0)
    loss.update(loss({"y": torch.tensor([[2.0], [0.0]])}))
    assert loss.multipliers.tolist() == [0.25]


def test_per_sample_multipliers_follow_the_index():
    loss = AugmentedLagrangeLoss([], [y <= 1.0], train_data=range(4), mu_init=1.0, per_sample=True)
    data = {"y": torch.tensor([[2.0], [0.0]]), "index": torch.tensor([3, 1])}
    loss.update({**loss(data), "index": data["index"]})
    assert loss.multipliers.tolist() == [[0.0], [0.0], [0.0], [1.0]]
    wanted = r"multipliers of 'constraint_1' need the key 'index', \(2,\), in the data, which hold "
    with pytest.raises(MissingKeyError, match=wanted + r"y \(2, 1\); DictDataset\(..., index=True\) adds it"):
        loss({"y": data["y"]})
    with pytest.raises(ShapeError, match=wanted + r"y \(2, 1\), index \(2, 1\)"):
        loss({"y": data["y"], "index": data["index"][:, None]})
    with pytest.raises(DtypeError, match="'index' numbers the samples; it needs whole numbers, got torch.float32"):
        loss({"y": data["y"], "index": torch.tensor([0.5, 1.0])})
    with pytest.raises(MissingKeyError, match=r"needs 'C_values' of a forward pass, the output holds \['y'\]"):
        loss.update({"y": data["y"]})


def test_weights_may_change_and_widths_may_not():
    cap = y <= 1.0
    loss = AugmentedLagrangeLoss([], [cap], mu_init=1.0)
    first = loss(batch)["loss"]
    cap.weight = 100.0
    torch.testing.assert_close(loss(batch)["loss"], 100 * first)
    fresh = AugmentedLagrangeLoss([], [cap], mu_init=1.0)
    fresh.load_state_dict(loss.state_dict())
    for each in (loss, fresh):
        with pytest.raises(ShapeError, match="for 1 entries per sample, this batch has 2; .* {'constraint_1': 2}"):
            each({"y": torch.ones(2, 2)})
        assert each(batch)["loss"].isfinite()


def test_a_loss_that_was_born_in_inference_mode_can_be_trained():
    loss = AugmentedLagrangeLoss([], [y <= 1.0])
    with torch.inference_mode():
        loss(batch)
    point = torch.nn.Parameter(torch.tensor([[2.0]]))
    loss({"y": point})["loss"].backward()
    assert point.grad is not None


def test_per_sample_multipliers_count_samples_and_serve_training_only():
    loss = AugmentedLagrangeLoss([], [y <= 1.0], train_data={"y": torch.ones(5, 1)}, mu_init=1.0, per_sample=True)
    assert loss.samples == 5
    data = {"y": torch.tensor([[3.0]])}
    loss.update({**loss({**data, "index": torch.tensor([4])}), "index": torch.tensor([4])})
    with pytest.raises(OptionError, match="made for 5 samples, the data hold index 7"):
        loss({**data, "index": torch.tensor([7])})
    with pytest.raises(OptionError, match="data hold index -1"):
        loss({**data, "index": torch.tensor([-1])})
    assert loss.eval()(data)["loss"] == 0.5 * loss.mu_max * 2.0**2


def test_losses_in_evaluation_tell_the_optimum_whatever_the_multipliers():
    # min x^2 s.t. x >= 1 has multiplier 2: under it a point that breaks the bound would look as good as the optimum.
    loss = AugmentedLagrangeLoss([(y**2).minimize()], [y >= 1.0], mu_init=1.0)
    points = torch.linspace(0.0, 2.0, 201, dtype=torch.float64)
    seen = []
    for outer in range(4):
        seen.append(torch.stack([loss.eval()({"y": point.reshape(1, 1)})["loss"] for point in points]))
        loss.train()
        loss.update(loss({"y": torch.full((1, 1), 0.5 + outer / 10, dtype=torch.float64)}))
    assert all(torch.equal(each, seen[0]) for each in seen)
    assert points[seen[0].argmin()].item() == pytest.approx(1.0)
    other_length = {"y": torch.ones(2, 7, dtype=torch.float64)}
    assert loss.eval()(other_length)["penalty_loss"] == 0, "roll-outs may be longer in validation"


def test_a_multiplier_of_a_slack_constraint_falls_to_zero_soon():
    loss = AugmentedLagrangeLoss([], [y <= 1.0], mu_init=0.001)
    data = {"y": torch.zeros(1, 1)}
    loss(data)
    loss.multipliers.fill_(10.0)
    for _ in range(16):
        loss.update(loss(data))
    assert loss.multipliers.item() == 0.0


def test_multipliers_are_saved_and_come_back_in_a_fresh_loss():
    loss = AugmentedLagrangeLoss([], [y <= 1.0], mu_init=1.0)
    loss.update(loss(batch))
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(batch)["loss"], loss(batch)["loss"])
    fresh = AugmentedLagrangeLoss([], [y <= 1.0], mu_init=1.0)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh.multipliers, loss.multipliers)
    assert torch.equal(fresh(batch)["loss"], loss(batch)["loss"])


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: PenaltyLoss([x]), OptionError, "holds Objectives; got Variable: x. Write it with .minimize"),
        (lambda: PenaltyLoss(x.minimize()), OptionError, "objectives is a list; got one"),
        (lambda: PenaltyLoss([], [x.minimize()]), OptionError, "constraints holds Constraints; got Objective"),
        (lambda: PenaltyLoss([x.minimize(name="f"), y.minimize(name="f")]), DuplicateNameError,
         r"'f' of mean\(x\) belongs to another"),
        (lambda: PenaltyLoss([x.minimize(name="loss")]), DuplicateNameError,
         "name 'loss' of mean.* belongs to another result"),
        (lambda: PenaltyLoss([x.minimize(name="a_value")], [with_name(x <= 1, "a")]), DuplicateNameError, "'a_value'"),
        (lambda: Loss("xy", torch.mean), OptionError, r"is a list of keys; got 'xy'. Write \['xy'\]"),
        (lambda: BarrierLoss([], [], barrier="log1"), UnknownOptionError, "no barrier 'log1'. Did you mean 'log10'"),
        (lambda: BarrierLoss([], [], barrier=lambda z: -z), OptionError, "to upper_bound=1.0 below 0; .* slope -1"),
        (lambda: AugmentedLagrangeLoss([], [], sigma=0.5), OptionError, "needs sigma >= 1, got sigma=0.5"),
        (lambda: AugmentedLagrangeLoss([], [], sigma="2"), OptionError, "needs a number for sigma, got sigma='2'"),
        (lambda: AugmentedLagrangeLoss([], [], eta=float("inf")), OptionError, "needs a finite eta, got eta=inf"),
        (lambda: AugmentedLagrangeLoss([], [], inner_loop=2.5), OptionError, "whole number for inner_loop, got 2.5"),
        (lambda: AugmentedLagrangeLoss([], [], inner_loop=True), OptionError, "whole number for inner_loop, got True"),
        (lambda: AugmentedLagrangeLoss([], [], inner_loop=0), OptionError, "needs inner_loop >= 1, got inner_loop=0"),
        (lambda: AugmentedLagrangeLoss([], [], per_sample="no"), OptionError, "to be True or False, got 'no'"),
        (lambda: AugmentedLagrangeLoss([], [], mu_init=2.0, mu_max=1.0), OptionError, "mu_init=2.0 and mu_max=1.0"),
        (lambda: AugmentedLagrangeLoss([], [], mu_init=0.0), OptionError, "needs mu_init > 0, got mu_init=0.0"),
        (lambda: AugmentedLagrangeLoss([], [], mu_max=float("inf")), OptionError, "needs a finite mu_max"),
        (lambda: AugmentedLagrangeLoss([], [], per_sample=True), OptionError, "needs train_data"),
        (lambda: AugmentedLagrangeLoss([], [], 5, per_sample=True), OptionError, r"or range\(samples\); got 5"),
        (lambda: AugmentedLagrangeLoss([], [], {}, per_sample=True), OptionError, r"range\(samples\); got \(\)"),
        (lambda: BarrierLoss([], [], barrier="lag"), UnknownOptionError,
         "There are log10, log, inverse, softexp, softlog, expshift, or a callable"),
        (lambda: BarrierLoss([], [], barrier=3), UnknownOptionError, r"no barrier 3\. There are log10"),
        (lambda: BarrierLoss([], [], upper_bound=-1.0), OptionError, "upper_bound > 0, got upper_bound=-1.0"),
        (lambda: BarrierLoss([], [], upper_bound="1"), OptionError, "a number for upper_bound, got upper_bound='1'"),
        (lambda: BarrierLoss([], [], shift=None), OptionError, "a number for shift, got shift=None"),
        (lambda: BarrierLoss([], [], alpha=0.0), OptionError, "needs alpha > 0, got alpha=0.0"),
        (lambda: BarrierLoss([], [], barrier=["log"]), UnknownOptionError, r"no barrier \['log'\]. There are log10"),
        (lambda: BarrierLoss([], [], barrier=lambda z: 1.0), OptionError, "for each entry .* its cost, .* gave 1.0"),
        (lambda: BarrierLoss([], [], barrier=torch.sum), OptionError, r"gave \(\) for \(2, 3\), with a gradient"),
        (lambda: BarrierLoss([], [], barrier=torch.ones_like), OptionError, r"gave \(2, 3\) .*, without a gradient"),
        (lambda: PenaltyLoss(None), OptionError, r"objectives is a list of Objectives; got None. Write \[\] for none"),
        (lambda: PenaltyLoss() + 1, OptionError, r"of one kind and options add; got PenaltyLoss\(\) and 1"),
        (lambda: AugmentedLagrangeLoss([], [], innerloop=3), UnknownOptionError, "'innerloop'. Did you mean 'inner_l"),
        (lambda: PenaltyLoss([], [x <= 1, y <= 1])({"x": torch.ones(2, 1), "y": torch.ones(3, 1)}), ShapeError,
         r"'constraint_1': \(2, 1\), 'constraint_2': \(3, 1\)"),
        (lambda: PenaltyLoss([], [x <= 1])({"xx": batch["x"]}), MissingKeyError,
         r"constraint 'constraint_1', x <= 1, reads 'x', the data holds \['xx'\]. Did you mean 'xx'"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_generator_of_terms_is_read_once_and_kept():
    loss = PenaltyLoss((o for o in [x.minimize()]), (c for c in [x <= 0]))
    assert len(loss.objectives) == len(loss.constraints) == 1 and loss(batch)["penalty_loss"] > 0


def test_a_multiple_by_what_is_no_number_is_a_type_error_and_a_tensor_is_a_weight():
    loss = PenaltyLoss([x.minimize()], [x <= 0])
    for wrong in ("2", None):
        with pytest.raises(TypeError, match="PenaltyLoss"):
            wrong * loss
    torch.testing.assert_close((torch.tensor(2.0) * loss)(batch)["loss"], 2 * loss(batch)["loss"])


def test_an_update_without_constraints_changes_nothing():
    """A fit whose loss has objectives alone makes outer steps too."""
    loss = AugmentedLagrangeLoss([x.minimize()])
    mu = loss.mu.clone()
    loss.update(loss(batch))
    assert loss.multipliers is None and torch.equal(loss.mu, mu)


@pytest.mark.parametrize("make", [PenaltyLoss, BarrierLoss, AugmentedLagrangeLoss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_losses_keep_the_dtype_and_gradients_are_finite_far_in_on_and_beyond_the_bound(make, dtype):
    loss = make([(0.1 * y).minimize()], [x <= 0, 0 * (x == 1), y >= 0.5])
    point = torch.tensor([[-100.0], [-1e-3], [0.0], [1e-3], [100.0]], dtype=dtype).requires_grad_()
    out = loss({"x": point, "y": point})
    (slope,) = torch.autograd.grad(out["loss"], point)
    assert out["loss"].dtype == dtype and out["loss"].isfinite() and slope.isfinite().all() and slope.any()


@pytest.mark.parametrize("make", [PenaltyLoss, BarrierLoss, AugmentedLagrangeLoss])
def test_a_batch_of_one_is_the_mean_of_one_and_shapes_may_differ(make):
    series = {"x": torch.randn(4, 3, 2), "y": torch.randn(4, 1), "z": torch.randn(4)}
    loss = make([(y**2).minimize()], [x <= 0.5, y == 0.2, variable("z") >= 0, torch.sum(y) <= 1])
    rows = [{key: value[i : i + 1] for key, value in series.items()} for i in range(4)]
    assert loss(series)["C_values"].shape == (4, 6 + 1 + 1 + 1) and loss(rows[0])["C_values"].shape == (1, 9)
    apart = make([(y**2).minimize()], [x <= 0.5, y == 0.2, variable("z") >= 0])
    means = torch.stack([apart(row)["loss"] for row in rows]).mean()
    torch.testing.assert_close(apart(series)["loss"], means)
