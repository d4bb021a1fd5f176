"""Draws the pictures of docs/diagrams.md by running its code: `python -m docs.make_diagrams [FOLDER]`."""

import contextlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent


def main(folder: Path = DOCS / "pictures") -> None:
    """Run the page in `folder`."""
    names: dict[str, object] = {}
    with contextlib.chdir(folder):
        for code in re.findall(r"```python\n(.*?)```", (DOCS / "diagrams.md").read_text(), re.DOTALL):
            exec(code, names)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
