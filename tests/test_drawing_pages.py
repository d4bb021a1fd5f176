"""Pages, facts and notebooks: a page asks for nothing, folds without a loss, and tells what its parts are."""

from __future__ import annotations

import html
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
import torch
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, System, blocks, slim, variable
from slimgraph.drawing import ENDINGS, draw, find_renderer, style, to_dot
from slimgraph.drawing.facts import described, facts_of
from slimgraph.drawing.formats import render
from slimgraph.drawing.formats.dot import quoted_id
from slimgraph.drawing.formats.page import to_plan
from slimgraph.errors import DrawingError
from tests.test_drawing import HOSTILE, chain, name_of, put_dot

SVG = "{http://www.w3.org/2000/svg}"


class Walls(nn.Module):
    """The next temperature of a wall."""

    def __init__(self):
        super().__init__()
        self.A, self.B = slim.maps["softSVD"](3, 3), slim.maps["nneg"](2, 3)

    def forward(self, x, u):
        return self.A(x) + self.B(u), self.B(u), self.A(x)


def house() -> Problem:
    """An estimator, a System of two nodes that closes a loop, terms, and a map's reg_error."""
    torch.manual_seed(0)
    estimator = Node(blocks.MLP(4, 3, hsizes=[8]), ["past"], ["x"], name="estimator")
    walls = Node(Walls(), ["x", "u"], ["x", "heat", "flow"], name="walls")
    sensor = Node(slim.maps["orthogonal"](3, 3), ["x"], ["y"], name="sensor")
    y, target, low = variable("y"), variable("target"), variable("low")
    spent = variable("x") * variable("heat") * variable("flow")
    loss = PenaltyLoss([((y - target) ** 2).minimize(name="track"), spent.minimize()], [y >= low])
    return Problem([estimator, System([walls, sensor], name="building", nsteps=5)], loss)


def nested() -> nx.MultiDiGraph:
    """Hostile names in boxes in boxes."""
    g = chain(["</script><b>", *HOSTILE])
    for i, name in enumerate(g):
        g.nodes[name]["cluster"] = ((), ("a&b;",), ("a&b;", '"'), ("", "<b>"))[i % 4]
    return g


def picture_in(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])


@pytest.fixture
def no_graphviz(tmp_path, monkeypatch):
    """A machine with neither a `dot` nor the wheel."""

    def no_package(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("SLIMGRAPH_RENDERER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "files", no_package)


# ---- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [house, nested])
def test_a_page_asks_for_nothing_and_holds_sound_xml(make):
    page = draw(make()).html()
    spaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\"' ]+", page)) == spaces
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b|\ssrc=|[^:]\bhref=|url\(|@import", page)
    assert "default-src 'none'" in page
    # The one script and its data end where they should, whatever the names are.
    assert page.count("</script>") == 2
    assert picture_in(page).tag == f"{SVG}svg"
    assert ElementTree.fromstring(draw(make()).svg()).tag == f"{SVG}svg"


def test_the_plan_of_a_page_counts_as_graphviz_does():
    g = nested()
    plan, svg = json.loads(to_plan(g)), picture_in(draw(g).html())
    parts = [part for part in svg.iter(f"{SVG}g") if part.get("class")]
    # Reading the XML has taken back the `&amp;` of an id already.
    titles = {part.get("id"): (part.findtext(f"{SVG}title") or "").replace("&", "&amp;") for part in parts}
    nodes = [titles[f"node{i + 1}"] for i in range(len(plan["nodes"]))]
    boxes = [titles[f"clust{i + 1}"] for i in range(len(plan["boxes"]))]
    assert (len(nodes), len(boxes)) == (len(g), 4)

    def path(box: int) -> tuple[str, ...]:
        return () if box < 0 else (*path(plan["boxes"][box][0]), plan["boxes"][box][1])

    assert [name_of(title) for title in boxes] == [f"cluster {path(i)}" for i in range(4)]
    assert sorted(name_of(name) for name in nodes) == sorted(g)
    wanted = {name: g.nodes[name]["cluster"] for name in g}
    assert {name_of(name): path(box) for name, box in zip(nodes, plan["nodes"], strict=True)} == wanted
    assert [size for _, _, size in plan["boxes"]] == [
        sum(p[: len(path(i))] == path(i) for p in wanted.values()) for i in range(4)
    ]
    ends = [(name_of(nodes[tail]), name_of(nodes[head])) for tail, head, *_ in plan["edges"]]
    assert ends == [(tail, head) for tail, head in g.edges()]


def test_every_format_is_the_same_bytes_in_another_process(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import tests.test_drawing_pages as t\n"
        "for ending in sys.argv[3:]: t.house().draw(sys.argv[2] + ending)"
    )
    endings = [ending for ending in ENDINGS if ending != ".pdf"]
    subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent.parent), str(tmp_path / "other"), *endings],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
    )
    for ending in endings:
        one = house().draw(str(tmp_path / f"one{ending}")) and (tmp_path / f"one{ending}").read_bytes()
        assert one == (tmp_path / f"other{ending}").read_bytes(), ending


