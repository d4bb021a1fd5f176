"""Writes docs/gallery.md, the diagram of every example, made from the examples themselves: `scripts/docs gallery`.

It draws the pictures of docs/plots.md too, by running the code of that page.
"""

import contextlib
import importlib
import re
import sys
import tempfile
from pathlib import Path

import torch

from slimgraph.drawing import draw

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
PAGE, PICTURES, PLOTS = DOCS / "gallery.md", DOCS / "pictures" / "gallery", DOCS / "pictures" / "plots"

HEAD = """# Gallery

<!-- made by scripts/docs gallery from the examples; change these or docs/make_gallery.py instead -->

The diagram of every example, as `problem.draw("problem.svg")` gives it right after `pip install`. Data are white, nodes
blue, objectives green, constraints orange with square corners; what is dashed leads back in time; a box is a `System`,
rolled out over its steps. How to draw one, and the charts of numbers beside it: [plots.md](plots.md).
"""


def things() -> dict[str, object]:
    """What each example is about, by the name of its script: its problem, or its map where it has none."""
    # The examples stand beside each other and not in a package.
    sys.path.insert(0, str(EXAMPLES))
    try:
        return {name: make(importlib.import_module(name)) for name, make in MAKERS.items()}
    finally:
        sys.path.remove(str(EXAMPLES))


def memory(example):
    """The problem of copying memory."""
    recipe, train, *_ = example.make("copying", quick=True)
    return example.make_problem(train, recipe)


MAKERS = {
    "twin_house": lambda example: example.make_problem("pf"),
    "cascaded_tanks": lambda example: example.make_problem(),
    "two_tank_control": lambda example: example.make_problem(
        example.MLP_bounds(4, 2, hsizes=[32, 32], min=0.0, max=1.0)
    ),
    "parametric_nlp": lambda example: example.make_problem("rosenbrock"),
    "neural_ode": lambda example: example.make_problem(example.MLP(2, 2, hsizes=[48, 48])),
    "burgers_pinn": lambda example: example.problems(example.MLP(2, 1, nonlin=torch.nn.Tanh, hsizes=[32] * 4))[0],
    "long_memory": memory,
    "rate_network": lambda example: example.make_problem(example.network()),
    "butterfly_transforms": lambda example: example.slim.ButterflyLinear(64, 64, complex=True),
}


def caption(name: str) -> str:
    """The first sentence of an example, and where more is said."""
    text = (EXAMPLES / f"{name}.py").read_text().partition('"""')[2].partition("\n")[0]
    page = DOCS / f"{name.removesuffix('_pinn').replace('_', '-')}.md"
    more = f" [More]({page.name})." if page.exists() else ""
    return f"{text} Script: [examples/{name}.py](../examples/{name}.py).{more}"


def page() -> str:
    """docs/gallery.md."""
    sections = (
        f"\n## {name.replace('_', ' ')}\n\n{caption(name)}\n\n![{name}](pictures/gallery/{name}.svg)\n"
        for name in MAKERS
    )
    return HEAD + "".join(sections)


def run_plots(folder: Path) -> None:
    """Run the code of docs/plots.md in `folder`, where its pictures then are."""
    code = re.findall(r"```python\n(.*?)```", (DOCS / "plots.md").read_text(), re.DOTALL)
    with contextlib.chdir(folder):
        exec("\n".join(code), {})


def main() -> None:
    """Draw every example and write the page."""
    torch.set_num_threads(1)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, thing in things().items():
        draw(thing, PICTURES / f"{name}.svg")
    PAGE.write_text(page())
    PLOTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run_plots(Path(folder))
        for picture in Path(folder).glob("*.svg"):
            (PLOTS / picture.name).write_bytes(picture.read_bytes())


if __name__ == "__main__":
    main()
