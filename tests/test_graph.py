"""Laws of the component graph: links consistent both ways, connections exact, walks whole, sizes checked."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import Counter

import networkx as nx
import numpy as np
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
# From which module and port to which, and whether through the holders of the one and of the other; or all ports.
CONNECTS = st.lists(
    st.tuples(st.integers(0, 3), PORT | st.none(), st.integers(0, 3), PORT, st.booleans(), st.booleans()), max_size=12
)


def named(name: str, size_in: int = 1, size_out: int = 1) -> GraphModule:
    return GraphModule.of_size(size_in, size_out, name=name)


def made(connects) -> tuple[list[GraphModule], list[GraphHolder], set]:
    """Modules, a holder round each, and the pairs of ports that were connected, directly or through the holders."""
    modules = [named(str(i), *size) for i, size in enumerate(SIZES)]
    holders = [as_GraphHolder(module) for module in modules]
    meant = set()
    for a, i, b, j, by_source, by_dest in connects:
        source, dest = (holders if by_source else modules)[a], (holders if by_dest else modules)[b]
        if i is None and source.size_out == dest.size_in:
            connect_modules(source, dest)
            meant |= {(a, place, b, place) for place in range(source.size_out)}
        else:
            i, j = (i or 0) % source.size_out, j % dest.size_in
            connect_modules(source, dest, i, j)
            meant.add((a, i, b, j))
    return modules, holders, meant


def heard(modules: list[GraphModule], b: int, j: int) -> set[tuple[int, int]]:
    """Which output ports arrive at an input port, through any number of aliases."""
    near, found = [modules[b].input_nodes[j]], set()
    for wire in near:
        ends = [(m, place) for m in wire.source_modules for place in m.output_nodes.places(wire)]
        found |= {(modules.index(m), place) for m, place in ends if not isinstance(m, AliasConnection)}
        before = [m.input_nodes[place] for m, place in ends if isinstance(m, AliasConnection)]
        near += [one for one in before if one not in near]
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
    modules, _, meant = made(connects)
    before = [[list(m.input_nodes), list(m.output_nodes)] for m in bag_all(modules)]
    for a, i, b, j in meant:
        connect_modules(modules[a], modules[b], i, j)
    assert [[list(m.input_nodes), list(m.output_nodes)] for m in bag_all(modules)] == before


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


def shape_of(modules: list) -> list[tuple]:
    """The graph as numbers: which wire, counted in order of appearance, stands at each port."""
    number: dict[int, int] = {}
    ports = [[number.setdefault(id(w), len(number)) for w in (*m.input_nodes, *m.output_nodes)] for m in modules]
    return [(m.name, type(m), p) for m, p in zip(modules, ports, strict=True)]


@settings(max_examples=100, deadline=None)
@given(CONNECTS, st.integers(0, 3))
def test_a_module_that_is_replaced_and_put_back_leaves_the_graph_as_it_was(connects, which):
    modules, holders, meant = made(connects)
    old, new = modules[which], named("new", *SIZES[which])
    nodes, parts = bag_graph(old)
    before = shape_of(sorted(parts, key=lambda m: m.name))

    replace_module(old, new)
    assert bag_graph(old)[1] == [old]
    for wire in (*old.input_nodes, *old.output_nodes):
        assert not [m for m in (*wire.source_modules, *wire.sink_modules) if m is not old] and not wire.holders
    assert holders[which].input_nodes == new.input_nodes and holders[which].output_nodes == new.output_nodes
    assert_consistent(new)
    changed = [new if m is old else m for m in modules]
    for b, module in enumerate(changed):
        for j in range(module.size_in):
            assert heard(changed, b, j) == {(a, i) for a, i, b2, j2 in meant if (b2, j2) == (b, j)}

    replace_module(new, old)
    again, parts = bag_graph(old)
    assert (len(again), shape_of(sorted(parts, key=lambda m: m.name))) == (len(nodes), before)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_have_the_same_links_and_share_none(copied):
    @settings(max_examples=50, deadline=None)
    @given(CONNECTS)
    def holds(connects):
        modules, holders, _ = made(connects)
        everything = bag_all(modules)
        twins, twin_holders = copied((everything, holders))
        assert shape_of(twins + twin_holders) == shape_of(everything + holders)
        assert not set(map(id, twins)) & set(map(id, everything))
        for twin, twin_holder in zip([t for t in twins if t.name in "0123"], twin_holders, strict=True):
            assert_consistent(twin)
            # What is connected to the copy of a holder is heard by the copy of what it holds.
            probe = named("probe", 1, 1)
            connect_modules(probe, twin_holder, dest_indices=0)
            names = [m.name for m in twin_holder.input_nodes[0].sink_modules if not isinstance(m, AliasConnection)]
            assert len(names) == 1

    holds()


def test_a_part_that_was_connected_after_a_copy_is_in_the_next_one():
    a, b, c = named("a"), named("b"), named("c")
    connect_modules(a, b)
    copy.deepcopy(a)
    connect_modules(b, c)
    assert [m.name for m in bag_graph(copy.deepcopy(a))[1]] == ["a", "b", "c"]
    again = pickle.loads(pickle.dumps(b))
    assert [m.name for m in again.input_nodes[0].source_modules] == ["a"]


def test_what_a_module_holds_is_copied_with_it_and_may_point_back_at_the_graph():
    a, b = named("a"), named("b")
    connect_modules(a, b)
    a.computational_module = {"layer": torch.nn.Linear(1, 1), "next": b}
    twin = copy.deepcopy(a)
    assert twin.computational_module["next"] is twin.output_nodes[0].sink_modules[0]
    assert twin.computational_module["layer"] is not a.computational_module["layer"]


# ---- the plain cases, spelled out ----------------------------------------------------------------------------------


def test_fan_out_is_one_wire_with_all_readers():
    a, b, c = named("a"), named("b"), named("c")
    connect_modules(a, b)
    connect_modules(a, c)
    assert a.output_nodes[0] is b.input_nodes[0] is c.input_nodes[0]
    assert list(a.output_nodes[0].sink_modules) == [b, c]


def test_fan_in_is_one_wire_with_all_writers():
    a, b, c = named("a"), named("b"), named("c")
    connect_modules(a, c)
    connect_modules(b, c)
    assert a.output_nodes[0] is b.output_nodes[0] is c.input_nodes[0]
    assert list(c.input_nodes[0].source_modules) == [a, b]


def test_where_fans_meet_an_alias_keeps_apart_who_hears_whom():
    a, b, c, d = (named(name) for name in "abcd")
    connect_modules(a, c)
    connect_modules(a, d)
    connect_modules(b, c)
    assert list(d.input_nodes[0].source_modules) == [a]
    assert [type(m).__name__ for m in c.input_nodes[0].source_modules] == ["AliasConnection", "GraphModule"]
    (alias,) = find_modules_of_subclass(a, AliasConnection)
    assert (alias.name, alias.size_in, alias.size_out) == ("b to c", 1, 1)


def test_one_output_may_lead_to_two_inputs_of_one_module():
    a, b = named("a"), named("b", 2, 1)
    connect_modules(a, b, [0, 0], [0, 1])
    assert b.input_nodes == [a.output_nodes[0]] * 2
    assert list(a.output_nodes[0].sink_modules) == [b]


def test_a_holder_is_never_source_or_sink_and_shows_what_it_holds_after_any_connection():
    a, b, c = named("a"), named("b"), named("c")
    holder = as_GraphHolder(b)
    outer = GraphHolder(holder.input_nodes, holder.output_nodes, "outer")
    connect_modules(a, outer)
    connect_modules(holder, c)
    for one in (holder, outer):
        assert one.input_nodes == a.output_nodes and one.output_nodes == c.input_nodes
    assert [m.name for m in bag_graph(outer)[1]] == ["a", "b", "c"]
    assert not any(m.is_holder for w in bag_graph(outer)[0] for m in (*w.source_modules, *w.sink_modules))


def test_two_holders_at_one_wire_keep_their_own():
    a, b, c, d = (named(name) for name in "abcd")
    held_c, held_d = as_GraphHolder(c), as_GraphHolder(d)
    connect_modules(a, held_c)
    connect_modules(a, held_d)
    connect_modules(b, held_c)
    assert list(held_d.input_nodes[0].source_modules) == [a]
    assert held_c.input_nodes == c.input_nodes and held_d.input_nodes == d.input_nodes


def test_wires_can_be_added_and_taken_away():
    wire, other = GraphNode(), GraphNode()
    a = GraphModule([wire], [], "a")
    a.add_input(other)
    a.add_output(other)
    assert a in other.sink_modules and a in other.source_modules
    a.remove_input(other)
    assert a.input_nodes == [wire] and a not in other.sink_modules and a in other.source_modules
    a.output_nodes = []
    assert not other.source_modules


def test_a_chain_of_ten_thousand_takes_no_recursion():
    modules = [named(str(i)) for i in range(10_000)]
    for a, b in zip(modules, modules[1:], strict=False):
        connect_modules(a, b)
    connect_modules(modules[-1], modules[0])
    nodes, found = bag_graph(modules[0])
    assert (len(nodes), len(found)) == (10_000, 10_000)
    assert len(find_recurrent_modules(modules[5])) == 10_000
    assert repr(modules[0]) == "GraphModule '0' (1 -> 1)"
    assert len(bag_graph(copy.deepcopy(modules[0]))[1]) == 10_000
    assert len(bag_graph(pickle.loads(pickle.dumps(modules[0])))[1]) == 10_000


def calls(work) -> int:
    """How many Python calls some work takes."""
    counted: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: counted.update([event]))
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted["call"] + counted["c_call"]


@pytest.mark.parametrize("what", ["make", "connect", "walk", "fan in", "fan out"])
def test_the_work_grows_with_the_wires_and_not_faster(what):
    def work(n: int) -> int:
        a, b = (LinearWeights.of_size(n, n, weights=torch.zeros(n, n)) for _ in range(2))
        many = [named(str(i)) for i in range(n)] + [named("one")]
        if what == "make":
            return calls(lambda: LinearWeights.of_size(n, n, weights=torch.zeros(n, n)))
        if what == "connect":
            return calls(lambda: connect_modules(a, b))
        if what == "walk":
            connect_modules(a, b)
            return calls(lambda: bag_graph(a))
        if what == "fan in":
            return calls(lambda: [connect_modules(m, many[-1]) for m in many[:-1]])
        return calls(lambda: [connect_modules(many[-1], m) for m in many[:-1]])

    assert work(400) < 4.4 * work(100)


# ---- the kinds, and what they refuse --------------------------------------------------------------------------------


def test_cycles_of_one_two_and_three_are_found_and_nothing_behind_them():
    a, b, c, d, e = (named(name) for name in "abcde")
    for source, dest in ((a, b), (b, c), (c, a), (c, d), (d, d), (d, e)):
        connect_modules(source, dest)
    assert {m.name for m in find_recurrent_modules(e) if m.name in "abcde"} == {"a", "b", "c", "d"}


def test_an_alias_keeps_its_wires_apart_when_cycles_are_looked_for():
    wires = [GraphNode() for _ in range(4)]
    AliasConnection(wires[:2], wires[2:], "both")
    GraphModule([wires[2]], [wires[1]], "m")
    assert find_recurrent_modules(GraphHolder(wires[:1], wires[3:])) == []


W = torch.zeros(2, 3)
REFUSED = {
    "sizes that differ": (
        lambda: connect_modules(named("a", 1, 3), named("b", 2, 1)),
        ShapeError,
        ["GraphModule 'a'", "GraphModule 'b'", "3 wires out", "2 wires in"],
    ),
    "a source that is none": (
        lambda: connect_modules(torch.nn.Tanh(), named("b")), OptionError, ["source", "Tanh"],
    ),
    "a dest that is none": (lambda: connect_modules(named("a"), 5), OptionError, ["dest", "int: 5"]),
    "an index too far": (
        lambda: connect_modules(named("a"), named("b"), 7), OptionError, ["'a' has 1 output wires", "none at 7"],
    ),
    "an index that is none": (
        lambda: connect_modules(named("a"), named("b"), [0.5]), OptionError, ["output", "0.5", "'a'"],
    ),
    "a mask": (
        lambda: connect_modules(named("a"), named("b"), [True]), OptionError, ["output", "whole numbers", "True"],
    ),
    "a mask of numpy": (
        lambda: connect_modules(named("a"), named("b"), None, np.array([True])), OptionError, ["input", "True"],
    ),
    "indices that are none": (
        lambda: connect_modules(named("a"), named("b"), None, "x"), OptionError, ["input", "'x'", "'b'"],
    ),
    "weights of another shape": (
        lambda: LinearWeights.of_size(3, 2, "lin", weights=W), ShapeError, ["'lin'", "(3, 2)", "(2, 3)"],
    ),
    "biases of another shape": (
        lambda: LinearWeights.of_size(2, 3, "lin", weights=W, biases=[1.0, 2.0]),
        ShapeError,
        ["'lin'", "biases", "(3,)", "(2,)"],
    ),
    "weights that are none": (
        lambda: LinearWeights.of_size(2, 3, "lin", weights="W"), DtypeError, ["'lin'", "weights", "'W'"],
    ),
    "no weights": (lambda: LinearWeights.of_size(2, 3, "lin"), OptionError, ["'lin'", "None"]),
    "a wire too many": (
        lambda: LinearWeights.of_size(2, 3, "lin", weights=W).add_input(GraphNode()), ShapeError, ["(3, 3)", "(2, 3)"],
    ),
    "an alias that changes the size": (
        lambda: AliasConnection.of_size(2, 3, "alias"), ShapeError, ["'alias'", "2 in", "3 out"],
    ),
    "neurons that change the size": (
        lambda: GenericNeurons.of_size(1, 2, "n"), ShapeError, ["GenericNeurons 'n'", "1 in", "2 out"],
    ),
    "a start of another size": (
        lambda: GenericNeurons.of_size(2, 2, "n", start=[0.0]), ShapeError, ["start", "(2,)", "(1,)"],
    ),
    "tau of another size": (
        lambda: RateNeurons.of_size(2, 2, "r", tau=[0.1, 0.2, 0.3]), ShapeError, ["tau", "(2,)", "(3,)"],
    ),
    "a name that is none": (lambda: GraphModule([], [], name=3), OptionError, ["name", "3"]),
    "a wire that is none": (lambda: GraphModule([GraphNode(), "w"], []), OptionError, ["input_nodes", "'w'", "1"]),
    "wires that are none": (lambda: GraphModule([], 4), OptionError, ["output_nodes", "4"]),
    "a negative size": (lambda: GraphModule.of_size(-1, 2), OptionError, ["size_in", "-1"]),
    "a stranger's wire": (lambda: named("a").remove_output(GraphNode()), WiringError, ["'a'", "no such output"]),
    "a walk of no graph": (lambda: bag_graph([1]), OptionError, ["list: [1]"]),
    "a class that is none": (lambda: find_modules_of_subclass(named("a"), "b"), OptionError, ["class", "'b'"]),
    "a holder of no graph": (lambda: as_GraphHolder(torch.nn.Tanh()), OptionError, ["as_GraphHolder", "Tanh"]),
    "a replacement of another size": (
        lambda: replace_module(named("a", 1, 2), named("b", 2, 1)),
        ShapeError,
        ["'a' of 1 wires in and 2 out", "'b' of 2 in and 1 out"],
    ),
    "a replacement that is none": (lambda: replace_module(named("a"), 3), OptionError, ["replace_module", "int: 3"]),
    "a holder to replace": (
        lambda: replace_module(as_GraphHolder(named("a")), named("b")), OptionError, ["GraphHolder 'a'"],
    ),
    "a replacement that is connected": (
        lambda: replace_module(named("a"), connected()), WiringError, ["'b' is connected already", "'c'"],
    ),
}  # fmt: skip


def connected() -> GraphModule:
    b, c = named("b"), named("c")
    connect_modules(b, c)
    return b


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_in_words(what):
    work, error, words = REFUSED[what]
    with pytest.raises(SlimgraphError) as caught:
        work()
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "index", [1, -1, np.int64(1), np.array([1]), torch.tensor(1), [1], range(1, 2), slice(1, None)]
)
def test_an_index_is_whatever_counts(index):
    a, b = named("a", 1, 2), named("b", 2, 1)
    connect_modules(a, b, index, index)
    assert b.input_nodes[1] is a.output_nodes[1] and b.input_nodes[0] is not a.output_nodes[0]


def test_a_refused_connection_has_changed_nothing():
    a, b = named("a", 1, 3), named("b", 2, 1)
    for indices in ((None, None), ([0, 1], [0, 5])):
        with pytest.raises(SlimgraphError):
            connect_modules(a, b, *indices)
    assert bag_graph(a)[1] == [a] and bag_graph(b)[1] == [b]


def test_a_holder_of_two_can_take_the_place_of_one():
    a, b, c, d, e = (named(name) for name in "abcde")
    connect_modules(a, b)
    connect_modules(b, c)
    connect_modules(d, e)
    whole = as_GraphHolder(b)
    replace_module(b, GraphHolder(d.input_nodes, e.output_nodes, "both"))
    assert list(a.output_nodes[0].sink_modules) == [d] and list(c.input_nodes[0].source_modules) == [e]
    assert whole.input_nodes == d.input_nodes and whole.output_nodes == e.output_nodes


def test_a_holder_stands_for_the_module_that_took_the_place_of_its_own():
    a, b, c, d, new = (named(name) for name in ("a", "b", "c", "d", "new"))
    whole = as_GraphHolder(c)
    connect_modules(a, whole)
    connect_modules(a, d)
    replace_module(c, new)
    connect_modules(b, whole)
    modules = [a, b, c, d, new]
    assert (heard(modules, 4, 0), heard(modules, 3, 0)) == ({(0, 0), (1, 0)}, {(0, 0)})


# ---- the one networkx form ------------------------------------------------------------------------------------------


def test_the_networkx_form_folds_wires_and_marks_what_closes_a_loop():
    a, b = named("a", 2, 3), named("layer.b", 3, 2)
    connect_modules(a, b)
    connect_modules(b, a)
    form = GraphHolder(a.input_nodes, b.output_nodes).to_networkx()
    assert {d["kind"] for _, d in form.nodes(data=True)} == {"data", "module"}
    assert all(isinstance(n, str) and isinstance(d["label"], str) for n, d in form.nodes(data=True))
    (inner,) = [d for _, d in form.nodes(data=True) if d.get("cluster")]
    assert inner["cluster"] == ("layer",) and inner["label"].startswith("b\n")
    edges = {
        (form.nodes[t]["label"][0], form.nodes[h]["label"][0]): (k, d)
        for t, h, k, d in form.edges(keys=True, data=True)
    }
    assert edges["a", "b"] == ("3 wires", {"count": 3})
    assert edges["b", "a"] == ("2 wires", {"count": 2, "feedback": True})
    assert a.draw().dot.count("3 wires") == 1 and "flowchart" in a.draw().mermaid


def test_a_loop_is_closed_by_the_edge_that_leads_back_to_what_the_inputs_reach_first():
    a, b, clock = named("a"), named("b", 2, 1), named("clock", 0, 1)
    for source, dest, place in ((a, b, 0), (b, a, 0), (clock, b, 1)):
        connect_modules(source, dest, dest_indices=place)
    form = a.to_networkx()
    closing = [(t, h) for t, h, d in form.edges(data=True) if d.get("feedback")]
    assert [(form.nodes[t]["label"][0], form.nodes[h]["label"][0]) for t, h in closing] == [("a", "b")]


def test_two_ways_to_one_module_are_no_loop_and_a_holder_has_one_way_in_and_out():
    a, b, c, d = named("a", 1, 2), named("b"), named("c"), named("d", 2, 1)
    for source, dest, out, into in ((a, b, 0, 0), (a, c, 1, 0), (b, d, 0, 0), (c, d, 0, 1)):
        connect_modules(source, dest, out, into)
    form = GraphHolder(a.input_nodes, d.output_nodes).to_networkx()
    assert not any(data.get("feedback") for *_, data in form.edges(data=True))
    assert {(t, h) for t, h in form.edges() if not (t.isdecimal() and h.isdecimal())} == {("in", "0"), ("1", "out")}


def test_a_graph_of_thousands_of_wires_is_a_small_picture():
    form = LinearWeights.of_size(4000, 4000, weights=torch.zeros(4000, 4000)).to_networkx()
    assert (len(form), form.number_of_edges()) == (3, 2)
    assert sorted(d["count"] for _, _, d in form.edges(data=True)) == [4000, 4000]
