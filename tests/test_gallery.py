"""The gallery holds every example, and its pictures are those of the examples; the code of docs/plots.md runs."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path

import pytest

from slimgraph.drawing import to_dot

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def made():
    """docs/make_gallery.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_in_the_gallery_and_the_page_is_what_the_script_makes(made):
    scripts = {path.stem for path in made.EXAMPLES.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    assert set(made.MAKERS) == scripts, "docs/make_gallery.py says how the problem of each example is made"
    assert made.PAGE.read_text() == made.page(), "docs/gallery.md is stale: run scripts/docs gallery"
    assert {path.stem for path in made.PICTURES.iterdir()} == scripts


def written(dot: str) -> list[str]:
    """The words of every label of nodes, edges and boxes."""
    labels = re.findall(r'\blabel="((?:[^"\\]|\\.)*)"', dot)
    return [word for label in labels for word in html.unescape(re.sub(r"\\[nl]", " ", label)).split()]


def test_the_pictures_are_those_of_the_examples(made):
    for name, thing in made.things().items():
        svg = (made.PICTURES / f"{name}.svg").read_text()
        shown = [html.unescape(text).replace("\u00a0", " ") for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
        words = [word for text in shown for word in text.split()]
        assert sorted(words) == sorted(written(to_dot(thing))), f"{name}.svg is stale: run scripts/docs gallery"


def test_the_code_of_the_page_on_plots_draws_its_pictures_and_prints_what_it_shows(made, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    made.run_plots(tmp_path)
    (shown,) = re.findall(r"```text\n(.*?)```", (DOCS / "plots.md").read_text(), re.DOTALL)
    assert capsys.readouterr().out == shown
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert pictures == {path.name for path in made.PLOTS.iterdir()}
    assert pictures == set(re.findall(r"pictures/plots/(\S+)\)", (DOCS / "plots.md").read_text()))
