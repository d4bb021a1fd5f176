"""How a Module is written: class, name and shape, what is below it in braces."""

from __future__ import annotations

from typing import Any

from torch import nn


def described(module: Any, inner: nn.Module | None = None) -> str:
    """`Net  with shape (2, 3) {`, then each submodule on lines of its own, indented, and `}`.

    `inner`: a plain torch module that it stands for, said in its place.
    """
    head = module.full_name + (f" with shape {module.shape}" if module.shape else "")
    return _braced(head, module) if inner is None else _plain(head, inner)


def _below(name: str, module: nn.Module) -> str:
    return repr(module) if hasattr(module, "full_name") else _plain(f"{type(module).__name__} {name!r}", module)


def _plain(head: str, module: nn.Module) -> str:
    """A torch module says itself what it is."""
    return _braced(f"{head} ({module.extra_repr()})" if module.extra_repr() else head, module)


def _braced(head: str, module: nn.Module) -> str:
    below = [_below(name, child) for name, child in module._modules.items() if child is not None]
    lines = [f"    {line}" for text in below for line in text.splitlines()]
    return "\n".join([f"{head} {{", *lines, "}"]) if lines else head
