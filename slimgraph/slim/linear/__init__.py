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
from slimgraph.slim.linear.factored import LowRankLinear, TrivialNullSpaceLinear
from slimgraph.slim.linear.householder import Hprod
from slimgraph.slim.linear.norms import BoundedNormLinear, PowerBoundLinear
from slimgraph.slim.linear.orthogonal import OrthogonalLinear
from slimgraph.slim.linear.spectral import SpectralLinear
from slimgraph.slim.linear.stochastic import LeftStochasticLinear, PerronFrobeniusLinear, RightStochasticLinear
from slimgraph.slim.linear.svd import SVDLinear, SVDLinearLearnBounds, SymmetricSVDLinear
from slimgraph.slim.linear.symmetry import DampedSkewSymmetricLinear, PSDLinear, SkewSymmetricLinear, SymmetricLinear

__all__ = [
    "BoundedNormLinear",
    "DampedSkewSymmetricLinear",
    "Hprod",
    "IdentityGradReLU",
    "IdentityInitLinear",
    "IdentityLinear",
    "LeftStochasticLinear",
    "Linear",
    "LinearBase",
    "LowRankLinear",
    "NonNegativeLinear",
    "OrthogonalLinear",
    "PSDLinear",
    "PerronFrobeniusLinear",
    "PowerBoundLinear",
    "RightStochasticLinear",
    "SVDLinear",
    "SVDLinearLearnBounds",
    "SkewSymmetricLinear",
    "SpectralLinear",
    "SquareLinear",
    "SymmetricLinear",
    "SymmetricSVDLinear",
    "TrivialNullSpaceLinear",
    "get_map",
    "maps",
    "materialized",
    "reg_error_terms",
    "register",
    "square_maps",
    "tall_maps",
    "total_reg_error",
]
