"""How weights start: functions of a shape, drawing from torch's generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shape = tuple[int, ...]


def kaiming(shape: Shape) -> Tensor:
    """Uniform in +-sqrt(6 / Nin), for `(Nin, Nout)`; He et al., arXiv 1502.01852.

    >>> bool(kaiming((6, 100)).abs().max() <= 1)
    True
    """
    return uniform(shape, math.sqrt(6 / shape[0]))


def xavier(shape: Shape) -> Tensor:
    """Uniform in +-sqrt(6 / (Nin + Nout)); Glorot and Bengio, AISTATS 2010."""
    return uniform(shape, math.sqrt(6 / (shape[0] + shape[-1])))


def unit_eigs(shape: Shape) -> Tensor:
    """Normal / sqrt(Nin): the eigenvalues of a large square one fill the unit disc (the circular law)."""
    return torch.randn(shape) / math.sqrt(shape[0])


def uniform_sqrt(shape: Shape) -> Tensor:
    """Uniform in +-sqrt(1 / n), n the first entry of the shape."""
    return uniform(shape, math.sqrt(1 / shape[0]))


def uniform(shape: Shape, bound: float) -> Tensor:
    """Uniform in +-`bound`."""
    return torch.empty(shape).uniform_(-bound, bound)
