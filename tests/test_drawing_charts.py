"""Charts: what is drawn is what torch computes and what was logged, and every map stands where its promise wants it."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
import torch

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.drawing import draw_history, draw_spectrum, style
from slimgraph.drawing.charts.history import read_series
from slimgraph.errors import DrawingError
from slimgraph.slim.linear.regions import Region, spectral_region
from tests.helpers import FREE_WEIGHTS, KEPT_BY_REG_ERROR, Case, cases, perturb

pytest.importorskip("matplotlib")


def points(axes, colour: str) -> torch.Tensor:
    """The points of that colour, `(points, 2)`."""
    lines = [line for line in axes.lines if line.get_color() == colour and line.get_linestyle() == "None"]
    return torch.cat([torch.tensor(line.get_xydata()) for line in lines])


@cases([(1, 1), (8, 8), (3, 5), (5, 3)], biases=(False,), options=[(8, 8)])
def test_every_map_stands_in_the_region_that_its_promise_wants(case: Case):
    made = case.make().eval()
    if case.key not in KEPT_BY_REG_ERROR:
        made = perturb(made, 1.0)
    elif case.key in FREE_WEIGHTS:
        made = type(made).from_dense(made.effective_W().detach(), **case.options).eval()
    W, region = made.effective_W().detach(), spectral_region(made)
    assert made.contains(W)
    tol = 1e-6 * max(1.0, float(W.norm()))
    assert region.holds_singular_values(torch.linalg.svdvals(W), tol).all()
    if case.insize == case.outsize:
        assert region.holds_eigenvalues(torch.linalg.eigvals(W), tol).all()


@pytest.mark.parametrize(("key", "options", "text"), [
    ("orthogonal", {}, "|z| = 1; s = 1"), ("spectral", {"sigma_max": 2.0}, "0.1 <= |z| <= 2; 0.1 <= s <= 2"),
    ("hurwitz", {"alpha": 0.5}, "Re z <= -0.5"), ("schur_stable", {"radius": 0.9}, "|z| <= 0.9"),
    ("skew_symmetric", {}, "Re z = 0"), ("symmetric", {}, "Im z = 0"), ("psd", {}, "Re z >= 0, Im z = 0"),
    ("gershgorin", {"sigma_min": -2.0, "sigma_max": 0.5, "real": False}, "|z + 0.75| <= 1.25"),
    ("rstochastic", {}, "|z| <= 1"), ("doubly_stochastic", {}, "|z| <= 1; s <= 1"), ("toeplitz", {}, "everywhere"),
])  # fmt: skip
def test_a_region_says_what_the_class_promises(key: str, options: dict, text: str):
    assert repr(spectral_region(slim.maps[key](4, 4, **options))) == f"Region: {text}"


def test_a_composition_keeps_what_its_parts_keep_and_nothing_else():
    a, b = slim.SpectralLinear(4, 4, sigma_max=2.0), slim.OrthogonalLinear(4, 4)
    assert spectral_region(a @ b).modulus == (0.1, 2.0)
    assert spectral_region(a + b) == Region(modulus=(0.0, 3.0), singular=(0.0, 3.0))
    assert spectral_region(slim.SymmetricLinear(4, 4) @ slim.SymmetricLinear(4, 4)) == Region()


@pytest.mark.parametrize("key", ["orthogonal", "hurwitz", "spectral", "toeplitz"])
def test_the_points_are_the_eigenvalues_and_singular_values_of_W(key: str):
    made = slim.maps[key](7, 7).double()
    plane, singular = draw_spectrum(made).axes
    W = made.effective_W().detach()
    drawn = points(plane, style.KEPT)
    wanted = torch.view_as_real(torch.linalg.eigvals(W))
    assert torch.cdist(drawn, wanted).min(0).values.max() < 1e-9 and len(drawn) == 7
    assert torch.allclose(points(singular, style.KEPT)[:, 1], torch.linalg.svdvals(W))
    assert len(points(plane, style.BROKEN)) == len(points(singular, style.BROKEN)) == 0


def test_what_has_left_its_region_is_a_cross():
    made = slim.PowerBoundLinear(6, 6, max_p=0.5)
    with torch.no_grad():
        made.weight.copy_(torch.diag(torch.tensor([0.1, 0.2, 0.5, 0.6, -0.7, 3.0])))
    plane = draw_spectrum(made).axes[0]
    assert sorted(points(plane, style.BROKEN)[:, 0].tolist()) == pytest.approx([-0.7, 0.6, 3.0])
    assert sorted(points(plane, style.KEPT)[:, 0].tolist()) == pytest.approx([0.1, 0.2, 0.5])


def test_the_green_area_is_the_region():
    """A pixel of the plane is green where the region holds its place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from slimgraph.drawing.charts.figure import chart_style, new_figure
    from slimgraph.drawing.charts.spectrum import draw_plane

    for region in (Region(modulus=(0.4, 0.9)), Region(real=(-math.inf, -0.3)), Region(modulus=(0.0, 0.8), centre=-0.4),
                   Region(real=(-0.5, 0.2), modulus=(0.3, 0.9))):  # fmt: skip
        with chart_style("a test"):
            axes = new_figure(2, 2).subplots()
            draw_plane(axes, region, 1.2)
            canvas = FigureCanvasAgg(axes.figure)
            canvas.draw()
        pixels = torch.tensor(np.asarray(canvas.buffer_rgba()))
        for z in (-1.1, -0.6, -0.35 + 0.1j, 0.05, 0.1 + 0.6j, 0.7j, 0.6 - 0.5j, -0.4 + 0.7j):
            x, y = axes.transData.transform((complex(z).real, complex(z).imag)).round().astype(int)
            red, green, *_ = pixels[len(pixels) - 1 - y, x].tolist()
            assert (green > red) == bool(region.holds_eigenvalues(torch.tensor(complex(z)), 0.0)), (region, z)


