"""Reports: which constraint is violated, by how much, how often and where."""

from __future__ import annotations

from slimgraph.report.report import TOLERANCE, ConstraintReport, Report
from slimgraph.report.table import WIDTH, cut, finite, label, table
from slimgraph.report.tally import Tally

__all__ = ["TOLERANCE", "WIDTH", "ConstraintReport", "Report", "Tally", "cut", "finite", "label", "table"]
