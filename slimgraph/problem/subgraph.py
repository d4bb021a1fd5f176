"""Subgraph: the nodes of a problem that some keys need, without its loss, to be called, wired on and exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import MissingKeyError, OptionError, StrictOptions, did_you_mean
from slimgraph.node import describe, key_names, node_list
from slimgraph.node.holder import NodeHolder
from slimgraph.problem.export import densify, export
from slimgraph.system import MovingHorizon


class Subgraph(nn.Module, NodeHolder, Drawable, metaclass=StrictOptions):
    """Those of `nodes`, given in run order, that the keys `outputs` need; `problem.subgraph(outputs)` makes one.

    Calling it gives a new dict with `outputs` and nothing else. It holds the nodes themselves, so it is trained with
    the problem, and has keys, so it can be a node of another Problem (of a System, inside a `Node`). `input_keys` are
    what the data must hold.

    Raises MissingKeyError for an output that no node gives, and at the first batch that lacks a key.

    >>> import torch
    >>> from slimgraph import Node
    >>> double, half = Node(lambda x: 2 * x, ["x"], ["y"], name="double"), Node(lambda x: x / 2, ["x"], ["z"])
    >>> subgraph = Subgraph([double, half], ["y"])
    >>> subgraph
    Subgraph: (x) -> (y)
      double: (x) -> (y)
    >>> subgraph({"x": torch.ones(1), "t": torch.zeros(1)})
    {'y': tensor([2.])}
    """

    kind = "node"

    def __init__(self, nodes: Sequence[Any], outputs: Sequence[str | Any], name: str | None = None) -> None:
        super().__init__()
        nodes = node_list(nodes, "a Subgraph")
        self.name = name
        self.output_keys = key_names(outputs, "the outputs of a Subgraph")
        if not self.output_keys:
            raise OptionError("a Subgraph gives nothing: outputs is empty")
        self._check_outputs(nodes)
        self.nodes = nn.ModuleList(nodes[place] for place in wiring.select(nodes, self.output_keys))
        self.input_keys = wiring.read_first(list(self.nodes))
        # The batches that were checked already, by their keys.
        self._checked: set[frozenset[str]] = set()

    def _check_outputs(self, nodes: list[Any]) -> None:
        given = {key for node in nodes for key in node.output_keys}
        for key in self.output_keys:
            if key not in given:
                text = f"no node gives {key!r}; the nodes give {sorted(given)}."
                if key in wiring.read_first(nodes):
                    raise MissingKeyError(f"{text} The data hold it already: nothing is computed for it")
                raise MissingKeyError(text + did_you_mean(key, given))

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, data: dict[str, Any]) -> dict[str, Tensor]:
        if not isinstance(data, dict):
            raise OptionError(f"{self.label} takes a dict of tensors; got {describe(data)}")
        keys = frozenset(data)
        if keys not in self._checked:
            wiring.check_keys(list(self.nodes), data)
            self._checked.add(keys)
        data = dict(data)
        # Outside a System each batch stands for itself, and a tracer's tensors must not stay behind.
        horizons = [node for node in self.nodes if isinstance(node, MovingHorizon)]
        try:
            for horizon in horizons:
                horizon.reset()
            for node in self.nodes:
                data |= node.run(data)
        finally:
            for horizon in horizons:
                horizon.reset()
        return {key: data[key] for key in self.output_keys}

    def run(self, data: dict[str, Any]) -> dict[str, Tensor]:
        """The outputs for `data`, without the hooks of a module call; what problems run."""
        return self.forward(data)

    # ---- deployment -------------------------------------------------------------------------------------------------

    def densified(self) -> Subgraph:
        """A copy in evaluation mode in which every structured map is a free one with the matrix it has now.

        The same function, for deployment: it costs one product a map, and training it would leave the structure.

        >>> from slimgraph import Node, slim
        >>> Subgraph([Node(slim.OrthogonalLinear(2, 2), ["x"], ["y"])], ["y"]).densified().nodes[0].callable
        Linear(2, 2, bias=False)
        """
        return densify(self)

    def export(self, path: str | Path, data: dict[str, Tensor]) -> Path:
        """Writes the densified copy to `path`, `.pt2` or `.onnx`, for programs without slimgraph; gives the path.

        `data` is a batch as an example of the inputs, whose sizes are fixed but for the first axis, the batch; of a
        System so are its steps. `torch.export.load(path).module()` takes and gives a dict of tensors; an ONNX file has
        its inputs and outputs under their keys, a state `x` that is both as `x_out` in the outputs, and needs
        `pip install 'slimgraph[onnx]'` to be written.

        Raises UnknownOptionError for another ending, MissingFileError for a folder that is not there, MissingKeyError
        for a key that the example lacks, ShapeError for one whose batch is of another size. Where it fails nothing is
        written.
        """
        return export(self, path, data)

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """Its name, or what it is where it has none."""
        return self.name or "Subgraph"

    @property
    def optional_keys(self) -> list[str] | None:
        """What its Systems take from the data where they hold it; None where that may be any key."""
        known: set[str] = {*self.input_keys}
        found: list[str] = []
        for node in self.nodes:
            optional = getattr(node, "optional_keys", ())
            if optional is None:
                return None
            found += [key for key in optional if key not in known]
            known.update(found, node.output_keys)
        return found

    def to_networkx(self) -> Any:
        """Data, nodes and results, as a networkx MultiDiGraph."""
        return wiring.to_networkx(list(self.nodes))

    def __repr__(self) -> str:
        nodes = [f"\n  {line}" for node in self.nodes for line in repr(node).splitlines()]
        return f"{self.label}: ({', '.join(self.input_keys)}) -> ({', '.join(self.output_keys)})" + "".join(nodes)
