"""Inner: a System as a node of another one, a fast loop inside a slow one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slimgraph.node import describe


class Inner:
    """What a System answers as a node of another System.

    Within each step of the outer one it runs all its own steps. A state begins at the present entry; another input
    `(batch, features)` is constant over the inner steps, and an outer series `(batch, time, inner time, features)` gives
    the inner one a series at each outer step. The outer series gets the last entry of each output. Windows of the inner
    one begin anew at each outer step.
    """

    name: str | None
    input_keys: list[str]
    output_keys: list[str]
    written: list[str]
    title: str

    @property
    def label(self) -> str:
        """Its name, or what it is."""
        return self.name or "System"

    def call(self, *entries: Tensor) -> tuple[Tensor, ...]:
        """One outer step."""
        given = dict(zip(self.input_keys, entries, strict=True))
        run: Any = self
        result = run({key: entry[:, None] if key in self.written else entry for key, entry in given.items()})
        return tuple(result[key][:, -1] for key in self.output_keys)

    def named(self, result: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The results by key."""
        return dict(zip(self.output_keys, result, strict=True))

    def explain(self, error: Exception, data: Mapping[str, Any], when: str = "") -> None:
        """Notes on `error` which system it came from, and the shapes it had."""
        shapes = ", ".join(f"{key} {describe(value)}" for key, value in data.items())
        error.add_note(f"in {self.title},{when} called with {shapes}")
