"""Small differentiable functions that several families of maps share."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from slimgraph.errors import DtypeError, OptionError, ShapeError

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


def check_number(owner: object, word: str, value: float, floor: float = -math.inf, above: float = -math.inf) -> float:
    """The option `word` as a float; raises `OptionError` unless it is finite, >= `floor` and > `above`."""
    name = type(owner).__name__
    # numpy's numbers are real ones too, and its bool is none.
    if not isinstance(value, Real) or isinstance(value, bool):
        raise OptionError(f"{name} needs a number for {word}, got {word}={value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise OptionError(f"{name} needs a finite {word}, got {word}={value}")
    if number < floor:
        raise OptionError(f"{name} needs {word} >= {floor:g}, got {word}={value}")
    if number <= above:
        raise OptionError(f"{name} needs {word} > {above:g}, got {word}={value}")
    return number


def check_bounds(owner: object, sigma_min: float, sigma_max: float, floor: float = -math.inf) -> tuple[float, float]:
    """Both bounds as floats; raises `OptionError` unless they are finite and `floor <= sigma_min <= sigma_max`."""
    low, high = check_number(owner, "sigma_min", sigma_min), check_number(owner, "sigma_max", sigma_max)
    if low > high:
        name = type(owner).__name__
        raise OptionError(f"{name} needs sigma_min <= sigma_max, got sigma_min={low} and sigma_max={high}")
    check_number(owner, "sigma_min", low, floor)
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


def check_input(owner: object, x: Tensor, size: int, dtype: torch.dtype) -> None:
    """Raises `DtypeError` unless `x` is a tensor of `dtype`, `ShapeError` unless its last axis has `size` entries."""
    if not isinstance(x, Tensor):
        raise DtypeError(f"{_title(owner)} needs a tensor, got {type(x).__name__}; write torch.as_tensor(...)")
    if x.ndim == 0 or x.shape[-1] != size:
        raise ShapeError(
            f"{_title(owner)} needs a last axis of size {size},"
            f" got {x.shape[-1] if x.ndim else 'none'} (shape {tuple(x.shape)})"
        )
    # Autocast brings both sides to one dtype itself, as long as both are real; float64 it leaves alone.
    if x.dtype != dtype and not (
        under_autocast(x.device) and x.is_floating_point() and torch.float64 not in (x.dtype, dtype)
    ):
        raise DtypeError(
            f"{_title(owner)} has weights of {dtype}, got an input of {x.dtype}; convert one with .to(dtype)"
        )


def _title(owner: object) -> str:
    """What errors call it: its name where it has one."""
    return getattr(owner, "_title", None) or type(owner).__name__


def at_least_single(x: Tensor) -> Tensor:
    """`x` in float32 or better: LAPACK has nothing in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def symmetric_part(M: Tensor) -> Tensor:
    """(M + M^T)/2, symmetric to the last bit; M: `(n, n)`."""
    # Halves first: a sum of large entries would overflow.
    half = M / 2
    return half + half.mT


def above_zero(values: Tensor) -> Tensor:
    """`values` >= 0 moved up to rounding of the largest, so that a factor built from their roots can be trained."""
    # Where a row of one factor and a column of the other are zero, neither has a gradient.
    scale = values.max()
    return values.clamp(min=torch.finfo(values.dtype).eps * float(scale if scale > 0 else 1))


def check_real(where: str, value: Any, word: str) -> Tensor:
    """`value`, a tensor of real floating-point numbers; raises `DtypeError` for anything else."""
    if not isinstance(value, Tensor):
        name = type(value).__name__
        raise DtypeError(f"{where} needs its {word} as a tensor, got {name}; write torch.as_tensor(...)")
    if not value.is_floating_point():
        raise DtypeError(f"{where} needs a real floating-point {word}, got {value.dtype}")
    return value


def autograd_state() -> tuple[object, object]:
    """Which hooks on saved tensors are open and which backward pass is running: checkpointing changes one of them."""
    if torch.compiler.is_compiling():
        return None, None
    # Before torch 2.8 the hooks could not be asked for.
    autograd: Any = vars(torch._C)["_autograd"]
    hooks = getattr(autograd, "_top_saved_tensors_default_hooks", lambda ignore_tracing: None)
    return hooks(False), torch._C._current_graph_task_id()


def is_traced() -> bool:
    """Whether a compiler, a tracer, `torch.func` or forward-mode differentiation has to see plain operations."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def under_autocast(device: torch.device) -> bool:
    """Whether autocast is on for tensors of this device; some devices (meta) have none."""
    # The first question is asked at every call of a map, and is the cheapest.
    if not torch._C._is_any_autocast_enabled():
        return False
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def rounds_between(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether products of `x` with several factors of `dtype` are rounded in between: half precision and autocast.

    What is no tensor counts too: the plain product by W says what is wrong with it.
    """
    return not isinstance(x, Tensor) or under_autocast(x.device) or dtype.itemsize < 4


def full_precision(build: Method) -> Method:
    """A decorator for methods that multiply factors: autocast is off inside.

    Autocast would round the factors, and a product of rounded reflections is not orthogonal; only the finished
    product may be cast.
    """

    @functools.wraps(build)
    def exact(owner: Any, *args: Any, **options: Any) -> Any:
        if not torch._C._is_any_autocast_enabled() or not under_autocast(owner.device):
            return build(owner, *args, **options)
        with torch.autocast(owner.device.type, enabled=False):
            return build(owner, *args, **options)

    return exact  # pyright: ignore[reportReturnType]


def check_even(owner: Any) -> None:
    """Raises `OptionError` with both sizes unless a square map has an even one."""
    if owner.in_features % 2:
        raise OptionError(
            f"{type(owner).__name__} needs an even size,"
            f" got insize={owner.in_features} and outsize={owner.out_features}"
        )


def upper_triangle(values: Tensor, n: int, diagonal: int = 0) -> Tensor:
    """Matrices `(..., n, n)` with `values` `(..., count)` row by row on and above that diagonal, and zeros below it.

    >>> upper_triangle(torch.tensor([1., 2., 3.]), 3, diagonal=1)
    tensor([[0., 1., 2.],
            [0., 0., 3.],
            [0., 0., 0.]])
    """
    rows, columns = torch.triu_indices(n, n, offset=diagonal, device=values.device)
    flat = values.new_zeros(*values.shape[:-1], n * n)
    return flat.index_copy(-1, rows * n + columns, values).unflatten(-1, (n, n))
