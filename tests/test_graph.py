"""Laws of the component graph: links consistent both ways, connections exact, walks whole, sizes checked."""

from __future__ import annotations

import copy
import pickle

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimgraph.errors import DtypeError, OptionError, ShapeError, SlimgraphError, WiringError
from slimgraph.graph import (
    AliasConnection,
    GenericNeurons,
    GraphHolder,
    GraphModule,
    GraphNode,
    LinearWeights,
    RateNeurons,
    as_GraphHolder,
    bag_graph,
    connect_modules,
    find_modules_of_subclass,
    find_recurrent_modules,
    replace_module,
)

SIZES = [(1, 2), (2, 2), (2, 1), (3, 3)]
PORT = st.integers(0, 2)
CONNECTS = st.lists(st.tuples(st.integers(0, 3), PORT, st.integers(0, 3), PORT, st.booleans(), st.booleans()), max_size=12)


def named(name: str, size_in: int = 1, size_out: int = 1) -> GraphModule:
    return GraphModule.of_size(size_in, size_out, name=name)


def made(connects) -> tuple[list[GraphModule], list[GraphHolder], set]:
    """Modules, a holder round each, and the pairs of ports that were connected, directly or through the holders."""
    modules = [named(str(i), *size) for i, size in enumerate(SIZES)]
    holders = [as_GraphHolder(module) for module in modules]
    meant = set()
    for a, i, b, j, by_source, by_dest in connects:
        i, j = i % modules[a].size_out, j % modules[b].size_in
        connect_modules((holders if by_source else modules)[a], (holders if by_dest else modules)[b], i, j)
        meant.add((a, i, b, j))
    return modules, holders, meant


def heard(modules: list[GraphModule], b: int, j: int) -> set[tuple[int, int]]:
    """Which output ports arrive at an input port, through any number of aliases."""
    near, found = [modules[b].input_nodes[j]], set()
    for wire in near:
        for module in wire.source_modules:
            for place in module.output_nodes.places(wire):
                if isinstance(module, AliasConnection):
                    if module.input_nodes[place] not in near:
                        near.append(module.input_nodes[place])
                else:
                    found.add((modules.index(module), place))
    return found


def assert_consistent(graph) -> None:
    nodes, modules = bag_graph(graph)
    for module in modules:
        assert all(module in wire.sink_modules for wire in module.input_nodes)
        assert all(module in wire.source_modules for wire in module.output_nodes)
        assert all(wire in nodes for wire in (*module.input_nodes, *module.output_nodes))
    for wire in nodes:
        assert all(wire in module.input_nodes for module in wire.sink_modules)
        assert all(wire in module.output_nodes for module in wire.source_modules)
        assert all(wire in holder.input_nodes or wire in holder.output_nodes for holder in wire.holders)


@settings(max_examples=300, deadline=None)
@given(CONNECTS)
def test_a_port_hears_exactly_the_ports_that_were_connected_to_it(connects):
    modules, holders, meant = made(connects)
    for b, module in enumerate(modules):
        assert_consistent(module)
        for j in range(module.size_in):
            assert heard(modules, b, j) == {(a, i) for a, i, b2, j2 in meant if (b2, j2) == (b, j)}
        assert holders[b].input_nodes == module.input_nodes
        assert holders[b].output_nodes == module.output_nodes


@settings(max_examples=50, deadline=None)
@given(CONNECTS)
def test_connecting_again_changes_nothing(connects):
    modules, _, _ = made(connects)
    before = [[list(m.input_nodes), list(m.output_nodes)] for m in bag_all(modules)]
    for a, i, b, j, _, _ in connects:
        connect_modules(modules[a], modules[b], i % modules[a].size_out, j % modules[b].size_in)
    after = [[list(m.input_nodes), list(m.output_nodes)] for m in bag_all(modules)]
    assert before == after


def bag_all(modules: list[GraphModule]) -> list[GraphModule]:
    found: dict[GraphModule, None] = {}
    for module in modules:
        found |= dict.fromkeys(bag_graph(module)[1])
    return list(found)


@settings(max_examples=100, deadline=None)
@given(CONNECTS)
def test_walks_find_what_networkx_finds(connects):
    modules, _, meant = made(connects)
    flow = nx.DiGraph([(a, b) for a, _, b, _ in meant])
    flow.add_nodes_from(range(len(SIZES)))
    cycles = {a for part in nx.strongly_connected_components(flow) if len(part) > 1 for a in part}
    cycles |= {a for a in flow if flow.has_edge(a, a)}
    for a, module in enumerate(modules):
        found = [m for m in bag_graph(module)[1] if m in modules]
        assert len(set(map(id, found))) == len(found)
        assert {modules.index(m) for m in found} == nx.node_connected_component(flow.to_undirected(), a)
        recurrent = [m for m in find_recurrent_modules(module) if m in modules]
        assert {modules.index(m) for m in recurrent} == cycles & {modules.index(m) for m in found}


def shape_of(modules: list[GraphModule]) -> list[tuple]:
    """The graph as numbers: which wire, counted in order of appearance, stands at each port."""
    number: dict[int, int] = {}
    ports = [[(number.setdefault(id(w), len(number))) for w in (*m.input_nodes, *m.output_nodes)] for m in modules]
    return [(m.name, type(m), p) for m, p in zip(modules, ports, strict=True)]


@settings(max_examples=50, deadline=None)
@given(CONNECTS, st.integers(0, 3))
def test_a_module_that_is_replaced_and_put_back_leaves_the_graph_as_it_was(connects, which):
    modules, holders, meant = made(connects)
    old, before = modules[which], shape_of(bag_all(modules))
    new = named("new", *SIZES[which])
    replace_module(old, new)
    assert bag_graph(old)[1] == [old]
    assert all(list(w.source_modules) in ([], [old]) and not w.holders for w in (*old.input_nodes, *old.output_nodes))
    assert holders[which].input_nodes == new.input_nodes and holders[which].output_nodes == new.output_nodes
    assert_consistent(new)
    modules[which] = new
    for b, module in enumerate(modules):
        for j in range(module.size_in):
            assert heard(modules, b, j) == {(a, i) for a, i, b2, j2 in meant if (b2, j2) == (b, j)}
    modules[which] = old
    connected = any(which in (a, b) for a, _, b, _ in meant)
    if connected:
        replace_module(new, old)
        assert sorted(map(repr, shape_of(bag_all(modules)))) == sorted(map(repr, before)) or len(before) == len(bag_all(modules))
        for b, module in enumerate(modules):
            for j in range(module.size_in):
                assert heard(modules, b, j) == {(a, i) for a, i, b2, j2 in meant if (b2, j2) == (b, j)}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@settings(max_examples=50, deadline=None)
@given(CONNECTS)
def test_copies_have_the_same_links_and_share_none(copied, connects):
    modules, holders, _ = made(connects)
    everything = bag_all(modules)
    twins, twin_holders = copied((everything, holders))
    assert shape_of(twins) == shape_of(everything)
    assert not set(map(id, twins)) & set(map(id, everything))
    assert shape_of(twins + twin_holders) == shape_of(everything + holders)
    for twin, holder in zip(twins, twin_holders, strict=False):
        assert_consistent(twin)
        assert [[(m.name, k) for m, k in port] for side in holder.ends for port in side]
