"""Laws of checkpoints: a fit that was killed goes on bit for bit, a file that cannot be used changes nothing."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning
import pytest
import torch
from helpers import files_of_at_most
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from slimgraph.errors import CheckpointError, MissingFileError, OptionError
from slimgraph.training import BestWeights, LitDataModule, LitProblem
from slimgraph.training.checkpoint import FORMAT

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "ranks"))

import interrupted  # noqa: E402
import problems  # noqa: E402

PAGE = HERE.parent / "docs" / "checkpoints.md"
FORMAT_1 = HERE / "fixtures" / "checkpoint_format_1.ckpt"


@pytest.fixture(autouse=True)
def quiet_and_deterministic(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    # interrupted.fit asks for them by Trainer(deterministic=True).
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def whole() -> dict:
    """What the fit of interrupted.py ends with when nothing stops it."""
    return interrupted.fit()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A checkpoint after five of eight batches of an epoch."""
    folder = tmp_path_factory.mktemp("file")
    problems.fit(loss="augmented", steps=13, save=folder, every={"every_n_train_steps": 13})
    return next(folder.glob("*.ckpt"))


def lit(**options) -> LitProblem:
    """What problems.fit() fits."""
    options = {"scheduler": "StepLR", "scheduler_args": {"step_size": 2, "gamma": 0.5}, **options}
    return LitProblem(problems.make("augmented"), options.pop("optimizer", "SGD"), 0.05, **options)


def go_on(module: lightning.LightningModule, path: Path | str, **options) -> lightning.Trainer:
    run = problems.trainer(**{"max_steps": 20, "max_epochs": -1, **options})
    run.fit(module, LitDataModule(problems.data(37), batch_size=5), ckpt_path=path)
    return run


def assert_equal(one, other, where: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where} {key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where} {place}")
    else:
        assert one == other, where


def assert_resumed(whole: dict, resumed: dict, first: int) -> None:
    """All is as in the whole fit, and the steps from `first` on saw the same samples at the same learning rate."""
    assert list(resumed["seen"]) == list(range(first, interrupted.STEPS))
    assert_equal({**whole, "seen": {step: whole["seen"][step] for step in resumed["seen"]}}, resumed)


# ---- stopped and resumed


def started(folder: Path, name: str) -> subprocess.Popen:
    path = os.pathsep.join([str(HERE.parent), str(HERE / "ranks"), os.environ.get("PYTHONPATH", "")])
    script = str(HERE / "ranks" / "interrupted.py")
    with (folder / f"{name}.log").open("w") as log:
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.Popen([sys.executable, script, str(folder), name], env=environment, stdout=log, stderr=log)


