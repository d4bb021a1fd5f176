"""The file of a picture: its ending and folder are looked at first, and it is written at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slimgraph.data.files import whole_file
from slimgraph.errors import DrawingError, did_you_mean


def picture_path(path: str | os.PathLike[str], endings: Sequence[str], what: str) -> Path:
    """`path`, where `what` can be written to it. Raises DrawingError for another ending and a missing folder."""
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in endings:
        known = ", ".join(endings)
        raise DrawingError(
            f"{str(path)!r} has the ending {ending!r}, {what} takes {known}.{did_you_mean(ending, endings)}"
        )
    if not path.parent.is_dir():
        raise DrawingError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}")
    return path


def write_picture(path: Path, content: bytes) -> None:
    """Writes it; a reader, or a full disk, never meets half a picture."""
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise DrawingError(f"{str(path)!r} cannot be written: {error.strerror}") from error
