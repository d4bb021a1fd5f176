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
from slimgraph.slim.linear.householder import Hprod
from slimgraph.slim.linear.orthogonal import OrthogonalLinear
from slimgraph.slim.linear.spectral import SpectralLinear, SVDLinear, SymmetricSpectralLinear
from slimgraph.slim.linear.stiefel import StiefelLinear
from slimgraph.slim.linear.stochastic import LeftStochasticLinear, PerronFrobeniusLinear, RightStochasticLinear
from slimgraph.slim.linear.symmetry import DampedSkewSymmetricLinear, SkewSymmetricLinear, SymmetricLinear

__all__ = [
    "DampedSkewSymmetricLinear",
    "Hprod",
    "IdentityGradReLU",
    "IdentityInitLinear",
    "IdentityLinear",
    "LeftStochasticLinear",
    "Linear",
    "LinearBase",
    "NonNegativeLinear",
    "OrthogonalLinear",
    "PerronFrobeniusLinear",
    "RightStochasticLinear",
    "SVDLinear",
    "SkewSymmetricLinear",
    "SpectralLinear",
    "SquareLinear",
    "StiefelLinear",
    "SymmetricLinear",
    "SymmetricSpectralLinear",
    "get_map",
    "maps",
    "materialized",
    "reg_error_terms",
    "register",
    "square_maps",
    "tall_maps",
    "total_reg_error",
]
