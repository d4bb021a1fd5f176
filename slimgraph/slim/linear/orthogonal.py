"""`OrthogonalLinear`: a trainable product of Householder reflections."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError
from slimgraph.slim.linear.base import LinearBase, SquareLinear
from slimgraph.slim.linear.compact_wy import BLOCK
from slimgraph.slim.linear.factored import cheaper_by_factors
from slimgraph.slim.linear.functions import full_precision
from slimgraph.slim.linear.householder import product, reflect, reflections_of
from slimgraph.slim.linear.registry import register


def applies_factors(owner: LinearBase, x: Tensor, *arrays: Tensor) -> bool:
    """Whether `forward` should multiply `x` by the factors in `arrays` instead of by W; both are the same function."""
    # A block of m rows starting at column i takes two products with m (n - i) entries.
    per_row = sum(len(U) * (2 * U.shape[1] - len(U) + min(BLOCK, len(U))) for U in arrays)
    return cheaper_by_factors(owner, x, arrays[0].dtype, per_row, build=owner.in_features * per_row)


def reflector_count(owner: object, word: str, count: int | None, size: int) -> int:
    """The rows that `U` needs: `count` (None: all of them), but the one-entry reflection is a sign and not a row."""
    if count is None:
        return size - 1
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or not 1 <= count <= size:
        raise OptionError(f"{type(owner).__name__} needs 1 <= {word} <= {size}, got {word}={count!r}")
    return min(int(count), size - 1)


def register_sign(owner: LinearBase, name: str, sign: Tensor, needed: int | None = None) -> None:
    """Give `owner` the buffer `name` `(1,)`; `load_state_dict` refuses what is no sign, or not the `needed` one."""
    owner.register_buffer(name, sign)
    owner.register_load_state_dict_pre_hook(functools.partial(_refuse_sign, name=name, needed=needed))


def _refuse_sign(
    owner: nn.Module, state: dict[str, Any], prefix: str, *args: Any, name: str, needed: int | None
) -> None:
    loaded, kept = state.get(prefix + name), getattr(owner, name)
    # A wrong shape is refused by torch itself.
    if not isinstance(loaded, Tensor) or loaded.shape != kept.shape or loaded.is_meta:
        return
    value, refusal = loaded.item(), None
    if abs(value) != 1:
        refusal = f"needs {name} to be 1 or -1"
    elif needed not in (None, value):
        refusal = f"was made for the other determinant and needs {name}={needed}; leave det out"
    if refusal:
        # torch raises the messages of all modules together, after it has loaded all that it could.
        args[-1].append(f"{type(owner).__name__} {refusal}, the state has {prefix}{name}={value:g}")
        state[prefix + name] = kept if needed is None else torch.full_like(loaded, needed)


def random_sign() -> Tensor:
    """+1 or -1 with even odds, `(1,)`."""
    return torch.randint(0, 2, (1,)).to(torch.get_default_dtype()) * 2 - 1


@register("orthogonal", square=True)
class OrthogonalLinear(SquareLinear):
    """W = H_0 H_1 ... H_{k-1} diag(1, ..., 1, sign), a product of Householder reflections: W W^T = I.

    U: `(k, n)` upper triangular, row i the reflector of the last n - i entries. `n_reflectors` is n by default, which
    reaches every orthogonal matrix; the one-entry reflection is the fixed `sign`, a buffer, so k is at most n - 1.
    `det` asks for the determinant +1 or -1; None draws it.

    `from_dense` is nearest in the Frobenius norm: the polar factor of W, of the determinant asked for; it needs all
    reflectors. Raises `OptionError` for options out of range; `load_state_dict` refuses a sign against `det`.
    Source: Mhammedi et al. 2017, arXiv:1612.00188.

    >>> W = OrthogonalLinear(4, 4, det=1).effective_W()
    >>> torch.allclose(W @ W.mT, torch.eye(4), atol=1e-6)
    True
    """

    def __init__(
        self, insize: int, outsize: int, bias: bool = False, *, n_reflectors: int | None = None, det: int | None = None
    ):
        super().__init__(insize, outsize, bias, provide_weights=False)
        if det not in (None, 1, -1) or isinstance(det, bool):
            raise OptionError(f"OrthogonalLinear needs det to be 1, -1 or None, got det={det!r}")
        k = reflector_count(self, "n_reflectors", n_reflectors, insize)
        self.det = det
        self.U = nn.Parameter(torch.randn(k, insize).triu())
        self.sign: Tensor
        # Every reflection turns the determinant's sign once.
        needed = None if det is None else det * (-1) ** k
        register_sign(self, "sign", random_sign() if needed is None else needed * torch.ones(1), needed)

    @full_precision
    def effective_W(self) -> Tensor:
        return product(self.U, self.sign)

    def forward(self, x: Tensor) -> Tensor:
        if not applies_factors(self, x, self.U):
            return super().forward(x)
        self._check_input(x, self.U.dtype)
        y = reflect(x, self.U, self.sign)
        return y if self.bias is None else y + self.bias

    def _contains(self, W: Tensor, tol: float) -> Tensor:
        orthogonal = (W @ W.mT - torch.eye(len(W), dtype=W.dtype, device=W.device)).abs().max() <= tol
        return orthogonal if self.det is None else orthogonal & (torch.linalg.slogdet(W).sign == self.det)

    def _set_dense(self, W: Tensor) -> None:
        if len(self.U) < self.in_features - 1:
            raise OptionError("OrthogonalLinear.from_dense needs all reflectors; leave n_reflectors out")
        left, _, right = torch.linalg.svd(W.double())
        if self.det is not None and torch.linalg.slogdet(left @ right).sign != self.det:
            # The smallest singular value is the cheapest to turn round.
            left[:, -1].neg_()
        U, sign = reflections_of((left @ right).to(W), len(self.U))
        self.U.copy_(U)
        self.sign.copy_(sign)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n_reflectors={len(self.U)}, det={self.det}"
