"""SystemPreview: a System in which some nodes see known signals ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.errors import OptionError, ShapeError, did_you_mean
from slimgraph.node import describe
from slimgraph.system import series
from slimgraph.system.system import Data, System

PadMode = Literal["replicate", "circular", "constant", "reflect"]


class SystemPreview(System):
    """A System in which some nodes see known signals ahead: at step i the entries i ... i + length side by side.

    `preview_keys_map` names for each key the nodes that see it ahead, `preview_length` how many entries (1 by default);
    such a node receives `(batch, (length + 1) * features)`. A series that ends is continued by `pad_mode`: `replicate`
    (its last entry), `constant` (`pad_constant`), `reflect`, or `circular`, neuromancer's default, which shows the
    start of the reference at its end. `step` takes such a key as `(batch, length + 1, features)`, now and ahead. With a
    mask only `replicate` is allowed.

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
        checkpoint_every: int | None = None,
        truncate_every: int | None = None,
        mask_key: str | None = None,
    ) -> None:
        super().__init__(
            nodes,
            name,
            nstep_key,
            init_func,
            nsteps,
            keep=keep,
            checkpoint_every=checkpoint_every,
            truncate_every=truncate_every,
            mask_key=mask_key,
        )
        if pad_mode not in (known := ["replicate", "circular", "constant", "reflect"]):
            raise OptionError(f"pad_mode is one of {known}; got {pad_mode!r}.{did_you_mean(pad_mode, known)}")
        if mask_key is not None and pad_mode != "replicate":
            raise OptionError(
                f"{self.title} with a mask continues a sample's series by its last entry, pad_mode='replicate'; "
                f"got {pad_mode!r}"
            )
        self.preview_keys_map, self.preview_length = preview_keys_map, preview_length or {}
        self.pad_mode, self.pad_constant = pad_mode, pad_constant
        reads = dict(zip(wiring.names(nodes), (node.input_keys for node in nodes), strict=True))
        self._check_preview(reads)
        places = {name: place for place, name in enumerate(reads)}
        self._seers = {(key, nodes[places[seer]]) for key, seers in preview_keys_map.items() for seer in seers}

    def entries_ahead(self, key: str, node: Any) -> int:
        return self.preview_length.get(key, 1) + 1 if (key, node) in self._seers else 1

    def _check_preview(self, reads: dict[str, list[str]]) -> None:
        """Raises OptionError for a preview that no node can have; `reads` gives each node's input keys."""
        for key, length in self.preview_length.items():
            if key not in self.preview_keys_map:
                known = list(self.preview_keys_map)
                hint = did_you_mean(key, known)
                raise OptionError(f"preview_length gives {key!r}, preview_keys_map holds {known}.{hint}")
            if length < 0:
                raise OptionError(f"preview_length of {key!r} is at least 0; got {length}")
        for key, seers in self.preview_keys_map.items():
            if key in self.written:
                raise OptionError(f"{key!r} is produced by {self.title} itself: nobody knows it ahead")
            for seer in seers:
                if key not in reads.get(seer, []):
                    raise OptionError(
                        f"preview_keys_map shows {key!r} to node {seer!r}, which does not read it; "
                        f"the nodes read {reads}.{did_you_mean(seer, reads)}"
                    )

    def _columns(self, read: Data, nsteps: int) -> dict[str, list[Tensor]]:
        columns = super()._columns(read, nsteps)
        for key in self.preview_keys_map:
            columns[_ahead(key)] = self._preview(key, read[key], nsteps)
        return columns

    def _step_columns(self, read: Data) -> dict[str, list[Tensor]]:
        known = {key: self._known(key, read[key]) for key in self.preview_keys_map}
        columns = super()._step_columns({**read, **{key: value[:, 0] for key, value in known.items()}})
        return {**columns, **{_ahead(key): [value.flatten(1)] for key, value in known.items()}}

    def _known(self, key: str, value: Tensor) -> Tensor:
        """The present entry and those ahead, of one step."""
        length = self.preview_length.get(key, 1)
        wanted = f"(batch, {length + 1}, features)"
        if (value := series.entry(self.title, key, value, wanted)).shape[1] != length + 1:
            raise ShapeError(f"a step of {self.title} reads {key!r}, now and ahead, as {wanted}; got {describe(value)}")
        return value

    def _reads_of(self, node: Any) -> list[str]:
        return [_ahead(key) if (key, node) in self._seers else key for key in node.input_keys]

    def _preview(self, key: str, known: Tensor, nsteps: int) -> list[Tensor]:
        """At each step the entries from now to `length` ahead, `(batch, (length + 1) * features)`."""
        length = self.preview_length.get(key, 1)
        if known.ndim != 3:
            raise ShapeError(f"a preview needs {key!r} as (batch, time, features); got {describe(known)}")
        missing = max(0, nsteps + length - known.shape[1])
        if missing:
            value = {"value": self.pad_constant} if self.pad_mode == "constant" else {}
            padded = nn.functional.pad(known.transpose(1, 2), (0, missing), mode=self.pad_mode, **value)
            known = padded.transpose(1, 2)
        entries = known.unbind(1)
        return [torch.cat(entries[i : i + length + 1], dim=-1) for i in range(nsteps)]


def _ahead(key: str) -> str:
    return f"{key} ahead"
