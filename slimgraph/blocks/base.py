"""What every block is: `Block`, and how its maps and nonlinearities are chosen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph import slim
from slimgraph.errors import OptionError, ShapeError, StrictOptions
from slimgraph.slim import LinearBase, LookedThrough, get_map
from slimgraph.slim.cells import MapChoice, check_mapping
from slimgraph.slim.linear.functions import whole_number

Nonlinearity = type[nn.Module] | Callable[[Tensor], Tensor]


class Block(LookedThrough, metaclass=StrictOptions):
    """A network from `(..., insize)` to `(..., outsize)`; several inputs are joined on their last axis.

    `insize` counts the features of all inputs together; `in_features`, `out_features` say the same. Raises `ShapeError`
    for inputs that do not fit, `OptionError` for options that make no sense.
    """

    def __init__(self, insize: int, outsize: int):
        super().__init__()
        self.insize = self.in_features = whole_number(self, "insize", insize)
        self.outsize = self.out_features = whole_number(self, "outsize", outsize)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The outputs `(..., outsize)`."""
        return self.block_eval(self._joined(inputs))

    @abstractmethod
    def block_eval(self, x: Tensor) -> Tensor:
        """The outputs for the joined inputs, `(..., insize)`."""

    def _joined(self, inputs: tuple[Tensor, ...]) -> Tensor:
        shapes: list[tuple[int, ...]] = [tuple(getattr(x, "shape", ())) for x in inputs]
        if (
            [x for x in inputs if not isinstance(x, Tensor)]
            or () in shapes
            or any(s[:-1] != shapes[0][:-1] for s in shapes)
        ):
            what = ", ".join(str(s) if isinstance(x, Tensor) else repr(x) for x, s in zip(inputs, shapes, strict=True))
            raise ShapeError(
                f"{type(self).__name__} joins tensors that differ in their last axis only; got {what or 'nothing'}"
            )
        if sum(shape[-1] for shape in shapes) != self.insize:
            got = " + ".join(str(shape[-1]) for shape in shapes)
            raise ShapeError(
                f"{type(self).__name__} needs insize={self.insize} features, those of all inputs together; got {got}"
                f" (shapes {', '.join(map(str, shapes))})"
            )
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1)

    def _map(
        self, layer: str, choice: MapChoice, insize: int, outsize: int, bias: bool, linargs: Mapping[str, Any] | None
    ) -> LinearBase:
        """The map of one layer; what it refuses is told with the layer's name."""
        name = type(self).__name__
        options = {} if linargs is None else linargs
        check_mapping(self, "linargs", options)
        if "bias" in options:
            raise OptionError(f"{name} gives its maps a bias with its own option bias; got it in linargs")
        # neuromancer's notebooks write torch's layer here; slim.Linear is the same with the interface of a map.
        choice = slim.Linear if choice is nn.Linear else choice
        try:
            made = get_map(choice)(insize, outsize, bias=bias, **options)
        except OptionError as error:
            raise type(error)(f"{name} cannot make its {layer} layer, {insize} -> {outsize}: {error}") from error
        if not isinstance(made, LinearBase):
            raise OptionError(
                f"{name} needs a structured map for linear_map, got {choice!r}, which makes {type(made).__name__}"
            )
        return made

    def _sizes(self, hsizes: Sequence[int] | None, default: Sequence[int]) -> list[int]:
        """The widths of the hidden layers."""
        chosen = default if hsizes is None else hsizes
        if isinstance(chosen, str) or not isinstance(chosen, Sequence):
            raise OptionError(f"{type(self).__name__} needs a list for hsizes, such as [64, 64]; got {hsizes!r}")
        return [whole_number(self, f"hsizes[{place}]", size) for place, size in enumerate(chosen)]

    def _nonlinearity(self, choice: Nonlinearity) -> nn.Module:
        """A new module of the class, or the function as a module."""
        if not callable(choice):
            raise OptionError(f"{type(self).__name__} needs a class such as nn.SiLU, or a function; got {choice!r}")
        try:
            made: Any = choice() if isinstance(choice, type) else choice
        except TypeError as error:
            raise OptionError(
                f"{type(self).__name__} makes its nonlinearities without arguments, and {choice.__name__} needs some; "  # pyright: ignore
                f"give a function, such as lambda x: F.threshold(x, 0, 1): {error}"
            ) from error
        return made if isinstance(made, nn.Module) else Elementwise(made)


class Elementwise(nn.Module):
    """A function of one tensor as a module."""

    keeps_size = True

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def ordinal(place: int) -> str:
    """Which layer, for an error."""
    words = ("first", "second", "third")
    return words[place] if place < len(words) else f"{place + 1}th"
