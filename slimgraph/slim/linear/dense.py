"""Free and entrywise maps: `Linear`, `IdentityInitLinear`, `IdentityLinear`, `NonNegativeLinear`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.registry import register


@register("linear")
class Linear(LinearBase):
    """W = weight^T: a free matrix, `torch.nn.Linear` with the map interface.

    weight: `(outsize, insize)`, with the draw and the state of torch's. `from_dense` is exact.

    >>> Linear(3, 2)(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    torch_layout = True

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)

    def effective_W(self) -> Tensor:
        return self.weight.mT

    def _set_dense(self, W: Tensor) -> None:
        self.weight.copy_(W.mT)


@register("identity_init")
class IdentityInitLinear(Linear):
    """W = weight^T, started as the identity (ones on the diagonal of a rectangle): a free matrix.

    weight: `(outsize, insize)`; the bias starts at 0. `from_dense` is exact.

    >>> IdentityInitLinear(2, 3).effective_W()
    tensor([[1., 0., 0.],
            [0., 1., 0.]], grad_fn=<TransposeBackward0>)
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)
        nn.init.eye_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@register("identity")
class IdentityLinear(IdentityInitLinear):
    """W = I (ones on the diagonal of a rectangle): the identity, frozen for good.

    `weight` and `bias` are buffers, so that no call that unfreezes parameters can train it. `from_dense` gives the
    identity, the only member, whatever W is.

    >>> list(IdentityLinear(2, 2, bias=True).parameters())
    []
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)
        for name, value in list(self.named_parameters()):
            delattr(self, name)
            self.register_buffer(name, value.detach())

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return (W - torch.eye(*W.shape, dtype=W.dtype, device=W.device)).abs().max() <= tol

    def _set_dense(self, W: Tensor) -> None:
        pass


@register("nneg")
class NonNegativeLinear(LinearBase):
    """W = relu(weight): every entry >= 0.

    weight: `(insize, outsize)`, started from the absolute value of the usual draw, so that no half of it is dead.
    `from_dense` is nearest in the Frobenius norm: negative entries become 0.

    >>> bool((NonNegativeLinear(3, 2).effective_W() >= 0).all())
    True
    """

    def __init__(self, insize: int, outsize: int, bias: bool = False):
        super().__init__(insize, outsize, bias)
        with torch.no_grad():
            self.weight.abs_()

    def effective_W(self) -> Tensor:
        return F.relu(self.weight)

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        return W.min() >= -tol

    def _set_dense(self, W: Tensor) -> None:
        # At 0 itself relu has no slope, and the entry could never be trained again.
        self.weight.copy_(W.clamp(min=torch.finfo(W.dtype).tiny))
