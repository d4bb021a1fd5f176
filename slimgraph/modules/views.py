"""Dicts that iterate as torch's own methods do: what `parameters()` and `modules()` of a Module give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

Item = TypeVar("Item")


class _View(dict[str, Any]):
    """A dict whose iteration gives objects; `.keys()`, `.items()`, `[]`, `in`, `len` and `**` are the dict's."""

    def _objects(self) -> Iterator[Any]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._objects()

    def __next__(self) -> Any:
        # `next(module.parameters())` is how torch code asks for a device or a dtype.
        if "_left" not in vars(self):
            self._left = iter(list(self))
        return next(self._left)

    def astorch(self) -> Iterator[Any]:
        """The iterator that torch's own method of this name would give."""
        return self._objects()


class Parameters(_View):
    """`{'weight': ..., 'sub': {...}}`, which iterates over the tensors, each once, in torch's order.

    >>> from slimgraph.modules import Linear
    >>> parameters = Linear((2, 3), has_bias=True).parameters()
    >>> list(parameters.keys()), [tuple(p.shape) for p in parameters]
    (['weight', 'bias'], [(2, 3), (3,)])
    """

    def _objects(self) -> Iterator[Tensor]:
        return unique(leaves(self))


class Submodules(_View):
    """The direct submodules by name, which iterates as torch's `modules()`: the module itself, then all below it."""

    def __init__(self, root: nn.Module, remove_duplicate: bool = True) -> None:
        super().__init__({name: module for name, module in root._modules.items() if module is not None})
        self._root = root
        self._remove_duplicate = remove_duplicate

    def _objects(self) -> Iterator[nn.Module]:
        for _, module in self._root.named_modules(remove_duplicate=self._remove_duplicate):
            yield module

    def __reduce__(self) -> Any:
        return Submodules, (self._root, self._remove_duplicate)


def leaves(nested: dict[str, Any]) -> Iterator[Any]:
    """The values of a nested dict in order."""
    for value in nested.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def unique(objects: Iterator[Item]) -> Iterator[Item]:
    """Each object once."""
    seen: set[int] = set()
    for one in objects:
        if id(one) not in seen:
            seen.add(id(one))
            yield one
