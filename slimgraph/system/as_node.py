"""A System as a node: of a Problem, of a picture, and of another System, a fast loop inside a slow one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.node import describe
from slimgraph.node.as_graph import Held
from slimgraph.node.holder import NodeHolder
from slimgraph.system import picture


class AsNode(nn.Module, NodeHolder):
    """What a System answers as a node, of another System too.

    Within each step of the outer one it runs all its own steps. A state that the data start begins at its present
    entry; another input `(batch, features)` is constant over the inner steps, and an outer series
    `(batch, time, inner time, features)` gives the inner one a series at each outer step. The outer series gets the
    last entry of each output. Windows of the inner one begin anew at each outer step.
    """

    name: str | None
    input_keys: list[str]
    written: list[str]
    keep: list[str]
    nsteps: int | None
    nstep_key: str

    @property
    def output_keys(self) -> list[str]:
        """What others may read: the outputs in `keep`."""
        return self.keep

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"system {self.name!r}" if self.name else "a System"

    @property
    def label(self) -> str:
        """Its name, or what it is."""
        return self.name or "System"

    def call(self, *entries: Tensor, more: Sequence[str] = ()) -> tuple[Tensor, ...]:
        """One outer step; `more` are keys beyond `input_keys` whose entries follow."""
        given = dict(zip([*self.input_keys, *more], entries, strict=True))
        result = self({key: entry[:, None] if key in self.written else entry for key, entry in given.items()})
        return tuple(result[key][:, -1] for key in self.output_keys)

    @property
    def also_reads(self) -> list[str]:
        """What it reads, beyond `input_keys`, where somebody gives it: starts, the series that counts."""
        counted = [self.nstep_key] if self.nsteps is None else []
        inner = [key for node in self.nodes if isinstance(node, AsNode) for key in node.also_reads]
        return [key for key in dict.fromkeys([*self.written, *counted, *inner]) if key not in self.input_keys]

    def named(self, result: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The results by key."""
        return dict(zip(self.output_keys, result, strict=True))

    def explain(self, error: Exception, data: Mapping[str, Any], when: str = "") -> None:
        """Notes on `error` which system it came from, and the shapes it had."""
        shapes = ", ".join(f"{key} {describe(value)}" for key, value in data.items())
        error.add_note(f"in {self.title},{when} called with {shapes}")

    def places(self, label: str) -> list[str]:
        """The ids of its nodes in a graph where it stands under `label`."""
        return [f"{label}/{name}" for name in wiring.names(self.nodes)]

    def inner_graph(self, label: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
        """Its nodes as a graph in one cluster; the readers of each outside key, the writer of each output."""
        return picture.inner_graph(self, label)

    def entries_ahead(self, key: str, node: Any) -> int:
        """How many entries of `key` the node sees side by side."""
        return 1

    def held(self) -> Held:
        """Its nodes, wired by their keys, for the component graph."""
        starts = [key for key in self.input_keys if key in self.written]
        return Held(self.nodes, wiring.names(self.nodes), self.keep, self.label, starts, self.entries_ahead)

    def as_graph(self) -> Any:
        """The component graph of its nodes, down to the weights, in one `GraphHolder`; states feed back and start."""
        return self.held().keyed({}).graph

    def to_networkx(self) -> Any:
        """The system between its keys, opened, as a networkx MultiDiGraph."""
        return wiring.to_networkx([self])

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {node!r}" for node in self.nodes)
        return f"{self.name or 'System'}, nsteps from {self.nsteps or self.nstep_key!r}:{nodes}"


def caller(node: Any, reads: list[str]) -> Callable[..., Any]:
    """What takes the entries of `reads`: those of the node's input keys and, for a System, what else it gets."""
    more = reads[len(node.input_keys) :]
    return partial(node.call, more=more) if more else node.call
