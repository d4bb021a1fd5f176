"""`python -m slimgraph` is the command `slimgraph`."""

from __future__ import annotations

from slimgraph.cli import main

# Ranks that are spawned import this file once more.
if __name__ == "__main__":
    raise SystemExit(main())
