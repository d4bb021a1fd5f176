"""System: nodes rolled out over time.

Data are `(batch, time, features)`. Step i reads entry i of every series and appends each output to the end of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import MissingKeyError, OptionError, OverwriteError, StrictOptions, did_you_mean
from slimgraph.node import describe, key_names, node_list
from slimgraph.slim import materialized
from slimgraph.slim.linear.functions import whole_number
from slimgraph.system import series
from slimgraph.system.as_node import AsNode
from slimgraph.system.compiled import CompiledSteps
from slimgraph.system.horizon import Windows
from slimgraph.system.mask import Mask
from slimgraph.system.rollout import Moment, RollOut

Data = dict[str, Tensor]


class System(AsNode, Drawable, metaclass=StrictOptions):
    """Nodes rolled out for `nsteps` steps of time; time and memory are linear in the number of steps.

    A key that is read and written is a state: the data give its start as one entry, `(batch, 1, features)`, and it
    comes back with `nsteps + 1`, any other output with `nsteps`. Of a given series the first `nsteps` entries
    are read; a `(batch, features)` tensor is constant over the steps. Within a step a node runs after the writers of
    what it reads, states apart.

    `nsteps` is the number of steps, by default the length of the series under `nstep_key`. `init_func(data)` may add
    start values. `keep` names the outputs to return, all by default; the others are dropped as soon as no step needs
    them, and `trace(data)` shows them. Maps among the nodes build their matrix once.

    `checkpoint_every=k` stores what the backward pass needs of the first step only and recomputes the rest, k steps at
    a time, with the same random numbers. `truncate_every=k` cuts the gradient through states and windows every k steps.
    `mask_key` names a mask, `(batch, time)` or `(batch, time, 1)`, 1 up to each sample's length and 0 after it: from
    there on states stay as they are, other outputs are 0, and what stands in the padding is never read.

    A System among the nodes runs all its own steps within each step; see `AsNode`.

    Calling it gives a new dict, the data with the outputs. Raises WiringError for neither nsteps nor `nstep_key`,
    ShapeError (key, length, step) for a series too short, and for batch sizes that differ, CycleError for feedback
    without a start value, DtypeError for what is no tensor.

    >>> import torch
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
        init_func: Callable[[Data], Data] | None = None,
        nsteps: int | None = None,
        *,
        keep: Sequence[str] | None = None,
        checkpoint_every: int | None = None,
        truncate_every: int | None = None,
        mask_key: str | None = None,
    ) -> None:
        super().__init__()
        self.name, self.nstep_key, self.init_func, self.mask_key = name, nstep_key, init_func, mask_key
        nodes = node_list(nodes, self.title)
        self.nodes = nn.ModuleList(nodes)
        self.nsteps, self.checkpoint_every, self.truncate_every = (
            None if number is None else whole_number(self, word, number)
            for word, number in (
                ("nsteps", nsteps),
                ("checkpoint_every", checkpoint_every),
                ("truncate_every", truncate_every),
            )
        )
        self.compiled: CompiledSteps | None = None
        wiring.names(nodes)
        self.written = list(wiring.writers(nodes))
        self.keep = self._kept(keep)
        self._refuse_double_writers()
        # What a node reads and writes itself is a state for sure; longer loops show only with the data.
        own_states = {key for node in nodes for key in node.input_keys if key in node.output_keys}
        outside = (key for node in nodes for key in node.input_keys if key not in self.written or key in own_states)
        self._reads = list(dict.fromkeys(outside))
        # What the init function may add need not stand in the data.
        begun = own_states if self._adds_starts else ()
        masks = [] if mask_key is None else [mask_key]
        self.input_keys = list(dict.fromkeys([*(key for key in self._reads if key not in begun), *masks]))

    @property
    def _adds_starts(self) -> bool:
        return self.init_func is not None or type(self).init is not System.init

    @property
    def optional_keys(self) -> list[str] | None:
        """What it takes from the data where they hold it: starts, the series that counts; None where `init` may any."""
        if self._adds_starts:
            return None
        return self.also_reads

    def _kept(self, keep: Sequence[str] | None) -> list[str]:
        """The outputs to return."""
        if keep is None:
            return self.written
        names = key_names(keep, f"keep of {self.title}")
        for key in names:
            if key not in self.written:
                hint = did_you_mean(key, self.written)
                raise OptionError(f"{self.title} cannot keep {key!r}; its nodes give {self.written}.{hint}")
        return list(dict.fromkeys(names))

    def _refuse_double_writers(self) -> None:
        labels = wiring.names(self.nodes)
        for key, places in wiring.writers(self.nodes).items():
            if len(places) > 1:
                raise OverwriteError(
                    f"{self.title}: {key!r} is written by node {labels[places[0]]!r} and node {labels[places[1]]!r}; "
                    "a step appends one entry to each series: give the second value another key"
                )

    # ---- the roll-out -----------------------------------------------------------------------------------------------

    def init(self, data: Data) -> Data:
        """The data with start values added by `init_func`; override it or pass the function."""
        return data if self.init_func is None else self.init_func(data)

    def forward(self, data: Data) -> Data:
        return self._rolled_out(data, self.keep)

    def trace(self, data: Data) -> Data:
        """As a call, with every output of every node as a series, those that `keep` leaves out too."""
        return self._rolled_out(data, self.written)

    def run(self, data: Data) -> Data:
        """What a problem runs: the roll-out's outputs alone."""
        result = self(data)
        return {key: result[key] for key in self.keep}

    def _rolled_out(self, data: Data, kept: list[str]) -> Data:
        data = self.init(self._dict(data))
        if not isinstance(data, dict):
            raise OptionError(f"the init function of {self.title} must return the data; it gave {data!r}")
        nsteps = self._count(data)
        self._require(data)
        starts = {key: series.start(self.title, key, data[key]) for key in self.written if key in data}
        read = self._read(data, starts)
        deep = self._deep_keys()
        for key, value in read.items():
            series.check_series(self.title, key, value, nsteps, key in deep)
        mask = None if self.mask_key is None else Mask(self.title, self.mask_key, data, nsteps)
        masks = {} if mask is None else {mask.key: mask.counts}
        series.check_batches(self.title, {**starts, **read, **masks}, starts)
        if mask is not None:
            read = {key: mask.held(value) for key, value in read.items()}
        columns = self._columns(read, nsteps)
        calls = self._calls(starts, read)
        roll_out = RollOut(self, calls, columns, self.written, kept, nsteps, mask and mask.columns)
        found, _ = roll_out.run(Moment(starts, Windows(self).starts()))
        return {**data, **{key: series.stacked(self.title, key, found[key]) for key in kept}}

    def _dict(self, data: Any) -> Data:
        if not isinstance(data, dict):
            raise OptionError(f"{self.title} takes a dict of tensors; got {describe(data)}")
        return data

    def _count(self, data: Data) -> int:
        if self.nsteps is None:
            return series.count_steps(self.title, self.nstep_key, data)
        # It may have been assigned.
        return whole_number(self, "nsteps", self.nsteps)

    def _require(self, data: Data, state: str = "(batch, 1, features)") -> None:
        """Raises MissingKeyError for what a node reads and nobody gives."""
        for node in self.nodes:
            for key in node.input_keys:
                if key not in data and key in self._reads:
                    hint = did_you_mean(key, data)
                    start = f" It is a state: give its start, {state}." if key in self.written else ""
                    raise MissingKeyError(
                        f"{node.title} reads {key!r}, the data holds {sorted(map(str, data))}.{hint}{start}"
                    )

    def _read(self, data: Mapping[str, Tensor], states: Collection[str]) -> Data:
        """What the nodes read from outside, states apart."""
        keys = dict.fromkeys(key for node in self.nodes for key in (*node.input_keys, *_also_read(node)))
        return {key: data[key] for key in keys if key in data and key not in states}

    def _columns(self, read: Data, nsteps: int) -> dict[str, list[Tensor]]:
        """For every key that comes from outside the list of its entries in time."""
        return {key: series.entries(value, nsteps) for key, value in read.items()}

    def _deep_keys(self) -> set[str]:
        """The keys whose entry in time may be a series for a System among the nodes."""
        return {key for node in self.nodes if isinstance(node, System) for key in (*node.input_keys, *node.also_reads)}

    def _calls(self, states: Collection[str], read: Collection[str]) -> list[tuple[Any, list[str]]]:
        """The nodes in the order in which they run, each with the columns that it reads."""
        nodes = [self.nodes[place] for place in wiring.order(self.nodes, given=states, inside=self.title)]
        there = {*states, *read}
        return [(node, [*self._reads_of(node), *(k for k in _also_read(node) if k in there)]) for node in nodes]

    def _reads_of(self, node: Any) -> list[str]:
        return node.input_keys

    def compile(self, steps: int | None = 10, **options: Any) -> None:  # pyright: ignore
        """From now on roll-outs run `steps` steps at a time compiled, with `options` for `torch.compile`.

        The first step, and the last ones where they are fewer, run as always. Compiling takes time at the first
        roll-out, and again for a new shape; numbers and gradients agree up to rounding. `compile(None)` undoes it.
        Raises OptionError together with `checkpoint_every`.
        """
        if steps is not None and self.checkpoint_every is not None:
            recomputes = f"recomputes its steps, checkpoint_every={self.checkpoint_every}"
            raise OptionError(f"{self.title} {recomputes}, so they are not compiled; leave out one of the two")
        self.compiled = None if steps is None else CompiledSteps(whole_number(self, "steps", steps), options)

    # ---- one step ---------------------------------------------------------------------------------------------------

    def step(self, data: Mapping[str, Tensor]) -> Data:
        """The outputs of one step, every state as its next entry; inputs and outputs are `(batch, features)`.

        `data` holds the present entries of inputs and states. Windows keep their entries from one step to the next,
        until `reset()`. In a loop without training, `with slim.materialized(system):` around it builds maps once.

        >>> import torch
        >>> from slimgraph import Node
        >>> decay = System([Node(lambda x, u: 0.5 * x + u, ["x", "u"], ["x"])], nstep_key="u")
        >>> decay.step({"x": torch.ones(1, 1), "u": torch.zeros(1, 1)})
        {'x': tensor([[0.5000]])}
        """
        data = self._dict(data)
        self._require(data, "(batch, features)")
        states = {key: series.entry(self.title, key, data[key]) for key in self.written if key in data}
        read = self._read(data, states)
        columns = self._step_columns(read)
        series.check_batches(self.title, {**read, **states}, states)
        roll_out = RollOut(self, self._calls(states, read), columns, self.written, self.written, 1)
        windows = Windows(self)
        with materialized(self):
            found, end = roll_out.piece(Moment(states, windows.held()), 0, 1)
        windows.put(end.windows)
        return {key: column[0] for key, column in found.items()}

    def _step_columns(self, read: Data) -> dict[str, list[Tensor]]:
        deep = self._deep_keys()
        return {key: [series.entry(self.title, key, value, deep=key in deep)] for key, value in read.items()}

    def reset(self) -> None:
        """Forget what windows hold from earlier calls of `step`."""
        windows = Windows(self)
        windows.put(windows.starts())


def _also_read(node: Any) -> list[str]:
    """What a System among the nodes reads where the outer one has it."""
    return node.also_reads if isinstance(node, System) else []