def test_every_map_is_drawn_once_and_by_its_place():
    shared = slim.OrthogonalLinear(4, 4)
    nodes = [Node(shared, ["x"], ["x"], name="state"), Node(slim.SpectralLinear(4, 2), ["x"], ["y"], name="output")]
    again = Node(torch.nn.Sequential(shared, slim.Linear(4, 4) @ shared), ["z"], ["w"], name="other")
    problem = Problem([System(nodes, name="house", nsteps=2), again], PenaltyLoss([variable("y").minimize()]))
    titles = [axes.get_title().split("\n")[0] for axes in draw_spectrum(problem).axes]
    assert [t for t in titles if t not in ("", "singular values")] == ["house / state", "house / output", "other / 1"]


def test_of_a_cell_only_the_hidden_maps_are_drawn():
    rnn = slim.RNN(3, 4, cell_args={"hidden_map": "orthogonal"})
    titles = [axes.get_title() for axes in draw_spectrum(rnn.cells[0]).axes]
    assert titles[0].startswith("hidden_map\nOrthogonalLinear 4 x 4") and len(titles) == 2
    assert len(draw_spectrum(rnn).axes) == 4


def test_a_chart_is_the_same_file_again_and_knows_its_endings(tmp_path):
    made = slim.OrthogonalLinear(3, 3)
    for ending, start in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")):
        files = [tmp_path / f"{name}{ending}" for name in "ab"]
        figure = [draw_spectrum(made, file) for file in files][0]
        assert files[0].read_bytes() == files[1].read_bytes() and files[0].read_bytes().startswith(start)
    assert figure._repr_svg_().startswith("<?xml")
    with pytest.raises(DrawingError, match=r"'.*c\.html' has the ending '\.html', a chart takes \.svg, \.png, \.pdf"):
        draw_spectrum(made, tmp_path / "c.html")


def test_what_has_no_map_is_told(monkeypatch):
    with pytest.raises(DrawingError, match="no structured map in Linear; see slimgraph.slim.maps"):
        draw_spectrum(torch.nn.Linear(2, 2))
    with pytest.raises(DrawingError, match="needs a map, a cell or a module; got Tensor"):
        draw_spectrum(torch.eye(2))


def test_without_matplotlib_both_say_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name="matplotlib")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for draw, x in ((draw_spectrum, slim.OrthogonalLinear(2, 2)), (draw_history, {"step": [0], "val_loss": [1.0]})):
        with pytest.raises(DrawingError, match=rf"{draw.__name__} needs matplotlib.*pip install 'slimgraph\[plots\]'"):
            draw(x)


# ---- the history of a fit

ROWS = {
    "epoch": [0, 0, 1, 1], "step": [3, 3, 7, 7],
    "train_loss": ["", 2.0, "", 1.0], "train_fit": [None, 2.0, None, 0.5], "train_objective_loss": ["", 2.0, "", 0.5],
    "val_loss": [3.0, math.nan, 1.5, ""], "val_reg_loss": [0.0, "", 0.0, ""], "dev_loss": [3.0, "", 1.5, ""],
    "val/cap/max": [0.5, "", 0.0, ""], "val/cap/mean": [0.1, "", 0.0, ""], "lr-Adam": [0.1, 0.1, 0.1, 0.1],
}  # fmt: skip


