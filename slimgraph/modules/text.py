"""How a Module is written: class, name and shape, what is below it in braces."""

from __future__ import annotations

from typing import Any

from torch import nn


def described(module: Any) -> str:
    """`Net  with shape (2, 3) {`, then each submodule on lines of its own, indented, and `}`."""
    head = f"{module.full_name}" + (f" with shape {module.shape}" if module.shape else "")
    below = [_below(name, child) for name, child in module._modules.items() if child is not None]
    if not below:
        return head
    return "\n".join([f"{head} {{", *(f"    {line}" for text in below for line in text.splitlines()), "}"])


def _below(name: str, module: nn.Module) -> str:
    if hasattr(module, "full_name"):
        return repr(module)
    head = f"{type(module).__name__} {name!r}"
    # A plain module says itself what it is; a container of modules is written as one of ours.
    below = [_below(child, m) for child, m in module._modules.items() if m is not None]
    extra = f" ({module.extra_repr()})" if module.extra_repr() else ""
    if not below:
        return head + extra
    return "\n".join([f"{head}{extra} {{", *(f"    {line}" for text in below for line in text.splitlines()), "}"])
