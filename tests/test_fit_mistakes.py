"""Nothing goes wrong silently in a fit: what is refused, and what is told once as advice."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from slimgraph import BarrierLoss, DictDataset, Node, PenaltyLoss, Problem, slim, variable
from slimgraph.errors import Advice, DataError, NonFiniteError, OptionError, WiringError
from slimgraph.training import LitDataModule, LitProblem
from slimgraph.training.data import ShardedBatches, ShardedLoader

sys.path.insert(0, str(Path(__file__).parent / "ranks"))

import problems


@pytest.fixture(autouse=True)
def quiet_in_an_empty_folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)


y, t, z = variable("y"), variable("t"), variable("z")


def net(size: int = 1) -> Node:
    torch.manual_seed(0)
    return Node(nn.Linear(size, 1), ["x"], ["y"], name="net")


def advice(
    problem: Problem, data: Any, *, epochs: int = 2, lr: float = 0.01, **options: Any
) -> list[warnings.WarningMessage]:
    """What a fit tells."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = problems.trainer(max_epochs=epochs, **options)
        trainer.fit(LitProblem(problem, "SGD", lr), LitDataModule(data, batch_size=4))
    return [one for one in told if issubclass(one.category, Advice)]


# ---- NaN and infinities


class Root(nn.Module):
    """sqrt(weight * x): at 0 its value is 0 and its derivative is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(self.weight * x)


class Blown(nn.Linear):
    """Its reg_error is not finite."""

    def reg_error(self) -> torch.Tensor:
        return self.weight.sum() * float("inf")


def column(*values: float) -> torch.Tensor:
    return torch.tensor([float(value) for value in values]).unsqueeze(-1)


log = Node(torch.log, ["x"], ["z"], name="log")
after = Node(lambda z: 2 * z, ["z"], ["y"], name="after")
fit = ((y - 1) ** 2).minimize(name="fit")


@pytest.mark.parametrize(
    ("nodes", "terms", "x", "message"),
    [
        (
            [net(), log], [fit, z.minimize(name="logs")], column(1, 1, 1, 1, 1, -1),
            r"^'logs' is nan in training batch 1 of epoch 0; not finite are, in the order in which they come about, "
            r"'z' of node 'log', in 1 of 2 samples \(NaN, first in sample 1 of the batch\)\. Look",
        ),
        (
            [after, log, Node(nn.Linear(1, 1), ["y"], ["w"])], [((variable("w") - 1) ** 2).minimize(name="fit")],
            column(1, 1, 1, 0),
            r"^'fit' is inf in training batch 0 of epoch 0; .* 'z' of node 'log', in 1 of 4 samples \(an infinity, "
            r"first in sample 3 of the batch\); 'y' of node 'after', in 1 of .*; 'w' of node 'node_3', in",
        ),
        (
            [net()], [fit], column(1, float("nan"), float("nan"), 1),
            r"^'fit' is nan .* about, 'x' of the batch, in 2 of 4 samples \(NaN, first in sample 1 .*'y' of node 'net'",
        ),
        (
            [net()], [torch.log(y - y).minimize(name="log")], column(1, 1, 1, 1),
            r"^'log' is -?inf .*; every key is finite \('y' from .* to .*\), so it comes about within the term",
        ),
        (
            [Node(Root(), ["x"], ["y"], name="root")], [fit], column(0, 1, 1, 1, 1),
            r"^'fit' is nan in training batch 1 of epoch 0; parameter 'root.weight' is not finite since the step",
        ),
        (
            [Node(Root(), ["x"], ["y"], name="root")], [fit], column(0, 1, 1, 1),
            r"^after the last step of the fit: parameter 'root.weight' is not finite",
        ),
        (
            [Node(Blown(1, 1), ["x"], ["y"], name="blown")], [fit], column(1, 1),
            r"^'reg_loss' is -?inf.*; the reg_error of 'blown' is not finite",
        ),
    ],
    ids=["node", "chain", "data", "term", "gradient", "last step", "reg_error"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_what_is_not_finite_is_named_with_its_key_its_samples_and_its_batch(nodes, terms, x, message):
    # A DictDataset would refuse NaN in the data.
    loader = DataLoader([{"x": row} for row in x], batch_size=4)
    with pytest.raises(NonFiniteError, match=message):
        problems.trainer(max_epochs=1).fit(LitProblem(Problem(nodes, PenaltyLoss(terms)), "SGD", 0.1), loader)


@pytest.mark.parametrize("bad", [True, False])
def test_a_validation_that_is_not_finite_is_told_once(bad: bool):
    problem = Problem([log, after], PenaltyLoss([(y * variable(1)).minimize(name="fit")]))
    loaders = [DataLoader([{"x": row} for row in column(1, 2, last)], batch_size=2) for last in (3, -1 if bad else 3)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        problems.trainer(max_epochs=3).fit(LitProblem(problem), *loaders)
    seen = [str(one.message) for one in told if issubclass(one.category, Advice)]
    assert len(seen) == bad
    assert all("'val_fit' is nan" in text and "in epoch 0: look at the val data" in text for text in seen)


# ---- parameters without a gradient


def idle(free: bool = True) -> Problem:
    torch.manual_seed(0)
    two = nn.ModuleDict({"used": nn.Linear(1, 1), "idle": nn.Linear(1, 1)})
    two["idle"].requires_grad_(free)
    two.forward = two["used"].forward
    return Problem([Node(two, ["x"], ["y"], name="two")], PenaltyLoss([fit]))


def test_parameters_that_get_no_gradient_are_told_once():
    data = {"x": torch.rand(8, 1)}
    (one,) = advice(idle(), data)
    assert str(one.message).startswith("'two.idle.weight', 'two.idle.bias' got no gradient in the first step: no term")
    assert one.filename == __file__
    assert not advice(idle(free=False), data)
    assert not advice(idle(), data, enable_progress_bar=False, max_steps=0)


@pytest.fixture
def process_group():
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_ddp_is_told_which_parameters_it_would_wait_for():
    data = {"x": torch.rand(8, 1)}
    with pytest.raises(WiringError, match=r"'two.idle.weight', 'two.idle.bias' got no .* strategy ddp waits .*unused"):
        advice(idle(), data, strategy="ddp")
    assert len(advice(idle(), data, strategy="ddp_find_unused_parameters_true")) == 1


# ---- advice on terms


@pytest.mark.parametrize(
    ("loss", "bound", "told"), [(PenaltyLoss, 9.0, 1), (PenaltyLoss, 0.1, 0), (BarrierLoss, 9.0, 0)]
)
@pytest.mark.parametrize("epochs", [1, 12])
def test_a_constraint_that_is_never_violated_is_told_once(loss: type, bound: float, told: int, epochs: int):
    problem = Problem([net()], loss([fit], [y <= bound, y >= 3]))
    seen = advice(problem, {"x": torch.rand(8, 1)}, epochs=epochs)
    assert len(seen) == told
    text = f"no sample of epochs 0 to {min(epochs, 10) - 1} violated 'constraint_1', y <= 9.0: so far"
    assert all(str(one.message).startswith(text) for one in seen)


def test_a_constraint_that_is_violated_later_is_not_told():
    # The bound is reached on the way to the target.
    problem = Problem([net()], PenaltyLoss([((y - 5) ** 2).minimize(name="far")], [y <= 2]))
    assert not advice(problem, {"x": torch.rand(8, 1)}, epochs=10, lr=0.1)


@pytest.mark.parametrize(
    ("objectives", "constraints", "told"),
    [
        ([1.0, 5000.0], [], "'term_1' is {1:.3g} in the mean over an epoch and 'term_0' is {0:.3g}: the"),
        ([1.0, 500.0], [], None),
        ([1.0], [1e5 * (y >= 2)], "'constraint_1' is {1:.3g} in the mean over an epoch and 'term_0' is {0:.3g}:"),
        ([1.0], [1e5 * (y >= -9), y >= 9], None),
        ([1.0, 5000.0, 5000.0], [], None),
    ],
)  # fmt: skip
def test_a_term_a_thousand_times_the_objectives_is_told_once(objectives, constraints, told):
    terms = [(weight * (y - 1) ** 2).minimize(name=f"term_{i}") for i, weight in enumerate(objectives)]
    problem = Problem([net()], PenaltyLoss(terms, constraints))
    data = {"x": torch.rand(8, 1)}
    means = [problem(data)[name].item() for name in problem.loss.names()]
    seen = [str(one.message) for one in advice(problem, data, epochs=3, lr=0.0) if "no sample" not in str(one.message)]
    assert len(seen) == (told is not None)
    assert all(told.format(*means) in text for text in seen)


@pytest.mark.parametrize(("lr", "epochs", "told"), [(0.0, 10, 1), (0.0, 9, 0), (1e-7, 10, 0)])
def test_a_constraint_that_is_not_heeded_is_told_after_ten_epochs(lr: float, epochs: int, told: int):
    """One that is a thousandth of the objective because it is nearly kept falls further, and is not told."""
    problem = Problem([net()], PenaltyLoss([(1e6 * (y - 1) ** 2).minimize(name="fit")], [y >= 0.99]))
    data = {"x": torch.rand(8, 1)}
    before = problem(data)
    seen = [str(one.message) for one in advice(problem, data, epochs=epochs, lr=lr)]
    assert len(seen) == told
    text = "'fit' is {fit:.3g} in the mean over an epoch and 'constraint_1' is {constraint_1:.3g}: the optimiser"
    assert all(one.startswith(text.format(**before)) for one in seen)


# ---- monitors


class Speaker(lightning.Callback):
    """A callback that logs a metric of its own."""

    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("val_los", 1.0)


@pytest.mark.parametrize(
    ("callback", "val", "message"),
    [
        (EarlyStopping("val_los"), True, r"EarlyStopping monitors 'val_los', .*; there are train_loss, .* 'val_loss'"),
        (EarlyStopping("val_loss"), False, r"EarlyStopping monitors 'val_loss', .* has no validation; give val="),
        (ModelCheckpoint(monitor="val_fitt"), True, r"ModelCheckpoint monitors 'val_fitt', .* Did you mean 'val_fit'"),
    ],
)  # fmt: skip
def test_a_metric_that_nothing_logs_is_refused_before_the_first_step(callback, val: bool, message: str):
    data = LitDataModule(problems.data(8), problems.data(4) if val else None)
    trainer = problems.trainer(max_epochs=1, callbacks=[callback], enable_checkpointing=True)
    with pytest.raises(OptionError, match=message):
        trainer.fit(LitProblem(problems.make()), data)
    assert trainer.global_step == 0


def test_a_scheduler_that_monitors_nothing_is_refused():
    lit = LitProblem(problems.make(), scheduler="ReduceLROnPlateau")
    with pytest.raises(OptionError, match=r"ReduceLROnPlateau monitors 'val_loss', .* The fit has no validation"):
        problems.trainer(max_epochs=1).fit(lit, LitDataModule(problems.data(8)))


@pytest.mark.parametrize(
    "callbacks",
    [
        [EarlyStopping("val_los"), Speaker()],
        [EarlyStopping("mine"), LambdaCallback(on_train_epoch_end=lambda _, module: module.log("mine", 1.0))],
        [EarlyStopping("train_fit")],
        [ModelCheckpoint(monitor="step")],
    ],
    ids=["of a callback", "of a function", "of training", "of the Trainer"],
)
def test_a_metric_that_something_may_log_is_waited_for(callbacks):
    trainer = problems.trainer(max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(LitProblem(problems.make()), LitDataModule(problems.data(8)))
    assert trainer.current_epoch == 2


# ---- data


@pytest.mark.filterwarnings("ignore:Total length", "ignore:You defined a `validation_step`")
def test_loaders_without_a_batch_are_refused():
    full = DataLoader(DictDataset(problems.data(8)), batch_size=4)
    empty = DataLoader(DictDataset(problems.data(3)), batch_size=4, drop_last=True)
    lit = LitProblem(problems.make())
    what = r"loader gives no batch: a DataLoader of 3 samples, batch_size 4, drops the last, shorter batch\. Nothing"
    with pytest.raises(DataError, match=f"the training {what}"):
        problems.trainer(max_epochs=1).fit(lit, empty)
    with pytest.raises(DataError, match=f"the validation {what}"):
        problems.trainer(max_epochs=1).fit(lit, full, empty)
    for stage, run in (("validation", "validate"), ("test", "test")):
        with pytest.raises(DataError, match=f"the {stage} {what}"):
            getattr(problems.trainer(), run)(lit, empty)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_batches_that_were_not_asked_for_are_no_mistake():
    full = DataLoader(DictDataset(problems.data(8)), batch_size=4)
    trainer = problems.trainer(max_epochs=1, limit_val_batches=0)
    trainer.fit(LitProblem(problems.make()), full, full)
    trainer.fit(LitProblem(problems.make()), full)
    assert trainer.current_epoch == 1


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_a_key_that_one_set_lacks_is_refused_where_the_problem_reads_it(lacking: str):
    sets = {"train": problems.data(8), "val": problems.data(4)}
    sets[lacking]["tt"] = sets[lacking].pop("t")
    trainer = problems.trainer(max_epochs=1, num_sanity_val_steps=0)
    message = (
        rf"the {lacking} set lacks 't', which the problem reads: train holds \[.*, val holds \[.* Did you mean 'tt'"
    )
    with pytest.raises(DataError, match=message):
        trainer.fit(LitProblem(problems.make()), LitDataModule(**sets))
    del (sets["train"] if lacking == "val" else sets["val"])["index"]
    sets[lacking]["t"] = sets[lacking].pop("tt")
    trainer.fit(LitProblem(problems.make()), LitDataModule(**sets))
    assert trainer.global_step == 1


class Lazy(DictDataset):
    """A data set that holds what cannot be pickled."""

    def __init__(self, n: int):
        super().__init__(problems.data(n))
        self.scale = lambda x: x


@pytest.mark.filterwarnings("ignore:Got pickle error")
def test_workers_that_cannot_pickle_the_data_set_are_told():
    batches = ShardedBatches(8, 4, shuffle=False)
    loader = ShardedLoader(Lazy(8), batches, num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(DataError, match=r"the 1 workers cannot be sent the Lazy: .*pickle.* or num_workers=0"):
        next(iter(loader))
    assert len(list(ShardedLoader(Lazy(8), batches))) == 2


def test_a_good_fit_is_told_nothing():
    problem = Problem(
        [Node(slim.maps["softSVD"](2, 2), ["x"], ["y"])], PenaltyLoss([((y - t) ** 2).minimize()], [y <= 0])
    )
    data = {"x": torch.rand(8, 2), "t": torch.rand(8, 2)}
    assert not advice(problem, data, epochs=12)
