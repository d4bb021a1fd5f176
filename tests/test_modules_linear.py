"""Laws of Linear against torch.nn.Linear and the product by hand; of Sequential and Residual; of their graphs."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from slimgraph import slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownMapError, UnknownOptionError
from slimgraph.graph import (
    AliasConnection,
    GraphHolder,
    GraphModule,
    LinearWeights,
    as_GraphHolder,
    bag_graph,
    connect_modules,
)
from slimgraph.graph.convert import dense
from slimgraph.modules import (
    Linear,
    LinearMixin,
    Module,
    Residual,
    Sequential,
    State,
    kaiming,
    uniform_sqrt,
    unit_eigs,
    xavier,
)


def refused(error: type[Exception], *words: str):
    """An error whose message holds each of the words, in their order."""
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


# ---- Linear


@pytest.mark.parametrize("lead", [(), (5,), (2, 5), (0,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_linear_equals_torchs(lead, has_bias):
    ours, theirs = Linear((3, 4), has_bias=has_bias), nn.Linear(3, 4, bias=has_bias)
    theirs.load_state_dict({key: value.mT if value.ndim == 2 else value for key, value in ours.state_dict().items()})
    x = torch.rand(*lead, 3)
    torch.testing.assert_close(ours(x)[0], theirs(x))
    assert ours.forward(x).shape == (*lead, 4)


def test_names_and_families_of_linear():
    linear = Linear((3, 4), has_bias=True, spiking_input=True)
    assert repr(linear) == "Linear  with shape (3, 4)"
    assert linear.weight.shape == (3, 4)
    assert linear.weight.is_contiguous()
    assert list(linear.parameters("weights").keys()) == ["weight"]
    assert list(linear.parameters("biases").keys()) == ["bias"]
    assert list(linear.state_dict()) == ["weight", "bias"]
    assert linear.spiking_input
    assert not linear.spiking_output
    assert "bias" not in Linear((3, 4)).parameters()
    assert Linear((3, 4)).bias is None
    assert "bias" in Linear((3, 4), bias=torch.zeros(4)).parameters()


@pytest.mark.parametrize("shape", [(3, 4), [3, 4], torch.Size([3, 4]), np.array([3, 4]), (np.int64(3), 4)], ids=str)
def test_a_shape_is_any_sequence_of_two(shape):
    assert Linear(shape).shape == (3, 4)


@pytest.mark.parametrize(
    "shape", [3, (3,), (3, 4, 5), (3, 0), (0, 3), (3, 4.5), "34", None, (3, True), (-1, 3)], ids=str
)
def test_another_shape_is_refused_with_what_was_given(shape):
    with refused(OptionError, "Linear", "(Nin, Nout)", repr(shape)):
        Linear(shape)


@pytest.mark.parametrize("given", [torch.Tensor, lambda a: a, np.ndarray.tolist], ids=["tensor", "array", "list"])
def test_data_is_copied(given):
    W, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3, dtype=np.float32)
    weight, bias = given(W), given(b)
    linear = Linear((2, 3), weight=weight, bias=bias)
    if not isinstance(weight, list):
        weight[:] = bias[:] = 7
    assert linear.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert linear.bias.tolist() == [0, 1, 2]
    with torch.no_grad():
        linear.weight.add_(1)
    assert linear.reset_parameters().weight.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("layout", ["transposed", "strided", "broadcast"])
def test_a_weight_of_any_layout_is_stored_contiguous(layout):
    W = {
        "transposed": torch.rand(3, 2).mT,
        "strided": torch.rand(2, 6)[:, ::2],
        "broadcast": torch.rand(3).expand(2, 3),
    }
    linear = Linear((2, 3), weight=W[layout])
    assert linear.weight.is_contiguous()
    assert torch.equal(linear.weight, W[layout])


def test_dtypes_of_weight_and_bias():
    double = torch.zeros(2, 3, dtype=torch.float64)
    assert {p.dtype for p in Linear((2, 3), weight=double, has_bias=True).parameters()} == {torch.float64}
    assert {p.dtype for p in Linear((2, 3), weight=double, bias=[1, 2, 3]).parameters()} == {torch.float64}
    assert {p.dtype for p in Linear((2, 3), bias=torch.ones(3, dtype=torch.float64)).parameters()} == {torch.float32}
    assert Linear((2, 3), weight=[[1, 2, 3], [4, 5, 6]]).weight.dtype == torch.float32
    drawn = Linear((2, 3), weight_init_func=lambda s: np.zeros(s), bias_init_func=lambda s: np.ones(s), has_bias=True)
    assert {p.dtype for p in drawn.parameters()} == {torch.float32}
    assert (drawn.weight.eq(0).all(), drawn.bias.eq(1).all()) == (True, True)
    double_map = Linear((2, 2), weight_map=lambda n, m: slim.OrthogonalLinear(n, m).double(), has_bias=True)
    assert double_map.bias.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": np.zeros((3, 2))}, ["Linear.weight", "(2, 3)", "(3, 2)"]),
        ({"weight": np.zeros(6)}, ["Linear.weight", "(2, 3)", "(6,)"]),
        ({"bias": [0.0, 1.0]}, ["Linear.bias", "(3,)", "(2,)"]),
        ({"bias": 1.0}, ["Linear.bias", "(3,)", "()"]),
        ({"bias": [[0.0, 1.0, 2.0]]}, ["Linear.bias", "(3,)", "(1, 3)"]),
        ({"weight_init_func": lambda s: torch.zeros(s[::-1])}, ["Linear.weight", "(2, 3)", "init function", "(3, 2)"]),
        ({"has_bias": True, "bias_init_func": lambda s: np.zeros(2)}, ["Linear.bias", "(3,)", "init function", "(2,)"]),
        ({"weight_map": lambda n, m: slim.Linear(3, 3)}, ["Linear", "(2, 3)", "weight_map", "(3, 3)"]),
    ],
    ids=["weight", "flat", "bias", "scalar", "row", "drawn weight", "drawn bias", "map"],
)
def test_data_of_another_shape_is_refused_with_both(options, words):
    with refused(ShapeError, *words):
        Linear((2, 3), **options)


def test_inputs_that_do_not_fit_are_refused_with_both():
    linear = Linear((2, 3), has_bias=True)
    with refused(ShapeError, "Linear", "size 2", "5"):
        linear(torch.rand(4, 5))
    with refused(ShapeError, "Linear", "size 2", "none"):
        linear(torch.tensor(1.0))
    with refused(DtypeError, "Linear", "torch.float32", "torch.float64"):
        linear(torch.rand(4, 2).double())
    with refused(DtypeError, "Linear", "torch.float32", "torch.int64"):
        linear(torch.ones(4, 2, dtype=torch.long))
    with refused(DtypeError, "Linear", "torch.float32", "torch.float64"):
        linear.evolve(np.ones((4, 2)))
    with refused(DtypeError, "Linear", "tensor", "list"):
        linear([1.0, 2.0])
    net = Sequential({"lin": linear})
    with refused(ShapeError, "Linear 'lin'", "size 2", "5"):
        net(torch.rand(4, 5))


def test_other_wrong_options():
    with refused(UnknownOptionError, "Linear", "'has_bais'", "'has_bias'"):
        Linear((2, 3), has_bais=True)
    with refused(OptionError, "LinearMixin", "Host", "class Host(LinearMixin, Module)"):
        type("Host", (LinearMixin,), {})((2, 3))
    with refused(OptionError, "Linear", "weight", "weight_map", "both"):
        Linear((2, 2), weight=torch.eye(2), weight_map="orthogonal")
    with refused(UnknownMapError, "'orthogonl'", "'orthogonal'"):
        Linear((2, 2), weight_map="orthogonl")
    with refused(OptionError, "Linear", "weight_map", "Tanh"):
        Linear((2, 2), weight_map=lambda n, m: nn.Tanh())
    with refused(OptionError, "Linear", "bias", "weight_map"):
        Linear((2, 2), weight_map=lambda n, m: slim.Linear(n, m, bias=True))


def test_a_host_of_ones_own():
    class Noisy(LinearMixin, Module):
        @staticmethod
        def _dot(a, b):
            return 2 * (a @ b)

    noisy = Noisy((2, 3), has_bias=True)
    x = torch.rand(4, 2)
    torch.testing.assert_close(noisy(x)[0], 2 * x @ noisy.weight + noisy.bias)
    assert repr(noisy) == "Noisy  with shape (2, 3)"


def test_arrays_keep_their_dtype_through_evolve():
    linear = Linear((2, 3), weight=np.ones((2, 3)))
    output, state, record = linear.evolve(np.ones((5, 2)))
    assert isinstance(output, np.ndarray)
    assert output.dtype == np.float64
    assert output.tolist() == [[2.0] * 3] * 5
    assert (state, record) == ({}, {})
    assert linear.evolve(torch.ones(2, dtype=torch.float64))[0].requires_grad


def test_autocast_brings_both_to_one_dtype():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Linear((2, 3), has_bias=True)(torch.rand(4, 2, dtype=torch.bfloat16))[0].shape == (4, 3)


INITS = {
    kaiming: lambda n, m: math.sqrt(6 / n),
    xavier: lambda n, m: math.sqrt(6 / (n + m)),
    uniform_sqrt: lambda n, m: math.sqrt(1 / n),
}


@pytest.mark.parametrize("draw", INITS, ids=lambda draw: draw.__name__)
def test_uniform_draws_fill_their_bounds(draw):
    torch.manual_seed(0)
    W, bound = draw((50, 200)), INITS[draw](50, 200)
    assert 0.99 * bound < W.abs().max() <= bound
    torch.testing.assert_close(W.std().item(), bound / math.sqrt(3), rtol=0.02, atol=0)
    torch.manual_seed(0)
    assert torch.equal(W, draw((50, 200)))


def test_unit_eigs_has_its_eigenvalues_in_the_unit_disc():
    torch.manual_seed(0)
    radius = torch.linalg.eigvals(unit_eigs((300, 300))).abs()
    assert 0.95 < radius.max() < 1.1
    # Uniform on a disc: half of them lie within 1/sqrt(2).
    assert 0.4 < (radius < math.sqrt(0.5)).float().mean() < 0.6


def test_defaults_of_the_draws():
    torch.manual_seed(0)
    linear = Linear((50, 200), has_bias=True)
    assert 0.99 * math.sqrt(6 / 50) < linear.weight.abs().max() <= math.sqrt(6 / 50)
    assert 0.9 * math.sqrt(1 / 200) < linear.bias.abs().max() <= math.sqrt(1 / 200)


# ---- Linear on a map


MAPS = {cls: key for key, cls in reversed(slim.maps.items())}.values()


@pytest.mark.parametrize("key", sorted(MAPS))
def test_a_linear_holds_any_map(key):
    torch.manual_seed(0)
    linear = Linear((4, 4), weight_map=key, has_bias=True).eval()
    x = torch.rand(5, 4)
    with slim.materialized(linear):
        torch.testing.assert_close(linear(x)[0], x @ linear.weight + linear.bias)
    assert list(linear.parameters("weights")) == list(linear.weight_map.parameters())
    assert list(linear.parameters("biases").keys()) == ["bias"]
    assert type(linear.weight_map) is slim.maps[key]


@pytest.mark.parametrize(
    "weight_map",
    ["orthogonal", slim.SVDLinear, lambda n, m: slim.SpectralLinear(n, m)],
    ids=["key", "class", "function"],
)
def test_reset_draws_the_map_anew_in_place(weight_map):
    linear = Linear((4, 4), weight_map=weight_map)
    held, before = linear.weight_map, linear.weight.clone()
    kept = list(linear.parameters())
    assert linear.reset_parameters() is linear
    assert linear.weight_map is held
    assert all(p is q for p, q in zip(kept, linear.parameters(), strict=True))
    assert not torch.equal(linear.weight, before)


def test_the_weight_of_a_map_keeps_its_promise_and_cannot_be_assigned():
    linear = Linear((8, 8), weight_map=slim.OrthogonalLinear)
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        linear(torch.rand(4, 8))[0].square().sum().backward()
        optimizer.step()
    assert linear.weight_map.contains(linear.weight)
    with refused(OptionError, "Linear.weight", "OrthogonalLinear", "weight_map"):
        linear.weight = torch.eye(8)
    with refused(UnknownOptionError, "Linear", "'weight'", "'weight_map'"):
        linear.set_attributes({"weight": torch.eye(8)})
    linear.set_attributes(linear.parameters())


# ---- Sequential and Residual


class Memory(Module):
    def __init__(self, n):
        super().__init__((n, n))
        self.v = State(torch.zeros(n))

    def evolve(self, input_data, record=False):
        v = self.v + input_data.sum(-2)
        return input_data + v, {"v": v}, {"seen": input_data} if record else {}


def test_sequential_is_its_members_one_after_the_other():
    net = Sequential(Linear((2, 4), has_bias=True), nn.Tanh(), slim.OrthogonalLinear(4, 4), nn.Linear(4, 3))
    x = torch.rand(5, 2)
    theirs = nn.Sequential(net[0].to_torch(), nn.Tanh(), net[2].to_torch(), net[3].to_torch())
    torch.testing.assert_close(net(x)[0], theirs(x))
    torch.testing.assert_close(net.forward(x), theirs(x))
    assert net.shape == (2, 3)
    assert list(net.modules().keys()) == ["0_Linear", "1_Tanh", "2_OrthogonalLinear", "3_Linear"]
    assert (len(net), net[-1] is net["3_Linear"], net[1:3].shape) == (4, True, (4, 4))


def test_states_and_records_stand_under_the_names_of_members():
    net = Sequential({"in": Linear((2, 3)), "memory": Memory(3)})
    x = torch.ones(4, 2)
    output, state, record = net(x, record=True)
    assert list(state) == ["in", "memory"]
    assert list(record) == ["in", "in_output", "memory", "memory_output"]
    assert torch.equal(record["in_output"], record["memory"]["seen"])
    assert torch.equal(record["memory_output"], output)
    assert net(x)[2] == {}
    net.set_attributes(state)
    torch.testing.assert_close(net(x)[0], output + net["memory"].v)


def test_append_and_names():
    holder = Module((2, 2))
    holder.lin = Linear((2, 2))
    net = Sequential(nn.ReLU(), holder.lin)
    assert net.append(Linear((2, 5))) is net
    assert net.append(nn.Dropout(), "drop") is net
    assert list(net.modules().keys()) == ["0_ReLU", "lin", "2_Linear", "drop"]
    assert net.shape == (2, 5)
    assert Sequential(nn.ReLU()).shape == ()
    assert Sequential(nn.Flatten(), Linear((6, 2))).size_in is None


def test_sizes_and_names_that_do_not_fit_are_refused():
    net = Sequential(Linear((2, 4)), nn.Tanh())
    with refused(ShapeError, "Sequential", "'1_Tanh'", "4", "'2_Linear'", "3"):
        net.append(Linear((3, 4)))
    assert len(net) == 2
    with refused(ShapeError, "'0_Linear'", "4", "'1_Linear'", "3"):
        Sequential(Linear((2, 4)), Linear((3, 2)))
    with refused(OptionError, "'1_Tanh'", "already"):
        net.append(nn.Tanh(), "1_Tanh")
    with refused(OptionError, "Sequential", "at least one"):
        Sequential()
    with refused(UnknownOptionError, "Sequential", "'1_Tan'", "'1_Tanh'"):
        net["1_Tan"]
    with refused(IndexError, "2 members", "5"):
        net[5]
    with refused(ShapeError, "Residual", "3", "5"):
        Residual(Linear((3, 5)))
    with refused(ShapeError, "Residual", "3", "5"):
        Residual(Linear((3, 3))).append(Linear((3, 5)))
    with refused(OptionError, "from_torch", "function"):
        Sequential(test_append_and_names)


def test_residual_adds_its_input():
    net = Residual(Linear((3, 5)), nn.Tanh(), Linear((5, 3)))
    x = torch.rand(4, 3)
    torch.testing.assert_close(net(x)[0], x + torch.tanh(x @ net[0].weight) @ net[2].weight)
    assert list(net(x, record=True)[2])[1] == "0_Linear_output"


# ---- component graphs


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("hold", [lambda graph: graph, as_GraphHolder], ids=["bare", "held"])
def test_linear_comes_back_from_its_graph(has_bias, hold):
    linear = Linear((2, 3), weight=torch.rand(2, 3, dtype=torch.float64), has_bias=has_bias)
    graph = linear.as_graph()
    assert isinstance(graph, LinearWeights)
    assert graph.name == linear.as_graph().name == "Linear"
    assert graph.computational_module is linear
    found = Linear.from_graph(hold(graph))
    assert list(found.state_dict()) == list(linear.state_dict())
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in linear.state_dict().items())
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.zero_()
    assert graph.weights.ne(0).all()
    assert graph.biases is None or graph.biases.ne(0).all()


def test_a_map_and_an_alias_become_weights():
    linear = Linear((3, 3), weight_map="orthogonal")
    torch.testing.assert_close(Linear.from_graph(linear.as_graph()).weight.detach(), linear.weight.detach())
    assert Linear.from_graph(AliasConnection.of_size(3, 3)).weight.tolist() == torch.eye(3).tolist()


def crossed() -> GraphHolder:
    inner = LinearWeights.of_size(2, 2, "inner", weights=torch.eye(2))
    return GraphHolder(inner.input_nodes[::-1], inner.output_nodes, "crossed")


def fed_back() -> GraphHolder:
    inner = LinearWeights.of_size(2, 2, "inner", weights=torch.eye(2))
    connect_modules(inner, inner)
    return GraphHolder(inner.input_nodes, inner.output_nodes, "fed back")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sequential(Linear((2, 3)), Linear((3, 4))).as_graph(), ["'Sequential'", "'0_Linear'", "'1_Linear'"]),
        (lambda: GraphModule.of_size(2, 2, name="plant"), ["GraphModule 'plant'"]),
        (lambda: as_GraphHolder(GraphModule.of_size(2, 2, name="plant")), ["GraphModule 'plant'"]),
        (crossed, ["'crossed'"]),
        (fed_back, ["loop", "'fed back'"]),
        (lambda: 5, ["int", "5"]),
    ],
    ids=["two", "another", "another held", "crossed", "fed back", "no graph"],
)
def test_other_graphs_are_refused_by_name(make, words):
    with refused(OptionError, "Linear.from_graph", *words):
        Linear.from_graph(make())


def test_graphs_of_combinations_are_their_matrices():
    net = Sequential({"a": Linear((2, 4), has_bias=True), "b": Residual(Linear((4, 4)))})
    W, b = dense(net.as_graph())
    x = torch.rand(5, 2)
    torch.testing.assert_close(x @ W + b, net(x)[0].detach())
    _, modules = bag_graph(Sequential(Linear((2, 3)), nn.Tanh()).as_graph())
    assert sorted(module.name for module in modules) == ["0_Linear", "1_Tanh"]
