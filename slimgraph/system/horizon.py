"""MovingHorizon: a node that sees a window of past entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import OptionError, did_you_mean
from slimgraph.node import Node
from slimgraph.slim.linear.functions import whole_number

History = dict[str, list[Tensor]]


class MovingHorizon(Node):
    """A node that sees the last `ndelay` entries of its inputs, `(batch, ndelay, features)`, oldest first.

    `module` is a Node. Called once per step with `(batch, features)`; until there are `ndelay` entries the first one is
    repeated. A roll-out of a System and a Problem start each batch without entries; outside them `reset()` does that.
    `history` may give past entries to start from, a list of `(batch, features)` per key, oldest first.

    >>> mean = MovingHorizon(Node(lambda x: x.mean(1), ["x"], ["y"]), ndelay=2)
    >>> [mean({"x": torch.full((1, 1), t)})["y"].item() for t in (1., 3., 5.)]
    [1.0, 2.0, 4.0]
    """

    def __init__(self, module: Node, ndelay: int = 1, history: History | None = None) -> None:
        if not isinstance(module, Node):
            raise OptionError(f"MovingHorizon holds a Node; got {type(module).__name__}: {module!r}. Wrap it in a Node")
        ndelay = whole_number(self, "ndelay", ndelay)
        for key in history or {}:
            if key not in module.input_keys:
                hint = did_you_mean(key, module.input_keys)
                raise OptionError(f"history gives {key!r}, but {module.title} reads {module.input_keys}.{hint}")
        window = _Window(module, ndelay, history or {})
        super().__init__(window, module.input_keys, module.output_keys, module.name)

    @property
    def window(self) -> _Window:
        """What keeps the entries."""
        return self.callable  # pyright: ignore[reportReturnType]

    @property
    def module(self) -> Node:
        """The node that sees the windows."""
        return self.window.node

    def reset(self) -> None:
        """Forget every entry but those of `history`."""
        self.window.reset()

    @property
    def label(self) -> str:
        """The node's label and the number of entries that it sees."""
        return f"{self.window.node.label}, last {self.window.ndelay}"


class _Window(nn.Module):
    """What a MovingHorizon calls: keeps the last entries and hands them on as windows."""

    def __init__(self, node: Node, ndelay: int, start: History) -> None:
        super().__init__()
        self.node, self.ndelay = node, ndelay
        self.start = {key: list(start.get(key, [])) for key in node.input_keys}
        self.reset()

    def reset(self) -> None:
        self.history = {key: list(entries) for key, entries in self.start.items()}

    def __getstate__(self) -> dict[str, Any]:
        # The entries of a roll-out are of one moment, and may hang on a graph that cannot be copied.
        return {**self.__dict__, "history": {key: list(entries) for key, entries in self.start.items()}}

    def forward(self, *entries: Tensor) -> Any:
        windows = []
        for key, entry in zip(self.node.input_keys, entries, strict=True):
            past = self.history[key] = [*self.history[key], entry][-self.ndelay :]
            windows.append(torch.stack([past[0]] * (self.ndelay - len(past)) + past, dim=1))
        return self.node.call(*windows)


class Windows:
    """All windows at or below a module, and what they hold at one moment."""

    def __init__(self, module: nn.Module) -> None:
        self.windows = [m for m in module.modules() if isinstance(m, _Window)]

    def held(self) -> list[History]:
        """What they hold now; later entries do not change it."""
        return [dict(window.history) for window in self.windows]

    def put(self, histories: list[History]) -> None:
        """Let them hold `histories`."""
        for window, history in zip(self.windows, histories, strict=True):
            window.history = dict(history)

    def starts(self) -> list[History]:
        """What they hold before the first entry."""
        return [dict(window.start) for window in self.windows]

    @staticmethod
    def detached(histories: list[History]) -> list[History]:
        """The same entries without the way back for gradients."""
        return [{key: [entry.detach() for entry in past] for key, past in h.items()} for h in histories]
