"""Derivatives of tensors by autograd, with zeros where nothing depends on the input."""

from __future__ import annotations

import torch
from torch import Tensor

from slimgraph.errors import ExpressionError


def gradient(y: Tensor, x: Tensor, grad_outputs: Tensor | None = None, create_graph: bool = True) -> Tensor:
    """The gradient of the sum of `y`, weighted by `grad_outputs`, with respect to `x`; of `x`'s shape.

    `create_graph` keeps the result differentiable. Zeros come back where `y` does not depend on `x`.

    >>> x = torch.tensor([2., 3.], requires_grad=True)
    >>> gradient(x ** 3, x)
    tensor([12., 27.], grad_fn=<MulBackward0>)
    """
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


def jacobian(y: Tensor, x: Tensor) -> Tensor:
    """The sample-wise Jacobian `(batch, m, n)` of `y (batch, m)` by `x (batch, n)`.

    Sample i of `y` may depend on sample i of `x` only.

    >>> x = torch.tensor([[2., 3.]], requires_grad=True)
    >>> jacobian(torch.stack([x.prod(-1), x.sum(-1)], -1), x)
    tensor([[[3., 2.],
             [1., 1.]]], grad_fn=<StackBackward0>)
    """
    return torch.stack([gradient(y_i, x) for y_i in y.unbind(-1)], dim=-2)
