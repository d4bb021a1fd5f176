"""Laws of the optimisers of a fit: groups, clipping, accumulation, precision, stopping, averages, learning rates."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from torch import nn

from slimgraph import AugmentedLagrangeLoss, Node, PenaltyLoss, Problem, slim, variable
from slimgraph.errors import OptionError
from slimgraph.training import EarlyStopping, LitDataModule, LitProblem

sys.path.insert(0, str(Path(__file__).parent / "ranks"))

import problems


@pytest.fixture(autouse=True)
def quiet_in_an_empty_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)


def mixed() -> Problem:
    """Two maps, one of them within a product, free layers, a frozen node and a trainable variable."""
    torch.manual_seed(0)
    product = slim.maps["softSVD"](2, 2) @ slim.Linear(2, 2)
    net = nn.Sequential(slim.maps["orthogonal"](2, 2, bias=True), nn.Linear(2, 2), product, slim.Linear(2, 1))
    frozen = Node(slim.maps["orthogonal"](2, 2), ["x"], ["z"], name="frozen")
    frozen.freeze()
    scale = variable(1, 1, display_name="scale")
    fit = ((variable("y") - scale * variable("t") + 0 * variable("z")[:, :1]) ** 2).minimize(name="fit")
    return Problem([Node(net, ["x"], ["y"], name="net"), frozen], PenaltyLoss([fit])).double()


def rates(problem: Problem, groups: list[dict]) -> dict[str, float | None]:
    """The learning rate of each parameter, by its name."""
    of = {parameter: group.get("lr") for group in groups for parameter in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups)
    return {name: of[p] for name, p in problem.named_parameters() if p in of}


# ---- parameter groups


def test_groups_hold_every_trained_parameter_once_and_maps_go_by_their_rate():
    problem = mixed()
    expected = {name: None for name, p in problem.named_parameters() if p.requires_grad}
    assert rates(problem, problem.parameter_groups()) == expected
    maps = {name: 0.1 for name in expected if ".callable.0." in name or ".callable.2.parts.0." in name}
    assert rates(problem, problem.parameter_groups(maps_lr=0.1)) == expected | maps and len(maps) == 5
    both = problem.parameter_groups(maps_lr=0.1, variables_lr=0.2)
    assert rates(problem, both) == expected | maps | {"loss.plan.scale": 0.2}
    assert [group["name"] for group in both] == ["rest", "maps", "variables"]


def test_a_parameter_that_a_map_shares_is_the_maps():
    problem = mixed()
    net = problem.nodes[0].callable
    # The free layer stands before the map.
    net[2].parts[0].U = net[1].weight
    assert rates(problem, problem.parameter_groups(maps_lr=0.1))["nodes.0.callable.1.weight"] == 0.1


@pytest.mark.parametrize("kind", ["maps", "variables"])
def test_a_rate_for_nothing_is_refused(kind: str):
    y = variable("y")
    free = Problem([Node(nn.Linear(2, 1), ["x"], ["y"])], PenaltyLoss([y.minimize()]))
    with pytest.raises(OptionError, match=rf"{kind}_lr=0.1 would have no effect: the Problem has no .*{kind[:-1]}"):
        free.parameter_groups(**{f"{kind}_lr": 0.1})
    with pytest.raises(OptionError, match=rf"{kind}_lr is a finite number >= 0; got -1"):
        mixed().parameter_groups(**{f"{kind}_lr": -1})


def one_step(problem: Problem, *arguments, clip: float | None = None, **options) -> dict[str, torch.Tensor]:
    before = {name: p.detach().clone() for name, p in problem.named_parameters()}
    trainer = problems.trainer(max_steps=1, gradient_clip_val=clip)
    trainer.fit(LitProblem(problem, *arguments, **options), LitDataModule(problems.data(8), batch_size=None))
    return {name: before[name] - p.detach() for name, p in problem.named_parameters()}


def slopes(problem: Problem) -> dict[str, torch.Tensor]:
    problem(problems.data(8))["loss"].backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in problem.named_parameters()}


@pytest.mark.parametrize("given", ["names", "instance"])
def test_maps_and_variables_step_at_their_own_rates(given: str):
    problem, grads = mixed(), slopes(mixed())
    own = rates(problem, problem.parameter_groups(maps_lr=0.2, variables_lr=0.5))
    if given == "names":
        moved = one_step(problem, "SGD", 0.1, maps_lr=0.2, variables_lr=0.5)
    else:
        moved = one_step(problem, torch.optim.SGD(problem.parameter_groups(maps_lr=0.2, variables_lr=0.5), lr=0.1))
    for name, grad in grads.items():
        torch.testing.assert_close(moved[name], (own.get(name) or 0.1) * grad, msg=lambda m, name=name: f"{name}: {m}")


def test_a_checkpoint_holds_the_rates(tmp_path):
    lit = LitProblem("problems:make", torch.optim.AdamW, 0.01, maps_lr=0.2)
    trainer = problems.trainer(max_steps=1)
    trainer.fit(lit, LitDataModule(problems.data(8), batch_size=4))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    made = LitProblem.load_from_checkpoint(tmp_path / "fit.ckpt", weights_only=True).configure_optimizers()
    assert [(group["name"], group["lr"]) for group in made.param_groups] == [("rest", 0.01), ("maps", 0.2)]


# ---- nothing is ignored


def instance(problem: Problem) -> torch.optim.Optimizer:
    return torch.optim.SGD(problem.parameters(), 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.2}, r"lr=0.2 would have no effect: the SGD is an instance"),
        ({"optimizer_args": {"momentum": 0.9}}, r"optimizer_args={'momentum': 0.9} would have no effect: the SGD is"),
        ({"maps_lr": 0.2}, r"maps_lr=0.2 would have no effect: the SGD is an instance"),
        ({"optimizer": "SGD", "lr": 0.2, "optimizer_args": {"lr": 0.1}}, r"lr=0.2 would .* optimizer_args has another"),
        ({"scheduler_args": {"gamma": 0.5}}, r"scheduler_args={'gamma': 0.5} would have no effect: no scheduler"),
        ({"optimizer": None}, r"LitProblem needs an optimizer: a name in torch.optim"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(options: dict, message: str):
    problem = problems.make()
    with pytest.raises(OptionError, match=message):
        LitProblem(problem, **{"optimizer": instance(problem), **options})


def test_a_schedulers_instance_takes_no_options_and_an_optimiser_moves_its_own_problem():
    problem = problems.make()
    steps = torch.optim.lr_scheduler.StepLR(instance(problem), 3)
    with pytest.raises(OptionError, match=r"scheduler_args={'gamma': 0.5} would .*: the StepLR is an instance"):
        LitProblem(problem, steps.optimizer, scheduler=steps, scheduler_args={"gamma": 0.5})
    with pytest.raises(OptionError, match=r"the SGD moves no parameter of the problem; it was made for another one"):
        LitProblem(problem, instance(problems.make())).configure_optimizers()
    with pytest.raises(OptionError, match=r"LBFGS has one learning rate for all parameters"):
        LitProblem(problem, "LBFGS", maps_lr=0.1).configure_optimizers()


def test_a_scheduler_without_what_it_needs_says_where_to_give_it():
    with pytest.raises(OptionError, match=r"scheduler StepLR: missing .*'step_size'; give it in scheduler_args$"):
        LitProblem(problems.make(), scheduler="StepLR").configure_optimizers()


def test_a_checkpoint_whose_scheduler_was_an_object_says_so(tmp_path):
    lit = LitProblem("problems:make", scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5))
    trainer = problems.trainer(max_steps=1)
    trainer.fit(lit, LitDataModule(problems.data(8), batch_size=4))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    loaded = LitProblem.load_from_checkpoint(tmp_path / "fit.ckpt", weights_only=True)
    with pytest.raises(OptionError, match="this checkpoint's scheduler was an object, .* pass scheduler="):
        loaded.configure_optimizers()


# ---- the Trainer's own


def test_clipping_shortens_the_step():
    grads = torch.cat([g.flatten() for g in slopes(problems.make()).values()])
    moved = torch.cat([d.flatten() for d in one_step(problems.make(), "SGD", 1.0, clip=0.01).values()])
    torch.testing.assert_close(moved, grads * 0.01 / grads.norm(), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("samples", "limit"), [(16, None), (14, None), (10, None), (14, 3)])
def test_accumulated_batches_equal_one_whole_batch(samples: int, limit: int | None):
    """Also where the last batches of an epoch are shorter, or fewer, than the others."""

    def fitted(batch: int, data: dict, **options) -> dict[str, torch.Tensor]:
        problem = problems.make()
        trainer = problems.trainer(max_epochs=2, **options)
        sets = LitDataModule(data, batch_size=batch, shuffle=False)
        trainer.fit(LitProblem(problem, "SGD", 0.1), sets)
        return problem.state_dict()

    data = problems.data(samples)
    seen = {key: value[: 4 * limit] for key, value in data.items()} if limit else data
    whole = fitted(8, seen)
    parts = fitted(4, data, accumulate_grad_batches=2, limit_train_batches=limit)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=0, atol=1e-13)


def constrained() -> Problem:
    """A map with a reg_error and an augmented Lagrangian, in float32."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), slim.maps["softSVD"](8, 8), nn.Linear(8, 1))
    y, t = variable("y"), variable("t")
    loss = AugmentedLagrangeLoss([((y - t) ** 2).minimize(name="fit")], [y <= -0.3], inner_loop=1, mu_init=1.0)
    return Problem([Node(net, ["x"], ["y"], name="net")], loss)


