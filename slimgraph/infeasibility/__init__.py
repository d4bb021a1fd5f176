"""Infeasibility: which constraints of a problem cannot hold together, and by how much each must give way."""

from __future__ import annotations

from slimgraph.infeasibility.explain import explain_infeasibility
from slimgraph.infeasibility.result import Infeasibility, Slack

__all__ = ["Infeasibility", "Slack", "explain_infeasibility"]
