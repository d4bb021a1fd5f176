"""Steps of ordinary differential equations: a right side dx/dt = f(x, ...) becomes the map x(t) -> x(t + h)."""

from __future__ import annotations

from slimgraph.integrators.adaptive import DiffEqIntegrator
from slimgraph.integrators.base import Integrator
from slimgraph.integrators.fixed import RK2, RK4, Euler, LeapFrog

__all__ = ["RK2", "RK4", "DiffEqIntegrator", "Euler", "Integrator", "LeapFrog"]
