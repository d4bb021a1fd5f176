"""Buffers that steps change, such as the running mean of a BatchNorm: a piece that is recomputed leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

# A module and the name of its buffer.
Place = tuple[nn.Module, str]


class Buffers:
    """All buffers at or below a module at one moment."""

    def __init__(self, module: nn.Module) -> None:
        found = {(m, name): b for m in module.modules() for name, b in m._buffers.items() if b is not None}
        self.then = {place: (buffer, buffer._version) for place, buffer in found.items()}

    def changed(self) -> list[Place]:
        """The places of all buffers of the modules that have written to one of theirs since, or replaced it."""
        now = {(m, name): m._buffers.get(name) for m, name in self.then}
        # Not buffer by buffer: torch's batch norm counts no version when it writes to its running mean.
        moved = {p[0] for p, (b, version) in self.then.items() if now[p] is not b or b._version != version}
        return [place for place in self.then if place[0] in moved]


class Once:
    """The buffers at `places` change once, though a function under checkpoint runs twice, or more often.

    With `again()` around its body the first run changes the buffers; each later one sees them as they were before that,
    and what it changes is dropped.
    """

    def __init__(self, places: list[Place]) -> None:
        self.start = {(m, name): m._buffers[name].clone() for m, name in places}  # pyright: ignore
        self.has_run = False

    @contextmanager
    def again(self) -> Iterator[None]:
        """Around the function's body."""
        if not self.has_run:
            self.has_run = True
            yield
            return
        now = {(m, name): m._buffers[name] for m, name in self.start}
        try:
            for (m, name), buffer in self.start.items():
                m._buffers[name] = buffer.clone()
            yield
        finally:
            for (m, name), buffer in now.items():
                m._buffers[name] = buffer
