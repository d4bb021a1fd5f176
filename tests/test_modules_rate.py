"""Rate neurons: Euler's loop by hand, the fixed point, the state handed over, exact gradients, the graph and back."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from slimgraph import slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownMapError, UnknownOptionError
from slimgraph.graph import LinearWeights, RateNeurons, bag_graph, find_recurrent_modules
from slimgraph.modules import Linear, Rate, Sequential

WAYS = {
    "alone": {},
    "given": {"w_rec": torch.linspace(-0.5, 0.5, 16, dtype=torch.float64).reshape(4, 4)},
    "drawn": {"has_rec": True},
    "orthogonal": {"weight_map": "orthogonal"},
    "a callable": {"weight_map": lambda n, m: slim.SymmetricLinear(n, m)},
}
FUNCTIONS = {"ReLU": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def neurons(way="drawn", **options):
    torch.manual_seed(0)
    tau, bias = torch.linspace(0.01, 0.04, 4, dtype=torch.float64), np.linspace(-0.1, 0.3, 4)
    return Rate(4, tau, bias, **{"activation_func": "tanh", "dt": 0.002} | WAYS[way] | options)


def series(*shape):
    return torch.randn(*shape, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(rate, u, x):
    """Euler's loop for one series `(time, n)`."""
    f = {**FUNCTIONS, rate.activation_func: rate.activation_func}[rate.activation_func]
    states = []
    for drive in u:
        pushed = 0 if rate.w_rec is None else f(x) @ rate.w_rec
        x = x + rate.dt / rate.tau * (drive + rate.bias + pushed - x)
        states.append(x)
    return f(torch.stack(states)), torch.stack(states)


