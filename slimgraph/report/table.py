"""Tables in plain text, and what JSON takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH = 100


def label(constraint: Any) -> str:
    """The name and the text of what has both, once where they are the same."""
    return constraint.text if constraint.name == constraint.text else f"{constraint.name}: {constraint.text}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of at most 100 columns: the first `texts` columns to the left, cut where they must be; numbers right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    widths[texts:] = [max(8, width) for width in widths[texts:]]
    # The last text takes what the others leave; one before it at most half the line.
    for place in range(texts - 1):
        widths[place] = min(widths[place], WIDTH // 2)
    others = sum(width + 2 for width in widths) - widths[texts - 1] - 2
    widths[texts - 1] = min(widths[texts - 1], WIDTH - others)
    lines = []
    for row in (heads, *rows):
        left = [cut(cell, w).ljust(w) for cell, w in zip(row[:texts], widths, strict=False)]
        right = [cell.rjust(w) for cell, w in zip(row[texts:], widths[texts:], strict=True)]
        lines.append("  ".join([*left, *right]).rstrip())
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def finite(thing: Any) -> Any:
    """`thing` with None for every number that is not finite, as strict JSON wants it."""
    if isinstance(thing, dict):
        return {key: finite(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [finite(value) for value in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing
