"""Writes docs/maps.md, the table of maps, with its figures and pictures: `scripts/docs [measure] [draw] [page]`.

Without a word it does everything; the page is always written, `scripts/docs page` writes it alone, from the figures in
docs/maps.json.
"""

import inspect
import json
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from slimgraph import slim
from slimgraph.drawing import style
from slimgraph.drawing.charts.figure import chart_style, finished, new_figure
from slimgraph.drawing.charts.spectrum import draw_plane
from slimgraph.slim.linear.promises import PROMISES, Rule
from slimgraph.slim.linear.regions import spectral_region

DOCS = Path(__file__).parent
PAGE, COSTS, PICTURES = DOCS / "maps.md", DOCS / "maps.json", DOCS / "pictures" / "maps"
NEEDS = DOCS / "which-map.md"
SIZE, COST_SIZE, DRAWN_SIZE, STEPS = 64, 256, 24, 400

HEAD = f"""# The structured linear maps

<!-- made by scripts/docs from the registry; change the docstrings or docs/make_maps.py instead -->

A map is a trainable linear map `forward(x) = x @ effective_W() + bias` whose matrix W, `(insize, outsize)`, keeps a
structure while it is trained. Its promise stands in code, `contains(W)`, and the tests hold every map below to it: new,
after training at a large learning rate, in float32 and float64. Choose by class, `slim.OrthogonalLinear(4, 4)`, or by
key, `slim.maps["orthogonal"](4, 4)`; constructors begin `(insize, outsize, bias=False)` where the table says nothing
else. Which map for which need: [which-map.md](which-map.md), whose headings these are; a map stands under the first one
that names it.

- **parameters**: their number at {SIZE} x {SIZE}, without bias; a free matrix has {SIZE**2:,}.
- **from_dense**: whether `from_dense(W)` gives the map of a given matrix, or else the nearest one that the class
  documents. Its `distance(W)` says how near.
- **W**, **step**: the time to build W, and that of forward and backward of a batch of {COST_SIZE}, both at
  n = {COST_SIZE} and over the same of a plain matrix product; process time on one thread, by `scripts/docs measure`
  (torch {{torch}}).
- **eigenvalues**: of a {DRAWN_SIZE} x {DRAWN_SIZE} map new (blue circles) and after {STEPS} steps of Adam (orange dots)
  towards one random matrix, the same for all maps; `linear` shows where that one has its own. Green is where the
  promise wants them; the thin circle has radius 1.
"""

TABLE = """
## {heading}

| map | W and its promise | sizes | parameters | from_dense | W | step | eigenvalues |
|---|---|---|---|---|---|---|---|
"""

TAIL = """
## Compositions

`a @ b` goes through a and then through b, `a + b` is the sum, `slim.BlockDiagonal([a, b])` stands both side by side.
Each is a map with the whole interface and has every parameter once, in `a @ a` too. It claims what follows for sure
from the promises of its parts, named in `promises`, and `contains` checks that and nothing else:

```python
import torch

from slimgraph import slim

q, s = slim.OrthogonalLinear(3, 3), slim.SpectralLinear(3, 5, sigma_max=2.0)
print((q @ q).promises)  # ('OrthogonalLinear',)
print((q @ s).promises)  # ('SpectralLinear',): the singular values stay within the bounds of s
print((q @ q).contains(2 * torch.eye(3)))  # False
```

What is left of a promise when all parts keep it, be it as members of that class or of one that means it (an
orthogonal matrix is a spectral one with both bounds 1, a stochastic one is non-negative); an empty cell is nothing:

| promise | in a product | in a sum | in a block-diagonal |
|---|---|---|---|
"""


def keys() -> dict[str, list[str]]:
    """The keys of each class, its aliases after the first."""
    found: dict[type, list[str]] = {}
    for key, cls in slim.maps.items():
        found.setdefault(cls, []).append(key)
    return {names[0]: names for names in found.values()}


def families() -> dict[str, list[str]]:
    """The keys under each heading of docs/which-map.md, each where it is named first."""
    left, found = set(keys()), {}
    for section in NEEDS.read_text().split("\n## ")[1:]:
        named = dict.fromkeys(re.findall(r"^\|[^|]*\| (\w+) \|", section, re.MULTILINE))
        found[section.splitlines()[0]] = [key for key in named if key in left]
        left -= set(named)
    # A map that is younger than that page waits here for its line.
    found["Others"] = sorted(left)
    return {heading: members for heading, members in found.items() if members}


# The page


def signature(key: str) -> str:
    """The class with its options, as one would write them."""
    cls, shown, star = slim.maps[key], [], False
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        default = parameter.default
        if name in ("self", "insize", "outsize") or (name == "bias" and default is False):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown, star = [*shown, "*"], True
        shown.append(name if default is parameter.empty else f"{name}={short(default)}")
    return f"{cls.__name__}({', '.join(shown)})" if shown else cls.__name__


def short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and value != round(value, 4) else repr(value)


def sizes(key: str) -> str:
    cls = slim.maps[key]
    words = ["square" if cls in slim.square_maps else "insize <= outsize" if cls in slim.tall_maps else "any"]
    return ", ".join(words + ["even"] * (cls in slim.even_maps))


def parameters(key: str) -> int:
    return sum(p.numel() for p in slim.maps[key](SIZE, SIZE, bias=False).parameters())


