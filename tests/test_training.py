"""Laws of slimgraph.training: two devices equal one, a resumed fit equals a whole one, mistakes are told by name."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from slimgraph import DictDataset, Node, PenaltyLoss, Problem, slim, variable
from slimgraph.errors import DataError, NonFiniteError, OptionError, UnknownOptionError
from slimgraph.training import BestWeights, FitProgress, LitDataModule, LitProblem, ShardedBatches, StepGates

RANKS = Path(__file__).parent / "ranks"
sys.path.insert(0, str(RANKS))

import problems  # noqa: E402

TERMS = ["loss", "objective_loss", "penalty_loss", "reg_loss", "fit", "ceiling"]


@pytest.fixture(autouse=True)
def one_thread_and_an_empty_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run_python(*arguments: str) -> str:
    """A fresh process on one thread, with the test problems on its path."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([str(RANKS), root, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(other[key], one[key], rtol=0, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}")


# ---- a plain fit


def test_a_fit_on_plain_dicts_lowers_the_loss_and_writes_nothing(tmp_path):
    problem = problems.make()
    problem.eval()
    lit = LitProblem(problem, lr=0.01)
    data = LitDataModule(train=problems.data(64), val=problems.data(20, 1), test=problems.data(9, 2), batch_size=16)
    trainer = problems.trainer(max_epochs=30)
    before = problem(problems.data(20, 1))["loss"].item()
    trainer.fit(lit, data)
    assert trainer.callback_metrics["val_loss"] < 0.8 * before
    assert problem.training
    names = [f"{stage}_{term}" for stage in ("train", "val") for term in TERMS]
    assert sorted(trainer.callback_metrics) == sorted([*names, "dev_loss"])
    assert trainer.callback_metrics["dev_loss"] == trainer.callback_metrics["val_loss"]
    (tested,) = trainer.test(lit, data, verbose=False)
    assert sorted(tested) == sorted(f"test_{term}" for term in TERMS)
    assert list(tmp_path.iterdir()) == []


def test_the_progress_bar_shows_both_losses(capsys: pytest.CaptureFixture):
    trainer = problems.trainer(max_epochs=2, enable_progress_bar=True)
    trainer.fit(LitProblem(problems.make()), LitDataModule(problems.data(8), problems.data(8), batch_size=4))
    assert {"train_loss", "val_loss"} <= set(trainer.progress_bar_metrics)
    assert "Epoch 1" in capsys.readouterr().out


@pytest.mark.parametrize("batch", [1, 7, 32, None])
def test_a_logged_metric_is_the_mean_over_the_whole_set(batch):
    problem = problems.make()
    data = {"train": problems.data(23), "val": problems.data(17, 1), "test": problems.data(5, 2)}
    trainer = problems.trainer(max_epochs=1)
    lit, sets = LitProblem(problem, "SGD", lr=0.0), LitDataModule(**data, batch_size=batch)
    trainer.fit(lit, sets)
    logged = dict(trainer.callback_metrics) | trainer.test(lit, sets, verbose=False)[0]
    for stage, samples in data.items():
        whole = problem(samples)
        for term in TERMS:
            assert float(logged[f"{stage}_{term}"]) == pytest.approx(whole[term].item(), abs=1e-12)


def test_a_logger_is_given_what_callbacks_see_without_one(tmp_path):
    problem, seen = problems.make(), []
    for logger in (False, CSVLogger(tmp_path)):
        trainer = problems.trainer(max_epochs=2, logger=logger, log_every_n_steps=1)
        trainer.fit(LitProblem(problem, "SGD", lr=0.0), LitDataModule(problems.data(9), batch_size=4))
        seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})
    assert sorted(seen[0]) == sorted(f"train_{term}" for term in TERMS)
    assert seen[0] == pytest.approx(seen[1], abs=1e-12)
    written = Path(trainer.logger.log_dir, "metrics.csv").read_text().splitlines()[0].split(",")
    assert {*written} >= seen[0].keys()


def test_a_users_own_dataloaders_with_names_work():
    sets = [DictDataset(problems.data(n, seed), name) for n, seed, name in ((20, 0, "train"), (11, 1, "dev"))]
    loaders = [DataLoader(one, batch_size=4, collate_fn=one.collate_fn) for one in sets]
    problem = problems.make()
    trainer = problems.trainer(max_epochs=1)
    trainer.fit(LitProblem(problem, "SGD", lr=0.0), *loaders)
    assert float(trainer.callback_metrics["dev_loss"]) == pytest.approx(problem(problems.data(11, 1))["loss"].item())