def lines(axes) -> dict[str, list[list[float]]]:
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_the_lines_are_what_was_logged():
    above, below = draw_history(ROWS).axes
    assert lines(above) == {
        "loss, train": [[3, 2.0], [7, 1.0]], "loss, val": [[3, 3.0], [7, 1.5]], "fit, train": [[3, 2.0], [7, 0.5]],
    }  # fmt: skip
    assert above.get_yscale() == below.get_yscale() == "log"
    # A zero stands at the foot of the axis, below all that is more.
    (first, second) = lines(below)["cap, val"]
    assert first == [3, 0.5] and second[1] == below.get_ylim()[0] < 0.5
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["loss", "fit", "train", "val"]
    assert lines(draw_history(ROWS, x="epoch").axes[0])["loss, val"] == [[0, 3.0], [1, 1.5]]


def test_a_term_below_zero_is_drawn_as_it_is_and_the_axis_says_so():
    (axes,) = draw_history({"step": [0, 1, 2], "val_loss": [4.0, -1.0, 0.0]}).axes
    assert lines(axes)["loss, val"] == [[0, 4.0], [1, -1.0], [2, 0.0]]
    assert axes.get_yscale() == "symlog" and "linear within" in axes.get_ylabel()


def test_a_csv_its_folder_and_a_logger_give_the_same_series(tmp_path):
    class Logger:
        """What a CSVLogger offers."""

        log_dir, saved = tmp_path, False

        def save(self):
            self.saved = True
            rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
            text = [",".join(ROWS), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
            (tmp_path / "metrics.csv").write_text("\n".join(text) + "\n")

    logger = Logger()
    charts = [draw_history(source) for source in (logger, tmp_path, str(tmp_path / "metrics.csv"), ROWS)]
    assert logger.saved
    assert len({str([lines(axes) for axes in chart.axes]) for chart in charts}) == 1


def test_a_history_that_cannot_be_drawn_says_what_there_is(tmp_path):
    with pytest.raises(DrawingError, match=r"no column 'steps' for its x axis; there is step, val_loss\. Did you mean"):
        draw_history({"step": [0], "val_loss": [1.0]}, x="steps")
    with pytest.raises(DrawingError, match="'step' has 2 rows and 'val_loss' 1"):
        read_series({"step": [0, 1], "val_loss": [1.0]})
    with pytest.raises(DrawingError, match=r"found no train_\.\.\..*; there is lr"):
        draw_history({"step": [0], "lr": [1.0]})
    (tmp_path / "version_3").mkdir()
    (tmp_path / "version_3" / "metrics.csv").write_text("step\n")
    with pytest.raises(DrawingError, match=r"cannot read .*; there is .*version_3.metrics\.csv"):
        draw_history(tmp_path)
    with pytest.raises(DrawingError, match="the logger, or a dict of lists; got int: 3"):
        draw_history(3)


def test_any_name_stands_in_a_chart_as_it_is(tmp_path):
    names = ["$", "a$b_$^", "\\frac{$x$", "_x", "y" * 200, *(f"term {n}" for n in range(30))]
    figure = draw_history({"step": [0, 1], **{f"train_{name}": [1.0, 2.0] for name in names}}, tmp_path / "a.png")
    legend = figure.axes[0].get_legend()
    shown = [text.get_text().replace("\\$", "$").lstrip("\u200b") for text in legend.get_texts()]
    assert shown == [*names[:4], "y" * 25 + "...", *names[5:], "train"]
    figure.draw_without_rendering()
    room, box = figure.bbox, legend.get_window_extent()
    assert room.x0 <= box.x0 <= box.x1 <= room.x1 and room.y0 <= box.y0 <= box.y1 <= room.y1
    maps = torch.nn.ModuleDict({name: slim.Linear(2, 2) for name in names[:4]})
    draw_spectrum(maps, tmp_path / "b.svg")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_map_that_is_not_finite_says_so_beside_the_others(value: float):
    sound, broken = slim.Linear(3, 3), slim.Linear(3, 3)
    torch.nn.init.constant_(broken.weight, value)
    axes = draw_spectrum(torch.nn.ModuleDict({"sound": sound, "broken": broken})).axes
    assert len(points(axes[0], style.KEPT)) == 3
    assert [text.get_text() for text in axes[2].texts] == ["NaN or infinite:\nno spectrum"]


def test_a_history_of_nothing_or_of_numbers_without_a_list_is_told(tmp_path):
    file = tmp_path / "metrics.csv"
    for text, told in (("", "there is nothing"), ("step,train_loss\n", "found no train_")):
        file.write_text(text)
        with pytest.raises(DrawingError, match=told):
            draw_history(file)
    with pytest.raises(DrawingError, match="a list in column 'train_loss'; got float: 1.0"):
        draw_history({"step": [0], "train_loss": 1.0})
    # As spreadsheet programs write it.
    file.write_text("\ufeffstep,train_loss\n0,1\n")
    assert [list(line.get_ydata()) for line in draw_history(file).axes[0].lines] == [[1.0]]