DRIVER = """
const told = {errors: []}, svg = document.querySelector("svg"), text = () => document.getElementById("tip").innerText;
window.onerror = (message) => told.errors.push(message);
document.addEventListener("securitypolicyviolation", (event) => told.errors.push(event.violatedDirective));
const view = () => svg.getAttribute("viewBox").split(" ").map(Number);
const nodes = [...svg.querySelectorAll(".node")], label = (g) => g.textContent.trim();
const shown = () => nodes.filter((g) => g.getBoundingClientRect().width > 0).map(label);
const seen = () => svg.querySelector("g.graph").outerHTML;
const kinds = {wheel: WheelEvent, keydown: KeyboardEvent};
const act = (target, type, values) =>
  target.dispatchEvent(new (kinds[type] ?? PointerEvent)(type, {bubbles: true, cancelable: true, ...values}));
// The arrowheads that touch neither a part nor the end of their line.
const astray = () => {
  const rects = [...nodes, ...svg.querySelectorAll(".shut")].map((g) => g.getBoundingClientRect());
  const beyond = (a, b) => a.left > b.right + 6 || a.top > b.bottom + 6, far = (a, b) => beyond(a, b) || beyond(b, a);
  const lines = [...svg.querySelectorAll(".edge")].filter((g) => g.getBoundingClientRect().width > 0);
  return lines.filter((g) => {
    const [line, head] = ["path", "polygon"].map((part) => g.querySelector(part).getBoundingClientRect());
    return far(line, head) || rects.every((b) => far(head, b));
  }).map((g) => g.outerHTML);
};
const node = (name) => nodes.find((g) => label(g) === name);
told.start = {nodes: shown(), view: view(), html: seen().length};
node("sensor").focus();
told.focus = text();
node("sensor").blur();
told.blurred = document.getElementById("tip").hidden;
act(node("estimator"), "pointerenter");
told.hover = text();
act(node("estimator"), "pointerleave");
told.opened = seen();
const head = svg.querySelector(".head");
told.button = [head.getAttribute("role"), head.getAttribute("aria-expanded"), head.getAttribute("aria-label")];
act(head, "click");
told.folded = {nodes: shown(), box: svg.querySelector(".shut").textContent, view: view(),
  lines: svg.querySelectorAll("#made .edge").length, astray: astray()};
act(svg.querySelector(".shut"), "keydown", {key: "Enter"});
told.same = seen() === told.opened || [told.opened, seen()];
delete told.opened;
const fitted = view();
act(svg, "wheel", {deltaY: -200, clientX: 300, clientY: 300});
told.wheel = view()[2] / fitted[2];
act(document, "keydown", {key: "-"});
act(document, "keydown", {key: "0"});
told.again = view().every((value, i) => value === fitted[i]);
document.getElementById("in").click();
told.closer = view()[2] / fitted[2];
const before = view();
act(svg, "pointerdown", {clientX: 100, clientY: 100});
act(window, "pointermove", {clientX: 160, clientY: 100, buttons: 1});
act(window, "pointerup", {});
told.dragged = [view()[0] < before[0], view()[1] === before[1]];
act(document, "keydown", {key: "ArrowLeft"});
told.moved = view()[0] < before[0];
const result = document.body.appendChild(document.createElement("pre"));
result.id = "result";
result.textContent = JSON.stringify(told);
"""


