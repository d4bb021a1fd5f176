"""Structured linear maps: one file per family, every concrete class registered in `maps`."""

from __future__ import annotations

from slimgraph.slim.linear.base import (
    IdentityGradReLU,
    LinearBase,
    SquareLinear,
    even_maps,
    get_map,
    maps,
    register,
    square_maps,
    tall_maps,
)
from slimgraph.slim.linear.butterfly import ButterflyLinear
from slimgraph.slim.linear.composition import BlockDiagonal, ProductLinear, SumLinear
from slimgraph.slim.linear.dense import IdentityInitLinear, IdentityLinear, Linear, NonNegativeLinear
from slimgraph.slim.linear.eigenvalues import GershgorinLinear, SchurDecompositionLinear
from slimgraph.slim.linear.factored import LowRankLinear, TrivialNullSpaceLinear
from slimgraph.slim.linear.householder import Hprod
from slimgraph.slim.linear.l0 import L0Linear, hold_gates_
from slimgraph.slim.linear.lasso import LassoLinear, LassoLinearRELU, project_
from slimgraph.slim.linear.monarch import MonarchLinear
from slimgraph.slim.linear.norms import BoundedNormLinear, PowerBoundLinear
from slimgraph.slim.linear.orthogonal import OrthogonalLinear
from slimgraph.slim.linear.sinkhorn import DoublyStochasticLinear
from slimgraph.slim.linear.spectral import SpectralLinear, SymmetricSpectralLinear
from slimgraph.slim.linear.split import SplitLinear, StableSplitLinear
from slimgraph.slim.linear.stable import HurwitzLinear, SchurStableLinear
from slimgraph.slim.linear.stiefel import StiefelLinear
from slimgraph.slim.linear.stochastic import LeftStochasticLinear, PerronFrobeniusLinear, RightStochasticLinear
from slimgraph.slim.linear.svd import SVDLinear, SVDLinearLearnBounds, SymmetricSVDLinear
from slimgraph.slim.linear.symmetry import DampedSkewSymmetricLinear, PSDLinear, SkewSymmetricLinear, SymmetricLinear
from slimgraph.slim.linear.symplectic import SymplecticLinear
from slimgraph.slim.linear.toeplitz import ToeplitzLinear
from slimgraph.slim.linear.walks import LookedThrough, materialized, reg_error_terms, total_reg_error

__all__ = [
    "BlockDiagonal",
    "BoundedNormLinear",
    "ButterflyLinear",
    "DampedSkewSymmetricLinear",
    "DoublyStochasticLinear",
    "GershgorinLinear",
    "Hprod",
    "HurwitzLinear",
    "IdentityGradReLU",
    "IdentityInitLinear",
    "IdentityLinear",
    "L0Linear",
    "LassoLinear",
    "LassoLinearRELU",
    "LeftStochasticLinear",
    "Linear",
    "LinearBase",
    "LookedThrough",
    "LowRankLinear",
    "MonarchLinear",
    "NonNegativeLinear",
    "OrthogonalLinear",
    "PSDLinear",
    "PerronFrobeniusLinear",
    "PowerBoundLinear",
    "ProductLinear",
    "RightStochasticLinear",
    "SVDLinear",
    "SVDLinearLearnBounds",
    "SchurDecompositionLinear",
    "SchurStableLinear",
    "SkewSymmetricLinear",
    "SpectralLinear",
    "SplitLinear",
    "SquareLinear",
    "StableSplitLinear",
    "StiefelLinear",
    "SumLinear",
    "SymmetricLinear",
    "SymmetricSVDLinear",
    "SymmetricSpectralLinear",
    "SymplecticLinear",
    "ToeplitzLinear",
    "TrivialNullSpaceLinear",
    "even_maps",
    "get_map",
    "hold_gates_",
    "maps",
    "materialized",
    "project_",
    "reg_error_terms",
    "register",
    "square_maps",
    "tall_maps",
    "total_reg_error",
]