def single() -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in problems.data(16).items() if key != "index"}


def test_under_mixed_precision_nodes_run_in_half_and_the_rest_in_single():
    problem, batch = constrained(), single()
    exact = problem(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_output = problem(batch)
    assert mixed_output["y"].dtype == torch.bfloat16
    assert torch.equal(mixed_output["reg_loss"], exact["reg_loss"]) and exact["reg_loss"] > 0
    for key in ("fit", "C_values", "C_violations", "penalty_loss", "loss"):
        assert mixed_output[key].dtype == torch.float32
    # The constraint's values are those of the rounded y, to the digits of float32.
    assert torch.equal(mixed_output["C_values"], mixed_output["y"].float() + 0.3)


@pytest.mark.parametrize(("precision", "kind"), [("bf16-mixed", torch.float32), ("64-true", torch.float64)])
def test_a_fit_keeps_its_multipliers_in_full_precision(precision: str, kind: torch.dtype):
    problem = constrained()
    data = {key: value.to(kind) for key, value in single().items()}
    trainer = problems.trainer(max_epochs=3, precision=precision)
    trainer.fit(LitProblem(problem, lr=1e-3), LitDataModule(data, data, batch_size=4))
    loss = problem.loss
    assert loss.multipliers.dtype == loss.mu.dtype == kind
    assert loss.multipliers.count_nonzero() and {p.dtype for p in problem.parameters()} == {kind}
    assert torch.isfinite(trainer.callback_metrics["val_loss"])


def test_a_derivative_is_taken_under_mixed_precision_too():
    problem, x = problems.derived(), {"x": torch.linspace(-1, 1, 12).unsqueeze(-1)}
    expected = problem(x)["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        assert problem(x)["loss"].item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("warmup", "epochs"), [(0, 3), (4, 7)])
def test_early_stopping_waits_for_its_warm_up(warmup: int, epochs: int):
    stopping = EarlyStopping("val_loss", warmup=warmup, patience=2)
    trainer = problems.trainer(max_epochs=20, callbacks=[stopping])
    # Nothing gets better: the first epoch that is looked at is the best, and two more are waited for.
    trainer.fit(LitProblem(problems.make(), "SGD", lr=0.0), LitDataModule(problems.data(8), problems.data(4)))
    assert trainer.current_epoch == epochs


def test_early_stopping_refuses_a_warm_up_that_is_none():
    with pytest.raises(OptionError, match="warmup, a number of epochs, >= 0; got -1"):
        EarlyStopping(warmup=-1)


class Trace(lightning.Callback):
    """Every state of one parameter after a step."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.seen.append(next(pl_module.parameters()).detach().clone())


def averaging(**options) -> lightning.Callback:
    callbacks = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    return callbacks.EMAWeightAveraging(**options)


def test_the_moving_average_of_the_weights_is_what_a_fit_ends_with():
    problem, trace = problems.make(), Trace()
    trainer = problems.trainer(max_epochs=3, callbacks=[trace, averaging(decay=0.5)])
    trainer.fit(LitProblem(problem, "SGD", lr=0.3), LitDataModule(problems.data(8), problems.data(4), batch_size=4))
    average = trace.seen[0]
    for value in trace.seen[1:]:
        average = 0.5 * average + 0.5 * value
    torch.testing.assert_close(next(problem.parameters()).detach(), average)


def test_the_moving_average_needs_multipliers_that_are_there_before():
    problem, data = problems.make("augmented"), problems.data(8)
    trainer = problems.trainer(max_epochs=2, callbacks=[averaging(decay=0.5)])
    with pytest.raises(OptionError, match=r"EMAWeightAveraging copied the problem before its multipliers were made"):
        trainer.fit(LitProblem(problem), LitDataModule(data))
    problem.train()(data)
    problems.trainer(max_epochs=4, callbacks=[averaging(decay=0.5)]).fit(LitProblem(problem), LitDataModule(data))
    assert problem.loss.multipliers.count_nonzero() and not problem.loss.is_equality.any()


@pytest.mark.parametrize("given", ["name", "instance"])
def test_the_finder_sets_a_learning_rate(given: str):
    problem = problems.make()
    optimizer = "SGD" if given == "name" else instance(problem)
    lit, data = LitProblem(problem, optimizer), LitDataModule(problems.data(64), batch_size=8)
    found = Tuner(problems.trainer(max_epochs=5)).lr_find(lit, data, num_training=20, min_lr=1e-4, max_lr=1.0)
    assert lit.lr == found.suggestion() > 0
    made = lit.configure_optimizers()
    assert made.param_groups[0]["lr"] == lit.lr and (given == "name" or made is optimizer)
    lit.lr = 0.7
    assert lit.configure_optimizers().param_groups[0]["lr"] == 0.7


def warm_up(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """Two epochs from a tenth to the whole, then half as much in each."""
    lr = torch.optim.lr_scheduler
    rise, fall = lr.LinearLR(optimizer, 0.1, total_iters=2), lr.ExponentialLR(optimizer, 0.5)
    return lr.SequentialLR(optimizer, [rise, fall], milestones=[2])


@pytest.mark.parametrize(
    ("options", "epochs", "expected"),
    [
        ({"scheduler": warm_up}, [1.0e-1, 5.5e-1, 1.0, 0.5], 0.25),
        (
            {
                "scheduler": "torch.optim.lr_scheduler.OneCycleLR",
                "scheduler_args": {"max_lr": 1.0, "total_steps": 9, "anneal_strategy": "linear", "pct_start": 0.5},
                "scheduler_interval": "step",
            },
            None,
            4e-6,
        ),
    ],
    ids=["warm-up", "one cycle"],
)  # fmt: skip
def test_a_schedule_is_followed(options: dict, epochs: list[float] | None, expected: float):
    seen: list[float] = []

    class Rates(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = problems.trainer(max_epochs=4, callbacks=[Rates()])
    trainer.fit(LitProblem(problems.make(), "SGD", lr=1.0, **options), LitDataModule(problems.data(8), batch_size=4))
    assert epochs is None or seen == pytest.approx(epochs)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(expected)