@pytest.mark.parametrize("f", FUNCTIONS)
@pytest.mark.parametrize("way", WAYS)
def test_a_series_is_eulers_loop_by_hand(way, f):
    rate, u = neurons(way, activation_func=f), series(30)
    rate.x = series()
    output, state, record = rate(u, record=True)
    wanted, states = by_hand(rate, u, rate.x)
    torch.testing.assert_close(output, wanted, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(record["x"], states, rtol=1e-13, atol=1e-13)
    assert torch.equal(state["x"], record["x"][-1])
    assert torch.equal(rate.to_torch()(u), output)


@pytest.mark.parametrize("way", WAYS)
def test_each_sample_of_a_batch_is_a_series_of_its_own(way):
    rate, u = neurons(way), series(3, 20)
    output, state, record = rate(u, record=True)
    assert output.shape == record["x"].shape == (3, 20, 4) and state["x"].shape == (3, 4)
    for i in range(3):
        torch.testing.assert_close(output[i], rate(u[i])[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_state_handed_over_equals_one_long_run(batch):
    rate, u = neurons("orthogonal"), series(*batch, 20)
    whole, end, _ = rate(u)
    first, state, _ = rate(u[..., :7, :])
    second, last, _ = torch.func.functional_call(rate, state, (u[..., 7:, :],))
    assert torch.equal(torch.cat([first, second], -2), whole) and torch.equal(last["x"], end["x"])
    if not batch:
        rate.set_attributes(state)
        assert torch.equal(rate(u[7:])[0], second)
        assert torch.equal(rate.reset_state()(u)[0], whole)


def test_a_constant_input_ends_at_the_fixed_point():
    rate, u = neurons("given"), series()
    *_, record = rate(u.expand(3000, 4), record=True)
    x = record["x"][-1]
    torch.testing.assert_close(x, u + rate.bias + torch.tanh(x) @ rate.w_rec, rtol=0, atol=1e-10)


def test_alone_it_is_the_exponential_filter_that_it_samples():
    # Euler is of first order: with a tenth of the step the error is a tenth.
    errors = []
    for dt in (1e-3, 1e-4):
        rate = Rate(1, tau=0.02, dt=dt)
        output = rate(torch.ones(round(0.05 / dt), 1))[0]
        errors.append(abs(output[-1].item() - (1 - np.exp(-2.5))))
    assert errors[0] < 0.01 and errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_exact(way):
    rate, u = neurons(way).double(), series(2, 5).requires_grad_()
    names, values = zip(*rate.named_parameters(), strict=True)

    def run(u, *parameters):
        return torch.func.functional_call(rate, dict(zip(names, parameters, strict=True)), (u,))[0]

    assert torch.autograd.gradcheck(run, (u, *(p.detach().clone().requires_grad_() for p in values)))


def test_a_tau_that_training_moves_below_a_step_counts_as_a_step():
    rate = Rate(2, tau=0.01)
    rate.tau = torch.tensor(-1.0)
    assert torch.equal(rate(torch.ones(3, 2))[0], torch.ones(3, 2))
    # It is no trap: the gradient there is that at dt.
    rate(torch.ones(3, 2))[0][0].sum().backward()
    assert rate.tau.grad.item() == pytest.approx(-2 / rate.dt)


def test_shapes_dtypes_and_arrays():
    rate = Rate((4,))
    assert rate.shape == Rate((4, 4)).shape == (4, 4)
    assert rate(torch.ones(5))[0].shape == (5, 4) == rate(torch.ones(5, 1))[0].shape
    assert rate(torch.ones(0, 4))[0].shape == (0, 4)
    output, state, record = rate(np.ones((5, 4), np.float32), record=True)
    assert isinstance(output, np.ndarray) and isinstance(state["x"], np.ndarray) and record["x"].shape == (5, 4)
    assert {p.dtype for p in neurons("orthogonal").state_dict().values()} == {torch.float64}
    # A number is one for all neurons, and is trained as one.
    assert Rate(4, tau=0.1, bias=1).tau.shape == () and Rate(4, tau=torch.ones(4).half()).bias.dtype == torch.half


def test_families_resets_and_names():
    rate = neurons("drawn")
    assert [*rate.parameters("taus").keys()] == ["tau"] and [*rate.parameters("biases").keys()] == ["bias"]
    assert rate.parameters("weights").keys() == {"rec"} and rate.state("states").keys() == {"x"}
    assert rate.simulation_parameters() == {"dt": 0.002}
    before, tau = rate.w_rec.clone(), rate.tau.detach().clone()
    with torch.no_grad():
        rate.tau.mul_(2)
    rate.reset_parameters()
    assert torch.equal(rate.tau, tau) and not torch.equal(rate.w_rec, before)
    rate.w_rec = before
    assert torch.equal(rate.w_rec, before) and rate.set_attributes(rate.parameters()) is rate


@pytest.mark.parametrize("way", ["alone", "given", "orthogonal"])
def test_copies_pickles_state_dicts_and_compilers_give_the_same(way):
    rate, u = neurons(way), series(6)
    wanted = rate(u)[0]
    other = Rate(4, **{"activation_func": "tanh", "dt": 0.002} | WAYS[way]).double()
    other.load_state_dict(rate.state_dict())
    copies = copy.deepcopy(rate), pickle.loads(pickle.dumps(rate)), other
    assert all(torch.equal(one(u)[0], wanted) for one in copies)
    compiled = torch.compile(rate.to_torch(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(u), wanted)


def test_an_optimiser_trains_it_and_the_map_keeps_its_promise():
    rate, u = neurons("orthogonal"), series(8, 10)
    optimiser = torch.optim.Adam(rate.parameters(), lr=1e-3)
    losses = []
    for _ in range(50):
        loss = (rate(u)[0] - 0.3).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rate.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert rate.rec.weight_map.contains(rate.w_rec)


# ---- the component graph


@pytest.mark.parametrize("way", WAYS)
def test_the_graph_has_the_neurons_and_their_loop_and_leads_back(way):
    rate, u = neurons(way), series(10)
    graph = rate.as_graph()
    modules = bag_graph(graph)[1]
    recurrent = find_recurrent_modules(graph)
    assert (graph.size_in, graph.size_out) == (4, 4)
    kinds = {RateNeurons} if way == "alone" else {RateNeurons, LinearWeights}
    assert {type(m) for m in modules} == kinds and (set(recurrent) == (set() if way == "alone" else set(modules)))
    found = next(m for m in modules if isinstance(m, RateNeurons))
    assert torch.equal(found.tau, rate.tau) and torch.equal(found.bias, rate.bias) and found.dt == 0.002
    # The numbers are copies.
    back = Rate.from_graph(graph)
    wanted = rate(u)[0]
    with torch.no_grad():
        rate.tau.mul_(2)
    torch.testing.assert_close(back(u)[0], wanted, rtol=1e-13, atol=1e-13)


def test_a_bias_in_the_loop_goes_to_the_neurons():
    cells = RateNeurons.of_size(2, 2, "cells", torch.tanh, tau=0.1, bias=[0.0, 1.0], dt=0.01)
    LinearWeights(cells.output_nodes, cells.input_nodes, "loop", weights=torch.eye(2), biases=torch.tensor([2.0, 3.0]))
    graph = cells
    back = Rate.from_graph(graph)
    assert (
        torch.equal(back.bias, torch.tensor([2.0, 4.0])) and torch.equal(back.w_rec, torch.eye(2)) and back.dt == 0.01
    )


def test_in_a_chain_the_loop_stays_its_own():
    chain = Sequential(Linear((2, 4)), neurons("orthogonal").float(), Linear((4, 1)))
    graph = chain.as_graph()
    assert {m.name for m in find_recurrent_modules(graph)} == {"1_Rate.neurons", "1_Rate.rec"}
    assert any("rec: OrthogonalLinear" in data["label"] for _, data in graph.to_networkx().nodes(data=True))
    assert sum(data.get("feedback", False) for *_, data in graph.to_networkx().edges(data=True)) == 1


# ---- mistakes


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shape": (2, 3)}, OptionError, ["Rate", "n, (n,) or (n, n)", "(2, 3)"]),
        ({"shape": 2.5}, OptionError, ["Rate", "whole number", "2.5"]),
        ({"shape": 0}, OptionError, [">= 1", "0"]),
        ({"tau": [0.1, 0.2]}, ShapeError, ["Rate.tau", "(3,) or ()", "(2,)"]),
        ({"bias": [0.1, 0.2]}, ShapeError, ["Rate.bias", "(3,) or ()", "(2,)"]),
        ({"tau": 1e-4}, OptionError, ["tau >= dt", "tau=0.0001", "dt=0.001"]),
        ({"tau": float("nan")}, OptionError, ["tau >= dt", "tau=nan", "dt=0.001"]),
        ({"tau": "slow"}, DtypeError, ["Rate.tau", "'slow'"]),
        ({"dt": 0}, OptionError, ["Rate", "dt > 0", "dt=0"]),
        ({"dt": "1 ms"}, OptionError, ["Rate", "dt='1 ms'"]),
        ({"w_rec": torch.eye(2)}, ShapeError, ["Rate.w_rec", "(3, 3)", "(2, 2)"]),
        ({"weight_map": "orthogonl"}, UnknownMapError, ["'orthogonl'", "Did you mean 'orthogonal'?"]),
        ({"weight_map": "orthogonal", "w_rec": torch.eye(3)}, OptionError, ["weight", "weight_map", "both"]),
        ({"activation_func": "tan"}, UnknownOptionError, ["Rate", "'tan'", "Did you mean 'tanh'?"]),
        ({"activation_func": nn.Tanh}, OptionError, ["activation_func", "a class", "Tanh()"]),
        ({"activation_func": 3}, OptionError, ["activation_func", "got 3"]),
        ({"taus": 0.1}, UnknownOptionError, ["'taus'", "Did you mean 'tau'?"]),
    ],
    ids=lambda value: "" if isinstance(value, type) else None,
)
def test_a_wrong_option_is_told_with_both_values(options, error, words):
    with pytest.raises(error) as told:
        Rate(**{"shape": 3} | options)
    assert all(word in str(told.value) for word in words), told.value


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.ones(5, 2), ShapeError, ["Rate", "size 3", "got 2", "(5, 2)"]),
        (torch.ones(5, 3).double(), DtypeError, ["torch.float32", "torch.float64"]),
        (torch.ones(1, 2, 5, 3), ShapeError, ["(batch, time, 3)", "(1, 2, 5, 3)"]),
    ],
    ids=["size", "dtype", "rank"],
)
def test_a_wrong_series_is_told_with_both_values(x, error, words):
    with pytest.raises(error) as told:
        Rate(3)(x)
    assert all(word in str(told.value) for word in words), told.value


