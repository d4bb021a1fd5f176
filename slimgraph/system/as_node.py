"""A System as a node: of a Problem, of a picture, and of another System, a fast loop inside a slow one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.node import describe
from slimgraph.system import picture


class AsNode(nn.Module):
    """What a System answers as a node, of another System too.

    Within each step of the outer one it runs all its own steps. A state begins at the present entry; another input
    `(batch, features)` is constant over the inner steps, and an outer series `(batch, time, inner time, features)`
    gives the inner one a series at each outer step. The outer series gets the last entry of each output. Windows of
    the inner one begin anew at each outer step.
    """

    name: str | None
    input_keys: list[str]
    output_keys: list[str]
    written: list[str]
    keep: list[str]
    nsteps: int | None
    nstep_key: str
    # nn.ModuleList, whose members the type checker would take for plain modules.
    nodes: Any

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"system {self.name!r}" if self.name else "a System"

    @property
    def label(self) -> str:
        """Its name, or what it is."""
        return self.name or "System"

    def call(self, *entries: Tensor) -> tuple[Tensor, ...]:
        """One outer step."""
        given = dict(zip(self.input_keys, entries, strict=True))
        result = self({key: entry[:, None] if key in self.written else entry for key, entry in given.items()})
        return tuple(result[key][:, -1] for key in self.output_keys)

    def named(self, result: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The results by key."""
        return dict(zip(self.output_keys, result, strict=True))

    def explain(self, error: Exception, data: Mapping[str, Any], when: str = "") -> None:
        """Notes on `error` which system it came from, and the shapes it had."""
        shapes = ", ".join(f"{key} {describe(value)}" for key, value in data.items())
        error.add_note(f"in {self.title},{when} called with {shapes}")

    def node(self, name: str) -> Any:
        """The node of that name. Raises UnknownOptionError with the nearest one."""
        return wiring.find(self.nodes, name)

    def freeze(self) -> None:
        """Its parameters are no longer trained."""
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Its parameters are trained again."""
        self.requires_grad_(True)

    def places(self, label: str) -> list[str]:
        """The ids of its nodes in a graph where it stands under `label`."""
        return [f"{label}/{name}" for name in wiring.names(self.nodes)]

    def inner_graph(self, label: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
        """Its nodes as a graph in one cluster; the readers of each outside key, the writer of each output."""
        return picture.inner_graph(self, label)

    def to_networkx(self) -> Any:
        """The system between its keys, opened, as a networkx MultiDiGraph."""
        return wiring.to_networkx([self])

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {node!r}" for node in self.nodes)
        return f"{self.name or 'System'}, nsteps from {self.nsteps or self.nstep_key!r}:{nodes}"