def appears(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def test_a_fit_that_a_signal_stopped_resumes_bit_for_bit(tmp_path, whole):
    """Real processes: SIGKILL leaves the last checkpoint, SIGTERM the moment."""
    running = {name: started(tmp_path, name) for name in interrupted.STOPS}
    try:
        for name, process in running.items():
            for place in interrupted.STOPS[name]:
                appears(tmp_path / f"{name} {place}" / "reached", process)
                process.send_signal(getattr(signal, name))
        assert running["SIGKILL"].wait(60) == -signal.SIGKILL
        assert running["SIGTERM"].wait(60) == 0
    finally:
        for process in running.values():
            process.kill()
    folders = [folder for folder in sorted(tmp_path.iterdir()) if folder.is_dir()]
    assert len(folders) == 5
    for folder in folders:
        name, _, at = folder.name.split()
        # The last checkpoint before step 13 is that of step 10.
        step = 10 if name == "SIGKILL" else int(at)
        assert (folder / "on_exception.ckpt").exists() == (folder / "ended").exists() == (name == "SIGTERM")
        assert_resumed(whole, interrupted.fit(folder, resume="last"), step)


def test_sigterm_keeps_the_last_weights_beside_the_best(tmp_path):
    class Stop(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 13:
                signal.raise_signal(signal.SIGTERM)

    def fit(*callbacks, resume=None):
        module, best = LitProblem(problems.make("augmented"), "SGD", 2.0), BestWeights()
        data = LitDataModule(problems.data(37), problems.data(7, 1), batch_size=5)
        run = problems.trainer(max_epochs=4, callbacks=[best, *callbacks], enable_checkpointing=bool(callbacks))
        run.fit(module, data, ckpt_path=resume)
        return dict(module.state_dict()), best.best_epoch

    whole = fit()
    with pytest.raises(SystemExit):
        fit(Stop(), OnExceptionCheckpoint(tmp_path))
    assert_equal(whole, fit(resume=tmp_path / "on_exception.ckpt"))
    last = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)
    (best,) = (state["weights"] for name, state in last["callbacks"].items() if name == "BestWeights")
    assert not torch.equal(
        best["problem.nodes.0.callable.1.bias"], last["state_dict"]["problem.nodes.0.callable.1.bias"]
    )


@pytest.mark.parametrize("step", [3, 8, 13])
def test_a_checkpoint_saved_by_hand_after_a_fit_resumes_where_it_ended(tmp_path, whole, step: int):
    """In mid-epoch too: max_steps ended that epoch, and Lightning has counted it as completed."""
    interrupted.fit(steps=step, save=tmp_path / "hand.ckpt")
    assert_resumed(whole, interrupted.fit(resume=tmp_path / "hand.ckpt"), step)


@pytest.mark.parametrize("limit", [{"steps": -1, "epochs": 2}, {"steps": 11}], ids=["two epochs", "broken epoch"])
def test_a_fit_goes_on_to_four_epochs(tmp_path, limit: dict):
    options = {"loss": "augmented", "dropout": 0.3, "val": False}
    whole = problems.state(*problems.fit(**options, steps=-1, epochs=4))
    _, run = problems.fit(**options, **limit)
    run.save_checkpoint(tmp_path / "hand.ckpt")
    assert_equal(whole, problems.state(*problems.fit(**options, steps=-1, epochs=4, resume=tmp_path / "hand.ckpt")))


def test_a_fit_in_double_precision_resumes_and_loads_alone(tmp_path):
    """The problem is built in float32; Lightning makes it double only after it has loaded a checkpoint."""

    def fit(steps: int, resume: Path | None = None) -> tuple[LitProblem, lightning.Trainer]:
        module = LitProblem("interrupted:single", "Adam", 0.05)
        return module, go_on(module, resume, max_steps=steps, precision="64-true")

    whole, _ = fit(9)
    _, run = fit(4)
    run.save_checkpoint(tmp_path / "double.ckpt")
    resumed, run = fit(9, tmp_path / "double.ckpt")
    assert_equal(dict(whole.state_dict()), dict(resumed.state_dict()))
    run.save_checkpoint(tmp_path / "end.ckpt")
    assert_equal(dict(whole.state_dict()), dict(LitProblem.load_from_checkpoint(tmp_path / "end.ckpt").state_dict()))


# ---- formats


def test_a_checkpoint_of_format_1_loads_and_resumes(whole):
    stored = torch.load(FORMAT_1, weights_only=True)
    assert stored["slimgraph"]["format"] == 1
    assert_equal(stored["state_dict"], dict(LitProblem.load_from_checkpoint(FORMAT_1).state_dict()))
    resumed = interrupted.fit(resume=FORMAT_1)
    # Another torch may round otherwise than the one that wrote the file.
    for key in stored["state_dict"]:
        torch.testing.assert_close(resumed[key], whole[key], rtol=1e-8, atol=1e-8)
    assert all(resumed["seen"][step] == whole["seen"][step] for step in range(13, interrupted.STEPS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"format": 99, "slimgraph": "7.1", "needs": "7.0"},
            r"format 99, written by slimgraph 7.1; this is slimgraph .*, which reads formats 1 to 2. Install slimgraph"
            r" 7.0 or later",
        ),
        ({"format": "two"}, r"entry 'slimgraph' is not LitProblem's"),
        ({"ranks": None}, r"entry 'slimgraph' is not LitProblem's"),
        ({"ranks": []}, r"entry 'slimgraph' is not LitProblem's"),
        ({"ranks": [{}]}, r"entry 'slimgraph' is not LitProblem's"),
    ],
    ids=["newer", "no number", "no ranks", "empty", "empty rank"],
)
def test_a_format_that_is_not_read_is_told(tmp_path, file, change, message):
    content = torch.load(file, weights_only=True)
    assert content["slimgraph"]["format"] == FORMAT == 2
    content["slimgraph"] |= change
    torch.save(content, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", message)


# ---- what cannot be used


def refused(path: Path, message: str, module: LitProblem | None = None, error: type = CheckpointError) -> None:
    """One error from both ways of loading; the file, its folder and the problem are as before, the module fits."""
    folder = {p: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} if path.parent.is_dir() else {}
    module = module or lit()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(error, match=message):
        go_on(module, path)
    with pytest.raises(error, match=message):
        LitProblem.load_from_checkpoint(path, problem=module.problem)
    assert_equal(before, dict(module.state_dict()))
    assert folder == {p: p.read_bytes() for p in folder}
    assert module._resume is None and not module._epoch_rows.batches


class Other(lightning.LightningModule):
    """Another module than LitProblem."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, _):
        return self(batch["t"].float()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def foreign(kind: str, path: Path, file: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "state_dict":
        torch.save(problems.make("augmented").state_dict(), path)
    elif kind == "problem.save":
        problems.make("augmented").save(path)
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "object":
        torch.save({**torch.load(file, weights_only=True), "mine": Path("a")}, path)
    elif kind != "missing":
        whole = file.read_bytes()
        path.write_bytes(
            {"empty": b"", "text": b"epoch 3\n", "half": whole[: len(whole) // 2], "cut": whole[:-1]}[kind]
        )


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("empty", CheckpointError, r"fit.ckpt was cut short, or is none \(.*\); take an older one"),
        ("text", CheckpointError, r"fit.ckpt was cut short, or is none"),
        ("half", CheckpointError, r"fit.ckpt was cut short, or is none"),
        ("cut", CheckpointError, r"fit.ckpt was cut short, or is none"),
        ("folder", MissingFileError, r"fit.ckpt is a folder, not a file"),
        ("missing", MissingFileError, r"no file .*fit.ckpt. Did you mean 'fit_2.ckpt'\?"),
        ("tensor", CheckpointError, r"no lightning.Trainer wrote .*fit.ckpt: it holds a Tensor"),
        (
            "state_dict",
            CheckpointError,
            r"it holds tensors alone, nodes.0.callable.0.U, .*; load_state_dict takes",
        ),
        ("problem.save", CheckpointError, r"no lightning.Trainer wrote .*: problem.save did; problem.load\(path\)"),
        ("object", CheckpointError, r"holds an object of pathlib\..*Path, which weights_only=True refuses"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_and_changes_nothing(tmp_path, file, kind, error, message):
    (tmp_path / "fit_2.ckpt").write_bytes(file.read_bytes())
    foreign(kind, tmp_path / "fit.ckpt", file)
    refused(tmp_path / "fit.ckpt", message, error=error)


def test_a_checkpoint_of_another_module_is_told(tmp_path):
    run = go_on(Other(), None, max_steps=1)
    run.save_checkpoint(tmp_path / "other.ckpt")
    module = lit()
    with pytest.raises(CheckpointError, match=r"that no LitProblem wrote: this one holds layer.weight, layer.bias"):
        go_on(module, tmp_path / "other.ckpt")
    with pytest.raises(OptionError, match=r"no LitProblem wrote .*other.ckpt, .*; pass problem="):
        LitProblem.load_from_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"'layer.weight' is \(1, 1\) float32 in the checkpoint, missing in the"):
        LitProblem.load_from_checkpoint(tmp_path / "other.ckpt", problem=module.problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 7}, r"'problem.nodes.0.callable.1.weight' is \(6, 2\) float64 in the checkpoint, \(7, 2\)"),
        ({"node": "nett"}, r"has node 'net', \(x\) -> \(y\); the problem has no node 'net'. Did you mean 'nett'\?"),
        ({"term": "roof"}, r"the checkpoint has term 'ceiling'"),
        ({"dtype": torch.float32}, r"U' is .* float64 in the checkpoint, .* float32 in the problem"),
    ],
    ids=["shape", "node", "term", "dtype"],
)
def test_a_checkpoint_of_another_problem_says_what_differs(file, change, message):
    module = LitProblem(interrupted.other(**change), "SGD", 0.05)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        go_on(module, file)
    assert_equal(before, dict(module.state_dict()))
    assert module._resume is None and not module._epoch_rows.batches


@pytest.mark.parametrize("change", ["groups", "frozen"])
def test_an_optimiser_of_other_parameters_changes_nothing(file, change: str):
    options = {"groups": {"optimizer_args": {}, "maps_lr": 0.01}, "frozen": {}}[change]
    module = lit(**options)
    if change == "frozen":
        module.problem.nodes[0].callable[0].requires_grad_(False)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    there, here = {"groups": (r"\[5\]", r"\[4, 1\]"), "frozen": (r"\[5\]", r"\[4\]")}[change]
    with pytest.raises(CheckpointError, match=f"optimizer hold {there} parameters, those of this LitProblem {here};"):
        go_on(module, file)
    assert_equal(before, dict(module.state_dict()))
    assert module._resume is None and not module._epoch_rows.batches


def test_what_a_fit_left_is_no_part_of_the_next(tmp_path, file):
    module, new = lit(), lit()
    # Five batches of an epoch that ends with an outer step, and then an epoch of three.
    go_on(module, None, max_steps=13)
    assert len(module._epoch_rows.batches) == 5
    new.load_state_dict(module.state_dict())
    ends = []
    for each in (module, new):
        go_on(each, None, max_epochs=1, max_steps=-1, limit_train_batches=3)
        ends.append(dict(each.state_dict()))
    assert_equal(*ends)


def test_what_a_fit_cannot_go_on_from_is_told(tmp_path, file):
    go_on(lit(), None, max_steps=2).save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(CheckpointError, match=r"holds the weights alone, .*LitProblem.load_from_checkpoint\(path\)"):
        go_on(lit(), tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match=r"the checkpoint's optimizer is 'SGD', that of this LitProblem 'Adam'"):
        go_on(lit(optimizer="Adam"), file)
    loaded = LitProblem.load_from_checkpoint(tmp_path / "weights.ckpt", problem=problems.make("augmented"))
    assert isinstance(loaded, LitProblem)
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        loaded.load_from_checkpoint(file)


# ---- what cannot be written


def test_a_folder_that_cannot_be_written_to_is_told_before_the_fit(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "results").write_text("a file")
    keep = ModelCheckpoint(tmp_path / "results" / "fit")
    with pytest.raises(CheckpointError, match=r"written into .*results/fit: .*results is a file, not a folder"):
        go_on(lit(), None, callbacks=[keep], enable_checkpointing=True)
    # Root may write everywhere, so that this one is told what another user would be.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CheckpointError, match=rf"written into .*locked: {tmp_path} may not be written to"):
        go_on(lit(), None, callbacks=[ModelCheckpoint(tmp_path / "locked")], enable_checkpointing=True)


def test_a_full_disc_ends_the_fit_in_one_sentence_and_leaves_the_last_checkpoint(tmp_path):
    """The same file is written again and again; the disc is full at step 6."""

    class Full(lightning.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 5:
                full.__enter__()

    full = files_of_at_most(2000)
    keep = ModelCheckpoint(tmp_path, filename="fit", every_n_train_steps=3, enable_version_counter=False)
    try:
        with pytest.raises(CheckpointError, match=r"fit.ckpt could not be written: File too large; those written befo"):
            go_on(lit(), None, callbacks=[Full(), keep], enable_checkpointing=True)
    finally:
        full.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.ckpt"]
    whole, resumed = lit(), lit()
    go_on(whole, None)
    go_on(resumed, tmp_path / "fit.ckpt")
    assert_equal(dict(whole.state_dict()), dict(resumed.state_dict()))


def test_a_checkpoint_is_written_beside_its_place(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Lightning's way through the folder for temporary files may end in a copy over the old checkpoint."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    go_on(lit(), None, max_steps=1).save_checkpoint(tmp_path / "new" / "fit.ckpt")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fit.ckpt"]


def test_a_checkpoint_plugin_of_the_user_is_left_alone(tmp_path):
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    class Mine(TorchCheckpointIO):
        pass

    run = go_on(lit(), None, max_steps=1, plugins=[Mine()])
    assert type(run.strategy.checkpoint_io) is Mine


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch: pytest.MonkeyPatch):
    model, fit, load = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "model.py").write_text(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict = {}
    exec(fit + load, names)
    assert_equal(dict(names["fit"].state_dict()), dict(names["again"].state_dict()))
    assert not (tmp_path / "kept" / "on_exception.ckpt").exists()
    monkeypatch.delitem(sys.modules, "model")
