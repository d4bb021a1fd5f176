"""What every test and every doctest has in common: one thread, a fixed seed, no window."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Before torch and matplotlib are imported, and inherited by the subprocesses that some tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

# Its doctests solve; without torchdiffeq it can only say what to install, which tests/test_integrators.py reads.
collect_ignore = [] if find_spec("torchdiffeq") else ["slimgraph/integrators/adaptive.py"]


@pytest.fixture(autouse=True)
def seed():
    """Every test draws from the same seed, so that one that fails fails again."""
    torch.manual_seed(0)
