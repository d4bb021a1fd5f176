"""From torch modules to component graphs, and from a graph of weights back to one matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import DtypeError, OptionError, ShapeError
from slimgraph.graph.connect import connect_modules
from slimgraph.graph.kinds import AliasConnection, GenericNeurons, LinearWeights
from slimgraph.graph.parts import GraphHolder, GraphModule, GraphModuleBase, ends_of
from slimgraph.graph.walk import bag_graph
from slimgraph.graph.wires import GraphNode, Members

# What torch has that gives as many features as it takes.
KEEP_SIZE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.LogSoftmax, nn.Mish, nn.PReLU, nn.RReLU, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softmin,
    nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.LayerNorm, nn.RMSNorm,
)  # fmt: skip

Step = tuple[Any, slice]
"""A module, and which of its wires are meant."""


def wires(count: int) -> list[GraphNode]:
    """That many new wires."""
    return [GraphNode() for _ in range(count)]


def module_graph(x: Any, size_in: int | None = None, name: str | None = None) -> GraphModuleBase:
    """The component graph of a torch module: its own `as_graph()` where it has one.

    A `torch.nn.Linear` becomes `LinearWeights` with a copy of its weights, `nn.Sequential` the chain of its members, an
    activation, or what is marked `keeps_size = True`, `GenericNeurons` of `size_in` wires, and a module that has
    `in_features` and `out_features` one GraphModule. Raises `OptionError`, by name, for what has none of these.

    >>> module_graph(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
    GraphHolder 'Sequential' (3 -> 2)
    >>> module_graph(nn.Bilinear(2, 2, 2))
    Traceback (most recent call last):
    slimgraph.errors.OptionError: Bilinear has no component graph: give it as_graph(), or in_features and out_features
    """
    if hasattr(x, "as_graph"):
        graph = x.as_graph()
        if name:
            rename(graph, name)
        return graph
    name = name or type(x).__name__
    if type(x) is nn.Linear:
        biases = None if x.bias is None else x.bias.detach().clone()
        weights = x.weight.detach().mT.clone(memory_format=torch.contiguous_format)
        return LinearWeights.of_size(x.in_features, x.out_features, name, x, weights=weights, biases=biases)
    if isinstance(x, nn.Sequential) and type(x).forward is nn.Sequential.forward:
        return chain(x.named_children(), size_in, name, x)
    keeps = isinstance(x, KEEP_SIZE) or getattr(x, "keeps_size", False)
    if keeps and size_in is not None:
        return GenericNeurons.of_size(size_in, size_in, name, x)
    takes, gives = getattr(x, "in_features", None), getattr(x, "out_features", None)
    if isinstance(takes, int) and isinstance(gives, int):
        return GraphModule.of_size(takes, gives, name, x)
    if keeps:
        raise OptionError(f"{name} takes any number of features, so that alone it has no component graph")
    raise OptionError(f"{name} has no component graph: give it as_graph(), or in_features and out_features")


def chain(
    members: Iterable[tuple[str, Any]], size_in: int | None, name: str, computational_module: Any = None
) -> GraphModuleBase:
    """The graphs of `members`, one behind the other, in one holder; a member that keeps the size takes that before it.

    Raises `OptionError` for no members, `ShapeError` for sizes that do not fit, each with the names of both.
    """
    first = last = None
    for place, member in members:
        size = size_in if last is None else last.size_out
        graph = module_graph(member, size, f"{place}_{type(member).__name__}")
        if last is None:
            first = graph
        else:
            connect_modules(last, graph)
        last = graph
    if first is None or last is None:
        raise OptionError(f"{name} is empty: a component graph needs at least one module")
    holder = GraphHolder(first.input_nodes, last.output_nodes, name, computational_module)
    holder.ends = ends_of(first)[0], ends_of(last)[1]
    return holder


def rename(graph: GraphModuleBase, name: str) -> None:
    """Call a graph `name`, and with a dot before them, the modules in it: a picture shows them in one box."""
    if graph.is_holder:
        for module in bag_graph(graph)[1]:
            module.name = f"{name}.{module.name}" if module.name else name
    graph.name = name


def dense(
    graph: Any, inputs: Sequence[GraphNode] | None = None, outputs: Sequence[GraphNode] | None = None
) -> tuple[Tensor, Tensor | None]:
    """The matrix and the bias of a graph of nothing but weights and aliases: `(inputs, outputs)`, `(outputs,)` or None.

    `inputs` are the wires to start from and `outputs` those to arrive at, by default those of `graph`. Raises
    `OptionError`, with the name of the module, where there is anything else on the way, or a cycle; `ShapeError` for a
    wire on which nobody writes, `DtypeError` for weights of several dtypes.

    >>> W = torch.tensor([[1., 2.]])
    >>> dense(LinearWeights.of_size(1, 2, weights=W))
    (tensor([[1., 2.]]), None)
    """
    if not isinstance(graph, GraphModuleBase):
        raise OptionError(f"a matrix is read from a component graph, got {type(graph).__name__}: {graph!r}")
    if isinstance(graph, LinearWeights) and inputs is outputs is None:
        return graph.weights.clone(), None if graph.biases is None else graph.biases.clone()
    start = list(graph.input_nodes) if inputs is None else list(inputs)
    end = list(graph.output_nodes) if outputs is None else list(outputs)
    steps = _between(graph.title, Members(start), end)
    modules = list(Members(module for module, _ in steps))
    weights = [module for module in modules if isinstance(module, LinearWeights)]
    _check_weights(graph.title, modules, weights)
    values = _run(steps, start, weights[0].weights)
    rows = torch.stack([values[id(wire)] for wire in end])
    biased = any(module.biases is not None for module in weights)
    return rows[:, :-1].mT.contiguous(), rows[:, -1].clone() if biased else None


def _check_weights(title: str, modules: list[Any], weights: list[LinearWeights]) -> None:
    if not weights:
        raise OptionError(f"{title} holds no LinearWeights: {', '.join(m.title for m in modules) or 'it is empty'}")
    for module in weights[1:]:
        if module.weights.dtype != weights[0].weights.dtype:
            ours, theirs = (f"{m.title} of {m.weights.dtype}" for m in (weights[0], module))
            raise DtypeError(f"{title} needs weights of one dtype, got {ours} and {theirs}")


def _run(steps: list[Step], start: list[GraphNode], like: Tensor) -> dict[int, Tensor]:
    """For each wire one number an input, and a last one for the biases: what it is of these."""
    unit = torch.eye(len(start), len(start) + 1, dtype=like.dtype, device=like.device)
    given = {id(wire): row for wire, row in zip(start, unit, strict=True)}
    values = dict(given)
    for module, places in steps:
        arriving = torch.stack([values[id(wire)] for wire in module.input_nodes[places]])
        for wire, row in zip(module.output_nodes[places], _through(module, arriving), strict=True):
            # Several that write on one wire add up; where we start, nothing does.
            if id(wire) not in given:
                values[id(wire)] = values[id(wire)] + row if id(wire) in values else row
    return values


def _through(module: Any, arriving: Tensor) -> Tensor:
    if isinstance(module, AliasConnection):
        return arriving
    leaving = module.weights.mT @ arriving
    if module.biases is not None:
        leaving[:, -1] += module.biases
    return leaving


def _steps(wires: Iterable[GraphNode]) -> list[Step]:
    """What writes on `wires`: a module, or of an alias, which keeps its wires apart, that one connection."""
    return [
        (module, part)
        for wire in wires
        for module in wire.source_modules
        for part in (
            [slice(place, place + 1) for place in module.output_nodes.places(wire)]
            if isinstance(module, AliasConnection)
            else [slice(None)]
        )
    ]


def _between(title: str, inputs: Members, outputs: list[GraphNode]) -> list[Step]:
    """The steps on the way from the wires `inputs` to `outputs`, each after those that it hears."""
    loose = [wire for wire in outputs if wire not in inputs]
    if any(not wire.source_modules for wire in loose):
        raise ShapeError(f"nobody writes on one of the outputs of {title}")
    # Backwards from the outputs: a step is done when all that write on its inputs are.
    state: dict[Any, bool] = {}
    order: list[Step] = []
    for start in _steps(loose):
        trail: list[tuple[Step, Iterator[Step]]] = []
        _enter(start, inputs, state, trail, title)
        while trail:
            step, before = trail[-1]
            following = next(before, None)
            if following is None:
                trail.pop()
                state[_key(step)] = True
                order.append(step)
            else:
                _enter(following, inputs, state, trail, title)
    return order


def _key(step: Step) -> tuple[int, int | None]:
    return id(step[0]), step[1].start


def _enter(step: Step, inputs: Members, state: dict[Any, bool], trail: list[Any], title: str) -> None:
    module, places = step
    if state.get(_key(step)):
        return
    if _key(step) in state:
        raise OptionError(f"{title} has a cycle at {module.title}: no matrix is the same")
    if not isinstance(module, LinearWeights | AliasConnection):
        raise OptionError(f"{title} holds {module.title}, which is no LinearWeights: no matrix is the same")
    state[_key(step)] = False
    loose = [wire for wire in module.input_nodes[places] if wire not in inputs]
    if any(not wire.source_modules for wire in loose):
        raise ShapeError(f"{title} does not say what comes into {module.title}: nobody writes on one of its inputs")
    trail.append((step, iter(_steps(loose))))
