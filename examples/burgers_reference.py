"""Burgers' equation u_t + u u_x = nu u_xx from u(0, x) = -sin(pi x), solved by two integrals (Cole and Hopf)."""

from __future__ import annotations

import numpy as np

NU, SHAPE = 0.01 / np.pi, (101, 257)  # the viscosity; times and places of the grid


def exact(t, x, order=100, nu=NU):
    """u at the times and places `t`, `x` (arrays of one shape), by Gauss-Hermite quadrature of that order.

    With u = -2 nu phi_x / phi the equation becomes phi_t = nu phi_xx, so that phi is the heat kernel's mean of
    phi(0, y) = exp(-cos(pi y) / (2 pi nu)), and u the mean of -sin(pi y) under the weight kernel times phi(0, y):

        u(t, x) = sum_k w_k phi(0, y_k) (-sin(pi y_k)) / sum_k w_k phi(0, y_k),   y_k = x - sqrt(4 nu t) s_k

    with nodes s_k and weights w_k of the quadrature by exp(-s^2). Source: C. Basdevant et al., "Spectral and finite
    difference solutions of the Burgers equation", Computers & Fluids 14 (1986).
    """
    t, x = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(x, dtype=np.float64))
    s, w = np.polynomial.hermite.hermgauss(order)
    y = x[..., None] - np.sqrt(4 * nu * t)[..., None] * s
    exponent = -np.cos(np.pi * y) / (2 * np.pi * nu)
    # The largest is taken off, so that nothing overflows at a smaller viscosity.
    weight = w * np.exp(exponent - exponent.max(axis=-1, keepdims=True))
    return (weight * -np.sin(np.pi * y)).sum(axis=-1) / weight.sum(axis=-1)


def grid():
    """t, x and u(t, x) on a regular grid on [0, 1] x [-1, 1], each `(times * places,)`, the places running fastest."""
    axes = np.linspace(0, 1, SHAPE[0]), np.linspace(-1, 1, SHAPE[1])
    t, x = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    return t, x, exact(t, x)
