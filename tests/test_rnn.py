"""Recurrences against the loop written by hand and against torch's own RNN."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimgraph import slim
from slimgraph.errors import OptionError, ShapeError, UnknownOptionError
from tests.helpers import WITHOUT_BIAS, close, fitted, keys, legal, perturb

T, B, N, H = 7, 4, 3, 5


def make(**cell_args) -> slim.RNN:
    layers = cell_args.pop("num_layers", 2)
    batch_first = cell_args.pop("batch_first", False)
    hidden = cell_args.pop("hidden", H)
    rnn = slim.RNN(N, hidden, layers, cell_args, batch_first=batch_first).double()
    with torch.no_grad():
        for state in rnn.init_states:
            state.normal_()
    return rnn


def sequence(steps: int = T) -> torch.Tensor:
    return torch.randn(steps, B, N, dtype=torch.float64)


def by_hand(rnn: slim.RNN, x: torch.Tensor, nonlin=F.gelu) -> tuple[torch.Tensor, torch.Tensor]:
    """Step by step, W built again at every step."""
    states = [state.expand(x.shape[1], -1) for state in rnn.init_states]
    outputs = []
    for u in x:
        for i, cell in enumerate(rnn.rnn_cells):
            u = states[i] = nonlin(cell.input_map(u) + cell.hidden_map(states[i]))
        outputs.append(u)
    return torch.stack(outputs), torch.stack(states)


@pytest.mark.parametrize("hidden_map", keys())
def test_values_and_gradients_equal_the_loop_written_by_hand(hidden_map: str):
    ((hidden, _),) = fitted(hidden_map, [(H, H)])
    rnn, x = make(hidden_map=hidden_map, hidden=hidden, bias=hidden_map not in WITHOUT_BIAS).eval(), sequence()
    (ours, last), (hand, hand_last) = rnn(x), by_hand(rnn, x)
    assert close(ours, hand) and close(last, hand_last)
    weights = torch.randn_like(hand)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), list(rnn.parameters())),
        torch.autograd.grad((hand * weights).sum(), list(rnn.parameters())),
        strict=True,
    ):
        assert close(a, b, 1e-9)


@pytest.mark.parametrize("nonlin, name", [(torch.tanh, "tanh"), (F.relu, "relu")])
def test_free_maps_give_the_numbers_of_torch(nonlin, name: str):
    rnn, x = make(nonlin=nonlin, bias=True), sequence()
    theirs = nn.RNN(N, H, 2, nonlinearity=name).double()
    with torch.no_grad():
        for i, cell in enumerate(rnn.rnn_cells):
            getattr(theirs, f"weight_ih_l{i}").copy_(cell.input_map.weight)
            getattr(theirs, f"weight_hh_l{i}").copy_(cell.hidden_map.weight)
            getattr(theirs, f"bias_ih_l{i}").copy_(cell.input_map.bias)
            getattr(theirs, f"bias_hh_l{i}").copy_(cell.hidden_map.bias)
    outputs, last = rnn(x)
    expected, expected_last = theirs(x, torch.stack([s.expand(B, -1) for s in rnn.init_states]))
    assert close(outputs, expected) and close(last, expected_last)


def test_defaults_are_free_maps_without_bias_and_gelu():
    rnn = slim.RNN(2)
    (cell,) = rnn.rnn_cells
    assert (rnn.hidden_size, rnn.num_layers, cell.nonlin) == (16, 1, F.gelu)
    assert type(cell.input_map) is type(cell.hidden_map) is slim.Linear
    assert cell.input_map.bias is None and cell.hidden_map.bias is None
    outputs, last = rnn(torch.randn(20, 5, 2))
    assert outputs.shape == (20, 5, 16) and last.shape == (1, 5, 16)


def test_batch_first_turns_sequence_and_outputs_round():
    rnn, x = make(), sequence()
    turned = make(batch_first=True)
    turned.load_state_dict(rnn.state_dict())
    (outputs, last), (other, other_last) = rnn(x), turned(x.transpose(0, 1))
    assert torch.equal(other, outputs.transpose(0, 1)) and torch.equal(last, other_last)


def test_W_is_built_once_per_sequence():
    class Counted(slim.OrthogonalLinear):
        builds = 0

        def effective_W(self):
            self.builds += 1
            return super().effective_W()

    rnn = slim.RNN(N, H, 1, {"hidden_map": Counted})
    rnn(torch.randn(50, B, N))
    assert rnn.rnn_cells[0].hidden_map.builds == 1
    with slim.materialized(rnn):
        rnn(torch.randn(50, B, N))
        rnn(torch.randn(50, B, N))
    assert rnn.rnn_cells[0].hidden_map.builds == 2


def test_init_states_come_as_a_tensor_or_a_list():
    rnn, x = make(), sequence()
    states = torch.randn(2, B, H, dtype=torch.float64)
    outputs, last = rnn(x, states)
    again, last_again = rnn(x, list(states))
    assert torch.equal(outputs, again) and torch.equal(last, last_again)
    learnt = [s.expand(B, -1) for s in rnn.init_states]
    assert torch.equal(rnn(x, learnt)[0], rnn(x)[0])
    assert not torch.equal(rnn(x)[0], outputs)


def test_the_state_of_a_chunk_feeds_the_next():
    rnn, x = make(hidden_map="orthogonal"), sequence()
    first, state = rnn(x[:3])
    second, last = rnn(x[3:], state)
    outputs, expected = rnn(x)
    assert close(torch.cat([first, second]), outputs) and close(last, expected)


def test_a_cell_step_by_step_gives_the_numbers_of_the_rnn():
    rnn, x = make(num_layers=1, hidden_map="spectral", bias=True), sequence()
    (cell,) = rnn.rnn_cells
    h = rnn.init_states[0].expand(B, -1)
    for u in x:
        h = cell(u, h)
        assert h.shape == (B, H)
    assert close(h, rnn(x)[1][0])
    assert torch.equal(cell(x[0]), cell(x[0], torch.zeros(B, H, dtype=torch.float64)))


def test_gradient_reaches_every_parameter_and_the_learnt_states():
    rnn = make(hidden_map="orthogonal", input_map="pf", bias=True)
    rnn(sequence())[0].square().sum().backward()
    for name, p in rnn.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_reg_error_is_the_mean_of_means_and_the_sum_from_outside():
    rnn = perturb(make(hidden_map="softSVD", input_map="softSVD"))
    errors = [m.reg_error() for cell in rnn.rnn_cells for m in (cell.input_map, cell.hidden_map)]
    assert close(rnn.reg_error(), torch.stack(errors).mean())
    assert close(rnn.rnn_cells[0].reg_error(), torch.stack(errors[:2]).mean())
    assert [name for name, _ in slim.reg_error_terms(rnn)] == [
        f"rnn_cells.{i}.{name}" for i in (0, 1) for name in ("input_map", "hidden_map")
    ]
    assert close(slim.total_reg_error(rnn), torch.stack(errors).sum())
    assert make().reg_error() == 0 and slim.total_reg_error(make()) is None


def test_maps_are_chosen_by_key_or_class_with_their_options():
    by_key = slim.RNNCell(N, H, hidden_map="spectral", hidden_args={"sigma_max": 0.5}, input_args={})
    by_class = slim.RNNCell(N, H, False, torch.tanh, slim.SpectralLinear, hidden_args={"sigma_max": 0.5})
    for cell in (by_key, by_class):
        assert type(cell.hidden_map) is slim.SpectralLinear and cell.hidden_map.sigma_max == 0.5
        assert type(cell.input_map) is slim.Linear


def test_input_maps_are_every_map_that_is_legal():
    for key in keys():
        if legal(key, N, H):
            assert slim.RNN(N, H, cell_args={"input_map": key})(torch.randn(T, B, N))[0].shape == (T, B, H)


def test_copies_state_and_pickle_give_the_same_recurrence():
    rnn, x = make(hidden_map="orthogonal"), sequence()
    loaded = make(hidden_map="orthogonal")
    loaded.load_state_dict(rnn.state_dict())
    for twin in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), loaded):
        assert torch.equal(twin(x)[0], rnn(x)[0])


def test_compiled_recurrence_gives_the_same_numbers():
    torch._dynamo.reset()
    rnn, x = make(hidden_map="orthogonal"), sequence(3)
    assert close(torch.compile(rnn, fullgraph=True, backend="aot_eager")(x)[0], rnn(x)[0])


def test_autocast_runs_the_steps_in_bfloat16():
    rnn, x = slim.RNN(N, H, 2, {"hidden_map": "orthogonal"}), torch.randn(T, B, N)
    with torch.autocast("cpu"):
        outputs, _ = rnn(x)
    assert outputs.dtype == torch.bfloat16
    assert close(outputs.float(), rnn(x)[0], 0.05)


def test_a_nonlinearity_is_a_function_a_module_or_its_class():
    x = torch.randn(B, N)
    by_function = slim.RNNCell(N, H, nonlin=torch.tanh)
    for nonlin in (nn.Tanh, nn.Tanh()):
        cell = slim.RNNCell(N, H, nonlin=nonlin)
        cell.load_state_dict(by_function.state_dict())
        assert torch.equal(cell(x), by_function(x))


def test_a_recurrence_has_a_graph_with_its_loop():
    graph = make().to_networkx()
    assert graph["0:nonlin"]["0:hidden"]["hidden"]["feedback"]
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"data", "map", "operation"}
    assert {data.get("cluster") for _, data in graph.nodes(data=True)} == {None, ("layer 0",), ("layer 1",)}


def test_bad_sequences_are_refused_with_both_values():
    with pytest.raises(ShapeError, match=r"RNN needs a sequence \(time, batch, 3\), got shape \(7, 4\)"):
        make()(torch.zeros(T, B))
    with pytest.raises(ShapeError, match=r"RNN needs a sequence \(batch, time, 3\), got shape \(4, 7, 2\)"):
        make(batch_first=True)(torch.zeros(B, T, 2))
    with pytest.raises(ShapeError, match=r"RNN needs a sequence of at least 1 step, got 0"):
        make()(sequence(0))


def test_bad_init_states_are_refused_with_both_values():
    rnn, x = make(), sequence()
    with pytest.raises(ShapeError, match=r"RNN needs init_states \(2, 4, 5\).*got 1 of shape \(4, 5\)"):
        rnn(x, torch.zeros(1, B, H))
    with pytest.raises(ShapeError, match=r"RNN needs init_states \(2, 4, 5\).*got 2 of shape \(3, 5\)"):
        rnn(x, torch.zeros(2, B - 1, H))
    with pytest.raises(ShapeError, match=r"got 2 of shape \[\(4, 5\), \(4, 6\)\]"):
        rnn(x, [torch.zeros(B, H), torch.zeros(B, H + 1)])


def test_bad_cells_are_refused_with_both_values():
    with pytest.raises(UnknownOptionError, match=r"there is no map 'orthogonl'\. Did you mean 'orthogonal'\?"):
        slim.RNNCell(N, H, hidden_map="orthogonl")
    with pytest.raises(UnknownOptionError, match=r"RNNCell has no option 'hidden_mp'\. Did you mean 'hidden_map'\?"):
        slim.RNN(N, H, cell_args={"hidden_mp": "orthogonal"})
    with pytest.raises(OptionError, match=r"needs insize == outsize, got insize=3 and outsize=5"):
        slim.RNNCell(N, H, input_map="orthogonal")
    with pytest.raises(OptionError, match=r"hidden_map of size \(5, 5\), got Linear of size \(5, 2\)"):
        slim.RNNCell(N, H, hidden_map=lambda insize, outsize, bias: slim.Linear(insize, 2, bias=bias))
    with pytest.raises(OptionError, match=r"structured map for input_map, got .*torch.nn.modules.linear.Linear"):
        slim.RNNCell(N, H, input_map=nn.Linear)
    with pytest.raises(OptionError, match="num_layers >= 1, got num_layers=0"):
        slim.RNN(N, H, 0)
    with pytest.raises(ShapeError, match=r"of one batch, got shapes \(4, 3\) and \(2, 5\)"):
        slim.RNNCell(N, H)(torch.zeros(B, N), torch.zeros(2, H))


def test_a_drawn_rnn_tells_its_axes():
    labels = [slim.RNN(2, 3, batch_first=first).to_networkx().nodes["x"]["label"] for first in (False, True)]
    assert labels == ["sequence (time, batch, 2)", "sequence (batch, time, 2)"]
