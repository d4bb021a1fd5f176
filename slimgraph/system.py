"""System: nodes rolled out over time; with a preview of known signals; with a window of past ones.

Data are `(batch, time, features)`. Step i reads entry i of every series and appends each output to the end of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import MissingKeyError, OptionError, ShapeError, StrictOptions, WiringError, did_you_mean
from slimgraph.node import describe, key_names
from slimgraph.slim import materialized

Columns = dict[str, list[Tensor]]


class System(nn.Module, Drawable, metaclass=StrictOptions):
    """Nodes rolled out for `nsteps` steps of time; time and memory are linear in the number of steps.

    A key that is read and written is a state: the data give its start as one entry, `(batch, 1, features)`, and it
    comes back with `nsteps + 1`; any other output comes back with `nsteps`. Of a given series the first `nsteps` entries
    are read; a `(batch, features)` tensor is constant over the steps. Within a step a node runs after the writers of
    what it reads, states apart; where a key is written twice the declared order holds.

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
        self.nodes = nn.ModuleList(nodes)
        self.name, self.nstep_key, self.init_func = name, nstep_key, init_func
        if nsteps is not None and nsteps < 1:
            raise OptionError(f"{self.title} needs nsteps >= 1; got {nsteps}")
        self.nsteps = nsteps
        wiring.names(nodes)
        self.output_keys = list(wiring.writers(nodes))
        self.keep = self.output_keys if keep is None else key_names(keep, f"keep of {self.title}")
        for key in self.keep:
            if key not in self.output_keys:
                hint = did_you_mean(key, self.output_keys)
                raise OptionError(f"{self.title} cannot keep {key!r}; its nodes give {self.output_keys}.{hint}")
        # What a node reads and writes itself is a state for sure; longer loops show only with the data.
        own_states = {key for node in nodes for key in node.input_keys if key in node.output_keys}
        outside = (key for node in nodes for key in node.input_keys if key not in self.output_keys or key in own_states)
        self.input_keys = list(dict.fromkeys(outside))

    # ---- the roll-out -----------------------------------------------------------------------------------------------

    def init(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """The data with start values added by `init_func`; override it or pass the function."""
        return data if self.init_func is None else self.init_func(data)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        data = self.init(data)
        nsteps = self._count(data)
        columns = self._columns(data, nsteps)
        horizons = [module for module in self.modules() if isinstance(module, MovingHorizon)]
        try:
            for horizon in horizons:
                horizon.reset()
            with materialized(self):
                self._roll_out(columns, nsteps, data)
        finally:
            for horizon in horizons:
                horizon.reset()
        return {**data, **{key: torch.stack(columns[key], dim=1) for key in self.keep}}

    def _roll_out(self, columns: Columns, nsteps: int, data: dict[str, Tensor]) -> None:
        """Run every step, appending each output to its column."""
        run_order = wiring.order(self.nodes, given=[k for k in self.output_keys if columns[k]], inside=self.title)
        plan = [self._call(self.nodes[place], columns) for place in run_order]
        node, i = self.nodes[0], 0
        try:
            for i in range(nsteps):
                for node, call, reads, writes in plan:
                    result = call(*[column[i] for column in reads])
                    if type(result) is Tensor and len(writes) == 1:
                        writes[0](result)
                    else:
                        for write, value in zip(writes, node.named(result).values(), strict=True):
                            write(value)
        except Exception as error:
            now = {key: column[i] for key, column in columns.items() if len(column) > i}
            node.explain(error, now, f" at step {i} of {nsteps} of {self.title},")
            raise

    def _call(self, node: Any, columns: Columns) -> tuple[Any, Callable[..., Any], list[list[Tensor]], list[Any]]:
        """A node, what to call, the columns it reads and the appends of those it writes."""
        writes = [columns[key].append for key in node.output_keys]
        return node, node.callable, [columns[key] for key in node.input_keys], writes

    def _count(self, data: dict[str, Tensor]) -> int:
        if self.nsteps is not None:
            return self.nsteps
        if self.nstep_key not in data:
            raise WiringError(
                f"{self.title} does not know how many steps to run: give nsteps, or nstep_key a series in the data; "
                f"nstep_key is {self.nstep_key!r}, the data holds {sorted(data)}.{did_you_mean(self.nstep_key, data)}"
            )
        return data[self.nstep_key].shape[1]

    def _columns(self, data: dict[str, Tensor], nsteps: int) -> Columns:
        """For every key the list of its entries in time; of the outputs those that the data start with."""
        columns: Columns = {key: [] for key in self.output_keys}
        for node in self.nodes:
            for key in node.input_keys:
                if key in data and not columns.get(key):
                    columns[key] = self._entries(key, data[key], nsteps)
                elif key not in data and key in self.input_keys:
                    hint = did_you_mean(key, data)
                    start = " It is a state: give its start, (batch, 1, features)." if key in self.output_keys else ""
                    raise MissingKeyError(f"{node.title} reads {key!r}, the data holds {sorted(data)}.{hint}{start}")
        return columns

    def _entries(self, key: str, value: Tensor, nsteps: int) -> list[Tensor]:
        if key in self.output_keys:
            if value.ndim != 3 or value.shape[1] != 1:
                raise ShapeError(
                    f"{self.title} produces {key!r} itself; the data give its start only, shape (batch, 1, features): "
                    f"got {tuple(value.shape)}. Write data[{key!r}][:, :1], or give what was measured another key"
                )
            return [value[:, 0]]
        if value.ndim == 2:
            return [value] * nsteps
        if value.ndim != 3:
            raise ShapeError(f"{self.title} reads {key!r} as (batch, time, features) or (batch, features); got {tuple(value.shape)}")
        if value.shape[1] < nsteps:
            raise ShapeError(
                f"{self.title} runs {nsteps} steps, but {key!r} of shape {tuple(value.shape)} has {value.shape[1]} entries in time: "
                f"there is none for step {value.shape[1]}"
            )
        # Indexing inside the loop would make the backward pass quadratic in the number of steps.
        return list(value.unbind(1))

    # ---- as a node --------------------------------------------------------------------------------------------------

    def step(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a problem runs: the roll-out's outputs alone."""
        result = self(data)
        return {key: result[key] for key in self.keep}

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"system {self.name!r}" if self.name else "a System"

    def freeze(self) -> None:
        """Its parameters are no longer trained."""
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Its parameters are trained again."""
        self.requires_grad_(True)

    def inner_graph(self, label: str) -> tuple[Any, dict[str, list[str]], dict[str, str]]:
        """Its nodes as a graph in one cluster; the readers of each outside key, the writer of each output."""
        import networkx as nx

        graph, readers = nx.MultiDiGraph(), {}
        places = [f"{label}/{name}" for name in wiring.names(self.nodes)]
        writers = {key: numbers[-1] for key, numbers in wiring.writers(self.nodes).items()}
        for place, node in zip(places, self.nodes, strict=True):
            graph.add_node(place, kind=node.kind, label=node.name or node.label, cluster=(label,))
        for reader, node in enumerate(self.nodes):
            for key in node.input_keys:
                if key in writers:
                    graph.add_edge(places[writers[key]], places[reader], key=key, feedback=writers[key] >= reader)
                if key in self.input_keys:
                    readers.setdefault(key, []).append(places[reader])
        written = {key: places[number] for key, number in writers.items() if key in self.keep}
        return graph, readers, written

    def to_networkx(self) -> Any:
        """The system between its keys, opened, as a networkx MultiDiGraph."""
        return wiring.to_networkx([self])

    def __repr__(self) -> str:
        nodes = "".join(f"\n  {node!r}" for node in self.nodes)
        return f"{self.name or 'System'}, nsteps from {self.nsteps or self.nstep_key!r}:{nodes}"


PadMode = Literal["replicate", "circular", "constant", "reflect"]


class SystemPreview(System):
    """A System in which some nodes see known signals ahead: at step i the entries i ... i + length side by side.

    `preview_keys_map` names for each key the nodes that see it ahead, `preview_length` how many entries (1 by default);
    such a node receives `(batch, (length + 1) * features)`. A series that ends is continued by `pad_mode`: `replicate`
    (its last entry), `constant` (`pad_constant`), `reflect`, or `circular`, neuromancer's default, which shows the
    start of the reference at its end.

    >>> from slimgraph import Node
    >>> track = Node(lambda x, r: r[:, 1:2], ["x", "r"], ["x"], name="track")
    >>> ahead = SystemPreview([track], preview_keys_map={"r": ["track"]}, nstep_key="r")
    >>> ahead({"x": torch.zeros(1, 1, 1), "r": torch.arange(3.).reshape(1, 3, 1)})["x"].flatten()
    tensor([0., 1., 2., 2.])
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        preview_keys_map: dict[str, list[str]],
        preview_length: dict[str, int] | None = None,
        pad_mode: PadMode = "replicate",
        pad_constant: float = 0.0,
        name: str | None = None,
        nstep_key: str = "X",
        init_func: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        nsteps: int | None = None,
        *,
        keep: Sequence[str] | None = None,
    ) -> None:
        super().__init__(nodes, name, nstep_key, init_func, nsteps, keep=keep)
        if pad_mode not in (known := ["replicate", "circular", "constant", "reflect"]):
            raise OptionError(f"pad_mode is one of {known}; got {pad_mode!r}.{did_you_mean(pad_mode, known)}")
        self.preview_keys_map, self.preview_length = preview_keys_map, preview_length or {}
        self.pad_mode, self.pad_constant = pad_mode, pad_constant
        reads = dict(zip(wiring.names(nodes), (node.input_keys for node in nodes), strict=True))
        for key, seers in preview_keys_map.items():
            if self.preview_length.get(key, 1) < 0:
                raise OptionError(f"preview_length of {key!r} is at least 0; got {self.preview_length[key]}")
            for seer in seers:
                if key not in reads.get(seer, []):
                    raise OptionError(
                        f"preview_keys_map shows {key!r} to node {seer!r}, which does not read it; "
                        f"the nodes read {reads}.{did_you_mean(seer, reads)}"
                    )
        self._seers = {(key, nodes[list(reads).index(seer)]) for key, seers in preview_keys_map.items() for seer in seers}

    def _columns(self, data: dict[str, Tensor], nsteps: int) -> Columns:
        columns = super()._columns(data, nsteps)
        for key in self.preview_keys_map:
            columns[_ahead(key)] = self._preview(key, data[key], nsteps)
        return columns

    def _call(self, node: Any, columns: Columns) -> tuple[Any, Callable[..., Any], list[list[Tensor]], list[Any]]:
        node, call, _, writes = super()._call(node, columns)
        reads = [columns[_ahead(key) if (key, node) in self._seers else key] for key in node.input_keys]
        return node, call, reads, writes

    def _preview(self, key: str, series: Tensor, nsteps: int) -> list[Tensor]:
        """At each step the entries from now to `length` ahead, `(batch, (length + 1) * features)`."""
        length = self.preview_length.get(key, 1)
        if series.ndim != 3:
            raise ShapeError(f"a preview needs {key!r} as (batch, time, features); got {describe(series)}")
        missing = max(0, nsteps + length - series.shape[1])
        if missing:
            value = {"value": self.pad_constant} if self.pad_mode == "constant" else {}
            padded = nn.functional.pad(series.transpose(1, 2), (0, missing), mode=self.pad_mode, **value)
            series = padded.transpose(1, 2)
        entries = series.unbind(1)
        return [torch.cat(entries[i : i + length + 1], dim=-1) for i in range(nsteps)]


def _ahead(key: str) -> str:
    return f"{key} ahead"


class MovingHorizon(nn.Module, Drawable, metaclass=StrictOptions):
    """A node that sees the last `ndelay` entries of its inputs, `(batch, ndelay, features)`, oldest first.

    Called once per step with `(batch, features)`; until there are `ndelay` entries the first one is repeated. A System
    forgets the entries before and after each roll-out; outside one, `reset()` does. `history` may give past entries to
    start from, a list of `(batch, features)` per key, oldest first.

    >>> from slimgraph import Node
    >>> mean = MovingHorizon(Node(lambda x: x.mean(1), ["x"], ["y"]), ndelay=2)
    >>> [mean({"x": torch.full((1, 1), t)})["y"].item() for t in (1., 3., 5.)]
    [1.0, 2.0, 4.0]
    """

    kind = "node"

    def __init__(self, module: Any, ndelay: int = 1, history: dict[str, list[Tensor]] | None = None) -> None:
        super().__init__()
        if ndelay < 1:
            raise OptionError(f"ndelay is at least 1; got {ndelay}")
        self.module, self.ndelay = module, ndelay
        self.name, self.input_keys, self.output_keys = module.name, module.input_keys, module.output_keys
        self._start = {key: list(entries) for key, entries in (history or {}).items()}
        self.reset()

    def reset(self) -> None:
        """Forget every entry but those of `history`."""
        self.history = {key: list(self._start.get(key, [])) for key in self.input_keys}

    def callable(self, *entries: Tensor) -> Any:
        """One step, from one `(batch, features)` tensor per input key."""
        windows = []
        for key, entry in zip(self.input_keys, entries, strict=True):
            past = self.history[key] = [*self.history[key], entry][-self.ndelay :]
            windows.append(torch.stack([past[0]] * (self.ndelay - len(past)) + past, dim=1))
        return self.module.callable(*windows)

    def step(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step by key."""
        try:
            result = self.callable(*[data[key] for key in self.input_keys])
        except Exception as error:
            self.explain(error, data)
            raise
        return self.named(result)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.step(data)

    def named(self, result: Any) -> dict[str, Tensor]:
        """The results by key, as the node names them."""
        return self.module.named(result)

    def explain(self, error: Exception, data: Any, when: str = "") -> None:
        """What the node says of an error inside it."""
        self.module.explain(error, data, when)

    @property
    def title(self) -> str:
        """What errors call it."""
        return self.module.title

    @property
    def label(self) -> str:
        """The node's name and the number of entries that it sees."""
        return f"{self.module.label}, last {self.ndelay}"

    def to_networkx(self) -> Any:
        """The node between its keys, as a networkx MultiDiGraph."""
        return wiring.to_networkx([self])

    def __repr__(self) -> str:
        return f"MovingHorizon({self.module!r}, ndelay={self.ndelay})"
