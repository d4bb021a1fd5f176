"""System: nodes rolled out over time.

Data are `(batch, time, features)`. Step i reads entry i of every series and appends each output to the end of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import (
    CycleError,
    MissingKeyError,
    OptionError,
    OverwriteError,
    ShapeError,
    StrictOptions,
    WiringError,
    did_you_mean,
)
from slimgraph.node import describe, key_names, node_list
from slimgraph.slim import materialized
from slimgraph.system.horizon import MovingHorizon

Columns = dict[str, list[Tensor]]
# A node, what to call, the columns that it reads and the appends of those that it writes.
Call = tuple[Any, Callable[..., Any], list[list[Tensor]], list[Callable[[Tensor], None]]]


class System(nn.Module, Drawable, metaclass=StrictOptions):
    """Nodes rolled out for `nsteps` steps of time; time and memory are linear in the number of steps.

    A key that is read and written is a state: the data give its start as one entry, `(batch, 1, features)`, and it
    comes back with `nsteps + 1`, any other output with `nsteps`. Of a given series the first `nsteps` entries
    are read; a `(batch, features)` tensor is constant over the steps. Within a step a node runs after the writers of
    what it reads, states apart.

    `nsteps` is the number of steps, by default the length of the series under `nstep_key`. `init_func(data)` may add
    start values. `keep` names the outputs to return, all by default. Maps among the nodes build their matrix once.

    Calling it gives a new dict, the data with the outputs. Raises WiringError for neither nsteps nor `nstep_key`,
    ShapeError (key, length, step) for a series too short, CycleError for feedback without a start value.

    >>> from slimgraph import Node
    >>> decay = System([Node(lambda x, u: 0.5 * x + u, ["x", "u"], ["x"], name="decay")], nstep_key="u")
    >>> decay({"x": torch.ones(1, 1, 1), "u": torch.zeros(1, 3, 1)})["x"].flatten()
    tensor([1.0000, 0.5000, 0.2500, 0.1250])
    """

    kind = "system"
    # nn.ModuleList, whose members the type checker would take for plain modules.
    nodes: Any

    def __init__(
        self,
        nodes: Sequence[Any],
        name: str | None = None,
        nstep_key: str = "X",
        init_func: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        nsteps: int | None = None,
        *,
        keep: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.nstep_key, self.init_func = name, nstep_key, init_func
        nodes = node_list(nodes, self.title)
        if inner := [node for node in nodes if isinstance(node, System)]:
            raise OptionError(f"{self.title} cannot roll out another System, {inner[0].title}, as one of its nodes")
        self.nodes = nn.ModuleList(nodes)
        if nsteps is not None and (not isinstance(nsteps, int) or nsteps < 1):
            raise OptionError(f"{self.title} needs a whole number nsteps >= 1; got {nsteps!r}")
        self.nsteps = nsteps
        wiring.names(nodes)
        self.output_keys = list(wiring.writers(nodes))
        self.keep = self._kept(keep)
        self._refuse_double_writers()
        # What a node reads and writes itself is a state for sure; longer loops show only with the data.
        own_states = {key for node in nodes for key in node.input_keys if key in node.output_keys}
        outside = (key for node in nodes for key in node.input_keys if key not in self.output_keys or key in own_states)
        self._reads = list(dict.fromkeys(outside))
        # What the init function may add need not stand in the data.
        starts = own_states if init_func or type(self).init is not System.init else ()
        self.input_keys = [key for key in self._reads if key not in starts]

    def _kept(self, keep: Sequence[str] | None) -> list[str]:
        """The outputs to return."""
        if keep is None:
            return self.output_keys
        names = key_names(keep, f"keep of {self.title}")
        for key in names:
            if key not in self.output_keys:
                hint = did_you_mean(key, self.output_keys)
                raise OptionError(f"{self.title} cannot keep {key!r}; its nodes give {self.output_keys}.{hint}")
        return names

    def _refuse_double_writers(self) -> None:
        labels = wiring.names(self.nodes)
        for key, places in wiring.writers(self.nodes).items():
            if len(places) > 1:
                raise OverwriteError(
                    f"{self.title}: {key!r} is written by node {labels[places[0]]!r} and node {labels[places[1]]!r}; "
                    "a step appends one entry to each series: give the second value another key"
                )

    # ---- the roll-out -----------------------------------------------------------------------------------------------

    def init(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The data with start values added by `init_func`; override it or pass the function."""
        return data if self.init_func is None else self.init_func(data)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        if not isinstance(data, dict):
            raise OptionError(f"{self.title} takes a dict of tensors; got {describe(data)}")
        data = self.init(data)
        if not isinstance(data, dict):
            raise OptionError(f"the init function of {self.title} must return the data; it gave {data!r}")
        nsteps = self._count(data)
        columns = self._columns(data, nsteps)
        horizons = [module for module in self.modules() if isinstance(module, MovingHorizon)]
        try:
            for horizon in horizons:
                horizon.reset()
            with materialized(self):
                self._roll_out(columns, nsteps)
        finally:
            for horizon in horizons:
                horizon.reset()
        return {**data, **{key: self._stacked(key, columns[key]) for key in self.keep}}

    def _stacked(self, key: str, entries: list[Tensor]) -> Tensor:
        try:
            return torch.stack(entries, dim=1)
        except RuntimeError as error:
            shapes = list(dict.fromkeys(tuple(entry.shape) for entry in entries))
            raise ShapeError(
                f"the entries of {key!r} in {self.title} have different shapes, in the order of time: {shapes}"
            ) from error

    def _roll_out(self, columns: Columns, nsteps: int) -> None:
        """Run every step, appending each output to its column."""
        run_order = wiring.order(self.nodes, given=[k for k in self.output_keys if columns[k]], inside=self.title)
        plan = [self._call(self.nodes[place], columns) for place in run_order]
        for i in range(nsteps):
            self._advance(plan, i, nsteps)

    def _advance(self, plan: list[Call], i: int, nsteps: int) -> None:
        for node, call, reads, writes in plan:
            try:
                result = call(*[column[i] for column in reads])
                results = (result,) if type(result) is Tensor and len(writes) == 1 else node.named(result).values()
            except Exception as error:
                now = {key: column[i] for key, column in zip(node.input_keys, reads, strict=True)}
                node.explain(error, now, f" at step {i} of {nsteps} of {self.title},")
                raise
            for write, value in zip(writes, results, strict=True):
                write(value)

    def _call(self, node: Any, columns: Columns) -> Call:
        writes = [columns[key].append for key in node.output_keys]
        return node, node.call, [columns[key] for key in node.input_keys], writes

    def _count(self, data: dict[str, Tensor]) -> int:
        if self.nsteps is not None:
            return self.nsteps
        if self.nstep_key not in data:
            raise WiringError(
                f"{self.title} does not know how many steps to run: give nsteps, or nstep_key a series in the data; "
                f"nstep_key is {self.nstep_key!r}, the data holds {sorted(data)}.{did_you_mean(self.nstep_key, data)}"
            )
        if (series := data[self.nstep_key]).ndim != 3:
            wanted = "(batch, time, features)"
            raise ShapeError(
                f"{self.title} counts its steps on {self.nstep_key!r}, {wanted}; got {tuple(series.shape)}"
            )
        return series.shape[1]

    def _columns(self, data: dict[str, Tensor], nsteps: int) -> Columns:
        """For every key the list of its entries in time; of the outputs those that the data start with."""
        columns: Columns = {
            key: self._entries(key, data[key], nsteps) if key in data else [] for key in self.output_keys
        }
        for node in self.nodes:
            for key in node.input_keys:
                if key in data and not columns.get(key):
                    columns[key] = self._entries(key, data[key], nsteps)
                elif key not in data and key in self._reads:
                    hint = did_you_mean(key, data)
                    start = " It is a state: give its start, (batch, 1, features)." if key in self.output_keys else ""
                    raise MissingKeyError(f"{node.title} reads {key!r}, the data holds {sorted(data)}.{hint}{start}")
        return columns

    def _entries(self, key: str, value: Tensor, nsteps: int) -> list[Tensor]:
        if key in self.output_keys:
            if value.ndim != 3 or value.shape[1] != 1:
                advice = "[:, None]" if value.ndim == 2 else "[:, :1], or give what was measured another key"
                raise ShapeError(
                    f"{self.title} produces {key!r} itself; the data give its start only, shape (batch, 1, features): "
                    f"got {tuple(value.shape)}. Write data[{key!r}]{advice}"
                )
            return [value[:, 0]]
        if value.ndim == 2:
            return [value] * nsteps
        if value.ndim != 3:
            raise ShapeError(
                f"{self.title} reads {key!r} as (batch, time, features) or (batch, features); got {tuple(value.shape)}"
            )
        if value.shape[1] < nsteps:
            raise ShapeError(
                f"{self.title} runs {nsteps} steps, but {key!r} of shape {tuple(value.shape)} has {value.shape[1]} "
                f"entries in time: there is none for step {value.shape[1]}"
            )
        # Indexing inside the loop would make the backward pass quadratic in the number of steps.
        return list(value.unbind(1))

    # ---- as a node --------------------------------------------------------------------------------------------------

    def run(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a problem runs: the roll-out's outputs alone."""
        result = self(data)
        return {key: result[key] for key in self.keep}

    @property
    def optional_keys(self) -> list[str] | None:
        """What it takes from the data where they hold it: starts, the series that counts; None where `init` may any."""
        if self.init_func or type(self).init is not System.init:
            return None
        counted = [self.nstep_key] if self.nsteps is None else []
        return [key for key in dict.fromkeys([*self.output_keys, *counted]) if key not in self.input_keys]

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"system {self.name!r}" if self.name else "a System"

    def node(self, name: str) -> Any:
        """The node of that name. Raises UnknownOptionError with the nearest one."""
        return wiring.find(self.nodes, name)

    def freeze(self) -> None:
        """Its parameters are no longer trained."""
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Its parameters are trained again."""
        self.requires_grad_(True)

    def _starts(self) -> set[str]:
        """The keys that a picture shows with a start value: the states as far as they are known without data."""
        own = {key for key in self.input_keys if key in self.output_keys}
        try:
            wiring.order(self.nodes, given=own)
        except CycleError:
            return {key for key in wiring.read_first(self.nodes) if key in self.output_keys}
        return own

    def places(self, label: str) -> list[str]:
        """The ids of its nodes in a graph where it stands under `label`."""
        return [f"{label}/{name}" for name in wiring.names(self.nodes)]

    def inner_graph(self, label: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
        """Its nodes as a graph in one cluster; the readers of each outside key, the writer of each output."""
        import networkx as nx

        graph, readers, starts = nx.MultiDiGraph(), {}, self._starts()
        places = self.places(label)
        writers = {key: numbers[-1] for key, numbers in wiring.writers(self.nodes).items()}
        for place, node in zip(places, self.nodes, strict=True):
            graph.add_node(place, kind=node.kind, label=node.name or node.label, cluster=(label,))
        for place, node in zip(places, self.nodes, strict=True):
            for key in node.input_keys:
                if key in writers:
                    graph.add_edge(places[writers[key]], place, key=key, feedback=key in starts)
                if key in starts or key not in writers:
                    readers.setdefault(key, []).append(place)
        written = {key: places[number] for key, number in writers.items() if key in self.keep}
        return graph, readers, written

    def to_networkx(self) -> Any:
        """The system between its keys, opened, as a networkx MultiDiGraph."""
        return wiring.to_networkx([self])

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {node!r}" for node in self.nodes)
        return f"{self.name or 'System'}, nsteps from {self.nsteps or self.nstep_key!r}:{nodes}"
