"""Networks on any structured map, each with the `reg_error()` of its maps; docs/blocks.md is the table of them."""

from __future__ import annotations

from slimgraph.blocks.base import Block
from slimgraph.blocks.convex import InputConvexNN, PosDef
from slimgraph.blocks.mlp import MLP, Linear, MLP_bounds, ResMLP
from slimgraph.blocks.rnn import RNN

__all__ = ["MLP", "RNN", "Block", "InputConvexNN", "Linear", "MLP_bounds", "PosDef", "ResMLP"]
