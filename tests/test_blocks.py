"""Blocks: each equals the composition of its own maps, and keeps what its name promises before and after training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimgraph import Node, PenaltyLoss, Problem, blocks, slim, variable
from slimgraph.blocks import MLP, RNN, InputConvexNN, Linear, MLP_bounds, PosDef, ResMLP
from slimgraph.errors import OptionError, ShapeError, UnknownMapError, UnknownOptionError
from tests.helpers import WITHOUT_BIAS, close, keys, perturb

f64 = torch.float64
MAKE = {
    "Linear": lambda: Linear(4, 4, linear_map="softSVD"),
    "MLP": lambda: MLP(4, 4, linear_map="softSVD", hsizes=[5, 6]),
    "MLP_bounds": lambda: MLP_bounds(4, 4, min=-1.0, max=[1.0, 2.0, 3.0, 4.0], linear_map="softSVD"),
    "ResMLP": lambda: ResMLP(4, 4, linear_map="softSVD", hsizes=[6] * 5, skip=2),
    "InputConvexNN": lambda: InputConvexNN(4, 4, linear_map="softSVD", hsizes=[6, 5]),
    "PosDef": lambda: PosDef(InputConvexNN(4, 4, linear_map="softSVD", hsizes=[6, 5])),
    "RNN": lambda: RNN(4, 4, linear_map="softSVD", hsizes=[6, 6]),
}
every = pytest.mark.parametrize("name", MAKE)


def made(name, dtype=f64):
    """A block of that name, and inputs that fit it."""
    torch.manual_seed(0)
    return MAKE[name]().to(dtype), torch.randn(3, 7, 4, dtype=dtype)


def train(block, x, steps=20, lr=0.05):
    """Plain gradient steps towards nothing in particular."""
    goal = torch.randn_like(block(x))
    optimizer = torch.optim.SGD(block.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (block(x) - goal).square().mean().backward()
        optimizer.step()


# ---- what all have in common


@every
def test_a_copy_a_pickle_and_a_load_give_the_same_outputs(name):
    block, x = made(name)
    fresh = perturb(made(name)[0])
    assert not close(fresh(x), block(x))
    fresh.load_state_dict(block.state_dict())
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), fresh):
        assert torch.equal(other(x), block(x))


@every
def test_gradients_reach_the_inputs_and_every_parameter(name):
    block, x = made(name)
    wanted = [x.requires_grad_(), *block.parameters()]
    gradients = torch.autograd.grad(block(x).square().sum(), wanted)
    assert all(g.isfinite().all() for g in gradients)
    assert sum(bool(g.abs().max() > 0) for g in gradients) >= len(gradients) - (name == "PosDef")
    assert torch.autograd.gradcheck(block, x[:1, :2].detach().requires_grad_())


@every
def test_a_block_compiles_as_one_graph(name):
    block, x = made(name)
    torch._dynamo.reset()
    assert close(torch.compile(block, fullgraph=True, backend="aot_eager")(x), block(x))


@every
def test_float32_and_float64_agree_and_keep_the_dtype(name):
    (block, x), (single, _) = made(name), made(name, torch.float32)
    y = single(x.float())
    assert y.dtype == torch.float32 and block(x).dtype == f64
    assert close(y.double(), block(x), 1e-4)
    assert block.to("meta")(x.to("meta")).device.type == "meta"


@every
def test_several_inputs_are_one_joined_on_its_last_axis(name):
    block, x = made(name)
    assert torch.equal(block(x[..., :1], x[..., 1:3], x[..., 3:]), block(x))
    node = Node(block, ["a", "b"], ["y"], name="net")
    assert torch.equal(node({"a": x[..., :1], "b": x[..., 1:]})["y"], block(x))


@every
def test_reg_error_is_the_sum_over_the_maps_and_a_problem_counts_each_once(name):
    block, x = made(name)
    maps = {m for m in block.modules() if isinstance(m, slim.LinearBase)}
    total = sum(m.reg_error() for m in maps)
    assert total > 0
    if name != "RNN":  # whose recurrence gives a mean of its own to those who ask it
        assert close(block.reg_error(), total)
    nodes = [Node(block, ["x"], ["y"], name="first"), Node(block, ["y"], ["z"], name="again")]
    problem = Problem(nodes, PenaltyLoss([variable("y").minimize()], []))
    assert close(problem({"x": x})["reg_loss"], total)


@every
def test_sizes_stand_under_both_names(name):
    block, _ = made(name)
    assert (block.insize, block.in_features, block.outsize, block.out_features) == (4,) * 4


def test_a_block_without_anything_to_regulate_says_zero_in_its_own_dtype():
    error = MLP(2, 2).double().reg_error()
    assert error.dtype == f64 and error.shape == () and error == 0


# ---- MLP


@pytest.mark.parametrize("nonlin", [nn.SiLU, torch.tanh, nn.PReLU])
@pytest.mark.parametrize("hsizes", [None, [], [5], [5, 6, 7]])
def test_an_mlp_is_the_composition_of_its_maps(hsizes, nonlin):
    block, x = MLP(3, 2, hsizes=hsizes, nonlin=nonlin), torch.randn(2, 4, 3)
    widths = [64] if hsizes is None else hsizes
    assert [tuple(m.weight.shape) for m in block.linear] == [
        (b, a) for a, b in zip([3, *widths], [*widths, 2], strict=True)
    ]
    y = x
    for k, m in enumerate(block.linear):
        y = y @ m.effective_W() + m.bias
        if k < len(widths):
            y = torch.tanh(y) if nonlin is torch.tanh else block.nonlin[k](y)
    assert close(block(x), y)
    if nonlin is nn.PReLU:
        assert len(set(block.nonlin)) == len(widths)


@pytest.mark.parametrize("key", keys())
def test_every_registered_map_is_a_layer_of_an_mlp(key):
    block = MLP(4, 4, key not in WITHOUT_BIAS, key, hsizes=[4, 4]).eval()
    x, y = torch.randn(5, 4), None
    for m, nonlin in zip(block.linear, [*block.nonlin, nn.Identity()], strict=True):
        assert type(m) is slim.maps[key]
        y = nonlin((x if y is None else y) @ m.effective_W() + (0 if m.bias is None else m.bias))
    assert close(block(x), y, 1e-4)


@pytest.mark.parametrize("key", [key for key in keys() if slim.maps[key] in slim.square_maps])
def test_a_map_that_needs_a_square_names_the_layer_that_is_none(key):
    with pytest.raises(OptionError, match=r"^MLP cannot make its second layer, 4 -> 6: .*square.*4.*6"):
        MLP(4, 4, key not in WITHOUT_BIAS, slim.maps[key], hsizes=[4, 6])


def test_the_options_of_the_maps_reach_each_of_them():
    block = MLP(4, 4, linear_map="spectral", linargs={"sigma_min": 0.5, "sigma_max": 0.5}, hsizes=[4])
    for m in block.linear:
        assert close(torch.linalg.svdvals(m.effective_W()), torch.full((4,), 0.5))


# ---- MLP_bounds


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["sigmoid_scale", "relu_clamp"]),
    st.floats(-1e6, 1e6, width=32),
    st.floats(0, 1e3, width=32),
    st.floats(-8, 8),
    st.integers(0, 2**31),
    st.sampled_from([torch.float32, f64, torch.bfloat16]),
)
def test_outputs_stay_within_the_bounds_for_any_input(method, low, width, power, seed, dtype):
    torch.manual_seed(seed)
    high = float(torch.tensor(low + width))
    block = MLP_bounds(3, 2, hsizes=[8], min=low, max=[high, high], method=method).to(dtype)
    y = block(10.0**power * torch.randn(50, 3).to(dtype))
    assert y.dtype == dtype and bool(((block.min <= y) & (y <= block.max)).all())


@pytest.mark.parametrize("method", ["sigmoid_scale", "relu_clamp"])
def test_bounds_are_reached_hold_after_training_and_under_autocast(method):
    # Without a hidden layer large inputs reach both bounds; in float32, -3.0 + (-0.8 - -3.0) is more than -0.8.
    block = MLP_bounds(3, 2, hsizes=[], min=[-3.0, -2.0], max=torch.tensor([-0.8, 0.1]), method=method)
    x = torch.randn(200, 3)
    train(block, x)
    for autocast in (False, True):
        with torch.autocast("cpu", enabled=autocast):
            y = block(1e6 * x)
        assert bool(((block.min <= y) & (y <= block.max)).all())
        assert close(y.max(0).values, block.max) and close(y.min(0).values, block.min)


def test_bounds_are_the_formula_of_the_mlp_with_the_same_weights():
    mlp, x = MLP(3, 2).double(), torch.randn(9, 3, dtype=f64)
    for method, scale in [
        ("sigmoid_scale", lambda y: -1 + 3 * torch.sigmoid(y)),
        ("relu_clamp", lambda y: y.clamp(-1, 2)),
    ]:
        block = MLP_bounds(3, 2, min=-1, max=2, method=method).double()
        block.load_state_dict(mlp.state_dict())
        assert close(block(x), scale(mlp(x)))


def test_bounds_are_any_function_of_the_outputs_and_the_bounds():
    mlp, x = MLP(3, 2), torch.randn(9, 3)
    block = MLP_bounds(3, 2, min=-1, max=2, method=lambda y, low, high: low + (high - low) * torch.sin(y) ** 2)
    block.load_state_dict(mlp.state_dict())
    assert close(block(x), -1 + 3 * torch.sin(mlp(x)) ** 2)


def test_the_linear_layer_of_torch_stands_for_the_free_map():
    assert all(type(layer) is slim.Linear for layer in MLP(3, 2, linear_map=nn.Linear).linear)


# ---- ResMLP


@pytest.mark.parametrize("layers", [1, 5])
@pytest.mark.parametrize("skip", [1, 2, 3])
def test_a_residual_mlp_leads_a_path_around_every_skip_layers(skip, layers):
    block, x = ResMLP(3, 2, hsizes=[6] * layers, skip=skip), torch.randn(7, 3)
    h, path = x, block.inmap(x)
    for k in range(layers):
        h = block.nonlin[k](block.linear[k](h))
        if k in range(0, layers, skip):
            h = path = h + path
    assert close(block(x), block.linear[layers](h) + block.outmap(path))


def test_a_residual_mlp_of_ones_counts_its_paths():
    block = ResMLP(1, 1, bias=False, nonlin=nn.Identity, hsizes=[1, 1, 1])
    torch.nn.utils.vector_to_parameters(torch.ones(6), block.parameters())
    assert block(torch.ones(1, 1)).item() == 2**4


# ---- convex and positive definite


@pytest.mark.parametrize("nonlin", [nn.Softplus, torch.relu, nn.ELU])
@pytest.mark.parametrize("steps", [0, 30])
def test_an_input_convex_network_is_convex_along_every_segment(nonlin, steps):
    block = InputConvexNN(3, 2, nonlin=nonlin, hsizes=[8, 8]).double()
    train(block, torch.randn(50, 3, dtype=f64), steps)
    perturb(block, 0.5)
    a, b = (10 * torch.randn(2000, 3, dtype=f64) for _ in range(2))
    t = torch.rand(2000, 1, dtype=f64)
    gap = t * block(a) + (1 - t) * block(b) - block(t * a + (1 - t) * b)
    assert gap.min() > -1e-9 and gap.max() > 1e-2


def test_an_input_convex_network_is_its_formula():
    block, x = InputConvexNN(3, 2, hsizes=[4, 5]), torch.randn(6, 3)
    W, U, s = block.linear, block.positive, nn.functional.softplus
    z = s(W[0](x))
    z = s(z @ U[0].weight.relu() + W[1](x))
    assert close(block(x), z @ U[1].weight.relu() + W[2](x))


@pytest.mark.parametrize("steps", [0, 30])
@pytest.mark.parametrize("g", [lambda: InputConvexNN(3, 2), lambda: MLP(3, 2), lambda: nn.Linear(3, 2)])
def test_a_positive_definite_function_is_zero_at_zero_and_above_eps_x2_elsewhere(g, steps):
    V = PosDef(g(), eps=0.1, d=0.5).double()
    x = torch.randn(500, 3, dtype=f64) * torch.logspace(-6, 3, 500, dtype=f64)[:, None]
    train(V, torch.randn(50, 3, dtype=f64), steps)
    assert torch.equal(V(torch.zeros(2, 3, dtype=f64)), torch.zeros(2, 2, dtype=f64))
    assert (V(x) >= 0.1 * x.square().sum(-1, keepdim=True) * (1 - 1e-12)).all()
    # The slope at 0 vanishes, so that 0 is a minimum.
    z = torch.zeros(1, 3, dtype=f64, requires_grad=True)
    assert torch.equal(torch.autograd.grad(V(z).sum(), z)[0], torch.zeros(1, 3, dtype=f64))


def test_the_smoothed_ramp_of_a_positive_definite_function_is_its_formula():
    V, t = PosDef(lambda x: x, eps=1e-9, d=0.5), torch.tensor([[-1.0], [0.25], [0.5], [2.0]], dtype=f64)
    assert close(V(t), torch.tensor([[0.0], [0.0625], [0.25], [1.75]], dtype=f64) + 1e-9 * t**2)


def test_a_positive_definite_function_is_cut_off_at_its_max():
    g, x = InputConvexNN(3, 1), 5 * torch.randn(50, 3)
    assert close(PosDef(g, 2.0, 0.1, 0.5)(x), PosDef(g, eps=0.1, d=0.5)(x).clamp(max=2.0))


def test_a_positive_definite_function_of_a_convex_network_is_convex():
    V = perturb(PosDef(InputConvexNN(3, 1, hsizes=[8])).double(), 0.5)
    a, b = (5 * torch.randn(2000, 3, dtype=f64) for _ in range(2))
    assert (V(a) / 2 + V(b) / 2 - V((a + b) / 2)).min() > -1e-9


# ---- RNN


def test_the_recurrent_block_is_a_recurrence_and_a_readout():
    block, x = (
        RNN(3, 2, linear_map="orthogonal", hsizes=[6, 6], nonlin=torch.tanh).double(),
        torch.randn(4, 7, 3).double(),
    )
    outputs, _ = block.rnn(x)
    assert close(block(x), outputs @ block.readout.effective_W() + block.readout.bias)
    assert [type(cell.hidden_map) for cell in block.rnn.cells] == [slim.OrthogonalLinear] * 2
    assert len(block.rnn.cells) == 2


# ---- errors


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: MLP(3, 2, linear_map="orthogonl"), UnknownMapError, "Did you mean 'orthogonal'?"),
        (lambda: MLP(3, 2, linear_map=nn.GRUCell), OptionError, "needs a structured map for linear_map, got <class"),
        (lambda: MLP(3, 2, linear_map=slim.Linear(3, 2)), OptionError, "got an instance of Linear; give the class"),
        (lambda: MLP(3, 2, hsizes=64), OptionError, "MLP needs a list for hsizes, such as [64, 64]; got 64"),
        (lambda: MLP(3, 2, hsizes=[64, 0]), OptionError, "MLP needs hsizes[1] >= 1, got hsizes[1]=0"),
        (lambda: MLP(3, 2, nonlin="relu"), OptionError, "MLP needs a class such as nn.SiLU, or a function; got 'relu'"),
        (lambda: MLP(3, 2, linargs={"bias": True}), OptionError, "with its own option bias; got it in linargs"),
        (lambda: MLP(3, 2, linargs=[1]), OptionError, "needs a dict of options by name for linargs, got [1]"),
        (lambda: MLP(3, 2, linargs={"sigma": 1}), UnknownOptionError, "first layer, 3 -> 64: Linear has no option"),
        (lambda: MLP(3, 2, hsize=[4]), UnknownOptionError, "MLP has no option 'hsize'. Did you mean 'hsizes'?"),
        (lambda: Linear(3, 2, nonlin=nn.ReLU), OptionError, "Linear has no hidden layer and takes no nonlin and no"),
        (lambda: Linear(3, 2, hsizes=[8]), OptionError, "no hsizes, got None and [8]; a network with them is an MLP"),
        (lambda: MLP(0, 2), OptionError, "MLP needs insize >= 1, got insize=0"),
        (lambda: MLP_bounds(3, 2, min=2.0), OptionError, "needs min <= max, got min=2.0 and max=1.0"),
        (lambda: MLP_bounds(3, 2, max=[1.0] * 3), OptionError, "a finite number, or 2 of them, one an output; got"),
        (lambda: MLP_bounds(3, 2, max=float("inf")), OptionError, "needs for max a finite number"),
        (lambda: MLP_bounds(3, 2, min="0"), OptionError, "MLP_bounds needs numbers for min, got '0'"),
        (lambda: MLP_bounds(3, 2, method="sigmoid"), OptionError, "'relu_clamp' or a function, got 'sigmoid'"),
        (lambda: ResMLP(3, 2, hsizes=[4, 5]), OptionError, "needs them of one width, got hsizes=[4, 5]"),
        (lambda: ResMLP(3, 2, hsizes=[]), OptionError, "needs them of one width, got hsizes=[]"),
        (lambda: InputConvexNN(3, 2, nonlin=nn.SiLU), OptionError, "nn.ReLU or nn.ELU; got <class 'torch.nn.modules"),
        (lambda: InputConvexNN(3, 2, nonlin=torch.tanh), OptionError, "that is convex, nowhere falls"),
        (lambda: InputConvexNN(3, 2, nonlin=torch.abs), OptionError, "that is convex, nowhere falls"),
        (lambda: InputConvexNN(3, 2, nonlin=nn.PReLU), OptionError, "and has no parameters"),
        (lambda: InputConvexNN(3, 2, nonlin=lambda x: x.softmax(-1)), OptionError, "takes each number by itself"),
        (lambda: MLP(3, 2, nonlin=nn.Threshold), OptionError, "without arguments, and Threshold needs some; give a"),
        (lambda: InputConvexNN(3, 2, hsizes=[]), OptionError, "needs a hidden layer, got hsizes=[]"),
        (lambda: PosDef(3), OptionError, "PosDef needs a function or module for g, got int: 3"),
        (lambda: PosDef(torch.neg, 0.0), OptionError, "PosDef needs max > 0, got max=0.0"),
        (lambda: PosDef(torch.neg, eps=0), OptionError, "PosDef needs eps > 0, got eps=0"),
        (lambda: RNN(3, 2, hsizes=[4, 5]), OptionError, "with one width for all layers, such as [16], got [4, 5]"),
        (lambda: RNN(3, 2)(torch.ones(4, 3)), ShapeError, "needs a series (batch, time, 3), got shape (4, 3)"),
        (lambda: MLP(3, 2)(torch.ones(4, 2)), ShapeError, "insize=3 features, those of all inputs together; got 2"),
        (lambda: MLP(3, 2)(torch.ones(4, 2), torch.ones(4, 2)), ShapeError, "got 2 + 2 (shapes (4, 2), (4, 2))"),
        (lambda: MLP(3, 2)(torch.ones(4, 1), torch.ones(5, 2)), ShapeError, "last axis only; got (4, 1), (5, 2)"),
        (lambda: MLP(3, 2)([1.0]), ShapeError, "MLP joins tensors that differ in their last axis only; got [1.0]"),
        (lambda: MLP(3, 2)(), ShapeError, "last axis only; got nothing"),
    ],
)  # fmt: skip
def test_a_wrong_option_or_input_says_what_was_needed_and_what_was_there(make, kind, words):
    with pytest.raises(kind) as error:
        make()
    assert words in str(error.value)


def test_every_block_is_offered_and_no_default_is_shared():
    assert set(MAKE) | {"Block"} == set(blocks.__all__)
    one, two = MLP(2, 2), MLP(2, 2)
    one.hsizes.append(3)
    assert two.hsizes == [64] == MLP(2, 2).hsizes
