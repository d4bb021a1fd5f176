"""What a dry run refuses while it runs: mixed dtypes, silent broadcasts, results that are no tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimgraph.errors import DtypeError, ShapeError, WiringError
from slimgraph.node import describe
from slimgraph.symbolic.walk import in_order


class Watched(nn.Module):
    """A node that is looked at while it runs; what it gave stays in `given`."""

    def __init__(self, node: Any, label: str, samples: int | None) -> None:
        super().__init__()
        self.node, self.label, self.samples = node, label, samples
        self.input_keys, self.output_keys, self.name = node.input_keys, node.output_keys, node.name
        self.given: dict[str, Tensor] = {}

    def run(self, data: Mapping[str, Any]) -> dict[str, Tensor]:
        """The outputs of the node. Raises DtypeError, ShapeError or WiringError with its name."""
        read = {key: data[key] for key in self.input_keys}
        values = {f"{key!r}": value for key, value in read.items()}
        parameters = {
            f"its parameter {name.removeprefix('callable.')!r}": p for name, p in self.node.named_parameters()
        }
        refuse_mixes(f"{self.label} reads", {**values, **parameters})
        try:
            with BroadcastWatch(self.label, read, self.samples, anywhere=False):
                result = self.node.run(data)
        except Exception as error:
            said = "\n".join([str(error), *getattr(error, "__notes__", [])])
            if self.label not in said and not (self.name and self.node.title in said):
                error.add_note(f"in {self.label}")
            raise
        for key, value in result.items():
            if not isinstance(value, Tensor):
                raise WiringError(f"{self.label} must give a tensor for {key!r}; its callable gave {describe(value)}")
        self.given = dict(result)
        return result


def refuse_mixes(who: str, tensors: Mapping[str, Any]) -> None:
    """Raises DtypeError where floating tensors have different precision; `tensors` by what messages call them."""
    floating = {
        name: t for name, t in tensors.items() if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())
    }
    first = next(iter(floating), "")
    for name, value in floating.items():
        if value.dtype.to_real() != floating[first].dtype.to_real():
            raise DtypeError(
                f"{who} {first}, {describe(floating[first])}, and {name}, {describe(value)}; bring both to one dtype, "
                "as by data[key].float() or problem.double()"
            )


def refuse_mixed_term(name: str, term: Any, data: Mapping[str, Any]) -> None:
    """The same for what one term reads: its keys and its trainable variables."""
    values = {f"{key!r}": data[key] for key in term.keys}
    leaves = [v for v in in_order(term.expressions) if isinstance(v.value, nn.Parameter)]
    variables = {f"the trainable {variable!r}": variable.value for variable in leaves}
    refuse_mixes(f"{term.kind} {name!r}, {term}, reads", {**values, **variables})


class BroadcastWatch(TorchDispatchMode):
    """Raises ShapeError where `(B,)` meets `(B, 1)`, which gives `(B, B)`: every sample against every other.

    That is, in a pointwise operation, where two tensors of different rank both begin with the axis of the samples and
    the result has the shape of neither. `anywhere=False` looks at operations between two of the `read` tensors alone.
    """

    def __init__(self, who: str, read: Mapping[str, Tensor], samples: int | None, *, anywhere: bool = True) -> None:
        super().__init__()
        self.who, self.read, self.samples, self.anywhere = who, read, samples, anywhere
        self.warnings = warnings.catch_warnings()

    def __enter__(self) -> Any:
        self.warnings.__enter__()
        # torch's own losses say it themselves.
        warnings.filterwarnings("error", message="Using a target size")
        return super().__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        self.warnings.__exit__(kind, error, trace)
        if isinstance(error, UserWarning) and "Using a target size" in str(error):
            raise ShapeError(f"{self.who} reads {self.shapes}: {str(error).splitlines()[0]}") from None

    @property
    def shapes(self) -> str:
        """The keys that are read, with their shapes."""
        return ", ".join(f"{key!r} {tuple(value.shape)}" for key, value in self.read.items())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags and isinstance(result, Tensor):
            tensors = [arg for arg in args if isinstance(arg, Tensor)]
            for place, left in enumerate(tensors):
                for right in tensors[place + 1 :]:
                    self._refuse(left, right, result)
        return result

    def _refuse(self, left: Tensor, right: Tensor, result: Tensor) -> None:
        if left.ndim == right.ndim or not (left.ndim and right.ndim) or not (self.samples and self.samples > 1):
            return
        if left.shape[0] != self.samples or right.shape[0] != self.samples:
            return
        ours = [any(side is value for value in self.read.values()) for side in (left, right)]
        if result.shape in (left.shape, right.shape) or not (self.anywhere or all(ours)):
            return
        raise ShapeError(
            f"{self.who} reads {self.shapes}, and shape {tuple(left.shape)} against {tuple(right.shape)} would "
            f"broadcast to {tuple(result.shape)}; give both the same axes, as by x[:, None]"
        )
