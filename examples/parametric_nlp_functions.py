"""The four functions of examples/parametric_nlp.py, and their exact optimum between two circles by scipy."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

P_MIN, P_MAX = 0.5, 6.0
GRID = np.linspace(P_MIN, P_MAX, 23)  # the test: nothing is chosen on it


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(x, y):
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def beale(x, y):
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def mccormick(x, y):
    return torch.sin(x + y) + (x - y) ** 2 - 1.5 * x + 2.5 * y + 1


FUNCTIONS = {f.__name__: f for f in (rosenbrock, himmelblau, beale, mccormick)}


def polar(p, radii, angles):
    """Points of the feasible set at p, `(radii * angles, 2)`: half a ring, from the angle -3/4 pi to pi/4."""
    r = np.linspace(p / 2, p, radii)[:, None]
    angle = np.linspace(-0.75 * np.pi, 0.25 * np.pi, angles)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=-1).reshape(-1, 2)


def violation(p, x, y):
    """By how much the worst of the three constraints is violated at each p, in the units of its two sides."""
    square = x**2 + y**2
    return np.max([(p / 2) ** 2 - square, square - p**2, y - x, np.zeros_like(x)], axis=0)


def exact(name, p):
    """f, x, y of the best point that SLSQP finds from 49 starts at p: 48 over the ring, and the best of a fine grid.

    From some of them SLSQP fails in the valley of `rosenbrock`, so the grid's own point is in the choice too.
    """

    def value(z):
        z = torch.tensor(z, requires_grad=True)
        f = FUNCTIONS[name](*z)
        f.backward()
        return f.item(), z.grad.numpy()

    constraints = (
        {"type": "ineq", "fun": lambda z: z @ z - (p / 2) ** 2, "jac": lambda z: 2 * z},
        {"type": "ineq", "fun": lambda z: p**2 - z @ z, "jac": lambda z: -2 * z},
        {"type": "ineq", "fun": lambda z: z[0] - z[1], "jac": lambda z: np.array([1.0, -1.0])},
    )
    fine = polar(p, 201, 801)
    best = fine[FUNCTIONS[name](*torch.tensor(fine).T).argmin()]
    ends = [minimize(value, z, jac=True, method="SLSQP", constraints=constraints).x for z in [best, *polar(p, 4, 12)]]
    return min((value(z)[0], *z) for z in [best, *ends] if violation(p, *z) < 1e-6)
