"""What is the gated recurrences' own: torch's numbers, and maps chosen gate by gate."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from slimgraph import Node, slim
from slimgraph.errors import OptionError, ShapeError, UnknownMapError
from tests.helpers import close, copy_weights

T, B, N, H = 7, 4, 3, 5

both_kinds = pytest.mark.parametrize("name", ["GRU", "LSTM"])


def pair(name: str, bias: bool, num_layers: int, bidirectional: bool, dtype: torch.dtype = torch.float64):
    """Ours and torch's, of the same weights."""
    ours = getattr(slim, name)(N, H, num_layers, {"bias": bias}, bidirectional=bidirectional).to(dtype)
    theirs = getattr(nn, name)(N, H, num_layers, bias=bias, bidirectional=bidirectional).to(dtype)
    copy_weights(ours, theirs)
    return ours, theirs


def tensors(result) -> list[torch.Tensor]:
    outputs, state = result
    return [outputs, *(state if isinstance(state, tuple) else (state,))]


@both_kinds
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_free_maps_give_the_numbers_of_torch(name: str, bias: bool, num_layers: int, bidirectional: bool):
    ours, theirs = pair(name, bias, num_layers, bidirectional)
    x = torch.randn(T, B, N, dtype=torch.float64, requires_grad=True)
    cells = num_layers * (1 + bidirectional)
    state = tuple(torch.randn(cells, B, H, dtype=torch.float64) for _ in range(1 + (name == "LSTM")))
    for start in (None, state if name == "LSTM" else state[0]):
        a, b = tensors(ours(x, start)), tensors(theirs(x, start))
        assert all(close(p, q) for p, q in zip(a, b, strict=True))
        weights = torch.randn_like(b[0])
        (p,), (q,) = (torch.autograd.grad((t[0] * weights).sum() + t[-1].sum(), x) for t in (a, b))
        assert close(p, q)


@both_kinds
def test_the_step_that_is_written_out_is_the_kernels(name: str):
    ours, theirs = pair(name, True, 1, False)
    theirs_cell = getattr(nn, f"{name}Cell")(N, H).double()
    theirs_cell.load_state_dict({k.removesuffix("_l0"): v for k, v in theirs.state_dict().items()})
    x, h, c = (torch.randn(B, n, dtype=torch.float64) for n in (N, H, H))
    state = (h, c) if name == "LSTM" else h
    a, b = ours.cells[0](x, state), theirs_cell(x, state)
    assert all(close(p, q) for p, q in zip(a, b, strict=True))
    assert close(ours.cells[0](x)[0], theirs_cell(x)[0])


@both_kinds
def test_single_precision_gives_the_numbers_of_torch(name: str):
    ours, theirs = pair(name, True, 2, False, torch.float32)
    x = torch.randn(T, B, N)
    assert all(close(p, q, 1e-5) for p, q in zip(tensors(ours(x)), tensors(theirs(x)), strict=True))


@both_kinds
def test_maps_are_chosen_for_all_gates_or_for_each(name: str):
    cls = getattr(slim, f"{name}Cell")
    gates, last = cls.gates, cls.gates[-1]
    for_all = cls(N, H, hidden_map="spectral", hidden_args={"sigma_max": 0.5})
    assert [(type(m), m.sigma_max) for m in for_all.hidden_maps.values()] == [(slim.SpectralLinear, 0.5)] * len(gates)
    assert [type(m) for m in for_all.input_maps.values()] == [slim.Linear] * len(gates)
    for_each = cls(
        N,
        H,
        True,
        {**dict.fromkeys(gates, slim.Linear), last: "spectral"},
        {**dict.fromkeys(gates, "nneg"), last: "linear"},
        hidden_args={last: {"sigma_max": 0.5}},
    )
    assert [type(for_each.hidden_maps[g]) for g in gates] == [*[slim.Linear] * (len(gates) - 1), slim.SpectralLinear]
    assert for_each.hidden_maps[last].sigma_max == 0.5
    assert type(for_each.input_maps[gates[0]]) is slim.NonNegativeLinear
    assert all(m.bias is not None for side in for_each.maps() for m in side)


@both_kinds
def test_a_map_that_leaves_out_its_bias_counts_as_zero(name: str):
    def unbiased(insize, outsize, bias):
        return slim.Linear(insize, outsize)

    cls = getattr(slim, name)
    gates = cls.cell_class.gates
    ours = cls(N, H, 1, {"bias": True, "hidden_map": {**dict.fromkeys(gates, "linear"), gates[0]: unbiased}}).double()
    x = torch.randn(1, B, N, dtype=torch.float64)
    assert close(ours(x)[0][0], tensors(ours(x))[1][0])
    cell = ours.cells[0](x[0])
    assert close(ours(x)[0][0], cell if name == "GRU" else cell[0])


def test_bad_choices_are_refused_with_their_gate():
    cases = [
        (
            lambda: slim.GRUCell(N, H, hidden_map={"r": "linear"}),
            r"hidden_map for the gates \('r', 'z', 'n'\), got \('r',\)",
        ),
        (lambda: slim.GRUCell(N, H, hidden_args={"r": {}, "f": {}}), r"needs hidden_args for the gates .*'f'"),
        (lambda: slim.LSTMCell(N, H, hidden_map=nn.Linear), r"structured map for hidden_map\['i'\], got"),
        (
            lambda: slim.LSTMCell(N, H, input_args={"o": {"bias": True}}),
            r"bias=True among the options of input_map\['o'\]",
        ),
    ]
    for call, words in cases:
        with pytest.raises(OptionError, match=words):
            call()
    with pytest.raises(UnknownMapError, match="there is no map 'orthogonl'. Did you mean 'orthogonal'?"):
        slim.LSTMCell(N, H, hidden_map={**dict.fromkeys("ifg", "linear"), "o": "orthogonl"})


def test_the_two_parts_of_a_state_come_together():
    lstm, cell, h = slim.LSTM(N, H), slim.LSTMCell(N, H), torch.zeros(B, H)
    with pytest.raises(ShapeError, match=r"LSTM needs a state \(h, c\) of two parts, got the hidden state alone"):
        lstm(torch.zeros(T, B, N), torch.zeros(1, B, H))
    with pytest.raises(ShapeError, match=r"LSTMCell needs a state .* got the cell state alone"):
        cell(torch.zeros(B, N), None, h)
    with pytest.raises(
        ShapeError, match=r"LSTMCell needs x \(batch, 3\) and cell \(batch, 5\) .* \(4, 3\) and \(2, 5\)"
    ):
        cell(torch.zeros(B, N), h, torch.zeros(2, H))
    assert all(
        torch.equal(a, b) for a, b in zip(cell(torch.ones(B, N), (h, h)), cell(torch.ones(B, N), h, h), strict=True)
    )


def test_torchs_own_lstm_is_a_node_as_well():
    node = Node(nn.LSTM(N, H, batch_first=True), ["u"], ["h", "h_last", "c_last"])
    assert {key: tuple(t.shape) for key, t in node({"u": torch.zeros(B, T, N)}).items()} == {
        "h": (B, T, H),
        "h_last": (1, B, H),
        "c_last": (1, B, H),
    }


@both_kinds
def test_packed_series_give_the_numbers_of_torch(name: str):
    ours, theirs = pair(name, True, 2, True)
    packed = pack_padded_sequence(torch.randn(T, B, N).double(), [3, 7, 1, 5], enforce_sorted=False)
    a, b = ours(packed), theirs(packed)
    assert close(a[0].data, b[0].data)
    assert all(close(p, q) for p, q in zip(tensors(a)[1:], tensors(b)[1:], strict=True))
