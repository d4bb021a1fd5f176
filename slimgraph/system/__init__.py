"""Nodes rolled out over time, with a preview of known signals, with a window of past ones."""

from __future__ import annotations

from slimgraph.system.horizon import MovingHorizon
from slimgraph.system.preview import SystemPreview
from slimgraph.system.system import System

__all__ = ["MovingHorizon", "System", "SystemPreview"]
