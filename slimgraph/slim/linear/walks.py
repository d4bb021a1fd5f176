"""Walks over the maps at or below a module: `materialized`, `reg_error_terms`, `total_reg_error`, `LookedThrough`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slimgraph.slim.linear.base import LinearBase
from slimgraph.slim.linear.functions import autograd_state


class _BuiltOnce:
    """Stands before `effective_W` of one map inside `materialized`."""

    def __init__(self, owner: LinearBase):
        self.build = owner.effective_W
        self.built: dict[tuple[bool, bool], Tensor] = {}
        self.state = autograd_state()

    @property
    def is_valid(self) -> bool:
        """Whether what was built may be used here."""
        # torch.utils.checkpoint runs a function again in the backward pass, where this context may have ended: both
        # runs must do the same, so both do without it.
        return self.state == autograd_state()

    def __call__(self) -> Tensor:
        if not self.is_valid:
            return self.build()
        # A W built without gradients would cut them, so each grad mode has its own.
        mode = torch.is_grad_enabled(), not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
        if mode not in self.built:
            self.built[mode] = self.build()
        return self.built[mode]


@contextmanager
def materialized(module: nn.Module) -> Iterator[None]:
    """Inside, every map at or below `module` builds its W once, at first use, for one backward pass.

    The parameters must not change there, not through `functional_call` either.

    Contexts nest: an inner one reuses what the outer one has built. A function under `torch.utils.checkpoint` sees only
    contexts that it opens itself.

    >>> from slimgraph import slim
    >>> cell = slim.maps['orthogonal'](3, 3)
    >>> with materialized(cell):
    ...     cell.effective_W() is cell.effective_W()
    True
    """
    mine = [m for m in module.modules() if isinstance(m, LinearBase) and not m.is_materialized]
    # An outer context that does not count here is put back in the end.
    outer = [vars(m).pop("effective_W", None) for m in mine]
    try:
        for m in mine:
            # An entry of the instance goes before the method of the class, and costs nothing when it is not there.
            vars(m)["effective_W"] = _BuiltOnce(m)
        yield
    finally:
        for m, built in zip(mine, outer, strict=True):
            vars(m).pop("effective_W", None)
            if built is not None:
                vars(m)["effective_W"] = built


class Built:
    """The matrices that `materialized` holds now of the maps at or below a module, for a function under checkpoint.

    Such a function runs twice, and sees only contexts that it opens itself: `with built.again()` in it, both runs use
    these matrices, and the gradient goes on through them. A map that is not yet built here is built anew in each run.
    """

    def __init__(self, module: nn.Module):
        maps = (m for m in module.modules() if isinstance(m, LinearBase) and m.is_materialized)
        self.by_map = {m: dict(vars(m)["effective_W"].built) for m in maps}

    @contextmanager
    def again(self, compiled: bool = False) -> Iterator[None]:
        """Inside, every map uses what was built; `compiled`: within functions that torch.compile has made."""
        outer = [vars(m).pop("effective_W", None) for m in self.by_map]
        try:
            for m, built in self.by_map.items():
                vars(m)["effective_W"] = once = _BuiltOnce(m)
                once.built.update(built)
                if compiled:
                    # What `autograd_state` says while torch.compile reads the function.
                    once.state = None, None
            yield
        finally:
            for m, built in zip(self.by_map, outer, strict=True):
                vars(m).pop("effective_W", None)
                if built is not None:
                    vars(m)["effective_W"] = built


def reg_error_terms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules at or below `module` whose `reg_error()` counts, by dotted name, each object once.

    A module that defines `reg_error` is taken whole and not entered, unless its class is marked `looked_through = True`
    (slimgraph's own containers); a map that keeps its promise by construction has none to give and is left out.

    >>> from slimgraph import slim
    >>> reg_error_terms(nn.Sequential(slim.maps['orthogonal'](3, 3), slim.maps['softSVD'](3, 3)))
    [('1', SVDLinear(3, 3, bias=False, sigma_min=0.1, sigma_max=1.0))]
    """
    terms: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()

    def walk(name: str, m: nn.Module) -> None:
        if m in seen:
            return
        seen.add(m)
        reg_error = getattr(type(m), "reg_error", None)
        # A map made of maps that says nothing of its own is looked through: its parts may have something to say.
        if reg_error not in (None, LinearBase.reg_error) and not getattr(m, "looked_through", False):
            terms.append((name, m))
            return
        for child_name, child in m.named_children():
            walk(f"{name}.{child_name}" if name else child_name, child)

    walk("", module)
    return terms


def total_reg_error(module: nn.Module) -> Tensor | None:
    """The sum of `reg_error()` over `reg_error_terms(module)`, a 0-dim tensor; None when there is no term."""
    errors = [torch.as_tensor(term.reg_error()).sum() for _, term in reg_error_terms(module)]  # pyright: ignore
    return sum(errors[1:], errors[0]) if errors else None


class LookedThrough(nn.Module):
    """A module of modules whose `reg_error()` is the sum of those below it; a Problem counts each of those once."""

    looked_through = True

    def reg_error(self) -> Tensor:
        """The sum of `reg_error()` over the maps below, 0-dim."""
        total = total_reg_error(self)
        if total is not None:
            return total
        return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(())).new_zeros(())
