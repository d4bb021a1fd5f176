"""What evaluates expressions: whoever has some has a plan for them, made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from slimgraph.errors import ExpressionError, MissingKeyError

if TYPE_CHECKING:
    from slimgraph.symbolic.expression import Variable
    from slimgraph.symbolic.plan import Plan


def constant_when_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile runs `function` by Python while it traces, and takes its result for a constant."""
    # All that torch.compiler.assume_constant_result does, which would open the compiler and double the import time.
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


class Planned:
    """Something with `expressions` and `keys`, whose values it gives for a batch."""

    _made_plan: Plan

    @property
    def expressions(self) -> Sequence[Variable]:
        """What a plan must evaluate for it."""
        raise NotImplementedError

    @property
    def _who(self) -> str:
        """What errors call it."""
        raise NotImplementedError

    # So that an expression that was never called compiles too.
    @constant_when_compiled
    def _make_plan(self) -> bool:
        if "_made_plan" not in self.__dict__:
            from slimgraph.symbolic.plan import Plan

            self.__dict__["_made_plan"] = Plan(self.expressions)
        return True

    def _values(self, data: Any) -> list[Any]:
        """The values of its expressions for a batch; an error says whose they are, and what shapes were read."""
        self._make_plan()
        if torch.compiler.is_compiling():
            return self._made_plan(data)
        if not isinstance(data, Mapping):
            raise ExpressionError(f"{self._who} takes a dict of tensors; got {type(data).__name__}")
        try:
            return self._made_plan(data)
        except MissingKeyError as error:
            raise MissingKeyError(str(error).replace("an expression", self._who, 1)) from None
        except Exception as error:
            error.add_note(f"in {self._who}, with {shapes_text(self._made_plan.input_keys, data)}")
            raise


def shapes_text(keys: Sequence[str], data: Mapping[str, Any]) -> str:
    """The keys, each with the shape of what the data holds under it, or its type where it has none."""
    return ", ".join(
        f"{key} {tuple(data[key].shape) if hasattr(data[key], 'shape') else type(data[key]).__name__}" for key in keys
    )
