"""What is the simple recurrence's own; the laws that it shares with the gated ones stand in test_recurrences.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimgraph import slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownOptionError
from tests.helpers import close, copy_weights, keys, legal, perturb

T, B, N, H = 7, 4, 3, 5


def make(**cell_args) -> slim.RNN:
    layers = cell_args.pop("num_layers", 2)
    options = {word: cell_args.pop(word) for word in ("batch_first", "bidirectional") if word in cell_args}
    rnn = slim.RNN(N, cell_args.pop("hidden", H), layers, cell_args, **options).double()
    with torch.no_grad():
        for state in rnn.init_states:
            state.normal_()
    return rnn


def sequence(steps: int = T) -> torch.Tensor:
    return torch.randn(steps, B, N, dtype=torch.float64)


@pytest.mark.parametrize("nonlin, name", [(torch.tanh, "tanh"), (F.relu, "relu")])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_free_maps_give_the_numbers_of_torch(nonlin, name: str, bidirectional: bool):
    rnn, x = make(nonlin=nonlin, bias=True, bidirectional=bidirectional), sequence()
    theirs = nn.RNN(N, H, 2, nonlinearity=name, bidirectional=bidirectional).double()
    copy_weights(rnn, theirs)
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


def test_a_nonlinearity_is_a_function_a_module_or_its_class():
    x = torch.randn(B, N)
    by_function = slim.RNNCell(N, H, nonlin=torch.tanh)
    for nonlin in (nn.Tanh, nn.Tanh()):
        cell = slim.RNNCell(N, H, nonlin=nonlin)
        cell.load_state_dict(by_function.state_dict())
        assert torch.equal(cell(x), by_function(x))


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
    with pytest.raises(
        OptionError, match=r"RNNCell gives all its maps .* got bias=False among the options of input_map"
    ):
        slim.RNNCell(N, H, input_args={"bias": False})
    with pytest.raises(ShapeError, match=r"hidden \(batch, 5\) of one batch, got shapes \(4, 3\) and \(4, 6\)"):
        slim.RNNCell(N, H)(torch.zeros(B, N), torch.zeros(B, 6))
    with pytest.raises(DtypeError, match=r"got an input of torch\.float64"):
        slim.RNNCell(N, H)(torch.zeros(B, N), torch.zeros(B, H).double())
    with pytest.raises(ShapeError, match=r"of one batch, got shapes \(4, 3\) and \(2, 5\)"):
        slim.RNNCell(N, H)(torch.zeros(B, N), torch.zeros(2, H))


def test_a_drawn_rnn_tells_its_axes():
    labels = [slim.RNN(2, 3, batch_first=first).to_networkx().nodes["x"]["label"] for first in (False, True)]
    assert labels == ["sequence (time, batch, 2)", "sequence (batch, time, 2)"]