def test_predictions_are_the_problems_outputs_in_order():
    problem, samples = problems.make(), problems.data(11)
    batches = problems.trainer().predict(LitProblem(problem), LitDataModule(predict=samples, batch_size=4))
    assert torch.equal(torch.cat([b["index"] for b in batches]), samples["index"])
    torch.testing.assert_close(torch.cat([b["y"] for b in batches]), problem.eval()(samples)["y"].detach())


@pytest.mark.parametrize("inference", [True, False])
def test_derivatives_work_in_validation_test_and_prediction(inference: bool):
    x = torch.linspace(-1, 1, 12).unsqueeze(-1)
    problem = problems.derived()
    sets = LitDataModule({"x": x}, {"x": x}, {"x": x}, {"x": x}, batch_size=5)
    trainer = problems.trainer(max_epochs=1, inference_mode=inference)
    lit = LitProblem(problem, "SGD", lr=0.0)
    trainer.fit(lit, sets)
    expected = problem({"x": x})["loss"].item()
    assert expected > 0
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        assert run(lit, sets, verbose=False)[0][f"{stage}_loss"] == pytest.approx(expected, rel=1e-5)
    assert all(not value.requires_grad for batch in trainer.predict(lit, sets) for value in batch.values())


@pytest.mark.parametrize("kind", [list, dict])
def test_several_loaders_are_logged_apart_and_the_first_is_monitored(kind: type):
    problem, samples = problems.make(), {"one": problems.data(7, 1), "two": problems.data(11, 2)}
    loaders = {name: DataLoader(DictDataset(data), batch_size=4) for name, data in samples.items()}
    loaders = loaders if kind is dict else list(loaders.values())
    plateau = {"factor": 0.5, "patience": 0, "threshold": 0.9}
    lit = LitProblem(problem, "SGD", 1e-3, scheduler="ReduceLROnPlateau", scheduler_args=plateau)
    trainer = problems.trainer(max_epochs=3)
    trainer.fit(lit, DataLoader(DictDataset(problems.data(8))), loaders)
    logged = dict(trainer.callback_metrics)
    for i, data in enumerate(samples.values()):
        for term in TERMS:
            name = f"val_{term}" + (f"/dataloader_idx_{i}" if i else "")
            assert float(logged[name]) == pytest.approx(problem(data)[term].item(), abs=1e-12)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25e-3)
    tested = trainer.test(lit, loaders, verbose=False)[-1]
    assert tested["test_loss/dataloader_idx_1"] == pytest.approx(problem(samples["two"])["loss"].item(), abs=1e-12)


# ---- optimisers and schedulers


@pytest.mark.parametrize(
    ("optimizer", "lr", "kind", "expected"),
    [
        ("AdamW", 0.02, torch.optim.AdamW, 0.02),
        ("Adam", None, torch.optim.Adam, 1e-3),
        ("torch.optim.RMSprop", None, torch.optim.RMSprop, 1e-3),
        (torch.optim.SGD, 0.5, torch.optim.SGD, 0.5),
        (functools.partial(torch.optim.SGD, momentum=0.9), None, torch.optim.SGD, 1e-3),
        (functools.partial(torch.optim.SGD, lr=0.3), None, torch.optim.SGD, 0.3),
        (functools.partial(torch.optim.SGD, lr=0.3), 0.1, torch.optim.SGD, 0.1),
        (lambda parameters: torch.optim.SGD(parameters, 0.7), None, torch.optim.SGD, 0.7),
    ],
)
def test_an_optimizer_is_taken_as_given(optimizer, lr, kind, expected):
    made = LitProblem(problems.make(), optimizer, lr).configure_optimizers()
    assert type(made) is kind
    assert made.param_groups[0]["lr"] == expected


def test_an_instance_and_its_options_are_honoured():
    problem = problems.make()
    optimizer = torch.optim.SGD(problem.parameters(), 0.2)
    assert LitProblem(problem, optimizer).configure_optimizers() is optimizer
    made = LitProblem(problem, "AdamW", optimizer_args={"weight_decay": 0.25}).configure_optimizers()
    assert made.param_groups[0]["weight_decay"] == 0.25


