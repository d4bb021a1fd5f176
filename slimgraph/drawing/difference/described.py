"""Values and functions as texts that are the same in every process, and differ where they do otherwise."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import nn


def described(value: Any) -> str:
    """A plain value, or a container of some, as text that is the same in every process; empty for anything else."""
    if value is None or isinstance(value, bool | int | float | complex | str | range | torch.dtype):
        return repr(value)
    if isinstance(value, list | tuple):
        inner = [described(item) for item in value]
        return f"[{', '.join(inner)}]" if all(inner) else ""
    if isinstance(value, Mapping):
        inner = {described(key): described(item) for key, item in value.items()}
        return f"{{{', '.join(f'{k}: {v}' for k, v in inner.items())}}}" if all(inner.values()) else ""
    if isinstance(value, set | frozenset):
        inner = [described(item) for item in value]
        return f"{{{', '.join(sorted(inner))}}}" if all(inner) else ""
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
        return function_text(value)
    return ""


def function_text(function: Callable[..., Any]) -> str:
    """The name of a function, what it is bound to, and a checksum of its code where it has one."""
    if isinstance(function, functools.partial):
        given = [described(arg) or "..." for arg in function.args]
        given += [f"{name}={described(value) or '...'}" for name, value in function.keywords.items()]
        return f"{function_text(function.func)} with {', '.join(given)}"
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        held = _attributes(function)
        name = getattr(function, "__name__", type(function).__name__)
        return f"{name} [{', '.join(held)}]" if held else name
    name: str = getattr(function, "__qualname__", "").rpartition("<locals>.")[2]
    cells = dict(zip(code.co_freevars, getattr(function, "__closure__", None) or (), strict=False))
    bound = [f"{word}={text}" for word, cell in cells.items() if (text := _cell_text(cell))]
    bound += [text for text in map(described, getattr(function, "__defaults__", None) or ()) if text]
    bound += _texts(getattr(function, "__kwdefaults__", None) or {})
    bound += _attributes(getattr(function, "__self__", None))
    name += f" [{', '.join(bound)}]" if bound else ""
    return f"{name} #{_checksum(code):08x}"


def _cell_text(cell: Any) -> str:
    try:
        held = cell.cell_contents
        # Of a function its code alone: one that calls itself would be described for ever.
        code = getattr(held, "__code__", None)
        return f"{held.__name__} #{_checksum(code):08x}" if isinstance(code, CodeType) else described(held)
    except ValueError:
        # The variable is not yet bound.
        return ""


def _attributes(thing: Any) -> list[str]:
    """What an object that is called holds, as far as it is plain; a module tells it by itself."""
    return [] if isinstance(thing, nn.Module | type | ModuleType) else _texts(getattr(thing, "__dict__", {}))


def _texts(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={described(value)}" for name, value in values.items() if _plain(value)]


def _plain(value: Any) -> bool:
    """Whether `value` can be described without a function, which may hold again what holds it."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    if isinstance(value, Mapping):
        return all(map(_plain, (*value, *value.values())))
    return not callable(value) and bool(described(value))


def _checksum(code: CodeType) -> int:
    """Of what a function does; not of where it stands, which any other line may move."""
    consts = [_checksum(const) if isinstance(const, CodeType) else const for const in code.co_consts]
    consts = [sorted(map(repr, const)) if isinstance(const, frozenset) else const for const in consts]
    return zlib.crc32(repr((code.co_code, consts, code.co_names)).encode())
