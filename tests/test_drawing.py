"""Diagrams: any name survives, both Graphvizes draw, the same graph is the same text, and an error leaves no file."""

from __future__ import annotations

import html
import importlib.metadata
import itertools
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimgraph import drawing
from slimgraph.doors import Drawable
from slimgraph.drawing import ENDINGS, draw, find_renderer, graph, style, to_dot, to_mermaid
from slimgraph.drawing.formats import render
from slimgraph.errors import DrawingError

CONTRACT_KINDS = (
    *("data", "node", "system", "variable", "operation", "objective", "constraint", "loss"),
    *("map", "module", "reg_error", "weights"),
)
HOSTILE = (
    *("node", "edge", "graph", "digraph", "subgraph", "strict", "cluster_0", "end", "a:b", "a:b:n", 'x"y', '"quoted"'),
    *(
        "<b>",
        "<<b>x</b>>",
        "{a|b}",
        "a -> b",
        "// c",
        "# c",
        "a;b",
        "&lt;",
        "&amp;",
        "a&b;c",
        "%3",
        "%",
        "%%",
        "1.0",
        "None",
    ),
    *(
        "a\\b",
        "end\\",
        "\\",
        "\\N",
        "\\n",
        '\\"',
        "a\nb",
        "\\\nq",
        "tab\t",
        "\x00",
        "\x1b",
        "\ud800",
        "\u2028",
        "\u00a0",
    ),
    *("é", "λ ≤ Δt", "日本", "🜂", "", " ", "x" * 200, "two words", "n0"),
)


def a_problem() -> nx.MultiDiGraph:
    """What a Problem gives: an estimator, a System of two nodes that closes a loop, terms, and a map's reg_error."""
    g = nx.MultiDiGraph()
    for key in ("past", "u", "y_min"):
        g.add_node(f"data:{key}", kind="data", label=key)
    g.add_node("estimator", kind="node", label="estimator")
    for name in ("state_map", "output_map"):
        g.add_node(name, kind="node", label=name, cluster=("building",))
    g.add_node("fit", kind="objective", label="fit: mean((y - y_measured)^2)")
    g.add_node("bound", kind="constraint", label="y >= y_min")
    g.add_node("reg", kind="reg_error", label="reg_error")
    g.add_node("loss", kind="loss", label="PenaltyLoss")
    g.add_edge("data:past", "estimator", key="past")
    g.add_edge("data:u", "state_map", key="u")
    g.add_edge("estimator", "state_map", key="x")
    g.add_edge("state_map", "output_map", key="x")
    g.add_edge("state_map", "output_map", key="w")
    g.add_edge("output_map", "state_map", key="y", feedback=True)
    g.add_edge("state_map", "state_map", key="x", feedback=True)
    g.add_edge("output_map", "fit", key="y")
    g.add_edge("output_map", "bound", key="y")
    g.add_edge("data:y_min", "bound", key="y_min")
    g.add_edge("state_map", "reg", key="")
    for term in ("fit", "bound", "reg"):
        g.add_edge(term, "loss", key="")
    return g


def chain(names) -> nx.MultiDiGraph:
    g = nx.MultiDiGraph()
    for name in names:
        g.add_node(name, kind="node", label=name)
    for tail, head in itertools.pairwise(names):
        g.add_edge(tail, head, key=tail)
    return g


def name_of(dot_id: str) -> str:
    """The name that `quoted_id` wrote."""
    escapes = re.compile(r"\\(x..|u....|U.{8}|.)", re.DOTALL)
    letters = {"n": "\n", "t": "\t", "r": "\r"}
    return escapes.sub(
        lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else letters.get(m[1], m[1]), dot_id.replace("&amp;", "&")
    )


def read_back(x, output: str = "json") -> dict:
    return json.loads(find_renderer().render(to_dot(x), output))


def texts(svg: str, kind: str) -> list[str]:
    """What is written in the nodes (or edges, or clusters) of an SVG, one text each."""
    space = "{http://www.w3.org/2000/svg}"
    groups = [g for g in ElementTree.fromstring(svg).iter(f"{space}g") if g.get("class") == kind]
    return ["".join(text.text or "" for text in g.iter(f"{space}text")) for g in groups]


