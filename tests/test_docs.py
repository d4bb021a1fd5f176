"""The pages of docs: the table of maps is the registry's own, the lines of code run and print what the pages show."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from slimgraph import blocks, integrators, slim
from tests.helpers import keys

DOCS = Path(__file__).parent.parent / "docs"


def generator():
    """docs/make_maps.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_maps", DOCS / "make_maps.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_table_of_maps_is_what_the_registry_says():
    made = generator()
    costs = json.loads(made.COSTS.read_text())
    assert made.PAGE.read_text() == made.page(costs), "docs/maps.md is stale: run scripts/docs page"


@pytest.mark.parametrize("key", keys())
def test_every_map_has_a_row_with_figures_and_a_picture(key: str):
    made = generator()
    picture = made.PICTURES / f"{key}.svg"
    assert 2_000 < picture.stat().st_size < 30_000
    assert made.PAGE.read_text().count(f"\n| `{key}`") == 1
    assert set(json.loads(made.COSTS.read_text())["maps"][key]) == {"W", "step"}


def lines_of_code() -> list[str]:
    """The code in the last cell of each row of docs/which-map.md."""
    return re.findall(r"^\|.*\| `([^`]+)` \|$", (DOCS / "which-map.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", lines_of_code())
def test_every_line_of_the_page_of_needs_makes_a_map_that_keeps_its_promise(line: str):
    made = eval(line, {"slim": slim, "n": 8, "m": 6, "W": torch.randn(8, 8)})
    assert isinstance(made, slim.LinearBase)
    assert made(torch.ones(2, made.in_features)).shape == (2, made.out_features)
    assert made.contains(made.effective_W())


def test_the_page_of_needs_names_every_map():
    page = (DOCS / "which-map.md").read_text()
    named = set(re.findall(r"^\|[^|]*\| (\w+) \|", page, re.MULTILINE))
    assert set(keys()) <= named
    assert len(lines_of_code()) > 40


def test_the_code_of_the_table_of_maps_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "maps.md").read_text(), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "('OrthogonalLinear',)\n('SpectralLinear',)\nFalse\n"


def test_the_code_of_the_page_of_blocks_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "blocks.md").read_text(), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "(5, 21, 2) True\n"


def test_the_page_of_blocks_has_a_row_for_each_block_and_integrator():
    rows = re.findall(r"^\| `(\w+)", (DOCS / "blocks.md").read_text(), re.MULTILINE)
    offered = {*blocks.__all__, *integrators.__all__} - {"Block", "Integrator"}
    assert set(rows) == offered and len(rows) == len(offered)


def test_the_code_of_the_page_on_infeasibility_prints_what_it_shows(capsys):
    page = (DOCS / "infeasibility.md").read_text()
    (code, shown) = re.search(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", page, re.DOTALL).groups()
    exec(code, {})
    assert capsys.readouterr().out.split("\n") == [line[4:] for line in shown.split("\n")]


@pytest.mark.parametrize("name", ["graphs.md", "losses.md", "modules.md"])
def test_the_page_says_what_happens(name):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    page = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, None, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(page, out=told.append)
    assert len(page.examples) > 10 and not told, "".join(told)


def test_the_code_of_the_page_on_deployment_runs(capsys):
    blocks = re.findall(r"```(python)?\n(.*?)```", (DOCS / "deployment.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    for (kind, code), (_, printed) in zip(blocks, blocks[1:], strict=False):
        if kind:
            exec(code, names)
            assert capsys.readouterr().out == printed


def test_the_page_on_check_prints_what_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, names = (DOCS / "check.md").read_text(), {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert capsys.readouterr().out == "".join(re.findall(r"```text\n(.*?)```", page, re.DOTALL))


def test_the_script_of_the_page_on_scaling_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "scaling.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(code, names)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = names["main"](accelerator="cpu", devices=1, **quiet)
    assert run.global_step == 40 and run.callback_metrics["val_loss"] < 0.9
    assert not list(tmp_path.iterdir())


def test_the_lines_that_train_on_the_page_for_neuromancers_users_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, names = (DOCS / "from-neuromancer.md").read_text(), {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    assert (tmp_path / "problem.svg").stat().st_size > 1000
    assert names["out"]["u"].shape == (10, 1) and names["out"]["fit"].item() < 0.02
    assert "policy" in capsys.readouterr().out