@pytest.mark.parametrize("given", ["name", "factory", "instance", "step", "plateau"])
def test_a_scheduler_is_honoured(given: str):
    problem = problems.make()
    optimizer, options = torch.optim.SGD(problem.parameters(), 1e-3), {}
    if given == "name":
        options = {"scheduler": "StepLR", "scheduler_args": {"step_size": 1, "gamma": 0.5}}
    elif given == "factory":
        options = {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)}
    elif given == "instance":
        options = {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)}
    elif given == "step":
        options = {
            "scheduler": "StepLR",
            "scheduler_args": {"step_size": 4, "gamma": 0.5},
            "scheduler_interval": "step",
        }
    else:
        # The loss cannot fall by 90 %: every epoch after the first is a plateau.
        plateau = {"factor": 0.5, "patience": 0, "threshold": 0.9}
        options = {"scheduler": "ReduceLROnPlateau", "scheduler_args": plateau}
    trainer = problems.trainer(max_epochs=3 if given == "plateau" else 2)
    trainer.fit(
        LitProblem(problem, optimizer, **options), LitDataModule(problems.data(8), problems.data(4), batch_size=2)
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25e-3)


def test_lbfgs_fits():
    trainer = problems.trainer(max_epochs=3)
    trainer.fit(LitProblem(problems.make(), "LBFGS", lr=1.0), LitDataModule(problems.data(64), batch_size=None))
    first = problems.make()(problems.data(64))["loss"].item()
    assert trainer.callback_metrics["train_loss"] < 0.5 * first


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "AdmaW"}, UnknownOptionError, r"torch.optim has no Optimizer 'AdmaW'. Did you mean 'AdamW'"),
        ({"optimizer_args": {"lrr": 1}}, UnknownOptionError, r"Adam has no option 'lrr'. Did you mean 'lr'"),
        ({"scheduler": "StepLr"}, UnknownOptionError, r"has no LRScheduler 'StepLr'. Did you mean 'StepLR'"),
        ({"scheduler": 3}, OptionError, r"3 is no LRScheduler"),
        ({"scheduler_interval": "batch"}, OptionError, r"'epoch' or 'step', got 'batch'"),
        ({"optimiser": "Adam"}, UnknownOptionError, r"LitProblem has no option 'optimiser'. Did you mean 'optimizer'"),
        ({"problem": "problems"}, OptionError, r"'problems' is no path to a function; write 'package.module:function'"),
        ({"problem": "problms:make"}, OptionError, r"'problms:make': no module named 'problms'"),
        ({"problem": "problems:mak"}, OptionError, r"problems has no 'mak'. Did you mean 'make'"),
        (
            {"problem": "problems:make", "problem_args": {"n": torch.ones(1)}},
            OptionError,
            r"problem_args \['n'\] cannot stand in a checkpoint",
        ),
        ({"problem": "problems:data", "problem_args": {"n": 3}}, OptionError, r"needs a Problem .*, got dict"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_options_is_told(options: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        LitProblem(options.pop("problem") if "problem" in options else problems.make(), **options)


def test_a_foreign_scheduler_and_a_frozen_problem_are_told():
    problem = problems.make()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(torch.optim.SGD(problem.parameters(), 0.1), 0.5)
    with pytest.raises(OptionError, match="ExponentialLR belongs to another optimiser"):
        LitProblem(problem, scheduler=scheduler).configure_optimizers()
    problem.freeze()
    with pytest.raises(OptionError, match="no trainable parameter"):
        LitProblem(problem).configure_optimizers()


# ---- hooks


def test_an_augmented_lagrangian_is_updated_with_every_sample_once(monkeypatch: pytest.MonkeyPatch):
    problem = problems.make("augmented", per_sample=True, n=23)
    seen, update = [], problem.loss.update
    lit = LitProblem(problem)
    monkeypatch.setattr(problem.loss, "update", lambda out: (seen.append((lit.current_epoch, out)), update(out)))
    data = LitDataModule(problems.data(23), problems.data(5, 1), batch_size=4)
    problems.trainer(max_epochs=5).fit(lit, data)
    assert [epoch for epoch, _ in seen] == [1, 3]
    for _, output in seen:
        assert torch.equal(output["index"].sort().values, torch.arange(23))
        assert output["C_values"].shape == (23, 1)
    assert problem.loss.multipliers.count_nonzero() > 0


def test_a_constrained_problem_reaches_its_solution():
    """min x^2 + y^2 with x + y = 1 has x = y = 1/2 and the multiplier -1."""
    x, y = variable(1, 1, display_name="x"), variable(1, 1, display_name="y")
    loss = problems.LOSSES["augmented"](
        [(x**2 + y**2).minimize(name="square")], [x + y == 1.0], inner_loop=20, mu_init=1.0, mu_max=10.0
    )
    problem = Problem([], loss).double()
    problems.trainer(max_epochs=800).fit(LitProblem(problem, "SGD", lr=0.03), LitDataModule({"p": torch.zeros(4, 1)}))
    solution = [p.item() for p in problem.parameters()]
    assert solution == pytest.approx([0.5, 0.5], abs=1e-4)
    assert problem.loss.multipliers.item() == pytest.approx(-1.0, abs=1e-3)


class Clipped(nn.Linear):
    def project_(self) -> None:
        self.weight.data.clamp_(min=0.0)


class ByHand(LitProblem):
    """Optimises by hand, as two optimisers that take turns would."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize("kind", [LitProblem, ByHand])
def test_a_module_is_projected_after_each_step(kind: type[LitProblem]):
    torch.manual_seed(0)
    layer = Clipped(2, 3)
    y = variable("y")
    problem = Problem([Node(layer, ["x"], ["y"])], PenaltyLoss([(y * 1.0).minimize(name="down")]))
    before = layer.weight.detach().clone()
    trainer = problems.trainer(max_epochs=5)
    trainer.fit(kind(problem, "SGD", lr=0.5), LitDataModule({"x": torch.ones(8, 2)}, batch_size=4))
    assert (before < 0).any() and (layer.weight >= 0).all() and (layer.weight == 0).any()


def test_the_gates_of_a_step_go_by_seed_epoch_and_batch_alone(tmp_path):
    """Whatever was drawn elsewhere, and in a resumed fit; after a fit, or an error in it, they are drawn anew."""
    options: dict = {"net": "gates", "steps": 7, "epochs": -1, "n": 12, "batch": 4}
    whole = problems.state(*problems.fit(**options, save=tmp_path, every={"every_n_train_steps": 4}))
    (path,) = tmp_path.glob("*step=4.ckpt")
    lit, run = problems.fit(**options, resume=path)
    assert_same(whole, problems.state(lit, run))
    gates = next(m for m in lit.modules() if isinstance(m, slim.L0Linear))

    def drawn(callback: StepGates, epoch: int, batch: int) -> torch.Tensor:
        torch.manual_seed(torch.seed())
        callback.on_train_batch_start(SimpleNamespace(current_epoch=epoch), lit, {}, batch)
        return gates.gates()

    assert torch.equal(drawn(StepGates(), 1, 2), drawn(StepGates(), 1, 2))
    others = [drawn(StepGates(seed), *at) for seed, *at in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]]
    assert len({tuple(one.tolist()) for one in others}) == 4
    for end in (lambda: StepGates().on_train_end(run, lit), lambda: StepGates().on_exception(run, lit, OSError())):
        drawn(StepGates(), 0, 0)
        end()
        assert not torch.equal(gates.gates(), gates.gates())


def test_a_fit_brings_the_gates_of_its_steps_along_where_there_are_gates():
    for net, given, seeds in (("orthogonal", [], []), ("gates", [], [0]), ("gates", [StepGates(3)], [3])):
        run = problems.trainer(max_steps=1, callbacks=given)
        lit = LitProblem(problems.make(net=net))
        for _ in range(2):
            run.fit(lit, LitDataModule(problems.data(4)))
        assert [callback.seed for callback in run.callbacks if isinstance(callback, StepGates)] == seeds
        gates = [m.gates() for m in lit.modules() for _ in range(2) if isinstance(m, slim.L0Linear)]
        assert not gates or not torch.equal(*gates)


@pytest.mark.parametrize(("value", "shown"), [(-1.0, "nan"), (0.0, "-inf")])
def test_a_term_that_is_no_number_stops_the_fit_and_is_named(value: float, shown: str):
    x = torch.ones(12, 1)
    x[9] = value
    z = variable("z")
    net = Node(nn.Linear(1, 1), ["x"], ["y"])
    log = Node(torch.log, ["x"], ["z"], name="log")
    loss = PenaltyLoss([variable("y").minimize(name="fine"), z.minimize(name="logarithm")])
    data = LitDataModule({"x": x}, batch_size=4, shuffle=False)
    with pytest.raises(NonFiniteError, match=rf"^'logarithm' is {shown} in training batch 2 of epoch 0;"):
        problems.trainer(max_epochs=1).fit(LitProblem(Problem([net, log], loss)), data)


# ---- data


@pytest.mark.parametrize("samples", [1, 2, 7, 24, 25])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_out_every_sample_once(samples: int, world: int):
    batch = 6 // world
    ranks = [ShardedBatches(samples, batch, shuffle=True, seed=3, rank=r, world=world) for r in range(world)]
    whole = list(ShardedBatches(samples, 6, shuffle=True, seed=3))
    for i, (wanted, *parts) in enumerate(zip(whole, *ranks, strict=True)):
        shares = [rank.share(i) for rank in ranks]
        assert {total for _, total in shares} == {len(wanted)}
        counted = torch.cat([part[:own] for part, (own, _) in zip(parts, shares, strict=True)])
        assert torch.equal(counted.sort().values, wanted.sort().values)
        assert min(len(part) for part in parts) >= 1
    assert torch.equal(torch.cat(whole).sort().values, torch.arange(samples))


def test_the_order_depends_on_seed_and_epoch_alone():
    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(torch.seed())
        batches = ShardedBatches(50, 8, shuffle=True, seed=seed)
        batches.epoch = epoch
        return torch.cat(list(batches)).tolist()

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16


def test_workers_change_nothing():
    alone, helped = (problems.state(*problems.fit(workers=w, steps=12, dropout=0.2)) for w in (0, 2))
    assert_same(alone, helped)


def from_function(n: int = 6) -> dict:
    return {"train": problems.data(n), "val": problems.data(3)}


@pytest.mark.parametrize(
    "options",
    [
        {"setup_function": from_function, "batch_size": 4},
        {"setup_function": "test_training:from_function", "setup_args": {"n": 6}, "batch_size": 4},
        {"setup_function": lambda: (problems.data(6), problems.data(3), None, 4)},
    ],
)
def test_a_setup_function_gives_the_data(options: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "test_training", sys.modules[__name__])
    trainer = problems.trainer(max_epochs=1)
    data = LitDataModule(**options)
    trainer.fit(LitProblem(problems.make()), data)
    assert trainer.global_step == 2 and "val_loss" in trainer.callback_metrics
    assert repr(data) == "LitDataModule(train 6, val 3; batch_size 4, seed 0)"


def test_overfitting_on_one_batch_takes_the_same_batch_each_epoch(monkeypatch: pytest.MonkeyPatch):
    seen, step = [], LitProblem.training_step
    monkeypatch.setattr(
        LitProblem, "training_step", lambda s, b, i: (seen.append(b["index"].tolist()), step(s, b, i))[1]
    )
    trainer = problems.trainer(max_epochs=3, overfit_batches=1)
    trainer.fit(LitProblem(problems.make()), LitDataModule(problems.data(20), batch_size=4))
    assert seen == 3 * [[0, 1, 2, 3]]


@pytest.mark.parametrize("loader", [dict, DictDataset])
def test_single_samples_are_not_taken_for_batches(loader):
    data = {"x": torch.rand(4, 2), "t": torch.rand(4, 1)}
    fit = ((variable("y") - variable("t")) ** 2).minimize(name="fit")
    problem = Problem([Node(nn.Linear(2, 1), ["x"], ["y"])], PenaltyLoss([fit]))
    before = problem.state_dict()["nodes.0.callable.weight"].clone()
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    with pytest.raises(OptionError, match=r"the entries of the .* Write LitDataModule\(train=...\) or"):
        trainer.fit(LitProblem(problem), loader(data))
    assert torch.equal(problem.state_dict()["nodes.0.callable.weight"], before)


def test_missing_and_empty_data_are_told():
    lit, train = LitProblem(problems.make()), problems.data(4)
    with pytest.raises(DataError, match=r"holds no test data, only \['train'\]; give test="):
        problems.trainer().test(lit, LitDataModule(train))
    with pytest.raises(DataError, match=r"holds no val data, only \['train'\]; give val="):
        problems.trainer().validate(lit, LitDataModule(train))
    with pytest.raises(DataError, match=r"the val set holds no sample"):
        LitDataModule(train, val={"x": torch.zeros(0, 2)})
    with pytest.raises(OptionError, match=r"batch_size >= 1, or None for all samples, got 0"):
        LitDataModule(train, batch_size=0)
    with pytest.raises(OptionError, match=r"gave 'dev'; the names are train, val, test, predict"):
        LitDataModule(setup_function=lambda: {"dev": train}).setup()


# ---- checkpoints


@pytest.mark.parametrize(
    "every",
    [
        {"every_n_train_steps": 4},
        {"every_n_epochs": 1, "save_on_train_epoch_end": True},
        {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    ],
    ids=["steps", "epoch", "validation"],
)
@pytest.mark.parametrize(
    "limit", [{"steps": 36, "epochs": -1}, {"steps": -1, "epochs": 5}], ids=["max_steps", "max_epochs"]
)
def test_a_resumed_fit_equals_a_whole_one(tmp_path, every: dict, limit: dict):
    """Eight batches an epoch and an outer step every second; dropout makes each step random."""
    options = {"loss": "augmented", "dropout": 0.3, "optimizer": "Adam", **limit}
    whole = problems.state(*problems.fit(**options, save=tmp_path, every=every))
    paths = {int(path.stem.split("=")[-1]): path for path in tmp_path.glob("*.ckpt")}
    assert {8, 16, 24, 32} <= paths.keys()
    for step in sorted(paths.keys() - {36 if limit["epochs"] < 0 else 40}):
        resumed = problems.state(*problems.fit(**options, resume=paths[step]))
        # A fit that ends in mid-epoch may have no validation after it was resumed.
        assert_same({key: whole[key] for key in resumed}, resumed)
        assert whole.keys() - resumed.keys() <= {key for key in whole if key.startswith(("metric val_", "metric dev_"))}


def test_the_last_outer_step_is_made_where_the_last_batch_was_the_checkpoints(tmp_path):
    options = {"loss": "augmented", "steps": -1, "epochs": 2}
    whole, _ = problems.fit(**options, save=tmp_path, every={"every_n_train_steps": 16})
    resumed, _ = problems.fit(**options, resume=next(tmp_path.glob("*step=16.ckpt")))
    assert_same(dict(whole.state_dict()), dict(resumed.state_dict()))


def test_a_plateau_is_seen_in_the_epoch_that_a_resumed_fit_goes_on_in(tmp_path):
    rates = []
    for resume in (None, tmp_path / "epoch=1-step=12.ckpt"):
        keep = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", save_top_k=-1, every_n_train_steps=12)
        run = problems.trainer(max_epochs=2, callbacks=[keep], enable_checkpointing=True)
        # Nothing is better by a half: the second of two epochs lowers the rate.
        args = {"patience": 0, "threshold": 0.5}
        lit = LitProblem(problems.make(), "SGD", 1e-3, scheduler="ReduceLROnPlateau", scheduler_args=args)
        run.fit(lit, LitDataModule(problems.data(37), problems.data(7), batch_size=5), ckpt_path=resume)
        rates.append(run.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-4, 1e-4])


def test_the_twin_house_resumed_equals_an_uninterrupted_run(tmp_path):
    whole = problems.state(*problems.twin_house(steps=5))
    keep = ModelCheckpoint(tmp_path, filename="house", every_n_train_steps=2)
    problems.twin_house(steps=2, enable_checkpointing=True, callbacks=[keep])
    assert_same(whole, problems.state(*problems.twin_house(steps=5, ckpt_path=tmp_path / "house.ckpt")))


def test_data_that_changed_in_mid_epoch_are_refused(tmp_path):
    problems.fit(steps=3, save=tmp_path, every={"every_n_train_steps": 3})
    (path,) = tmp_path.glob("*.ckpt")
    with pytest.raises(DataError, match=r"after batch 3, and the data have changed: samples was 37 and is 38"):
        problems.fit(n=38, steps=6, resume=path)
    with pytest.raises(DataError, match=r"global_batch was 5 and is 6"):
        problems.fit(batch=6, steps=6, resume=path)


def saved(folder: Path, lit: LitProblem) -> Path:
    trainer = problems.trainer(max_epochs=1)
    trainer.fit(lit, LitDataModule(problems.data(8), batch_size=4))
    trainer.save_checkpoint(folder / "fit.ckpt")
    return folder / "fit.ckpt"


LOAD_ALONE = """
import sys, problems, torch
from slimgraph.training import LitProblem
lit = LitProblem.load_from_checkpoint(sys.argv[1], weights_only=True)
print(lit.problem(problems.data(5))["loss"].item(), lit.configure_optimizers()["optimizer"].param_groups[0]["lr"])
"""


def test_a_checkpoint_loads_alone_in_a_fresh_process(tmp_path):
    lit = LitProblem(
        "problems:make",
        torch.optim.AdamW,
        0.05,
        "StepLR",
        scheduler_args={"step_size": 3},
        problem_args={"loss": "augmented"},
    )
    path = saved(tmp_path, lit)
    printed = run_python("-c", LOAD_ALONE, str(path)).split()
    assert [float(number) for number in printed] == [lit.problem(problems.data(5))["loss"].item(), 0.05]


def test_a_checkpoint_of_a_problem_object_says_what_to_pass(tmp_path):
    lit = LitProblem(problems.make(), lambda parameters: torch.optim.SGD(parameters, 0.1))
    path = saved(tmp_path, lit)
    with pytest.raises(OptionError, match=r"LitProblem.load_from_checkpoint\(path, problem=problem\)"):
        LitProblem.load_from_checkpoint(path, weights_only=True)
    loaded = LitProblem.load_from_checkpoint(path, weights_only=True, problem=problems.make())
    assert_same(dict(lit.state_dict()), dict(loaded.state_dict()))
    with pytest.raises(OptionError, match=r"optimiser was an object, which it cannot hold; pass optimizer="):
        loaded.configure_optimizers()


# ---- the best weights


def fit_with(best: BestWeights, **data) -> tuple[LitProblem, lightning.Trainer]:
    lit = LitProblem(problems.make(), "SGD", lr=1.5)
    trainer = problems.trainer(max_epochs=8, callbacks=[best])
    trainer.fit(lit, LitDataModule(problems.data(16), **data, batch_size=4))
    return lit, trainer


def test_the_best_weights_come_back():
    best = BestWeights()
    lit, trainer = fit_with(best, val=problems.data(9, 1))
    (now,) = trainer.validate(lit, LitDataModule(val=problems.data(9, 1)), verbose=False)
    assert now["val_loss"] == pytest.approx(best.best_value)
    last = BestWeights(restore=False)
    lit, trainer = fit_with(last, val=problems.data(9, 1))
    assert trainer.callback_metrics["val_loss"] > best.best_value and last.best_epoch == best.best_epoch < 7
    last.put_back(lit)
    assert_same(best.weights, dict(lit.state_dict()))


def test_the_worst_weights_come_back_with_mode_max():
    best = BestWeights("val_fit", "max")
    lit, _ = fit_with(best, val=problems.data(9, 1))
    assert lit.problem(problems.data(9, 1))["fit"].item() == pytest.approx(best.best_value)


def test_what_cannot_be_monitored_is_told():
    with pytest.raises(
        OptionError, match=r"monitors 'val_los', which validation does not log.* Did you mean 'val_loss'"
    ):
        fit_with(BestWeights("val_los"), val=problems.data(9, 1))
    with pytest.raises(OptionError, match=r"would never see 'val_loss': the fit has no validation"):
        fit_with(BestWeights())
    with pytest.raises(OptionError, match=r"mode 'min' or 'max', got 'mix'"):
        BestWeights(mode="mix")


def test_the_best_weights_survive_a_resume(tmp_path):
    best = BestWeights(restore=False)
    _, trainer = fit_with(best, val=problems.data(9, 1))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    again = BestWeights()
    lit = LitProblem(problems.make(), "SGD", lr=1.5)
    data = LitDataModule(problems.data(16), problems.data(9, 1), batch_size=4)
    problems.trainer(max_epochs=8, callbacks=[again]).fit(lit, data, ckpt_path=tmp_path / "fit.ckpt")
    assert (again.best_value, again.best_epoch) == (best.best_value, best.best_epoch)
    assert_same(best.weights, again.weights)


def test_the_progress_bar_shows_the_epoch_that_ended(capsys: pytest.CaptureFixture):
    run = problems.trainer(max_epochs=2, callbacks=[FitProgress("net")], enable_progress_bar=True)
    run.fit(LitProblem(problems.make()), LitDataModule(problems.data(16), problems.data(8, 1)))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "net" in line]
    assert "2/2" in line
    for name in ("train_loss", "val_loss"):
        assert f"{name} {float(run.callback_metrics[name]):.4g}" in line


def test_a_data_module_prints_what_it_holds():
    assert str(LitDataModule(problems.data(16))) == "LitDataModule(train 16; batch_size 32, seed 0)"


def test_a_compiled_problem_is_fitted_to_the_same_numbers():
    eager, compiled = (problems.state(*problems.fit(n=20, batch=10, compiled=c)) for c in (False, True))
    assert_same(eager, compiled, 1e-12)


# ---- many devices


def test_two_ranks_equal_one(tmp_path):
    """Parameters, multipliers, metrics; with uneven counts and ranks without samples; resumed in mid-epoch.

    Nor do the ranks talk more in a step than those of a plain LightningModule.
    """
    whole, sixth = {"loss": "augmented", "batch": 10}, {"every_n_train_steps": 6}
    problems.fit(**whole, steps=6, save=tmp_path / "alone", every=sixth)
    run_python(str(RANKS / "fit.py"), "ddp", str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, case in problems.CASES.items():
        assert_same(problems.state(*problems.fit(**{**case, "compiled": False})), first[name], 1e-12)
        assert_same(first[name], second[name])
    for name in problems.COUNTED:
        ours, bare = first[f"collectives {name}"]
        assert ours == bare and len(ours) == 6 and all(step["c10d::allreduce_"] == 1 for step in ours), name
    assert_same(problems.state(*problems.twin_house()), first["twin house"], 1e-9)
    assert_same(first["whole"], first["resumed"])
    assert_same(second["whole"], second["resumed"])
    uninterrupted, left = (
        problems.state(*problems.fit(**whole, steps=14)),
        next((tmp_path / "left").glob("*step=6.ckpt")),
    )
    assert_same(uninterrupted, problems.state(*problems.fit(**whole, steps=14, resume=left)), 1e-12)
    assert_same(uninterrupted, first["taken over"], 1e-12)
    assert [len(rank["predicted"]["y"]) for rank in (first, second)] == [3, 2]


def test_spawned_ranks_equal_one(tmp_path):
    run_python(str(RANKS / "fit.py"), "ddp_spawn", str(tmp_path))
    spawned = torch.load(tmp_path / "spawn.pt", weights_only=True)
    assert_same(problems.state(*problems.fit(**problems.CASES["gates"])), spawned, 1e-12)


# ---- what a second review found


def test_best_weights_of_one_fit_are_not_those_of_the_next():
    best = BestWeights()
    problems.trainer(max_epochs=3, callbacks=[best]).fit(
        LitProblem(problems.make(), lr=0.05), LitDataModule(problems.data(16), problems.data(8, 1))
    )
    second = problems.make()
    problems.trainer(max_epochs=1, callbacks=[best]).fit(
        LitProblem(second, lr=1e-9), LitDataModule(problems.data(16), problems.data(8, 1))
    )
    for one, fresh in zip(second.parameters(), problems.make().parameters(), strict=True):
        torch.testing.assert_close(one, fresh, rtol=0, atol=1e-6)


def test_best_weights_come_back_after_a_stop_by_an_error():
    problem, best = problems.make(), BestWeights()

    class Spoil(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                torch.nn.init.constant_(next(problem.parameters()), float("nan"))

    run = problems.trainer(max_epochs=4, callbacks=[best, Spoil()])
    with pytest.raises(NonFiniteError):
        run.fit(LitProblem(problem), LitDataModule(problems.data(16), problems.data(8, 1)))
    assert all(p.isfinite().all() for p in problem.parameters())


def test_a_trained_loss_takes_the_state_of_a_fresh_one():
    fresh, used = problems.make("augmented"), problems.make("augmented")
    batch = {key: value[:4] for key, value in problems.data(8).items()}
    used.loss.update(used(batch))
    used.load_state_dict(fresh.state_dict())
    assert used.loss.multipliers is None
    assert torch.equal(used(batch)["loss"], fresh(batch)["loss"])