def test_recurrent_weights_that_are_not_there_or_of_a_map_cannot_be_written():
    with pytest.raises(OptionError, match=r"Rate has no recurrent weights to write to; make it with has_rec=True"):
        Rate(3).w_rec = torch.eye(3)
    with pytest.raises(OptionError, match=r"OrthogonalLinear; write to the parameters of weight_map"):
        Rate(3, weight_map="orthogonal").w_rec = torch.eye(3)
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(2, 2\)"):
        Rate(3, has_rec=True).w_rec = torch.eye(2)
    with pytest.raises(ShapeError, match=r"Rate.x has shape \(3,\), got a value of shape \(2, 3\)"):
        Rate(3).set_attributes({"x": torch.zeros(2, 3)})


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (lambda: Linear((3, 3)).as_graph(), ["Rate.from_graph needs one RateNeurons", "LinearWeights 'Linear'"]),
        (
            lambda: Sequential(Linear((2, 3)), Rate(3)).as_graph(),
            ["a holder around RateNeurons '1_Rate'", "'Sequential'"],
        ),
        (lambda: Sequential(Rate(3), Rate(3)).as_graph(), ["one RateNeurons", "'0_Rate'", "'1_Rate'"]),
        (lambda: RateNeurons.of_size(2, 2, "cells"), ["a function", "RateNeurons 'cells'", "None"]),
        (lambda: 3, ["GraphModule", "int: 3"]),
    ],
    ids=["weights", "chain", "two", "no function", "no graph"],
)
def test_a_graph_of_anything_else_is_told_by_its_name(graph, words):
    with pytest.raises(OptionError) as told:
        Rate.from_graph(graph())
    assert all(word in str(told.value) for word in words), told.value
