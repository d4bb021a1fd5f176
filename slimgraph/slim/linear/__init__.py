"""Structured linear maps: one file per family, every concrete class registered in `maps`."""

from __future__ import annotations

from slimgraph.slim.linear.base import (
    IdentityGradReLU,
    LinearBase,
    SquareLinear,
    get_map,
    maps,
    materialized,
    reg_error_terms,
    register,
    square_maps,
    tall_maps,
    total_reg_error,
)
from slimgraph.slim.linear.dense import IdentityInitLinear, IdentityLinear, Linear, NonNegativeLinear

__all__ = [
    "IdentityGradReLU",
    "IdentityInitLinear",
    "IdentityLinear",
    "Linear",
    "LinearBase",
    "NonNegativeLinear",
    "SquareLinear",
    "get_map",
    "maps",
    "materialized",
    "reg_error_terms",
    "register",
    "square_maps",
    "tall_maps",
    "total_reg_error",
]