def wheel() -> Path:
    try:
        return find_renderer("graphviz-pure").program
    except DrawingError:
        pytest.skip("graphviz-pure has no wheel for this platform")


def put_dot(folder: Path, monkeypatch, script: str | None = None) -> Path:
    """A `dot` that is alone on the path: the wheel's program under that name, or a Python script."""
    folder.mkdir()
    program = folder / "dot"
    if script is None:
        program.symlink_to(wheel())
    else:
        program.write_text(f"#!{sys.executable}\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return program


@pytest.fixture(params=render.RENDERERS)
def renderer(request, tmp_path, monkeypatch):
    """Each of the two ways to a picture."""
    monkeypatch.delenv("SLIMGRAPH_RENDERER", raising=False)
    if request.param == "dot":
        put_dot(tmp_path / "bin", monkeypatch)
    else:
        wheel()
        monkeypatch.setenv("PATH", str(tmp_path))
    return request.param


# ---- names ----------------------------------------------------------------------------------------------------------


def test_every_name_comes_back_from_graphviz(renderer):
    assert find_renderer().name == renderer
    back = read_back(chain(HOSTILE))
    names = [name_of(node["name"]) for node in back["objects"]]
    assert names == list(HOSTILE)
    assert [(names[e["tail"]], names[e["head"]]) for e in back["edges"]] == list(itertools.pairwise(HOSTILE))


def test_every_visible_name_is_written_as_it_is(renderer):
    visible = [name for name in HOSTILE if name.isprintable() and len(name) < 30 and name.strip() == name]
    svg = draw(chain(visible)).svg().replace("\u00a0", " ")
    assert texts(svg, "node") == visible
    assert texts(svg, "edge") == [f" {name} " if name else "" for name in visible[:-1]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=40))
def test_any_names_survive(names):
    back = read_back(chain(names))
    assert [name_of(node["name"]) for node in back["objects"]] == names


def test_boxes_of_one_title_stay_apart():
    g = nx.MultiDiGraph()
    paths = [("a",), ("b",), ("a", "b"), ("b", "a"), ("a/b",), ("a", "b", "c"), ("",), ('"',), ("a:b", "node")]
    for path in paths:
        g.add_node(repr(path), kind="node", label="n", cluster=path)
    boxes = [o for o in read_back(g)["objects"] if "nodes" in o or "subgraphs" in o]
    wanted = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    assert len(boxes) == len(wanted)
    assert len({box["name"] for box in boxes}) == len(wanted)


# ---- what is drawn --------------------------------------------------------------------------------------------------


def test_the_same_graph_is_the_same_text_in_every_process():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_drawing as t\n"
        "sys.stdout.write(t.to_dot(t.a_problem()) + t.to_mermaid(t.a_problem()))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            check=True,
        )
        assert done.stdout.decode() == to_dot(a_problem()) + to_mermaid(a_problem())


def test_the_room_opens_neither_lightning_nor_matplotlib():
    program = "import sys, slimgraph.drawing; print([m for m in ('lightning', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_drawing_changes_nothing_in_the_graph():
    g = a_problem()
    draw(g).svg()
    assert nx.utils.graphs_equal(g, a_problem())


def test_a_drawing_is_of_the_moment_it_was_drawn():
    g = a_problem()
    drawn = draw(g)
    g.add_node("later", kind="node", label="later")
    assert drawn.dot == to_dot(a_problem())
    assert drawn.mermaid == to_mermaid(a_problem())


def test_feedback_is_dashed_and_runs_against_the_flow():
    plain = find_renderer().render(to_dot(a_problem()), "plain").decode().splitlines()
    x = {line.split()[1]: float(line.split()[2]) for line in plain if line.startswith("node ")}
    assert x["estimator"] < x["state_map"] < x["output_map"] < x["loss"]
    forward, back = graph(a_problem()).get_edge('"state_map"', '"output_map"')
    assert (forward.get("dir"), forward.get("style")) == (None, None)
    assert (back.get("dir"), back.get("style")) == ("back", '"dashed"')
    (loop,) = graph(a_problem()).get_edge('"state_map"', '"state_map"')
    assert loop.get("style") == '"dashed"'
    assert loop.get("dir") is None


