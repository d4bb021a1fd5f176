"""What every integrator is: `Integrator`, one step of time on a right side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from slimgraph.errors import DtypeError, OptionError, ShapeError, StrictOptions
from slimgraph.slim.linear import LookedThrough, materialized
from slimgraph.slim.linear.functions import check_number

RightSide = Callable[..., Tensor]
Interpolation = Callable[..., Tensor | tuple[Tensor, ...]]


class Integrator(LookedThrough, metaclass=StrictOptions):
    """`integrator(x, *args)` is the state a time `h` after `x`, where dx/dt = `block(x, *args)`.

    `block` is a function, a module or a Node that takes the state first and has one output; x and `block(x, *args)` are
    of one shape, such as `(batch, features)`. `h` is in the unit of time that `block` is written in; a negative one
    goes back in time.

    `args` hold still within the step, unless `interp_u(tq, t, *args)` gives them anew: those at the time `tq`, which
    were given at `t`. Times count from the start of the step, so t = 0 and tq goes from 0 to h, as a number
    or, in `DiffEqIntegrator`, a 0-dim tensor. A right side that depends on time takes it as such an input:
    `interp_u=lambda tq, t, time: time + (tq - t)`.

    Raises `OptionError` for a block that cannot be called or an h that is no number but 0, `ShapeError` for a right
    side that gives anything but one tensor of the state's shape, `DtypeError` for a state that is no tensor of real or
    complex numbers.
    """

    def __init__(self, block: RightSide, interp_u: Interpolation | None = None, h: float = 1.0):
        super().__init__()
        name = type(self).__name__
        if not callable(block):
            raise OptionError(f"{name} needs a right side that can be called, got {type(block).__name__}: {block!r}")
        if interp_u is not None and not callable(interp_u):
            raise OptionError(f"{name} needs a function interp_u(tq, t, *args), got {interp_u!r}; h is written h=...")
        if len(getattr(block, "output_keys", "x")) != 1:
            raise OptionError(f"{name} needs a node with one output, the slope of the state; got {block!r}")
        self.block: Any = getattr(block, "to_torch", lambda: block)()
        self.interp_u = interp_u
        self.h = self._step_size(h)
        owner = getattr(block, "__self__", getattr(block, "func", None))
        if isinstance(owner, nn.Module):
            # A method of a module, or a partial call of one: its parameters are trained with the integrator.
            self.owner = owner

    def _step_size(self, h: Any) -> float:
        if isinstance(h, Tensor):
            if h.requires_grad:
                raise OptionError(f"{type(self).__name__} needs a number for h, got one to be trained: {h!r}")
            if h.numel() != 1:
                raise OptionError(f"{type(self).__name__} needs one number for h, got a tensor {tuple(h.shape)}")
            h = h.item()
        if h == 0:
            raise OptionError(f"{type(self).__name__} needs h != 0, got h={h}")
        return check_number(self, "h", h)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """The state a time `h` later, in the shape of `x`."""
        if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
            what = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise DtypeError(f"{type(self).__name__} needs a state of real or complex numbers, got {what}")
        # The parameters hold still within a step, so a map builds its matrix once and not at every stage.
        with materialized(self):
            return self.integrate(x, *args)

    @abstractmethod
    def integrate(self, x: Tensor, *args: Any) -> Tensor:
        """The step itself; a subclass defines it by `slope`."""

    def slope(self, time: float | Tensor, x: Tensor, args: Sequence[Any]) -> Tensor:
        """The right side at `x`, with the inputs of that time since the start of the step."""
        if self.interp_u is not None:
            inputs = self.interp_u(time, 0.0, *args)
            args = inputs if isinstance(inputs, tuple) else (inputs,)
        if hasattr(self.block, "input_keys"):
            (slope,) = self.block.run(self._by_key(x, args)).values()
        else:
            slope = self.block(x, *args)
        if isinstance(slope, Tensor) and slope.shape == x.shape:
            return slope
        raise ShapeError(
            f"{type(self).__name__} needs a right side that gives one tensor of the shape {tuple(x.shape)}, as that of "
            f"the state it is given; {self._title} gave {_shapes(slope)}"
        )

    def _by_key(self, x: Tensor, args: Sequence[Any]) -> dict[str, Any]:
        keys = self.block.input_keys
        if len(keys) != 1 + len(args):
            raise ShapeError(
                f"{type(self).__name__} steps {self._title}, which reads {len(keys)} keys, {keys}; got {1 + len(args)}"
                " tensors"
            )
        return dict(zip(keys, (x, *args), strict=True))

    @property
    def _title(self) -> str:
        """What errors call the right side."""
        block = self.block
        return getattr(block, "title", None) or getattr(block, "__name__", None) or type(block).__name__

    @property
    def insize(self) -> int | None:
        """The size of the state, where the right side tells it; also `in_features`."""
        return _told(self.block, "insize", "in_features")

    @property
    def outsize(self) -> int | None:
        """The size of the state a step later, where the right side tells it; also `out_features`."""
        return _told(self.block, "outsize", "out_features")

    in_features, out_features = insize, outsize

    def extra_repr(self) -> str:
        block = "" if isinstance(self.block, nn.Module) else f"{self._title}, "
        return f"{block}h={self.h:g}"


def _told(block: Any, *words: str) -> int | None:
    block = getattr(block, "callable", block)
    return next((getattr(block, word) for word in words if getattr(block, word, None) is not None), None)


def _shapes(result: Any) -> str:
    """What came, for an error."""
    if isinstance(result, Tensor):
        return f"one of {tuple(result.shape)}"
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}: {', '.join(map(_shapes, result))}"
    return f"a {type(result).__name__}"
