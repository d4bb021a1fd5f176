"""The registry of structured maps: by which key a class is chosen, and which sizes it needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from slimgraph.errors import OptionError, UnknownMapError, did_you_mean

if TYPE_CHECKING:
    from slimgraph.slim.linear.base import LinearBase

Map = TypeVar("Map", bound="type[LinearBase]")


class Registry(dict[str, "type[LinearBase]"]):
    """Maps by key; a key that is not there is told with the nearest one."""

    def __missing__(self, key: str) -> type[LinearBase]:
        hint = did_you_mean(key, self) or f" There are {', '.join(sorted(self))}."
        raise UnknownMapError(f"there is no map {key!r}.{hint}")


maps: Registry = Registry()
"""Every concrete map by its key, aliases included."""

square_maps: set[type[LinearBase]] = set()
"""The classes that need `insize == outsize`."""

tall_maps: set[type[LinearBase]] = set()
"""The classes that need `insize <= outsize`."""

even_maps: set[type[LinearBase]] = set()
"""The classes that need both sizes even."""


def register(
    key: str, *aliases: str, square: bool = False, tall: bool = False, even: bool = False
) -> Callable[[Map], Map]:
    """A class decorator that puts a map under `key` and `aliases`, and so under the laws in tests/test_map_laws.py.

    Raises `OptionError` when a key is taken already.
    """

    def add(cls: Map) -> Map:
        for name in (key, *aliases):
            if name in maps:
                raise OptionError(f"the map key {name!r} of {cls.__name__} is taken by {maps[name].__name__}")
            maps[name] = cls
        if square:
            square_maps.add(cls)
        if tall:
            tall_maps.add(cls)
        if even:
            even_maps.add(cls)
        return cls

    return add


def get_map(chosen: str | Callable[..., LinearBase]) -> Callable[..., LinearBase]:
    """The class that a key of `maps` stands for; a class, or any callable that makes a map, is returned as it is.

    >>> get_map('orthogonal').__name__
    'OrthogonalLinear'
    >>> get_map('orthogonl')
    Traceback (most recent call last):
    slimgraph.errors.UnknownMapError: there is no map 'orthogonl'. Did you mean 'orthogonal'?
    """
    if isinstance(chosen, str):
        return maps[chosen]
    if isinstance(chosen, nn.Module):
        name = type(chosen).__name__
        raise OptionError(f"a map is chosen by its key or its class, got an instance of {name}; give the class")
    if not callable(chosen):
        raise OptionError(f"a map is chosen by its key or its class, got {chosen!r}")
    return chosen
