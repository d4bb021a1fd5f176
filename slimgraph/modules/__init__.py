"""The module API: torch modules with a shape, families of attributes, explicit state and an `evolve` over a series."""

from __future__ import annotations

from slimgraph.graph import GraphModuleBase
from slimgraph.modules.attributes import Parameter, ParameterBase, SimulationParameter, State
from slimgraph.modules.base import ModuleBase
from slimgraph.modules.events import TSEvent
from slimgraph.modules.initializers import kaiming, uniform_sqrt, unit_eigs, xavier
from slimgraph.modules.linear import Linear, LinearMixin
from slimgraph.modules.module import Module
from slimgraph.modules.rate import Rate
from slimgraph.modules.sequential import Residual, Sequential
from slimgraph.modules.series import TimeSeries, TSContinuous
from slimgraph.modules.timed import TimedModule
from slimgraph.modules.torch_view import TorchModule, TorchView

__all__ = [
    "GraphModuleBase",
    "Linear",
    "LinearMixin",
    "Module",
    "ModuleBase",
    "Parameter",
    "ParameterBase",
    "Rate",
    "Residual",
    "Sequential",
    "SimulationParameter",
    "State",
    "TSContinuous",
    "TSEvent",
    "TimeSeries",
    "TimedModule",
    "TorchModule",
    "TorchView",
    "kaiming",
    "uniform_sqrt",
    "unit_eigs",
    "xavier",
]
