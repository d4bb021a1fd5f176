"""The module API: torch modules with a shape, families of attributes, explicit state and an `evolve` over a series."""

from __future__ import annotations

from slimgraph.graph import GraphModuleBase
from slimgraph.modules.attributes import Parameter, ParameterBase, SimulationParameter, State
from slimgraph.modules.base import ModuleBase
from slimgraph.modules.initializers import kaiming, uniform_sqrt, unit_eigs, xavier
from slimgraph.modules.linear import Linear, LinearMixin
from slimgraph.modules.module import Module
from slimgraph.modules.sequential import Residual, Sequential
from slimgraph.modules.torch_view import TorchModule, TorchView

__all__ = [
    "GraphModuleBase",
    "Linear",
    "LinearMixin",
    "Module",
    "ModuleBase",
    "Parameter",
    "ParameterBase",
    "Residual",
    "Sequential",
    "SimulationParameter",
    "State",
    "TorchModule",
    "TorchView",
    "kaiming",
    "uniform_sqrt",
    "unit_eigs",
    "xavier",
]
