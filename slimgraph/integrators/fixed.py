"""Steps of fixed size: `Euler`, `RK2`, `RK4` by their tables, and `LeapFrog` for second-order equations."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from slimgraph.errors import ShapeError
from slimgraph.integrators.base import Integrator


class RungeKutta(Integrator):
    """An explicit Runge-Kutta step: k_i = f(x + h sum_j a_ij k_j) at the time c_i h, then x + h sum_i b_i k_i."""

    times: ClassVar[tuple[float, ...]]
    """c, when a stage is taken."""
    stages: ClassVar[tuple[dict[int, float], ...]]
    """a, for each stage the slopes it stands on, by their number."""
    weights: ClassVar[dict[int, float]]
    """b, the same for the step."""

    def integrate(self, x: Tensor, *args: Any) -> Tensor:
        slopes: list[Tensor] = []
        for time, stage in zip(self.times, self.stages, strict=True):
            slopes.append(self.slope(time * self.h, self._moved(x, slopes, stage), args))
        return self._moved(x, slopes, self.weights)

    def _moved(self, x: Tensor, slopes: list[Tensor], along: dict[int, float]) -> Tensor:
        # No torch.add(x, slope, alpha=...): where the slope is a matrix product, torch's compiler loses the alpha.
        for number, weight in along.items():
            x = x + (self.h * weight) * slopes[number]
        return x


class Euler(RungeKutta):
    """x' = x + h f(x), the explicit Euler step, of order 1; x: `(..., features)`, options as in `Integrator`.

    >>> decay = Euler(lambda x, u: u - x, h=0.5)
    >>> decay(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    tensor([[1.5000]])
    """

    times, stages, weights = (0.0,), ({},), {0: 1.0}


class RK2(RungeKutta):
    """x' = x + h f(x + h f(x) / 2), the midpoint step, of order 2; x: `(..., features)`, options as in `Integrator`.

    >>> RK2(lambda x: -x, h=0.5)(torch.tensor([[1.0]]))
    tensor([[0.6250]])
    """

    times, stages, weights = (0.0, 0.5), ({}, {0: 0.5}), {1: 1.0}


class RK4(RungeKutta):
    """The classical Runge-Kutta step of order 4; x: `(..., features)`, options as in `Integrator`.

    x' = x + h (k1 + 2 k2 + 2 k3 + k4) / 6 with k1 = f(x), k2 = f(x + h k1 / 2), k3 = f(x + h k2 / 2), k4 = f(x + h k3).

    >>> from slimgraph import Node, System
    >>> step = RK4(lambda x, u: u - x, h=0.1)
    >>> tank = System([Node(step, ["x", "u"], ["x"], name="tank")], nstep_key="u")
    >>> tank({"x": torch.zeros(1, 1, 1), "u": torch.ones(1, 3, 1)})["x"].flatten()
    tensor([0.0000, 0.0952, 0.1813, 0.2592])
    """

    times, stages = (0.0, 0.5, 0.5, 1.0), ({}, {0: 0.5}, {1: 0.5}, {2: 1.0})
    weights = {0: 1 / 6, 1: 1 / 3, 2: 1 / 3, 3: 1 / 6}


class LeapFrog(Integrator):
    """The leapfrog (Verlet) step for q'' = f(q, ...), of order 2; x: `(..., 2 n)` is q, then its velocity v.

    Half a kick, a drift, half a kick: v_half = v + h/2 f(q), q' = q + h v_half, v' = v_half + h/2 f(q'). `block` takes
    q and gives the acceleration, both `(..., n)`. The step is time-reversible; where f is a gradient it is symplectic,
    so that the energy of a long roll-out stays near its start. Options as in `Integrator`.

    Raises `ShapeError` for a state of odd size.

    >>> spring = LeapFrog(lambda q: -q, h=0.5)
    >>> spring(torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.8750, -0.4688]])
    """

    def integrate(self, x: Tensor, *args: Any) -> Tensor:
        if x.ndim == 0 or x.shape[-1] % 2:
            raise ShapeError(
                f"LeapFrog needs a state (..., 2 n), positions and then velocities; got shape {tuple(x.shape)}"
            )
        q, v = x.chunk(2, dim=-1)
        v = v + (self.h / 2) * self.slope(0.0, q, args)
        q = q + self.h * v
        v = v + (self.h / 2) * self.slope(self.h, q, args)
        return torch.cat([q, v], dim=-1)
