"""MovingHorizon: a node that sees a window of past entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import OptionError, StrictOptions


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
