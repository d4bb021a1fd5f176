"""What all charts share: the door to matplotlib, a figure that a notebook shows, and its file."""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from slimgraph.drawing import style
from slimgraph.drawing.formats.files import picture_path, write_picture
from slimgraph.errors import DrawingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHART_ENDINGS = (".svg", ".png", ".pdf")


def chart_style(who: str) -> AbstractContextManager[None]:
    """Within it matplotlib draws in our style. Raises DrawingError where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        raise DrawingError(
            f"{who} needs {error.name}, which is not installed: pip install 'slimgraph[plots]'"
        ) from error
    return mpl.rc_context(dict[Any, Any](style.CHART))


def plain(text: str) -> str:
    r"""`text` as matplotlib is to be given it, so that no dollar begins a formula and no label is left out.

    >>> plain("price in $"), plain("_x")
    ('price in \\$', '\u200b_x')
    """
    # matplotlib leaves what begins with an underscore out of legends; a space without width takes that place.
    return ("\u200b" if text.startswith("_") else "") + text.replace("$", "\\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, known to no window and to no `pyplot`: nothing has to be closed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    # A notebook asks for this; matplotlib answers by itself only for the figures of pyplot.
    figure._repr_svg_ = lambda: figure_bytes(figure, "svg").decode()  # pyright: ignore[reportAttributeAccessIssue]
    return figure


def finished(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    """`figure`, written to `path` when one is given, in the format of its ending, one of `CHART_ENDINGS`."""
    if path is not None:
        path = picture_path(path, CHART_ENDINGS, "a chart")
        write_picture(path, figure_bytes(figure, path.suffix.lower()[1:]))
    return figure


def figure_bytes(figure: Figure, output: str) -> bytes:
    """The picture as `svg`, `png` or `pdf`; no date stands in it."""
    import matplotlib as mpl

    dates: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    file = io.BytesIO()
    with mpl.rc_context(dict[Any, Any](style.CHART)):
        figure.savefig(file, format=output, dpi=144, metadata=dates.get(output))
    return file.getvalue()
