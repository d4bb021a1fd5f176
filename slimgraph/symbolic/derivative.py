"""Derivatives of tensors by autograd, with zeros where nothing depends on the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, ExpressionError


def gradient(y: Tensor, x: Tensor, grad_outputs: Tensor | None = None, create_graph: bool = True) -> Tensor:
    """The gradient of the sum of `y`, weighted by `grad_outputs`, with respect to `x`; of `x`'s shape.

    `create_graph` keeps the result differentiable. Zeros come back where `y` does not depend on `x`.

    >>> x = torch.tensor([2., 3.], requires_grad=True)
    >>> gradient(x ** 3, x)
    tensor([12., 27.], grad_fn=<MulBackward0>)
    """
    if not (isinstance(y, Tensor) and isinstance(x, Tensor)):
        raise ExpressionError(
            f"a derivative needs a tensor by a tensor; got {type(y).__name__} by {type(x).__name__}. Of a tuple, "
            "derive an entry, as by y[0].grad(x)"
        )
    if not y.requires_grad and not (x.requires_grad and torch.is_grad_enabled()):
        raise ExpressionError(
            f"a derivative needs gradients: x of shape {tuple(x.shape)} has requires_grad={x.requires_grad}, "
            f"torch.is_grad_enabled() is {torch.is_grad_enabled()}"
        )
    if not y.requires_grad:
        return torch.zeros_like(x)
    weights = torch.ones_like(y) if grad_outputs is None else grad_outputs
    (slope,) = torch.autograd.grad(y, x, weights, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(x) if slope is None else slope


def gradients(y: Tensor, *xs: Tensor) -> tuple[Tensor, ...]:
    """`gradient(y, x)` for each of several `x`, by one walk back through what leads to `y`.

    >>> x, t = torch.tensor([2., 3.], requires_grad=True), torch.tensor([1.], requires_grad=True)
    >>> [slope.tolist() for slope in gradients(t * x, x, t)]
    [[1.0, 1.0], [5.0]]
    """
    if not (isinstance(y, Tensor) and y.requires_grad and all(_requires_grad(x) for x in xs)):
        return tuple([gradient(y, x) for x in xs])
    slopes = torch.autograd.grad(y, xs, torch.ones_like(y), create_graph=True, allow_unused=True)
    return tuple([torch.zeros_like(x) if slope is None else slope for x, slope in zip(xs, slopes, strict=True)])


def jacobian(y: Tensor, x: Tensor) -> Tensor:
    """The sample-wise Jacobian `(batch, m, n)` of `y (batch, m)` by `x (batch, n)`.

    Sample i of `y` may depend on sample i of `x` only.

    >>> x = torch.tensor([[2., 3.]], requires_grad=True)
    >>> jacobian(torch.stack([x.prod(-1), x.sum(-1)], -1), x)
    tensor([[[3., 2.],
             [1., 1.]]], grad_fn=<StackBackward0>)
    """
    return torch.stack([gradient(y_i, x) for y_i in y.unbind(-1)], dim=-2)


def require_grad(data: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`data` with leaves that require a gradient under `keys`; what requires one already stays as it is."""
    if torch.compiler.is_compiling():
        # There derivatives are torch.func's, which need no such leaf.
        return data
    leaves = {key: _leaf(key, data[key]) for key in keys if key in data and not _requires_grad(data[key])}
    return {**data, **leaves} if leaves else data


def _requires_grad(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.requires_grad


def _leaf(key: str, thing: Any) -> Tensor:
    if not (isinstance(thing, Tensor) and (thing.is_floating_point() or thing.is_complex())):
        given = thing.dtype if isinstance(thing, Tensor) else type(thing).__name__
        raise DtypeError(f"a derivative by {key!r} needs a tensor of floating point there; got {given}")
    # An inference tensor cannot take part in a derivative; its copy can.
    return (thing.clone() if thing.is_inference() else thing.detach()).requires_grad_()
