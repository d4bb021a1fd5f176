"""Structured linear maps, the recurrences on them, and tasks for these; `maps` holds every map by its key."""

from __future__ import annotations

from slimgraph.slim import bench
from slimgraph.slim.gru import GRU, GRUCell
from slimgraph.slim.linear import *  # noqa: F403
from slimgraph.slim.linear import __all__ as _maps
from slimgraph.slim.lstm import LSTM, LSTMCell
from slimgraph.slim.rnn import RNN, RNNCell

__all__ = [*_maps, "GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "bench"]