def test_a_browser_pans_zooms_folds_and_tells(tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("there is no Chromium on the path")
    page = draw(house()).html().replace("</body>", f"<script>{DRIVER}</script></body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,800",
        f"--user-data-dir={tmp_path}/user",
    )
    done = subprocess.run(
        [browser, *options, "--dump-dom", f"file://{tmp_path}/page.html"], capture_output=True, timeout=120, check=True
    )
    told = json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout.decode())[1]))
    assert told["errors"] == []
    assert len(told["start"]["nodes"]) == 12
    assert told["focus"].splitlines() == [
        "node sensor",
        "keys: (x) -> (y)",
        "type: OrthogonalLinear(3, 3, bias=False, n_reflectors=2, det=None)",
        "formula: W = H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign), a product of Householder reflections",
        "promise: W W^T = I",
        "shapes: (..., 3) -> (..., 3)",
        "parameters: 6",
    ]
    assert told["blurred"]
    assert told["hover"].startswith("node estimator\n")
    assert told["button"] == ["button", "true", "fold building"]
    assert set(told["start"]["nodes"]) - set(told["folded"]["nodes"]) == {"walls", "sensor"}
    assert re.fullmatch(r"building.*2 parts", told["folded"]["box"])
    # estimator and u to the box; the box to the three terms and to reg_error.
    assert told["folded"]["lines"] == 6
    assert told["folded"]["astray"] == []
    # The room that the box took is given back.
    assert told["folded"]["view"][2] < told["start"]["view"][2]
    assert told["same"] is True
    assert told["wheel"] < 0.8
    assert told["again"]
    assert told["closer"] == pytest.approx(0.8)
    assert told["dragged"] == [True, True]
    assert told["moved"]


# ---- facts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", sorted(set(slim.maps.values()), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__
)
def test_every_map_tells_its_formula_and_its_promise(cls):
    formula, promise = described(cls)
    assert formula.startswith("W")
    assert promise
    assert formula in " ".join(cls.__doc__.replace("`", "").split())


def test_the_facts_are_those_of_what_is_drawn():
    walls = Walls()
    walls.B.requires_grad_(False)
    facts = facts_of(Node(walls, ["x", "u"], ["x"], name="walls"))
    count = sum(p.numel() for p in walls.parameters())
    assert facts == (
        ("keys", "(x, u) -> (x)"),
        ("type", "Walls"),
        ("does", "The next temperature of a wall"),
        ("map", f"SVDLinear: {described(slim.SVDLinear)[1]}"),
        ("map", "NonNegativeLinear: every entry >= 0"),
        ("parameters", f"{count}, of which 6 frozen"),
    )
    assert dict(facts_of(nn.LazyLinear(3)))["parameters"] == "not known before the first data"
    assert dict(facts_of(variable("y") <= 3)) == {"formula": "y <= 3", "reads": "y"}
    assert facts_of(slim.Linear(7, 2).as_graph()) == facts_of(slim.Linear(7, 2))
    assert facts_of(None) == ()


def test_what_is_in_the_tooltip_of_a_picture():
    svg = ElementTree.fromstring(draw(house()).svg())
    told = [a.get("{http://www.w3.org/1999/xlink}title") for a in svg.iter(f"{SVG}a")]
    for part in (*house().nodes, *house().nodes[1].nodes, *house().loss.terms):
        lines = [f"{word}: {text}" for word, text in facts_of(part)]
        assert any(text.split("\n")[1:] == lines for text in told)


def test_drawing_changes_nothing_in_a_problem(tmp_path):
    problem = house().eval()
    problem.nodes[0].freeze()
    state = {name: value.clone() for name, value in problem.state_dict().items()}

    def rest():
        trained = [p.requires_grad for p in problem.parameters()]
        return repr(problem), problem.output_keys, [m.training for m in problem.modules()], trained

    before, seed = rest(), torch.get_rng_state()
    for ending in (".dot", ".mmd", ".svg", ".html"):
        problem.draw(str(tmp_path / f"a{ending}"))
    assert problem._repr_svg_()
    assert rest() == before
    assert torch.get_rng_state().equal(seed)
    assert all(value.equal(state[name]) for name, value in problem.state_dict().items())


