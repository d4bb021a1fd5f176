"""How a command ends: its exit codes, and an error as a line on standard error instead of a traceback."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slimgraph.errors import MissingFileError, OptionError, SlimgraphError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
# What comes from here is not what a user wrote.
LIBRARIES = (*{sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}, str(Path(__file__).parents[1]))


class Ended(Exception):
    """A command ends with this exit code; the error is its cause."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@contextmanager
def ending(code: int) -> Iterator[None]:
    """Inside, whatever fails ends the command with this exit code."""
    try:
        yield
    except Exception as error:
        raise Ended(code) from error


def tell(error: BaseException, *, debug: bool) -> int:
    """Writes the error to standard error, with its traceback for `debug`, and gives the exit code that goes with it."""
    code = WRONG_USAGE if isinstance(error, OptionError | MissingFileError) else FAILED
    if isinstance(error, Ended) and error.__cause__ is not None:
        code, error = error.code, error.__cause__
    text = "".join(traceback.format_exception(error)) if debug else described(error)
    sys.stderr.write(f"slimgraph: error: {text.rstrip()}\n")
    return code


def described(error: BaseException) -> str:
    """The message and the notes of an error; of an unexpected one also its class and the user's line it came from.

    >>> described(OptionError("no such thing"))
    'no such thing'
    >>> described(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero\\n  --debug shows the traceback'
    """
    text = _last_of_traceback(str(error).strip()) or type(error).__name__
    notes = list(getattr(error, "__notes__", []))
    if not isinstance(error, SlimgraphError):
        name = type(error).__name__
        # A rank that failed hands on its whole traceback as text, which ends with the name of the class.
        text = text if text != str(error).strip() or text == name else f"{name}: {text}"
        notes.append(f"{_place(error)}--debug shows the traceback")
    return "\n".join([text, *notes]).replace("\n", "\n  ")


def _last_of_traceback(text: str) -> str:
    """The message at the end of a traceback that is the text of an error; any other text as it is."""
    lines = text.split("\n")
    if not any(line.startswith("Traceback (") for line in lines):
        return text
    last_of_code = max(i for i, line in enumerate(lines) if line.startswith(("  ", "Traceback (")))
    return "\n".join(lines[last_of_code + 1 :]).strip()


def _place(error: BaseException) -> str:
    """The innermost line of the user's own code that the error went through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*LIBRARIES, "<")):
            return f"in {frame.name}, {Path(frame.filename).name} line {frame.lineno}; "
    return ""
