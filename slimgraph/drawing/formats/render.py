"""DOT text to a picture: by a system Graphviz, or by the one in the wheel graphviz-pure."""

from __future__ import annotations

import html
import importlib.metadata
import io
import logging
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from slimgraph.errors import DrawingError, did_you_mean

WHEEL = "graphviz-pure"
RENDERERS = ("dot", WHEEL)
INSTALL = {"dot": "install Graphviz so that `dot` is on the path", WHEEL: f"pip install {WHEEL}"}
KEPT = " (this error's attribute `dot` holds it)"
TIME_LIMIT_S = 60.0
# Twice what a screen had, so that small letters stay sharp in a document.
OPTIONS = {"png": ("-Gdpi=144",)}


@dataclass(frozen=True)
class Renderer:
    """A Graphviz program: `name` is `dot` (of the system) or `graphviz-pure` (of the wheel)."""

    name: str
    program: Path

    def render(self, dot: str, output: str) -> bytes:
        """The picture of the text `dot` in the format `output` (`svg`, `png`, `json`; the system's also `pdf`).

        Raises DrawingError with what the program said when it fails, and when it takes longer than `TIME_LIMIT_S`.
        """
        try:
            done = subprocess.run(
                [self.program, "-q", f"-T{output}", *OPTIONS.get(output, ())],
                input=dot.encode(),
                capture_output=True,
                timeout=TIME_LIMIT_S,
                check=False,
                # Without it a window flashes up on Windows.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except subprocess.TimeoutExpired:
            raise self._error(f"was not ready after {TIME_LIMIT_S:g} s") from None
        except OSError as error:
            raise self._error(f"does not start: {error.strerror}") from error
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors="replace").strip() or "it said nothing"
            raise self._error(f"made no {output}, exit code {done.returncode}: {said}")
        return done.stdout

    def _error(self, what: str) -> DrawingError:
        other = next(name for name in RENDERERS if name != self.name)
        advice = f"set SLIMGRAPH_RENDERER={other} to take the other Graphviz" if FINDERS[other]() else INSTALL[other]
        return DrawingError(f"{self.program} {what}; {advice}, or write the text with the ending .dot{KEPT}")


def find_renderer(name: str | None = None) -> Renderer:
    """The program that renders: the system's `dot`, else the wheel's; `name`, or SLIMGRAPH_RENDERER, forces one.

    Raises DrawingError when it is not there, and says what to install.
    """
    name = name or os.environ.get("SLIMGRAPH_RENDERER") or None
    if name not in (None, *RENDERERS):
        known = ", ".join(RENDERERS)
        raise DrawingError(f"there is no renderer {name!r}; there are {known}.{did_you_mean(name, RENDERERS)}")
    for candidate in (name,) if name else RENDERERS:
        program = FINDERS[candidate]()
        if program:
            return Renderer(candidate, program)
    missing = f"no {name}" if name else f"neither {' nor '.join(RENDERERS)}"
    raise DrawingError(
        f"a picture needs Graphviz, and there is {missing}: {INSTALL[WHEEL]}, or {INSTALL['dot']}; the endings"
        " .dot and .mmd need nothing"
    )


def _system_program() -> Path | None:
    found = shutil.which("dot")
    return Path(found) if found else None


def _wheel_program() -> Path | None:
    # The program lies in the environment's bin folder, which is on the path only where the environment is activated.
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    programs = (Path(str(file.locate())) for file in files if file.stem == WHEEL and file.suffix in ("", ".exe"))
    return next((program for program in programs if program.is_file()), None)


FINDERS = {"dot": _system_program, WHEEL: _wheel_program}


def to_picture(dot: str, output: str) -> bytes:
    """The picture of the text `dot` as `svg`, `png` or `pdf` bytes; a DrawingError holds the text as its `dot`."""
    try:
        renderer = find_renderer()
        if output == "pdf" and renderer.name == WHEEL:
            return _pdf(renderer.render(dot, "svg"))
        if output == "png" and renderer.name == WHEEL:
            _warn_of_empty_boxes(dot)
        return renderer.render(dot, output)
    except DrawingError as error:
        error.dot = dot
        raise


def _warn_of_empty_boxes(dot: str) -> None:
    shown = "".join(re.findall(r'label=("(?:[^"\\]|\\.)*")', dot))
    odd = _some(re.findall(r"[^\x00-\u05ff\u1e00-\u2bff]", shown))
    if odd:
        warnings.warn(
            f"this PNG shows {odd} as empty boxes, for {WHEEL} has no such letters; write .svg or .html, or"
            f" {INSTALL['dot']}",
            # The line of a user's `x.draw(path)`.
            stacklevel=7,
        )


def _some(letters: Iterable[str]) -> str:
    """A few of `letters`, each once, for a message."""
    sorts = sorted(set(letters))
    return " ".join(sorts[:10]) + (" ..." if len(sorts) > 10 else "")


def _pdf(svg: bytes) -> bytes:
    """The wheel writes no PDF: its SVG is turned into one by svglib."""
    try:
        svglib, pdf = import_module("svglib.svglib"), import_module("reportlab.graphics.renderPDF")
        canvas = import_module("reportlab.pdfgen.canvas")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise DrawingError(
            f"a PDF needs {package}, which is not installed: pip install 'slimgraph[pdf]', or {INSTALL['dot']};"
            " .svg works without"
        ) from error
    # svglib writes with Helvetica, which every PDF reader has, and which holds only these letters.
    shown = "".join(re.findall(r">([^<]*)</text>", svg.decode()))
    odd = _some(letter for letter in html.unescape(shown) if not letter.encode("cp1252", "ignore"))
    if odd:
        raise DrawingError(f"svglib cannot write {odd} into a PDF: {INSTALL['dot']}, or write .svg")
    logging.getLogger("svglib.svglib").setLevel(logging.ERROR)
    drawing, file = svglib.svg2rlg(io.BytesIO(svg)), io.BytesIO()
    # An invariant page holds no date, so the same diagram gives the same bytes.
    page = canvas.Canvas(file, pagesize=(drawing.width, drawing.height), invariant=1)
    pdf.draw(drawing, page, 0, 0)
    page.save()
    return file.getvalue()