def test_keys_between_two_nodes_share_an_arrow_and_a_data_node_is_not_said_twice():
    svg = draw(a_problem()).svg().replace("\u00a0", " ")
    written = [text.split() for text in texts(svg, "edge")]
    assert written.count(["x", "w"]) == 1
    assert written.count(["u"]) == written.count(["past"]) == written.count(["y_min"]) == 0
    assert written.count(["y"]) == 3


def test_numbers_that_networkx_gives_to_edges_are_no_keys():
    assert texts(draw(nx.MultiDiGraph([("a", "b"), ("a", "b")])).svg(), "edge") == [""]
    assert texts(draw(nx.DiGraph([("a", "b")])).svg(), "edge") == [""]


def test_every_kind_of_the_contract_looks_like_itself():
    looks = {kind: tuple(sorted((style.NODE | style.KINDS[kind]).items())) for kind in CONTRACT_KINDS}
    assert len(set(looks.values())) == len(CONTRACT_KINDS)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2: 0 is black, 1 is white."""
    colour = {"white": "#ffffff"}.get(colour, colour)
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


PROBLEM_KINDS = ("data", "node", "objective", "constraint", "reg_error", "loss")


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PROBLEM_KINDS, 2)))
def test_the_kinds_of_a_problem_are_told_apart_in_greyscale(one, other):
    """By shape or outline, or by fills with a contrast of 1.15, as between white and a pale grey."""
    looks = [style.NODE | style.KINDS[kind] for kind in (one, other)]
    outlines = [(look["shape"], look["style"]) for look in looks]
    dark, pale = sorted(luminance(look["fillcolor"]) for look in looks)
    assert outlines[0] != outlines[1] or (pale + 0.05) / (dark + 0.05) >= 1.15


@pytest.mark.parametrize("kind", CONTRACT_KINDS)
def test_text_is_legible_on_its_fill(kind):
    """Contrast of at least 4.5, the threshold of WCAG 2.2 (criterion 1.4.3)."""
    look = style.NODE | style.KINDS[kind]
    dark, pale = sorted(luminance(look[part]) for part in ("fontcolor", "fillcolor"))
    assert (pale + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize("kind", CONTRACT_KINDS)
def test_text_stays_inside_its_box_even_in_a_wider_font(kind):
    g = nx.MultiDiGraph()
    g.add_node("n", kind=kind, label="a label of thirty letters, WwMm")
    (node,) = read_back(g)["objects"]
    widths = [part["width"] for part in node["_ldraw_"] if part["op"] == "T"]
    assert max(widths) * 1.08 <= float(node["width"]) * 72


def test_long_labels_are_wrapped():
    g = chain(["lower: " + "y_min - slack " * 10])
    lines = [html.unescape(line) for line in re.findall(r">([^<>]+)</text>", draw(g).svg())]
    assert "".join(lines).replace(" ", "") == "lower:" + "y_min-slack" * 10
    assert max(map(len, lines)) <= 30


def test_many_nodes_take_the_fast_layout():
    assert "nslimit" not in to_dot(chain([str(i) for i in range(300)]))
    assert 'nslimit1="1"' in to_dot(chain([str(i) for i in range(301)]))


def test_mermaid_is_this_text():
    assert to_mermaid(a_problem()).splitlines()[:15] == [
        "flowchart LR",
        '  n0(["past"]):::data',
        '  n1(["u"]):::data',
        '  n2(["y_min"]):::data',
        '  n3("estimator"):::node',
        '  n4("fit: mean((y - y_measured)#94;2)"):::objective',
        '  n5["y #62;= y_min"]:::constraint',
        '  n6("reg_error"):::reg_error',
        '  n7("PenaltyLoss"):::loss',
        '  subgraph n8["building"]',
        '    n9("state_map"):::node',
        '    n10("output_map"):::node',
        "  end",
        "  n0 --> n3",
        "  n1 --> n9",
    ]
    assert '  n10 -.->|"y"| n9' in to_mermaid(a_problem()).splitlines()


def test_no_name_ends_a_mermaid_text_early():
    lines = to_mermaid(chain(HOSTILE)).splitlines()
    nodes = [line for line in lines if ":::" in line]
    assert len(nodes) == len(HOSTILE)
    assert all(re.fullmatch(r'  n\d+\("[^"<>`\\]+(<br>[^"<>`\\]+)*"\):::node', line) for line in nodes)


# ---- files ----------------------------------------------------------------------------------------------------------

FIRST_BYTES = {
    ".dot": b"digraph",
    ".mmd": b"flowchart LR",
    ".svg": b"<?xml",
    ".png": b"\x89PNG\r\n",
    ".html": b"<!DOCTYPE html>",
}


@pytest.mark.parametrize("ending", FIRST_BYTES)
def test_an_ending_is_a_format(renderer, ending, tmp_path):
    for name in ("picture" + ending, "UPPER" + ending.upper()):
        draw(a_problem(), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(FIRST_BYTES[ending])


def test_every_known_ending_is_tested():
    assert set(FIRST_BYTES) | {".pdf"} == set(ENDINGS)


def test_a_page_needs_nothing_from_outside(tmp_path):
    page = draw(a_problem()).save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "<?xml" not in page
    assert not re.search(r"<script[^>]+src|<link|@import|url\(", page)


def test_a_system_dot_writes_the_pdf(tmp_path, monkeypatch):
    put_dot(tmp_path / "bin", monkeypatch, "import sys; print('%PDF from', *sys.argv[1:])")
    draw(a_problem(), tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_text() == "%PDF from -q -Tpdf\n"


def test_the_extra_writes_the_pdf_and_twice_the_same(tmp_path, monkeypatch):
    pytest.importorskip("svglib")
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "graphviz-pure")
    first, second = (draw(a_problem()).save(tmp_path / f"{i}.pdf").read_bytes() for i in range(2))
    assert first.startswith(b"%PDF")
    assert first == second


def test_a_picture_is_written_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert draw(a_problem())._repr_svg_().startswith("<?xml")
    assert os.listdir(tmp_path) == []


def test_a_file_is_readable_as_other_files_are(tmp_path):
    (tmp_path / "plain").touch()
    draw(a_problem(), str(tmp_path / "a.dot"))
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.dot")]
    assert modes[0] == modes[1]
    assert sorted(os.listdir(tmp_path)) == ["a.dot", "plain"]


def test_anything_with_a_graph_draws_itself(tmp_path):
    class Thing(Drawable):
        def to_networkx(self):
            return a_problem()

    assert Thing().draw(str(tmp_path / "a.dot")).dot == to_dot(a_problem())
    assert (tmp_path / "a.dot").read_text(encoding="utf-8") == to_dot(a_problem())
    assert repr(Thing().show()) == "Drawing of a Thing"


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_a_system_dot_goes_before_the_wheel(tmp_path, monkeypatch):
    program = put_dot(tmp_path / "bin", monkeypatch)
    monkeypatch.delenv("SLIMGRAPH_RENDERER", raising=False)
    assert find_renderer() == render.Renderer("dot", program)
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "graphviz-pure")
    assert find_renderer() == render.Renderer("graphviz-pure", wheel())
    assert find_renderer("dot").program == program


@pytest.mark.parametrize("path", ["a.sgv", "b.jpeg", "c", ".svg"])
def test_an_unknown_ending_lists_the_known(path, tmp_path):
    ending = Path(path).suffix
    known = "a drawing takes .dot, .mmd, .svg, .png, .pdf, .html."
    with pytest.raises(DrawingError, match=re.escape(f"{path}' has the ending {ending!r}, {known}")) as error:
        draw(a_problem(), tmp_path / path)
    assert str(error.value).endswith(" Did you mean '.svg'?") == (ending == ".sgv")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "pictures" / "a.svg"
    with pytest.raises(DrawingError, match=re.escape(f"{str(path)!r} cannot be written: there is no folder")) as error:
        draw(a_problem(), path)
    assert str(error.value).endswith(repr(str(path.parent)))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken.dot").mkdir()
    with pytest.raises(DrawingError, match=r"taken\.dot' cannot be written: Is a directory"):
        draw(a_problem(), tmp_path / "taken.dot")
    assert os.listdir(tmp_path) == ["taken.dot"]


@pytest.mark.parametrize(
    ("x", "words"),
    [(3, "^int has no graph to draw"), (nx.Graph(), "^Graph has no directions; give a networkx DiGraph")],
)
def test_a_thing_without_a_graph_is_named(x, words):
    with pytest.raises(DrawingError, match=words):
        draw(x)


def test_a_failing_program_is_quoted_and_leaves_the_old_file(tmp_path, monkeypatch):
    program = put_dot(tmp_path / "bin", monkeypatch, "import sys; sys.exit('no layout today')")
    (tmp_path / "a.svg").write_text("the old picture")
    with pytest.raises(DrawingError) as error:
        draw(a_problem(), tmp_path / "a.svg")
    assert str(error.value).startswith(f"{program} made no svg, exit code 1: no layout today;")
    assert "SLIMGRAPH_RENDERER=graphviz-pure" in str(error.value)
    assert (tmp_path / "a.svg").read_text() == "the old picture"
    assert sorted(os.listdir(tmp_path)) == ["a.svg", "bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.dot").write_text("the old text")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DrawingError, match=r"a\.dot' cannot be written: No space left on device"):
        draw(a_problem(), tmp_path / "a.dot")
    assert (tmp_path / "a.dot").read_text() == "the old text"
    assert os.listdir(tmp_path) == ["a.dot"]


def test_a_program_that_says_nothing_is_a_failure(tmp_path, monkeypatch):
    put_dot(tmp_path / "bin", monkeypatch, "pass")
    with pytest.raises(DrawingError, match="made no png, exit code 0: it said nothing"):
        draw(a_problem(), tmp_path / "a.png")


def test_a_hanging_program_is_ended(tmp_path, monkeypatch):
    put_dot(tmp_path / "bin", monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(render, "TIME_LIMIT_S", 0.5)
    with pytest.raises(DrawingError, match=r"dot was not ready after 0\.5 s; .* with the ending \.dot"):
        draw(a_problem()).svg()


def test_a_program_that_does_not_start_is_named(tmp_path, monkeypatch):
    program = put_dot(tmp_path / "bin", monkeypatch, "")
    program.write_bytes(b"\x7fELF, but no program")
    with pytest.raises(DrawingError, match=f"{re.escape(str(program))} does not start: Exec format error"):
        draw(a_problem()).svg()


def test_no_graphviz_at_all_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIMGRAPH_RENDERER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    def no_package(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", no_package)
    with pytest.raises(DrawingError, match="there is neither dot nor graphviz-pure: pip install graphviz-pure, or"):
        draw(a_problem(), tmp_path / "a.svg")
    draw(a_problem(), tmp_path / "a.dot")
    draw(a_problem(), tmp_path / "a.mmd")
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "dot")
    with pytest.raises(DrawingError, match="there is no dot: pip install graphviz-pure, or"):
        find_renderer()


def test_an_unknown_renderer_lists_the_known(monkeypatch):
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "graphviz")
    with pytest.raises(
        DrawingError, match=r"no renderer 'graphviz'; there are dot, graphviz-pure\. Did you mean"
    ) as error:
        draw(a_problem()).svg()
    assert str(error.value).endswith("'graphviz-pure'?")


def test_a_pdf_that_cannot_be_made_says_what_to_install(tmp_path, monkeypatch):
    wheel()
    monkeypatch.setenv("SLIMGRAPH_RENDERER", "graphviz-pure")
    monkeypatch.setitem(sys.modules, "svglib", None)
    monkeypatch.delitem(sys.modules, "svglib.svglib", raising=False)
    with pytest.raises(
        DrawingError, match=r"a PDF needs svglib, .* pip install 'slimgraph\[pdf\]', or install Graphviz"
    ):
        draw(a_problem(), tmp_path / "a.pdf")
    assert os.listdir(tmp_path) == []


def test_the_public_names_are_these():
    charts = {"Diff", "diff", "draw_history", "draw_spectrum"}
    assert set(drawing.__all__) == charts | {
        *("Drawing", "ENDINGS", "draw", "find_renderer", "graph", "to_dot", "to_mermaid")
    }
    assert all(hasattr(drawing, name) for name in drawing.__all__)
