"""Laws of the command line: exit codes, one line per error, what wins over what, and that nothing comes unasked."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cli_problems
import lightning
import numpy as np
import pytest
import torch
from jsonargparse import get_loader

import slimgraph
from slimgraph import drawing
from slimgraph.cli import main
from slimgraph.cli.command import LOOKING, TRAINING
from slimgraph.training import LitDataModule, LitProblem

ROOT = Path(__file__).parents[1]
CONFIG = """
model:
  problem: cli_problems:make
  problem_args: {width: 8, seed: 3}
  lr: 1e-2
data:
  setup_function: cli_problems:data
  setup_args: {n: 24}
  batch_size: 16
trainer:
  max_epochs: 2
  accelerator: cpu
  enable_model_summary: false
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """An empty folder with a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "disabled", True)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture):
    """Runs a command in this process: its exit code, standard output and standard error."""

    def run(line: str) -> tuple[int, str, str]:
        code = main(line.split())
        return code, *capsys.readouterr()

    return run


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": path},
    )


def weights(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- fit, validate, test, predict


def test_a_fit_equals_that_of_a_stock_trainer_and_resumes_exactly(run, folder):
    assert run("fit -c c.yaml --output whole.ckpt --trainer.max_epochs 4")[:2] == (0, "whole.ckpt\n")
    lightning.seed_everything(0, verbose=False)
    module = LitProblem("cli_problems:make", "Adam", 1e-2, problem_args={"width": 8, "seed": 3})
    trainer = lightning.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, LitDataModule(setup_function=cli_problems.data, setup_args={"n": 24}, batch_size=16))
    assert_same(weights("whole.ckpt"), module.state_dict())
    assert run("fit -c c.yaml --output half.ckpt")[0] == 0
    assert run("fit -c c.yaml --ckpt_path half.ckpt --output resumed.ckpt --trainer.max_epochs 4")[0] == 0
    assert_same(weights("whole.ckpt"), weights("resumed.ckpt"))
    assert sorted(path.name for path in folder.iterdir()) == ["c.yaml", "half.ckpt", "resumed.ckpt", "whole.ckpt"]


def test_nothing_is_written_that_was_not_asked_for_and_a_fit_says_so(run, folder):
    code, out, err = run("fit -c c.yaml")
    assert (code, out) == (0, "") and "nothing will keep what this fit learns" in err
    assert "2/2" in err and "val_loss" in err  # the bar, at its end
    for command in ("validate", "test", "predict"):
        assert run(f"{command} -c c.yaml")[0] == 0
    assert [path.name for path in folder.iterdir()] == ["c.yaml"]


def test_what_is_asked_for_is_written(run, folder):
    logger = "--trainer.logger CSVLogger --trainer.logger.save_dir logs"
    code, _, err = run(f"fit -c c.yaml {logger} --trainer.callbacks+=ModelCheckpoint --trainer.callbacks.dirpath=kept")
    assert code == 0 and "nothing will keep" not in err
    assert len(list((folder / "kept").glob("*.ckpt"))) == 1
    (config,) = folder.glob("logs/**/config.yaml")
    assert get_loader("yaml")(config.read_text())["model"]["problem_args"] == {"width": 8, "seed": 3}


def test_validate_and_test_give_the_losses_of_the_checkpoint(run):
    run("fit -c c.yaml --output a.ckpt")
    problem = cli_problems.make(8)
    problem.load_state_dict({key.removeprefix("problem."): value for key, value in weights("a.ckpt").items()})
    loss = problem(cli_problems.data(24)["test"])["loss"].item()
    for command in ("validate", "test"):
        code, out, _ = run(f"{command} -c c.yaml --ckpt_path a.ckpt")
        (row,) = (row for row in out.splitlines() if f" {command[: 3 if command == 'validate' else 4]}_loss " in row)
        assert code == 0 and float(row.split("│")[2]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("file", ["p.npz", "p.pt"])
def test_predictions_are_those_of_the_problem(run, file):
    code, out, _ = run(f"predict -c c.yaml --output {file}")
    assert (code, out) == (0, f"24 samples of x (1,), t (1,), y (1,), in {file}\n")
    expected = cli_problems.make(8, 3).predict(cli_problems.data(24)["predict"])
    found = np.load(file) if file.endswith("npz") else torch.load(file)
    assert set(found) == {"x", "t", "y"}
    for key in found:
        torch.testing.assert_close(torch.as_tensor(found[key]), expected[key])
    assert run("predict -c c.yaml")[1] == "24 samples of x (1,), t (1,), y (1,)\n"


def test_the_command_line_wins_over_the_file_and_print_config_can_be_given_back(run, folder):
    options = "--model.lr 0.5 --trainer.max_epochs=3 --data.batch_size 7 --model.problem_args.width=5"
    code, out, _ = run(f"fit -c c.yaml {options} --print_config")
    config = get_loader("yaml")(out)
    assert code == 0 and (config["model"]["lr"], config["trainer"]["max_epochs"], config["data"]["batch_size"]) == (
        0.5,
        3,
        7,
    )
    assert config["seed_everything"] == 0
    assert config["model"]["problem_args"] == {"width": 5, "seed": 3}  # what the file says beside it stays
    assert config["data"]["setup_function"] == "cli_problems:data" and config["trainer"]["logger"] is False
    (folder / "back.yaml").write_text(out)
    assert run("fit -c back.yaml --print_config")[1] == out
    assert run(f"fit -c c.yaml {options} --output a.ckpt")[0] == run("fit -c back.yaml --output b.ckpt")[0] == 0
    assert_same(weights("a.ckpt"), weights("b.ckpt"))


def test_the_checkpoint_fills_in_what_the_configuration_leaves_open(run, folder):
    run("fit -c c.yaml --output a.ckpt")
    line = "--model.problem cli_problems:make --data.setup_function cli_problems:data --trainer.accelerator cpu"
    code, _, err = run(f"test {line} --ckpt_path a.ckpt")
    assert code == 0 and "a.ckpt was made with" not in err
    code, _, err = run(f"test {line} --model.problem_args.width 5 --ckpt_path a.ckpt")
    assert code == 1 and "was made with model.problem_args {'width': 8, 'seed': 3}, this run has {'width': 5}" in err
    assert "(8, 1) float32 in the checkpoint, (5, 1) float32 in the problem" in err and "Traceback" not in err


# ---- errors


WRONG = {
    "fitt": (2, "slimgraph has no command 'fitt'. Did you mean 'fit'?"),
    "fit": (2, "fit needs model.problem; give it in the file of -c, or as --model.problem"),
    "fit --model.problem cli_problems:make": (2, "fit needs data.setup_function"),
    "fit -c c.yaml --model.lrr 0.1": (2, "there is no option '--model.lrr'. Did you mean '--model.lr'?"),
    "fit -c c.yaml --trainer.max_epoch 1": (2, "Did you mean '--trainer.max_epochs'?"),
    "fit -c c.yaml --model.lr fast": (2, "model.lr needs a number or null, got 'fast'"),
    "fit -c c.yaml --model.optimizer Adm": (2, "torch.optim has no Optimizer 'Adm'. Did you mean 'Adam'?"),
    "fit -c c.yaml --trainer.callbacks+=BestWeight": (2, "there is no class 'BestWeight'. Did you mean 'BestWeights'?"),
    "fit -c c.yaml --trainer.callbacks+=BestWeights --trainer.callbacks.monitr=a": (
        2,
        "BestWeights has no option 'monitr'. ",
    ),
    "fit -c c.yaml --model.problem_args.widht 3": (2, "make has no argument 'widht'. Did you mean 'width'?"),
    "fit -c c.yaml --model.problem cli_problems:mke": (2, "cli_problems has no 'mke'. Did you mean 'make'?"),
    "fit -c c.yaml --model.problem nowhere:make": (2, "no module named 'nowhere'; is its folder on the Python path?"),
    "fit -c c.yaml --model.problem cli_problems:broken --model.problem_args null": (
        1,
        "ZeroDivisionError: nothing to divide by\n  in broken, cli_problems.py line ",
    ),
    "fit -c c.yaml --output a.pt": (2, "--output 'a.pt': the ending is .ckpt"),
    "predict -c c.yaml --output no/p.npz": (2, "--output 'no/p.npz': there is no folder 'no'"),
    "fit -c c.yaml --ckpt_path no.ckpt": (2, "ckpt_path: there is no checkpoint 'no.ckpt'"),
    "fit -c no.yaml": (2, "File does not exist"),
    "check": (2, "check needs module:function, or -c FILE with model.problem"),
    "check -c no.yaml": (2, "there is no file 'no.yaml'"),
    "check cli_problems:make --dta x": (2, "there is no option '--dta'. Did you mean '--data'?"),
    "check cli_problems:make --args width": (
        2,
        "arguments are key=value or a JSON object like {\"key\": 1}, got 'width'",
    ),
    "check cli_problems:make --args widht=1": (2, "make has no argument 'widht'. Did you mean 'width'?"),
    "check cli_problems:data": (1, "'cli_problems:data' gave a dict; check takes a Problem"),
    "check cli_problems:make --args key=xx --data cli_problems:data": (
        1,
        "node 'net' reads 'xx', the data holds ['t', 'x']",
    ),
    "draw cli_problems:make -o a.sgv": (2, "Did you mean '.svg'?"),
    "draw cli_problems.py:make": (2, "no module named 'cli_problems.py'; write 'cli_problems:make'"),
    "fit c.yaml": (2, "'c.yaml' stands alone; a configuration file is given as -c c.yaml"),
    "test -c c.yaml --ckpt_path c.yaml": (1, "the checkpoint c.yaml was cut short, or is none (torch cannot read it)"),
    "draw cli_problems:make -o a.svg --format dot": (2, "with -o the ending of the file is the format"),
    "draw cli_problems:problem --args width=1": (2, "is a Problem and takes no arguments, got width"),
    "diff cli_problems:make cli_problems:mke": (2, "Did you mean 'make'?"),
    "draw cli_problems:ended": (1, "the user's own words"),
}


@pytest.mark.parametrize("line", WRONG)
def test_an_error_is_told_by_name_without_a_traceback(run, line):
    code, out, err = run(line)
    assert (code, out) == (WRONG[line][0], "")
    told = err[err.index("slimgraph: error: ") :]
    assert WRONG[line][1] in told and "Traceback" not in err


def test_debug_anywhere_shows_the_traceback(run):
    for line in ("--debug draw cli_problems:broken", "draw cli_problems:broken --debug"):
        code, _, err = run(line)
        assert code == 1 and "Traceback (most recent call last)" in err and "in broken" in err


def test_notes_are_told_with_their_error(run):
    code, _, err = run("check cli_problems:make --data cli_problems:wide")
    assert code == 1 and "Traceback" not in err
    assert "\n  in node 'net', " in err


def test_advice_is_a_line_of_its_own(run):
    told = run("fit -c c.yaml --output a.ckpt")[2].splitlines()
    assert [line for line in told if "Advice" in line or "main()" in line] == []
    assert any(line.startswith("slimgraph: advice: no sample of epochs 0 to 1 violated ") for line in told)


def test_an_interrupt_is_130(run):
    assert run("draw cli_problems:interrupted")[0] == 130
    options = "--data.setup_function cli_problems:interrupted --data.setup_args null --output a.ckpt"
    code, _, err = run(f"fit -c c.yaml {options}")
    assert code == 130 and "slimgraph: the fit was stopped; a.ckpt was not written\n" in err


# ---- check, draw, diff


@pytest.mark.parametrize("data", ["data", "batch", "four"])
def test_check_prints_what_the_problem_says(run, data):
    samples = cli_problems.batch()
    found = run(f"check cli_problems:make --args width=8 --data cli_problems:{data} --data-args n=32")
    assert found == (0, f"{cli_problems.make(8).check(samples)}\n", "")


def test_check_reads_a_configuration_and_takes_arguments_over_it(run):
    found = {width: cli_problems.make(width).check(cli_problems.data(24)["train"]) for width in (8, 5)}
    assert run("check -c c.yaml") == (0, f"{found[8]}\n", "")
    assert run("check -c c.yaml --args width=5") == (0, f"{found[5]}\n", "")
    code, out, _ = run("check cli_problems:problem")
    assert code == 0 and out.startswith(str(cli_problems.problem)) and "only the wiring was checked" in out


def test_draw_is_the_drawing_room(run, folder):
    for thing, line in ((cli_problems.make(), "make"), (cli_problems.problem, "problem")):
        assert run(f"draw cli_problems:{line}") == (0, drawing.draw(thing).dot, "")
    assert run("draw cli_problems:make --format mermaid")[1] == drawing.draw(cli_problems.make()).mermaid
    assert run("draw cli_problems:make -o a.dot")[:2] == (0, "a.dot\n")
    assert (folder / "a.dot").read_text() == drawing.draw(cli_problems.make()).dot


def test_draw_hands_on_the_options_that_were_given_and_no_others(run, monkeypatch):
    seen = {}
    monkeypatch.setattr(drawing, "draw", lambda x, path, **options: seen.update(options, path=path))
    run("draw cli_problems:make -o a.svg --depth 1 --only fit y --collapse a b --unroll 3 --inside")
    told = {"depth": 1, "only": ["fit", "y"], "collapse": ["a", "b"], "unroll": 3, "inside": True}
    assert seen == {"path": "a.svg", **told}
    run("draw cli_problems:make --inside net")
    assert seen["inside"] == ["net"]
    seen.clear()
    run("draw cli_problems:make -o a.svg")
    assert seen == {"path": "a.svg"}


def test_diff_says_by_its_exit_code_whether_they_differ(run, monkeypatch):
    class Difference:
        def __init__(self, a, b):
            self.widths = [p.nodes[0].callable[0].out_features for p in (a, b)]

        def __bool__(self):
            return self.widths[0] != self.widths[1]

        def __str__(self):
            return f"widths {self.widths}"

        def save(self, path):
            Path(path).write_text(str(self))

    monkeypatch.setattr(drawing, "diff", Difference, raising=False)
    assert run("diff cli_problems:make cli_problems:problem") == (0, "widths [4, 4]\n", "")
    assert run("diff cli_problems:make cli_problems:make --args-b width=7 -o d.txt") == (1, "widths [4, 7]\n", "")
    assert Path("d.txt").read_text() == "widths [4, 7]"
    assert run("diff cli_problems:make cli_problems:broken")[0] == 2


# ---- as a program


def test_without_training_lightning_is_not_opened():
    code = """if True:
        import sys
        from slimgraph.cli import main
        codes = [main(["check", "cli_problems:make", "--data", "cli_problems:data"])]
        codes += [main(line.split()) for line in ("draw cli_problems:make", "--help", "--version", "check --help", "")]
        assert codes == [0] * 6, codes
        assert "cli_problems" in sys.modules
        assert {"lightning", "pytorch_lightning", "jsonargparse"}.isdisjoint(sys.modules)
    """
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    assert f"slimgraph {slimgraph.__version__}\n" in done.stdout and "exit codes: 0 done" in done.stdout


def test_the_program_finds_modules_of_the_folder_and_ends_with_the_code(folder):
    (folder / "only_here.py").write_text("from cli_problems import make")
    done = process("-m", "slimgraph", "check", "only_here:mkae")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "slimgraph: error: 'only_here:mkae': only_here has no 'mkae'. Did you mean 'make'?\n"
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["slimgraph"]
    module, _, name = script.partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_two_ranks_fit_as_one(run):
    options = "--trainer.devices 2 --trainer.strategy ddp_fork --data.batch_size 8 --output two.ckpt"
    assert run(f"fit -c c.yaml {options}")[0] == run("fit -c c.yaml --output one.ckpt")[0] == 0
    one, two = weights("one.ckpt"), weights("two.ckpt")
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)


def test_the_configuration_of_the_house_runs(run, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    config = f"-c {ROOT / 'examples' / 'twin_house.yaml'}"
    assert "all reached by the loss" in run(f"check {config}")[1]
    assert run(f"fit {config} --trainer.max_epochs 1 --output house.ckpt")[0] == 0
    code, out, _ = run(f"predict {config} --ckpt_path house.ckpt")
    assert code == 0 and out.startswith("1 samples of past (600,), ")


def test_the_page_shows_the_configuration_as_it_is_and_every_command():
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert (ROOT / "examples" / "twin_house.yaml").read_text() in page
    for command in [*TRAINING, *LOOKING]:
        assert f"slimgraph {command} " in page or f"`{command}`" in page
