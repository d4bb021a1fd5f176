"""Structured linear maps and the recurrences on them."""

from __future__ import annotations

from slimgraph.slim.linear import *  # noqa: F403
from slimgraph.slim.linear import __all__ as __all__
