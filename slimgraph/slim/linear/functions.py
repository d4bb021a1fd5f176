"""Small differentiable functions that several families of maps share."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from slimgraph.errors import OptionError

Method = TypeVar("Method", bound=Callable[..., Any])


class IdentityGradReLU(torch.autograd.Function):
    """`max(x, 0)` forward, the identity backward: a weight that was clamped to zero can still come back.

    >>> x = torch.tensor([-1., 2.], requires_grad=True)
    >>> IdentityGradReLU.apply(x).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


def between(p: Tensor, low: float, high: float) -> Tensor:
    """`low + (high - low) sigmoid(p)`, elementwise: a free parameter as a number inside `[low, high]`."""
    return low + (high - low) * torch.sigmoid(p)


def between_inverse(value: Tensor, low: float, high: float) -> Tensor:
    """The `p` with `between(p, low, high) == value`, after clipping `value` into the interval.

    Where `value` stands on a bound, `p` stops half a rounding error away from it, so that it stays finite.
    """
    if low == high:
        return torch.zeros_like(value)
    edge = torch.finfo(value.dtype).eps / 2
    return torch.logit((value - low) / (high - low), eps=edge)


def check_bounds(owner: object, sigma_min: float, sigma_max: float, floor: float = -math.inf) -> tuple[float, float]:
    """Both bounds as floats; raises `OptionError` unless they are finite and `floor <= sigma_min <= sigma_max`."""
    name = type(owner).__name__
    for word, bound in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            raise OptionError(f"{name} needs a number for {word}, got {word}={bound!r}")
    low, high = float(sigma_min), float(sigma_max)
    for word, bound in (("sigma_min", low), ("sigma_max", high)):
        if not math.isfinite(bound):
            raise OptionError(f"{name} needs a finite {word}, got {word}={bound}")
    if low > high:
        raise OptionError(f"{name} needs sigma_min <= sigma_max, got sigma_min={low} and sigma_max={high}")
    if low < floor:
        raise OptionError(f"{name} needs sigma_min >= {floor:g}, got sigma_min={low}")
    return low, high


def whole_number(owner: object, word: str, number: int) -> int:
    """`number` as an int; raises `OptionError` unless it is a whole number of at least 1."""
    name = type(owner).__name__
    try:
        if isinstance(number, bool):
            raise TypeError
        number = operator.index(number)
    except TypeError:
        raise OptionError(f"{name} needs a whole number for {word}, got {number!r}") from None
    if number < 1:
        raise OptionError(f"{name} needs {word} >= 1, got {word}={number}")
    return number


def under_autocast(device: torch.device) -> bool:
    """Whether autocast is on for tensors of this device; some devices (meta) have none."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def full_precision(build: Method) -> Method:
    """A decorator for methods that multiply factors: autocast is off inside.

    Autocast would round the factors, and a product of rounded reflections is not orthogonal; only the finished
    product may be cast.
    """

    @functools.wraps(build)
    def exact(owner: Any, *args: Any, **options: Any) -> Any:
        if not under_autocast(owner.device):
            return build(owner, *args, **options)
        with torch.autocast(owner.device.type, enabled=False):
            return build(owner, *args, **options)

    return exact  # pyright: ignore[reportReturnType]
