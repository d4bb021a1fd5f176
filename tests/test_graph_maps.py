"""Component graphs of maps, recurrences, torch modules, nodes, systems and problems, and the way back."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, System, SystemPreview, blocks, modules, slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, SlimgraphError
from slimgraph.graph import (
    AliasConnection,
    GenericNeurons,
    GraphHolder,
    GraphModule,
    GraphNode,
    LinearWeights,
    bag_graph,
    connect_modules,
    dense,
    find_modules_of_subclass,
    find_recurrent_modules,
    module_graph,
)
from tests.helpers import keys


def names(graph, cls: type = GraphModule) -> list[str]:
    return sorted(m.name for m in find_modules_of_subclass(graph, cls))


# ---- maps -----------------------------------------------------------------------------------------------------------


def some_map(key: str) -> slim.LinearBase:
    torch.manual_seed(0)
    # A bias would give this one a null space.
    return slim.maps[key](4, 4, bias=key != "trivial_nullspace")


def same(ours: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    return ours is theirs is None or torch.equal(ours, theirs)


@pytest.mark.parametrize("key", keys())
def test_every_map_gives_weights_that_are_its_matrix_as_it_is_now(key: str):
    made = some_map(key).eval()
    graph = made.as_graph()
    assert type(graph) is LinearWeights and graph.computational_module is made
    assert (graph.name, graph.size_in, graph.size_out) == (type(made).__name__, 4, 4)
    assert torch.equal(graph.weights, made.effective_W()) and same(graph.biases, made.bias)
    assert not graph.weights.requires_grad and graph.weights.is_contiguous()
    held, start = graph.weights.clone(), None if graph.biases is None else graph.biases.clone()
    with torch.no_grad():
        for value in (*made.parameters(), *made.buffers()):
            value.add_(1)
    assert torch.equal(graph.weights, held) and same(graph.biases, start)


@pytest.mark.parametrize("key", keys())
def test_a_map_is_rebuilt_with_the_same_numbers_where_its_class_has_a_closed_form(key: str):
    made = some_map(key).double().eval()
    graph = made.as_graph()
    free = slim.Linear.from_graph(graph)
    assert torch.equal(free.effective_W(), graph.weights) and same(free.bias, made.bias)
    try:
        again = type(made).from_graph(graph)
    except OptionError as error:
        assert "has no from_dense" in str(error) or "nearest" in str(error) or "needs" in str(error)
    else:
        assert type(again) is type(made) and torch.allclose(again.effective_W(), made.effective_W(), atol=1e-6)
        assert same(again.bias, made.bias)


def test_a_matrix_that_is_no_member_is_refused_with_its_distance():
    graph = LinearWeights.of_size(2, 2, "lin", weights=torch.tensor([[0.0, 3.0], [-3.0, 0.0]]))
    with pytest.raises(OptionError, match=r"SymmetricLinear\.from_graph .* LinearWeights 'lin' are 4\.24 away"):
        slim.SymmetricLinear.from_graph(graph)


def combined(parts):
    symbol, a, b = parts
    if symbol == "|":
        # Back to three wires, so that it fits anywhere.
        size = a.in_features + b.in_features
        return slim.Linear(3, size) @ slim.BlockDiagonal([a, b]) @ slim.Linear(size, 3)
    return a @ b if symbol == "@" else a + b


LEAVES = st.sampled_from(["linear", "orthogonal", "symmetric"]).map(
    lambda key: slim.maps[key](3, 3, bias=key != "symmetric")
)
COMPOSED = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.sampled_from("@+|"), inner, inner).map(combined),
    max_leaves=5,
)


@settings(max_examples=40, deadline=None)
@given(COMPOSED)
def test_the_graph_of_a_composition_is_its_matrix_and_its_bias(made):
    made = made.double()
    W, bias = dense(made.as_graph())
    assert torch.allclose(W, made.effective_W(), atol=1e-12)
    assert (bias is None) == (made.bias is None)
    assert bias is None or torch.allclose(bias, made.bias, atol=1e-12)
    assert torch.allclose(slim.Linear.from_graph(made.as_graph())(torch.eye(3).double()), made(torch.eye(3).double()))
    assert len(bag_graph(made.as_graph())[1]) == count(made)


def count(m) -> int:
    return sum(count(term) for term in m.terms) if hasattr(m, "terms") else 1


def test_a_product_is_two_weights_one_behind_the_other():
    graph = (slim.OrthogonalLinear(3, 3) @ slim.Linear(3, 5)).as_graph()
    assert names(graph) == ["0_OrthogonalLinear", "1_Linear"]
    first, second = sorted(bag_graph(graph)[1], key=lambda m: m.name)
    assert first.output_nodes == second.input_nodes
    assert (graph.input_nodes, graph.output_nodes) == (first.input_nodes, second.output_nodes)


def test_graphs_that_are_connected_by_hand_are_the_product():
    a, b = slim.Linear(3, 4, bias=True).double(), slim.Linear(4, 2, bias=True).double()
    first, second = a.as_graph(), b.as_graph()
    connect_modules(first, second)
    W, bias = dense(GraphHolder(first.input_nodes, second.output_nodes))
    assert torch.allclose(W, (a @ b).effective_W()) and torch.allclose(bias, (a @ b).bias)


def lin(size_in: int, size_out: int, name: str = "lin", dtype: torch.dtype = torch.float32) -> LinearWeights:
    return LinearWeights.of_size(size_in, size_out, name, weights=torch.ones(size_in, size_out, dtype=dtype))


def held(*modules: GraphModule) -> GraphHolder:
    for a, b in zip(modules, modules[1:], strict=False):
        connect_modules(a, b)
    return GraphHolder(modules[0].input_nodes, modules[-1].output_nodes, "whole")


def test_one_alias_before_and_behind_the_weights_is_no_cycle():
    """The alias keeps its wires apart, and its matrix is the one of the weights in between."""
    weights, alias = lin(2, 2), AliasConnection.of_size(4, 4, "alias")
    connect_modules(alias, weights, [0, 1])
    connect_modules(weights, alias, dest_indices=[2, 3])
    W, bias = dense(GraphHolder(alias.input_nodes[:2], alias.output_nodes[2:], "whole"))
    assert torch.equal(W, torch.ones(2, 2)) and bias is None
    connect_modules(alias, alias, 2, 0)
    with pytest.raises(OptionError, match="cycle"):
        dense(GraphHolder([GraphNode()] * 2, alias.output_nodes[2:], "whole"))


def test_a_wire_to_start_from_is_what_comes_in_and_not_what_is_written_on_it():
    first, second = lin(1, 2), lin(2, 1)
    whole = held(first, second)
    W, _ = dense(whole, [*first.input_nodes, first.output_nodes[0]])
    assert W.tolist() == [[1.0], [1.0]]


def test_a_graph_is_a_copy_both_ways():
    layer, rnn = nn.Linear(2, 1).requires_grad_(False), slim.RNN(1, 1).requires_grad_(False)
    graph, loop = module_graph(layer), rnn.as_graph()
    (neurons,) = find_modules_of_subclass(loop, GenericNeurons)
    made = [*dense(graph), *(w.weights for w in find_modules_of_subclass(loop, LinearWeights)), neurons.start]
    made += [graph.weights, graph.biases]
    before = [tensor.clone() for tensor in made]
    for parameter in (*layer.parameters(), *rnn.parameters()):
        parameter.add_(1)
    assert all(torch.equal(now, then) for now, then in zip(made, before, strict=True))
    dense(graph)[0].add_(1), dense(graph)[1].add_(1)
    assert torch.equal(graph.weights, before[-2]) and torch.equal(graph.biases, before[-1])


def looped() -> GraphHolder:
    a, b = lin(1, 1, "a"), lin(1, 1, "b")
    whole = held(a, b)
    connect_modules(b, b)
    return whole


NO_MATRIX = {
    "neurons": (
        lambda: held(lin(1, 1), GenericNeurons.of_size(1, 1, "n")), OptionError, ["'whole'", "GenericNeurons 'n'"],
    ),
    "a cycle": (looped, OptionError, ["'whole'", "cycle at LinearWeights 'b'"]),
    "no weights": (lambda: held(AliasConnection.of_size(1, 1, "a")), OptionError, ["'whole'", "AliasConnection 'a'"]),
    "an output from nowhere": (
        lambda: GraphHolder(lin(1, 1).input_nodes, lin(1, 1).input_nodes, "whole"), ShapeError, ["'whole'", "nobody"],
    ),
    "an input from nowhere": (
        lambda: GraphHolder(lin(2, 1).input_nodes, lin(1, 1, "b").output_nodes, "whole"), ShapeError, ["'b'", "nobody"],
    ),
    "two dtypes": (
        lambda: held(lin(1, 1, "a", torch.float64), lin(1, 1, "b")),
        DtypeError,
        ["'a' of torch.float64", "'b' of torch.float32"],
    ),
    "no graph": (lambda: torch.eye(2), OptionError, ["component graph", "Tensor"]),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_MATRIX)
def test_what_is_no_matrix_is_told_by_name(what):
    make, error, words = NO_MATRIX[what]
    with pytest.raises(SlimgraphError) as caught:
        slim.Linear.from_graph(make())
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value), str(caught.value)


# ---- recurrences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("hidden", ["linear", "orthogonal"])
def test_an_rnn_is_rebuilt_from_its_graph_with_the_same_outputs(bias, layers, hidden):
    rnn = slim.RNN(3, 4, layers, {"bias": bias, "hidden_map": hidden, "nonlin": torch.tanh}).double()
    with torch.no_grad():
        for start in rnn.init_states:
            start.normal_()
    again = slim.RNN.from_graph(rnn.as_graph())
    sequence = torch.randn(6, 2, 3).double()
    for ours, theirs in zip(again(sequence), rnn(sequence), strict=True):
        assert torch.allclose(ours, theirs)
    cell = slim.RNNCell.from_graph(rnn.cells[0].as_graph())
    x, h = torch.randn(2, 3).double(), torch.randn(2, 4).double()
    assert torch.allclose(cell(x, h), rnn.cells[0](x, h))
    assert slim.RNN.from_graph(rnn.as_graph(), batch_first=True).batch_first
    fixed = slim.RNN(3, 4, layers, learn_init=False)
    assert not slim.RNN.from_graph(fixed.as_graph()).learn_init


def test_the_recurrence_of_every_kind_of_cell_is_found():
    hidden = {slim.RNNCell: ["hidden_map"], slim.GRUCell: "rzn", slim.LSTMCell: "ifgo"}
    for cls, gates in hidden.items():
        found = [m.name for m in find_recurrent_modules(cls(2, 3).as_graph())]
        for gate in gates:
            assert (gate if gate == "hidden_map" else f"hidden_map_{gate}") in found
        assert not [name for name in found if name.startswith("input_map")]


@pytest.mark.parametrize("cls", [slim.RNN, slim.GRU, slim.LSTM])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "residual": True}])
def test_the_graph_of_a_recurrence_has_its_maps_and_no_others(cls, options):
    rnn = cls(3, 3, **options)
    graph = rnn.as_graph()
    maps = [m for cell in rnn.cells for side in cell.maps() for m in side]
    weights = find_modules_of_subclass(graph, LinearWeights)
    assert sorted(id(w.computational_module) for w in weights) == sorted(map(id, maps))
    assert (graph.size_in, graph.size_out) == (3, 3 * rnn.directions)
    recurrent = {id(m.computational_module) for m in find_recurrent_modules(graph) if isinstance(m, LinearWeights)}
    assert recurrent == {id(m) for cell in rnn.cells for m in cell.maps()[1]}


def test_the_states_of_gated_cells_hear_their_gates_and_the_state_before():
    heard = {
        slim.GRUCell: {"gate_n": ["input_map_n", "hidden_map_n", "gate_r"], "h": ["gate_n", "gate_z", "h"]},
        slim.LSTMCell: {"c": ["gate_i", "gate_f", "gate_g", "c"], "h": ["gate_o", "c"]},
    }
    for cls, writers in heard.items():
        by_name = {m.name: m for m in bag_graph(cls(2, 3).as_graph())[1]}
        for name, each in writers.items():
            sources = [[m.name for m in wire.source_modules] for wire in by_name[name].input_nodes]
            assert sources == [[one] for one in each for _ in range(3)]


def test_what_is_no_rnn_is_told_by_name():
    for graph, words in (
        (slim.LSTM(2, 3).as_graph(), ["RNN", "LSTM", "GraphModule 'layer 0.h'"]),
        (slim.Linear(2, 3).as_graph(), ["RNN", "LinearWeights 'Linear' holds no neurons"]),
        (slim.RNN(3, 3, 2, residual=True).as_graph(), ["RNN", "'RNN'"]),
    ):
        with pytest.raises(OptionError) as caught:
            slim.RNN.from_graph(graph)
        assert all(word in str(caught.value) for word in words), str(caught.value)
    rnn = slim.RNN(2, 3).as_graph()
    silent = slim.RNN(2, 3).as_graph()
    find_modules_of_subclass(silent, GenericNeurons)[0].computational_module = None
    first = slim.RNNCell(2, 3, nonlin=torch.tanh)
    for graph, words in (
        (GraphHolder(rnn.input_nodes, rnn.output_nodes[::-1], "turned"), ["last layer", "'turned' gives other wires"]),
        (silent, ["needs a function for GenericNeurons 'layer 0.nonlin'", "None"]),
        (held(first.as_graph(), slim.RNNCell(3, 3, nonlin=torch.relu).as_graph()), ["one function", "tanh", "relu"]),
        (held(first.as_graph(), slim.RNNCell(3, 4, nonlin=torch.tanh).as_graph()), ["one size", "[3, 4]"]),
    ):
        with pytest.raises(OptionError) as caught:
            slim.RNN.from_graph(graph)
        assert all(word in str(caught.value) for word in words), str(caught.value)
    with pytest.raises(OptionError, match="RNNCell is one layer; GraphHolder 'RNN' has 2"):
        slim.RNNCell.from_graph(slim.RNN(2, 3, 2).as_graph())


# ---- torch modules --------------------------------------------------------------------------------------------------


def test_a_sequential_is_a_chain_of_weights_and_neurons():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), slim.OrthogonalLinear(5, 5), nn.Dropout(0.1), blocks.MLP(5, 2))
    graph = module_graph(net)
    assert (graph.size_in, graph.size_out, graph.computational_module) == (3, 2, net)
    assert names(graph)[:4] == ["0_Linear", "1_Tanh", "2_OrthogonalLinear", "3_Dropout"]
    assert names(graph)[4:] == ["4_MLP.0_Linear", "4_MLP.1_SiLU", "4_MLP.2_Linear"]
    assert torch.equal(dense(module_graph(net[0]))[0], net[0].weight.mT)


def test_what_has_no_graph_says_so_by_name():
    for work, words in (
        (lambda: module_graph(nn.Bilinear(1, 1, 1)), ["Bilinear", "as_graph()"]),
        (lambda: module_graph(nn.Tanh()), ["Tanh", "alone"]),
        (lambda: module_graph(nn.Sequential()), ["Sequential", "empty"]),
        (lambda: module_graph(nn.Sequential(nn.Linear(1, 2), nn.Linear(3, 1))), ["0_Linear", "1_Linear", "2", "3"]),
        (lambda: module_graph(nn.Sequential(nn.Linear(1, 2), nn.Flatten())), ["1_Flatten", "as_graph()"]),
    ):
        with pytest.raises(SlimgraphError) as caught:
            work()
        assert all(word in str(caught.value) for word in words), str(caught.value)


# ---- nodes, systems, problems ---------------------------------------------------------------------------------------


def loop() -> list[Node]:
    policy = Node(nn.Sequential(slim.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), ["x"], ["u"], name="policy")
    A = Node(slim.SchurStableLinear(3, 3), ["x"], ["ax"], name="A")
    B = Node(nn.Linear(2, 3), ["u"], ["bu"], name="B")
    return [policy, A, B, Node(lambda a, b, d: a + b + d, ["ax", "bu", "d"], ["x"], name="add")]


def test_a_system_shows_its_feedback_as_recurrence_and_a_problem_its_weights():
    system = System(loop(), name="loop", nstep_key="d")
    graph = system.as_graph()
    weights = ["A", "B", "policy.0_Linear", "policy.2_Linear"]
    assert names(graph) == sorted([*weights, "add", "policy.1_Tanh"])
    assert len(find_recurrent_modules(graph)) == 6
    # What nobody says the size of is one wire.
    assert (graph.size_in, graph.size_out) == (1, 2 + 3 + 3 + 3)
    problem = Problem([Node(slim.Linear(3, 1), ["x"], ["y"], name="out"), system], PenaltyLoss())
    assert names(problem.as_graph(), LinearWeights) == sorted([*(f"loop.{w}" for w in weights), "out"])
    # Names do not hang on the place of anything in memory.
    assert names(problem.as_graph()) == names(problem.as_graph())
    assert "out" not in [m.name for m in find_recurrent_modules(problem.as_graph())]


def test_the_start_of_a_state_comes_from_the_node_that_writes_it_and_not_the_other_way():
    encoder = Node(nn.Linear(2, 3), ["z"], ["x"], name="encoder")
    step = Node(slim.Linear(3, 3), ["x"], ["x"], name="step")
    graph = Problem([encoder, System([step], name="s", nsteps=2)], PenaltyLoss()).as_graph()
    by_name = {m.name: m for m in bag_graph(graph)[1] if not isinstance(m, AliasConnection)}
    assert set(by_name) == {"encoder", "s.step"}
    heard = [m.name for m in by_name["s.step"].input_nodes[0].source_modules]
    assert "encoder" in heard and "encoder" not in [m.name for m in find_recurrent_modules(graph)]


def test_keys_have_the_width_that_some_node_says():
    a = Node(lambda x: x, ["x"], ["y"], name="a")
    b = Node(blocks.MLP(5, 2), ["y", "r"], ["z"], name="b")
    c = Node(nn.Linear(3, 1), ["r"], ["q"], name="c")
    graph = Problem([a, b, c], PenaltyLoss()).as_graph()
    parts = {m.name: (m.size_in, m.size_out) for m in bag_graph(graph)[1]}
    # 5 features of y and r together, 3 of them in r.
    assert parts["a"] == (1, 2) and parts["b.0_Linear"] == (5, 64) and parts["c"] == (3, 1)


def test_sizes_that_differ_are_told_with_both_nodes():
    nodes = [Node(nn.Linear(2, 3), ["x"], ["y"], name="a"), Node(nn.Linear(4, 2), ["y"], ["z"], name="b")]
    with pytest.raises(ShapeError, match="Problem: 'y' has 3 features in node 'a' and 4 in node 'b'"):
        Problem(nodes, PenaltyLoss()).as_graph()


def test_cells_and_recurrences_stand_open_in_nodes():
    cell = Node(slim.RNNCell(2, 4), ["u", "h"], ["h"], name="cell")
    assert (cell.as_graph().size_in, find_recurrent_modules(cell.as_graph())) == (6, [])
    assert "cell.hidden_map" in [m.name for m in find_recurrent_modules(System([cell], nstep_key="u").as_graph())]
    lstm = Node(slim.LSTM(2, 4), ["u"], ["h", "_", "c"], name="lstm").as_graph()
    assert (lstm.size_in, lstm.size_out) == (2, 8) and "lstm.layer 0.hidden_map_i" in names(lstm)


def test_modules_with_a_shape_stand_open_in_nodes():
    class Own(modules.Module):
        def forward(self, x):
            return x.mean(-1, keepdim=True)

    net = modules.Sequential(modules.Linear((2, 3)), nn.Tanh())
    nodes = [Node(net, ["x"], ["y"], name="net"), Node(Own((3, 1)), ["y"], ["z"], name="own")]
    graph = Problem([*nodes, Node(Own(), ["z"], ["w"], name="any")], PenaltyLoss()).as_graph()
    assert names(graph) == ["any", "net.0_Linear", "net.1_Tanh", "own"]
    assert (graph.size_in, graph.size_out) == (2, 3 + 1 + 1)
    assert Node(net, ["x"], ["y"]).as_graph().name == "Sequential"


def test_a_problem_in_a_node_is_opened_under_the_names_of_the_node():
    inner = Problem([Node(nn.Linear(2, 3), ["x"], ["y"], name="a")], PenaltyLoss())
    graph = Problem(
        [Node(inner, ["q"], ["w"], name="in"), Node(nn.Linear(3, 1), ["w"], ["z"], name="b")], PenaltyLoss()
    )
    assert names(graph.as_graph()) == ["b", "in.a"]
    assert names(Problem([inner], PenaltyLoss()).as_graph()) == ["node_1.a"]


def test_what_is_seen_ahead_is_as_many_wires_wide():
    step = Node(nn.Linear(2, 2), ["x"], ["x"], name="step")
    seer = Node(nn.Linear(3, 1), ["r"], ["e"], name="seer")
    graph = SystemPreview([step, seer], {"r": ["seer"]}, {"r": 2}, nstep_key="r").as_graph()
    parts = {m.name: (m.size_in, m.size_out) for m in bag_graph(graph)[1]}
    # The start of x, and one r, which the seer sees at three steps.
    assert graph.size_in == 2 + 1
    assert parts == {"step": (2, 2), "r ahead": (1, 3), "seer": (3, 1)}


def test_the_width_of_what_stands_beside_what_is_seen_ahead_is_the_rest():
    knows = Node(nn.Linear(1, 1), ["r"], ["q"], name="knows")
    seer = Node(nn.Linear(5, 1), ["r", "s"], ["e"], name="seer")
    graph = SystemPreview([knows, seer], {"r": ["seer"]}, {"r": 2}, nstep_key="r").as_graph()
    # One r, and what is left of five inputs when r is seen at three steps.
    assert graph.size_in == 1 + 2
    assert names(graph, LinearWeights) == ["knows", "seer"]


def test_a_result_that_is_discarded_is_not_among_the_wires():
    node = Node(slim.LSTMCell(2, 3), ["x", "h", "c"], ["_", "c"], name="cell")
    graph = node.as_graph()
    assert graph.size_out == 3
    assert {m.name for wire in graph.output_nodes for m in wire.source_modules} == {"cell.c"}
    last = Node(slim.RNN(2, 3, batch_first=True), ["x"], ["_", "h"], name="last").as_graph()
    assert last.size_out == 3


def test_the_page_of_the_component_graph_says_what_happens():
    page = (Path(__file__).parent.parent / "docs" / "component-graph.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    told: list[str] = []
    test = doctest.DocTestParser().get_doctest("\n".join(code), {}, "component-graph.md", None, 0)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(test, out=told.append)
    assert len(test.examples) > 15 and not told, "".join(told)