def code(text: str) -> str:
    """Text as code inside a table."""
    return "`" + text.replace("|", "\\|") + "`"


def row(names: list[str], cost: dict[str, float]) -> str:
    key, cls = names[0], slim.maps[names[0]]
    formula, _, promise = (inspect.getdoc(cls) or "").splitlines()[0].partition(": ")
    aliases = "".join(f", {code(alias)}" for alias in names[1:])
    cells = [
        f"{code(key)}{aliases}<br>{code(signature(key))}",
        f"{code(formula)}<br>" + promise.replace("|", "\\|"),
        sizes(key),
        f"{parameters(key):,}",
        "no" if cls._set_dense is slim.LinearBase._set_dense else "yes",
        *(ratio(cost.get(word)) for word in ("W", "step")),
        f'<img src="pictures/maps/{key}.svg" width="190" alt="eigenvalues of {cls.__name__}">',
    ]
    return f"| {' | '.join(cells)} |\n"


def ratio(value: float | None) -> str:
    # A map that is younger than the figures waits for `scripts/docs measure`.
    if value is None:
        return "-"
    return "0" if value < 0.01 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def rule(chosen: Rule | None) -> str:
    if chosen is None:
        return ""
    words = (chosen.__doc__ or "").strip().rstrip(".")
    return "kept" if chosen.__name__ == "kept" else words[0].lower() + words[1:]


def page(costs: dict) -> str:
    """docs/maps.md, from the registry and the measured costs."""
    names = keys()
    tables = "".join(
        TABLE.format(heading=heading) + "".join(row(names[key], costs["maps"].get(key, {})) for key in members)
        for heading, members in families().items()
    )
    kept = "".join(
        f"| {slim.maps[key].__name__} | {rule(p.product)} | {rule(p.sum)} | {rule(p.blocks)} |\n"
        for key, p in PROMISES.items()
        if key in slim.maps and (p.product or p.sum or p.blocks)
    )
    return HEAD.format(torch=costs["torch"]) + tables + TAIL + kept


# The figures


def measure() -> dict:
    """The cost of W and of a training step over those of a plain product, each ratio from one run."""
    from benchmarks import measure as bench
    from benchmarks.maps import dense, forward_and_backward

    n = COST_SIZE
    found = {}
    for key in keys():
        made = slim.maps[key](n, n, bias=False)
        x, M = torch.randn(n, n), torch.randn(n, n, requires_grad=True)
        build = bench.Row(f"{key}: W", 0.0, lambda made=made, x=x, M=M: (made.effective_W, lambda: x @ M))
        step = bench.Row(f"{key}: step", 0.0, lambda made=made: (forward_and_backward(made, n, n), dense(n, n)))
        found[key] = {word: float(f"{bench.measure(one).ratio:.3g}") for word, one in (("W", build), ("step", step))}
        print(f"{key:22} W {found[key]['W']:8.3g}   step {found[key]['step']:8.3g}", flush=True)
    return {"torch": torch.__version__.split("+")[0], "maps": found}


# The pictures


def fitted(key: str) -> tuple[Tensor, Tensor]:
    """The eigenvalues of a new map, and of the same after it was fitted to one random matrix."""
    torch.manual_seed(0)
    n = DRAWN_SIZE
    target = 1.3 * torch.randn(n, n) / n**0.5
    made = slim.maps[key](n, n)
    start = made.eval().eig(eigenvectors=False).detach()
    trained = [p for p in made.train().parameters() if p.numel()]
    if trained:
        optimizer = torch.optim.Adam(trained, lr=0.03)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = (made.effective_W() - target).square().sum() + 30 * made.reg_error() * (key in PENALISED)
            loss.backward()
            optimizer.step()
            slim.project_(made)
    return start, made.eval().eig(eigenvectors=False).detach()


# Maps that keep their promise by the penalty; the sparse ones have a penalty that is no promise.
PENALISED = {"softSVD", "learnSVD", "symmetric_SVD", "bounded_Lp_norm", "Power_bound"}


def draw(key: str) -> None:
    """docs/pictures/maps/<key>.svg."""
    start, trained = fitted(key)
    limit = 1.12 * max(1.1, float(torch.cat([start, trained]).abs().max()))
    with chart_style("scripts/docs"):
        figure = new_figure(2.2, 2.2)
        axes = figure.subplots()
        draw_plane(axes, spectral_region(slim.maps[key](DRAWN_SIZE, DRAWN_SIZE)), limit)
        axes.plot(start.real, start.imag, "o", color=style.KEPT, fillstyle="none", markersize=4, markeredgewidth=0.8)
        axes.plot(trained.real, trained.imag, "o", color=style.BROKEN, markersize=2.8, markeredgewidth=0)
        PICTURES.mkdir(parents=True, exist_ok=True)
        finished(figure, PICTURES / f"{key}.svg")


def main(words: list[str]) -> None:
    """Do what `words` say (measure, draw, page), and everything when they say nothing."""
    torch.set_num_threads(1)
    if not words or "measure" in words:
        COSTS.write_text(json.dumps(measure(), indent=2) + "\n")
    if not words or "draw" in words:
        for key in keys():
            draw(key)
    PAGE.write_text(page(json.loads(COSTS.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
