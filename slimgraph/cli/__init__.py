"""The command line: `slimgraph fit | validate | test | predict | check | draw | diff`, and its exit codes.

The first four are Lightning's command line over `LitProblem` and `LitDataModule`; the others do not open Lightning and
start as fast as `import slimgraph`. docs/command-line.md shows each of them.
"""

from __future__ import annotations

from slimgraph.cli.command import main

__all__ = ["main"]
