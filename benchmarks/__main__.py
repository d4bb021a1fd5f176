"""`python -m benchmarks [filter] [--json]`: the table of ratios; exit code 1 when one is above its limit."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import benchmarks
from benchmarks.measure import Result, measure, rows


def main() -> int:
    """Measure the rows whose name contains the filter, print them, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("filter", nargs="?", default="", help="only rows whose name contains this text")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table")
    options = parser.parse_args()

    torch.set_num_threads(1)
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            importlib.import_module(f"benchmarks.{module.name}")
    chosen = [row for row in rows if options.filter in row.name]
    if not chosen:
        parser.error(f"no row contains {options.filter!r}; there are: {', '.join(row.name for row in rows)}")

    progress = Console(stderr=True)
    results = [measure(row) for row in track(chosen, "measuring", console=progress, transient=True)]
    if options.json:
        print(json.dumps([{**dataclasses.asdict(result), "ok": result.ok} for result in results], indent=2))
    else:
        # A pipe has no width of its own, and a cut name is no name.
        Console(width=None if sys.stdout.isatty() else 160).print(table(results))
    return 0 if all(result.ok for result in results) else 1


def table(results: list[Result]) -> Table:
    """One line a row."""
    drawn = Table(title=f"process time, one thread, torch {torch.__version__}; every ratio from one run")
    drawn.add_column("what")
    for head in ("ours us", "baseline us", "ratio", "at most"):
        drawn.add_column(head, justify="right")
    drawn.add_column("ok")
    for r in results:
        numbers = (f"{r.ours_us:,.0f}", f"{r.baseline_us:,.0f}", f"{r.ratio:.3g}", f"{r.at_most:.3g}")
        drawn.add_row(r.name, *numbers, "[green]yes[/]" if r.ok else "[bold red]no[/]")
    return drawn


if __name__ == "__main__":
    sys.exit(main())