# ---- notebooks ------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_pictures_formulas_and_else_text(monkeypatch):
    for thing in (house(), house().nodes[0], house().nodes[1], slim.OrthogonalLinear(3, 3), slim.RNN(2, 3)):
        assert thing._repr_svg_() == draw(thing).svg()
    y = variable("y")
    assert [thing._repr_svg_() for thing in (y, y <= 3, y.minimize())] == [None] * 3
    assert "y" in y._repr_latex_()
    monkeypatch.setattr(style, "MANY_NODES", 5)
    assert house()._repr_svg_() is None


def test_a_notebook_shows_text_where_there_is_no_graphviz(no_graphviz):
    assert house()._repr_svg_() is None


# ---- many nodes -----------------------------------------------------------------------------------------------------


def boxed(count: int) -> nx.MultiDiGraph:
    g = chain([f"n{i:04}" for i in range(count)])
    for i, name in enumerate(g):
        g.nodes[name]["cluster"] = (f"box {i // 25:03}",)
    return g


def test_the_text_of_many_nodes_in_boxes_is_linear_and_asks_for_the_fast_layout():
    lengths = [len(to_dot(boxed(count))) for count in (500, 1000, 2000)]
    assert all(f'{name}="{value}"' in to_dot(boxed(500)) for name, value in style.FAST_LAYOUT.items())
    # A little more where numbers get a digit; the same graph twice as large is twice the text.
    assert lengths[2] - lengths[1] == pytest.approx(2 * (lengths[1] - lengths[0]), rel=0.01)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_an_error_keeps_the_text_that_graphviz_was_to_draw(tmp_path, monkeypatch, no_graphviz):
    drawing = draw(house())

    def error_of(what: str) -> DrawingError:
        with pytest.raises(DrawingError, match=what) as caught:
            drawing.save(tmp_path / "a.svg")
        assert "\n" not in str(caught.value)
        return caught.value

    error = error_of(
        "neither dot nor graphviz-pure: pip install graphviz-pure, or install Graphviz so that `dot` is on"
    )
    assert error.dot == drawing.dot
    program = put_dot(tmp_path / "bin", monkeypatch, "import sys; sys.exit('no layout today')")
    error = error_of("made no svg, exit code 1: no layout today; pip install graphviz-pure, or write the text with the")
    assert error.dot == drawing.dot
    program.write_text(f"#!{sys.executable}\nimport time; time.sleep(60)\n")
    monkeypatch.setattr(render, "TIME_LIMIT_S", 0.3)
    error = error_of(r"was not ready after 0\.3 s; .* the ending \.dot \(this error's attribute `dot` holds it\)")
    assert error.dot == drawing.dot
    assert os.listdir(tmp_path) == ["bin"]


def test_what_a_permission_forbids_is_named(tmp_path, monkeypatch):
    def forbid(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", forbid)
    with pytest.raises(DrawingError, match=r"a\.dot' cannot be written: Permission denied"):
        house().draw(str(tmp_path / "a.dot"))
    assert os.listdir(tmp_path) == []


def test_letters_that_a_format_cannot_show_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "graphviz-pure")
    with pytest.warns(UserWarning, match=r"shows 日 本 as empty boxes, .* write \.svg or \.html, or install Graphviz"):
        draw(chain(["日本", "λ ≤ Δt", "é"]), tmp_path / "a.png")
    pytest.importorskip("svglib")
    with pytest.raises(DrawingError, match="svglib cannot write Δ λ ≤ into a PDF: install Graphviz so that"):
        draw(chain(["λ ≤ Δt", "é"]), tmp_path / "a.pdf")
    # What is not written in the picture, such as the name of a node, is no obstacle.
    g = nx.MultiDiGraph()
    g.add_node("日本", label="Japan")
    assert draw(g).save(tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


def test_ids_of_entities_stay_apart():
    names = ["a&b;c", "a&amp;b;c", "&", "&amp;", "&amp;amp;", "&lt;", "<"]
    assert len({quoted_id(name) for name in names}) == len(names)
    back = json.loads(find_renderer().render(to_dot(chain(names)), "json"))
    assert [name_of(node["name"]) for node in back["objects"]] == names
    assert all(name_of(node["label"]) == node["label"].replace("&amp;", "&") for node in back["objects"])
