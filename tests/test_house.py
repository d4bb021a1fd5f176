"""The house around the package: what importing it opens and costs, what it offers, and the two commands."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import slimgraph

ROOT = Path(__file__).parent.parent
SCRIPTS = ["scripts/bench", "scripts/check", "scripts/demo", "scripts/docs", "scripts/test", ".ci/run"]


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def project_files() -> list[Path]:
    """The files that git tracks or would track; a source tree without git has no such list."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).is_file()]


# --- importing it -----------------------------------------------------------------------------------------------


def test_import_opens_no_heavy_room():
    # Beyond what torch opens by itself: its torch.fx imports pydot where there is one.
    added = "import torch, sys; before = set(sys.modules); import slimgraph; print(*set(sys.modules) - before)"
    opened = run_python(added).split()
    heavy = {"lightning", "pytorch_lightning", "pydot", "matplotlib", "slimgraph.training", "slimgraph.drawing"}
    assert "slimgraph.problem" in opened
    assert heavy.isdisjoint(opened)


def test_import_costs_at_most_a_quarter_more_than_torch():
    # Processor time, both in one process; the least of several runs is the one that other work disturbed least.
    clocked = """if True:
        import time
        start = time.process_time()
        import torch
        between = time.process_time()
        import slimgraph
        print(between - start, time.process_time() - between)
    """
    run_python(clocked)  # the first import compiles the files
    runs = [[float(number) for number in run_python(clocked).split()] for _ in range(4)]
    torch_alone, slimgraph_more = map(min, zip(*runs, strict=True))
    assert slimgraph_more <= 0.25 * torch_alone


# --- what it offers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slimgraph.__all__)
def test_every_public_name_exists_and_says_what_it_is(name):
    thing = getattr(slimgraph, name)
    if name != "__version__":
        assert inspect.getdoc(thing)


def test_every_public_name_is_listed_once():
    offered = {name for name, thing in vars(slimgraph).items() if not name.startswith("_") and not is_room(thing)}
    assert len(slimgraph.__all__) == len(set(slimgraph.__all__))
    assert offered - {"annotations"} == set(slimgraph.__all__) - {"__version__", "slim"}


def is_room(thing) -> bool:
    return inspect.ismodule(thing) and thing.__name__.startswith("slimgraph.")


def test_public_names_keep_their_place_in_pickles():
    """A class pickles by its module's path, so the room that defines a name must offer it under that name."""
    for thing in (getattr(slimgraph, name) for name in slimgraph.__all__):
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert getattr(importlib.import_module(thing.__module__), thing.__name__) is thing


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["tool"]["hatch"]["version"]["path"] == "slimgraph/__init__.py"
    assert newest is not None
    assert newest[1] == slimgraph.__version__


def test_wheel_carries_types_licence_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    information = f"slimgraph-{slimgraph.__version__}.dist-info"
    assert {"slimgraph/py.typed", f"{information}/licenses/LICENSE"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"slimgraph", information}


# --- the commands and the files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_can_be_run(script):
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


def test_ci_runs_the_two_scripts_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"
    assert commands[1].startswith("cd ")
    assert commands[2:] == ["scripts/check", "scripts/test"]


def test_no_file_knows_the_machine_it_was_written_on():
    # A folder at the start of a path, not one in the middle of an address.
    machine = re.compile(r"(?<![\w.:/-])/(?:home|root|opt|work|Users|mnt)/[\w.]")
    found = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in machine.finditer(text)]
    assert found == []


# --- what the front page says -----------------------------------------------------------------------------------


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "policy.svg").stat().st_size > 2000
    assert "track: mean(sum((u - p)^2, dim=-1))" in done.stdout and "constraint_2: 10 * (u >= -0.8)" in done.stdout


def test_every_link_of_the_documents_leads_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_training_and_drawing_open_when_they_are_asked_for():
    assert run_python("import slimgraph; print(slimgraph.drawing.draw.__name__)") == "draw\n"
    with pytest.raises(AttributeError, match="module 'slimgraph' has no attribute 'trainer'"):
        _ = slimgraph.trainer
