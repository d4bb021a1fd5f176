"""The component graphs of recurrences: the maps of each cell, its neurons, and the loop of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import OptionError, SlimgraphError
from slimgraph.graph import (
    AliasConnection,
    GenericNeurons,
    GraphHolder,
    GraphModule,
    GraphNode,
    dense,
    find_modules_of_subclass,
    wires,
)
from slimgraph.slim.linear import Linear
from slimgraph.slim.linear.as_graph import Wires, lay


def cell_graph(cell: Any) -> GraphHolder:
    """One cell with its state fed back: the hidden state that it gives is the one that it reads."""
    x = wires(cell.input_size)
    states = [wires(cell.hidden_size) for _ in cell.states]
    cell.lay(x, states, states, "", None)
    return GraphHolder(x, states[0], type(cell).__name__, cell)


def open_cell_graph(cell: Any) -> GraphHolder:
    """One step of a cell: from the input and the state to the next state."""
    x = wires(cell.input_size)
    states, after = ([wires(cell.hidden_size) for _ in cell.states] for _ in range(2))
    cell.lay(x, states, after, "", None)
    return GraphHolder(x + sum(states, []), sum(after, []), type(cell).__name__, cell)


def lay_maps(made: Mapping[str, Any], x: Wires, hidden: Wires, prefix: str, gate: str = "") -> Wires:
    """An input map and a hidden map whose results add up; the wires of the sum."""
    size = len(hidden)
    total = wires(size)
    for (word, each), read in zip(made.items(), (x, hidden), strict=True):
        lay(each, read, total, f"{prefix}{word}{gate}")
    return total


def lay_rnn(cell: Any, x: Wires, before: list[Wires], after: list[Wires], prefix: str, start: Tensor | None) -> None:
    """`h' = nonlin(input_map(x) + hidden_map(h))` between wires."""
    total = lay_maps({"input_map": cell.input_map, "hidden_map": cell.hidden_map}, x, before[0], prefix)
    GenericNeurons(total, after[0], f"{prefix}nonlin", cell.nonlin, start)


def _gate(cell: Any, gate: str, x: Wires, hidden: Wires, prefix: str) -> Wires:
    made = {"input_map": cell.input_maps[gate], "hidden_map": cell.hidden_maps[gate]}
    return lay_maps(made, x, hidden, prefix, f"_{gate}")


def lay_gru(cell: Any, x: Wires, before: list[Wires], after: list[Wires], prefix: str, start: Tensor | None) -> None:
    """The gates r and z, the new state n, which r weighs, and the mixture of both states, between wires."""
    (hidden,), size = before, cell.hidden_size
    gates = {gate: wires(size) for gate in cell.gates}
    for gate in ("r", "z"):
        GenericNeurons(_gate(cell, gate, x, hidden, prefix), gates[gate], f"{prefix}gate_{gate}", torch.sigmoid)
    drive, pushed = wires(size), wires(size)
    lay(cell.input_maps["n"], x, drive, f"{prefix}input_map_n")
    lay(cell.hidden_maps["n"], hidden, pushed, f"{prefix}hidden_map_n")
    GraphModule([*drive, *pushed, *gates["r"]], gates["n"], f"{prefix}gate_n")
    GraphModule([*gates["n"], *gates["z"], *hidden], after[0], f"{prefix}h")


def lay_lstm(cell: Any, x: Wires, before: list[Wires], after: list[Wires], prefix: str, start: Tensor | None) -> None:
    """The four gates, the cell state and the hidden state, between wires."""
    hidden, memory = before
    gates = {gate: wires(cell.hidden_size) for gate in cell.gates}
    for gate, written in gates.items():
        function = torch.tanh if gate == "g" else torch.sigmoid
        GenericNeurons(_gate(cell, gate, x, hidden, prefix), written, f"{prefix}gate_{gate}", function)
    GraphModule([*gates["i"], *gates["f"], *gates["g"], *memory], after[1], f"{prefix}c")
    GraphModule([*gates["o"], *after[1]], after[0], f"{prefix}h")


def recurrence_graph(rnn: Any) -> GraphHolder:
    """The layers one behind the other, each cell in a box with its loop; a residual adds by aliases."""
    x = row = wires(rnn.input_size)
    for layer in range(rnn.num_layers):
        outputs: Wires = []
        for turned in range(rnn.directions):
            number = layer * rnn.directions + turned
            cell = rnn.cells[number]
            states = [wires(cell.hidden_size) for _ in cell.states]
            where = f"layer {layer}" + (" backwards" if turned else "")
            cell.lay(row, states, states, f"{where}.", _start(rnn, number))
            outputs += states[0]
        if rnn.residual and len(outputs) == len(row):
            total = wires(len(row))
            for word, part in (("input", row), ("output", outputs)):
                AliasConnection(part, total, f"layer {layer}.residual {word}")
            outputs = total
        row = outputs
    return GraphHolder(x, row, type(rnn).__name__, rnn)


def _start(rnn: Any, number: int) -> Tensor | None:
    return rnn.init_states[number].detach().clone()[0] if rnn.learn_init else None


# ---- back -----------------------------------------------------------------------------------------------------------


def layers_of(who: str, graph: Any) -> list[tuple[GenericNeurons, Tensor, Tensor, Tensor | None]]:
    """The layers of a chain of simple recurrences: neurons, input matrix, hidden matrix, bias of both together.

    Raises `OptionError`, with the name of what it was, for a graph that is none.
    """
    neurons = find_modules_of_subclass(graph, GenericNeurons)
    if not neurons:
        raise OptionError(
            f"{who} is built from weights and the neurons that they drive; {graph.title} holds no neurons"
        )
    row, layers = list(graph.input_nodes), []
    for _ in neurons:
        found = next((n for n in neurons if n not in [layer[0] for layer in layers] and _reads(n, row)), None)
        if found is None:
            raise OptionError(
                f"{who} is a chain of layers; {graph.title} is none: {neurons[len(layers)].title} is left"
            )
        layers.append((found, *_layer(who, graph, found, row)))
        row = list(found.output_nodes)
    if not graph.output_nodes == row:
        raise OptionError(f"{who} gives the states of its last layer; {graph.title} gives other wires")
    return layers


def _reads(neurons: GenericNeurons, row: list[GraphNode]) -> bool:
    """Whether some weights lead from `row` to the neurons at once."""
    near = list(neurons.input_nodes)
    seen = {id(wire) for wire in near}
    for wire in near:
        if any(wire is one for one in row):
            return True
        for module in wire.source_modules:
            if not isinstance(module, GenericNeurons):
                near += [one for one in module.input_nodes if id(one) not in seen]
                seen.update(map(id, module.input_nodes))
    return False


def _layer(who: str, graph: Any, neurons: GenericNeurons, row: list[GraphNode]) -> tuple[Tensor, Tensor, Tensor | None]:
    if not callable(neurons.computational_module):
        raise OptionError(f"{who} needs a function for {neurons.title}; it has {neurons.computational_module!r}")
    try:
        W, bias = dense(graph, [*row, *neurons.output_nodes], neurons.input_nodes)
    except SlimgraphError as error:
        raise OptionError(
            f"no {who} can be made from {graph.title}, by what drives {neurons.title}: {error}"
        ) from error
    return W[: len(row)], W[len(row) :], bias


def rnn_from_graph(cls: Any, graph: Any, options: dict[str, Any]) -> Any:
    """An RNN of free maps with the numbers of `graph`."""
    layers = layers_of(cls.__name__, graph)
    functions = [neurons.computational_module for neurons, *_ in layers]
    sizes = [hidden.shape[0] for _, _, hidden, _ in layers]
    if len(set(sizes)) > 1 or any(function is not functions[0] for function in functions):
        raise OptionError(
            f"{cls.__name__} has layers of one size and one function; {graph.title} has sizes {sizes} and"
            f" functions {[getattr(f, '__name__', f) for f in functions]}"
        )
    biased = any(bias is not None for *_, bias in layers)
    starts = [neurons.start for neurons, *_ in layers]
    made = cls(
        graph.size_in, sizes[0], len(layers), {"nonlin": functions[0], "bias": biased},
        learn_init=any(start is not None for start in starts), **options,
    ).to(layers[0][1])  # fmt: skip
    with torch.no_grad():
        for number, (cell, (_, W, hidden, bias)) in enumerate(zip(made.cells, layers, strict=True)):
            fill_cell(cell, W, hidden, bias)
            if starts[number] is not None:
                made.init_states[number][0].copy_(starts[number])
    return made


def cell_from_graph(cls: Any, graph: Any) -> Any:
    """An RNNCell of free maps with the numbers of `graph`."""
    layers = layers_of(cls.__name__, graph)
    if len(layers) != 1:
        raise OptionError(f"{cls.__name__} is one layer; {graph.title} has {len(layers)}")
    neurons, inputs, hidden, bias = layers[0]
    made = cls(graph.size_in, len(hidden), bias=bias is not None, nonlin=neurons.computational_module).to(hidden)
    fill_cell(made, inputs, hidden, bias)
    return made


@torch.no_grad()
def fill_cell(cell: Any, inputs: Tensor, hidden: Tensor, bias: Tensor | None) -> None:
    """Give the free maps of an RNNCell these matrices, and all of the bias to the input map."""
    for made, W in ((cell.input_map, inputs), (cell.hidden_map, hidden)):
        if not isinstance(made, Linear):
            raise OptionError(f"{type(cell).__name__}.from_graph fills free maps, got {type(made).__name__}")
        made.weight.copy_(W.mT)
        if made.bias is not None:
            made.bias.zero_()
    if cell.input_map.bias is not None and bias is not None:
        cell.input_map.bias.copy_(bias)
