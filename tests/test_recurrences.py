"""The laws of all recurrences: RNN, GRU and LSTM, each against its cell run step by step."""

from __future__ import annotations

import copy
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from slimgraph import Node, System, slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownMapError, UnknownOptionError
from slimgraph.slim import rnn as rnn_room
from slimgraph.slim.unroll import written
from tests.helpers import close, keys

T, B, N, H = 6, 4, 3, 5

KINDS = {
    "tanh": (slim.RNN, {"nonlin": torch.tanh}),
    "relu": (slim.RNN, {"nonlin": nn.ReLU}),
    "sigmoid": (slim.RNN, {"nonlin": torch.sigmoid}),
    "gelu": (slim.RNN, {}),
    "gelu-tanh": (slim.RNN, {"nonlin": nn.GELU("tanh")}),
    "any": (slim.RNN, {"nonlin": lambda x: torch.sin(2 * x)}),
    "GRU": (slim.GRU, {}),
    "LSTM": (slim.LSTM, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
one_of_each = pytest.mark.parametrize("kind", ["tanh", "gelu", "GRU", "LSTM"])


def make(kind: str, num_layers: int = 2, cell_args: dict | None = None, input_size: int = N, hidden_size=H, **options):
    """In float64, with initial states that are not zero."""
    cls, chosen = KINDS[kind]
    torch.manual_seed(0)
    made = cls(input_size, hidden_size, num_layers, {"bias": True, **chosen, **(cell_args or {})}, **options).double()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.startswith("init"):
                p.normal_()
    return made


def series(steps: int = T, batch: int = B, features: int = N) -> Tensor:
    return torch.randn(steps, batch, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def parts(state) -> tuple[Tensor, ...]:
    """The state of an RNN, GRU or LSTM as a tuple."""
    return tuple(state) if isinstance(state, tuple) else (state,)


def given(*state: Tensor):
    """The same the other way."""
    return state if len(state) > 1 else state[0]


def starts(made, batch: int) -> list[tuple[Tensor, ...]]:
    """The learnt states of each cell."""
    learnt = [made.init_states] + ([made.init_cells] if hasattr(made, "init_cells") else [])
    return [tuple(s.expand(batch, -1) for s in cell) for cell in zip(*learnt, strict=True)]


def step_by_step(cell, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The cell called on every step, each W built again every time."""
    outputs = []
    for u in x:
        state = parts(cell(u, *state))
        outputs.append(state[0])
    return torch.stack(outputs), state


def by_hand(made, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """All layers and directions of unpacked series, with the cells called step by step."""
    ends, cells, states = [], iter(made.cells), iter(starts(made, x.shape[1]))
    for _ in range(made.num_layers):
        forward, end = step_by_step(next(cells), x, next(states))
        ends.append(end)
        y = forward
        if made.bidirectional:
            backward, end = step_by_step(next(cells), x.flip(0), next(states))
            ends.append(end)
            y = torch.cat([forward, backward.flip(0)], -1)
        x = x + y if made.residual and x.shape == y.shape else y
    return x, [torch.stack(each) for each in zip(*ends, strict=True)]


def assert_same(ours, hand, parameters, tol: float = 1e-9) -> None:
    """Outputs, last states and gradients of two `(outputs, state)`."""
    tensors = [(ours[0], hand[0]), *zip(parts(ours[1]), parts(tuple(hand[1])), strict=True)]
    assert all(close(a, b) for a, b in tensors)
    weights = [torch.randn_like(b) for _, b in tensors]
    gradients = [
        torch.autograd.grad(
            sum((t * w).sum() for t, w in zip(side, weights, strict=True)), parameters, allow_unused=True
        )
        for side in zip(*tensors, strict=True)
    ]
    for a, b in zip(*gradients, strict=True):
        assert (a is None and b is None) or close(a, b, tol)


# ---- numbers --------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"residual": True}, {"learn_init": False}], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_the_cells_step_by_step(kind: str, options: dict, bias: bool):
    made, x = make(kind, cell_args={"bias": bias}, **options), series().requires_grad_()
    if not made.init_states:
        zero = torch.zeros(made.num_layers, B, H, dtype=torch.float64)
        state = (zero, zero) if kind == "LSTM" else zero
        assert close(made(x)[0], made(x, state)[0])
        return
    assert_same(made(x), by_hand(made, x), [x, *made.parameters()])


@pytest.mark.parametrize("kind", ["gelu", "GRU", "LSTM"])
@pytest.mark.parametrize("hidden_map", keys())
def test_every_hidden_map_gives_the_numbers_of_its_cell_step_by_step(kind: str, hidden_map: str):
    # Some maps need an even size.
    made = make(kind, 1, {"hidden_map": hidden_map, "bias": False}, hidden_size=6).eval()
    assert_same(made(series()), by_hand(made, series()), list(made.parameters()))


@pytest.mark.parametrize("kind", ["tanh", "gelu", "any", "GRU", "LSTM"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed_sequences_come_back_packed_and_equal_each_run_alone(kind, bidirectional, enforce_sorted):
    made = make(kind, bidirectional=bidirectional)
    lengths = [T, 4, 4, 1] if enforce_sorted else [4, T, 1, 4]
    alone = [s[:n, None] for s, n in zip(series().unbind(1), lengths, strict=True)]
    packed = pack_sequence([s[:, 0] for s in alone], enforce_sorted=enforce_sorted)
    outputs, state = made(packed)
    runs = [made(s) for s in alone]
    expected = pack_sequence([run[0][:, 0] for run in runs], enforce_sorted=enforce_sorted)
    assert isinstance(outputs, PackedSequence)
    assert all(torch.equal(a, b) for a, b in zip(outputs[1:], expected[1:], strict=True) if a is not None)
    hand = [torch.cat(each, 1) for each in zip(*(parts(run[1]) for run in runs), strict=True)]
    assert_same((outputs.data, state), (expected.data, hand), list(made.parameters()))
    # Given states keep the order of the sequences, too.
    states = [torch.randn(len(made.cells), B, H, dtype=torch.float64) for _ in hand]
    _, state = made(packed, given(*states))
    runs = [parts(made(s, given(*(start[:, i : i + 1] for start in states)))[1]) for i, s in enumerate(alone)]
    for ours, *each in zip(parts(state), *runs, strict=True):
        assert close(ours, torch.cat(each, 1))


def test_packed_rows_of_wrong_width_are_refused():
    packed = pack_padded_sequence(series(features=2), [T] * B)
    with pytest.raises(ShapeError, match=r"GRU needs a packed sequence of rows \(3,\), got data \(24, 2\)"):
        make("GRU")(packed)


@one_of_each
def test_the_state_of_a_chunk_feeds_the_next(kind: str):
    made, x = make(kind, cell_args={"hidden_map": "orthogonal"}), series()
    first, state = made(x[:2])
    second, last = made(x[2:], state)
    outputs, expected = made(x)
    assert close(torch.cat([first, second]), outputs)
    assert all(close(a, b) for a, b in zip(parts(last), parts(expected), strict=True))


@one_of_each
def test_init_states_come_as_tensors_or_lists(kind: str):
    made, x = make(kind), series()
    states = [torch.randn(2, B, H, dtype=torch.float64) for _ in parts(made(x)[1])]
    assert torch.equal(made(x, given(*states))[0], made(x, given(*(list(s) for s in states)))[0])
    assert torch.equal(made(x, *states)[0], made(x, given(*states))[0])
    assert not torch.equal(made(x, *states)[0], made(x)[0])


def test_dropout_acts_between_layers_while_training():
    made, x = make("GRU", 2, dropout=0.5), series()
    twin = make("GRU", 2)
    assert torch.equal(made.eval()(x)[0], twin(x)[0])
    made.train()
    torch.manual_seed(3)
    outputs = made(x)[0]
    torch.manual_seed(3)
    (first, second), (start, next_start) = made.cells, starts(made, B)
    hidden = F.dropout(step_by_step(first, x, start)[0].flatten(0, 1), 0.5).unflatten(0, (T, B))
    assert close(outputs, step_by_step(second, hidden, next_start)[0])


def test_residuals_stand_where_the_sizes_match():
    x = series(features=H)
    for input_size, first in ((H, True), (N, False)):
        made = make("tanh", 1, input_size=input_size, residual=True)
        x = series(features=input_size)
        outputs, h_n = made(x)
        plain = step_by_step(made.cells[0], x, starts(made, B)[0])[0]
        assert close(outputs, plain + x if first else plain)
        assert close(h_n[0], plain[-1])


def test_states_that_are_not_learnt_are_zero_and_no_parameters():
    made = make("LSTM", learn_init=False)
    assert not [name for name, _ in made.named_parameters() if name.startswith("init")]
    assert "learn_init=False" in repr(made)


@one_of_each
def test_given_states_leave_the_learnt_ones_without_gradient(kind: str):
    made, x = make(kind), series()
    _, state = made(x)
    made(x, given(*(s.detach() for s in parts(state))))[0].sum().backward()
    learnt = {name for name, p in made.named_parameters() if p.grad is None}
    assert learnt == {name for name, _ in made.named_parameters() if name.startswith("init")}


# ---- how it is computed ---------------------------------------------------------------------------------------------


class Counted(slim.OrthogonalLinear):
    """It counts how often its matrix was built, and draws a random sign for each."""

    builds = 0

    def effective_W(self):
        self.builds += 1
        return super().effective_W() * torch.randn(()).sign()


@one_of_each
def test_W_is_built_and_drawn_once_per_sequence(kind: str):
    made = make(kind, 1, {"hidden_map": Counted, "bias": False})
    maps = [m for m in made.modules() if isinstance(m, Counted)]
    torch.manual_seed(2)
    outputs = made(series(50))[0]
    assert {m.builds for m in maps} == {1}
    torch.manual_seed(2)
    with slim.materialized(made):
        assert close(outputs, step_by_step(made.cells[0], series(50), starts(made, B)[0])[0])
        made(series(50))
    assert {m.builds for m in maps} == {2}


@one_of_each
def test_random_gates_are_drawn_once_per_sequence(kind: str, monkeypatch):
    made, draws = make(kind, 1, {"hidden_map": "l0", "bias": False}).train(), []
    draw = slim.L0Linear.get_eps
    monkeypatch.setattr(slim.L0Linear, "get_eps", lambda self, size: (draws.append(self), draw(self, size))[1])
    torch.manual_seed(2)
    ours = made(series(50))
    hidden_maps = made.cells[0].maps()[1]
    assert draws == hidden_maps
    torch.manual_seed(2)
    with slim.materialized(made):
        assert_same(ours, by_hand(made, series(50)), list(made.parameters()))
    assert draws == 2 * hidden_maps
    assert not close(made(series(50))[0], ours[0])


def test_the_inputs_of_all_steps_are_one_product():
    made, seen = make("gelu", 1), []
    made.cells[0].input_map.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    made(series(50))
    assert seen == [(50 * B, N)]


@pytest.mark.parametrize("kind", ["tanh", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_torchs_kernel_fed_with_the_matrices_gives_the_same_numbers(kind: str, bias: bool, monkeypatch):
    made = make(kind, cell_args={"hidden_map": "orthogonal", "bias": bias}, bidirectional=True)
    x, lengths = series().requires_grad_(), [T, 5, 2, 2]
    plain, packed = made(x), made(pack_padded_sequence(x, lengths))
    monkeypatch.setattr(rnn_room, "has_cudnn", lambda x: True)
    called = []
    kernels = {
        key: k._replace(run=lambda *a, run=k.run: (called.append(1), run(*a))[1]) for key, k in rnn_room.KERNELS.items()
    }
    monkeypatch.setattr(rnn_room, "KERNELS", kernels)
    assert_same(made(x), (plain[0], [plain[1]]), [x, *made.parameters()])
    ours = made(pack_padded_sequence(x, lengths))
    assert_same((ours[0].data, ours[1]), (packed[0].data, [packed[1]]), [x, *made.parameters()])
    assert len(called) == 8
    assert torch.autograd.gradgradcheck(lambda x: made(x)[0], (series(3, 2).requires_grad_(),))


def test_only_what_cudnn_takes_goes_there():
    assert not rnn_room.has_cudnn(torch.zeros(2, 3))
    assert not rnn_room.has_cudnn(torch.zeros(2, 3, device="meta"))


@pytest.mark.parametrize(
    ("nonlin", "plain"),
    [
        (nn.Tanh(), torch.tanh),
        (F.tanh, torch.tanh),
        (nn.ReLU(), F.relu),
        (nn.GELU(), F.gelu),
        (nn.Sigmoid(), F.sigmoid),
    ],
)
def test_modules_and_functions_of_one_name_have_one_slope(nonlin, plain):
    assert written(nonlin) is written(plain) is not None
    assert written(nn.GELU("tanh")) is None and written(torch.sin) is None
    assert written(type("Mine", (nn.Tanh,), {})()) is None


@every_kind
def test_first_and_second_derivatives_equal_finite_differences(kind: str):
    made = make(kind, 1)
    names = [name for name, _ in made.named_parameters()]

    def of_all(x: Tensor, *values: Tensor):
        outputs, state = functional_call(made, dict(zip(names, values, strict=True)), (x,))
        return outputs, *parts(state)

    inputs = series(3, 2).requires_grad_(), *(p.detach().requires_grad_() for p in made.parameters())
    assert torch.autograd.gradcheck(of_all, inputs)
    assert torch.autograd.gradgradcheck(of_all, inputs)


@one_of_each
def test_a_graph_is_kept_or_freed_as_asked(kind: str):
    made, x = make(kind), series().requires_grad_()
    outputs = made(x)[0].sum()
    first = torch.autograd.grad(outputs, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(outputs, x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(outputs, x)


@one_of_each
def test_a_backward_pass_lets_go_of_what_was_saved(kind: str):
    class Saved:
        def __init__(self, tensor: Tensor):
            self.tensor = tensor
            saved.append(weakref.ref(self))

    saved: list[weakref.ref] = []
    made, x = make(kind), series()
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda held: held.tensor):
        outputs = made(x)[0]
    outputs.sum().backward()
    assert saved and not [ref for ref in saved if ref() is not None]
    assert outputs.isfinite().all()


@one_of_each
def test_without_gradients_the_numbers_are_the_same(kind: str):
    made, x = make(kind), series()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            outputs = made(x)[0]
        assert not outputs.requires_grad and close(outputs.clone(), made(x)[0])


@one_of_each
def test_compiled_recurrence_gives_the_same_numbers(kind: str):
    torch._dynamo.reset()
    made, x = make(kind, 1, {"hidden_map": "skew_symmetric"}, bidirectional=True), series(2)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    ours, plain = compiled(x), made(x)
    assert_same(ours, (plain[0], parts(plain[1])), list(made.parameters()))


@one_of_each
def test_vmap_over_parameters_equals_a_loop(kind: str):
    many = [make(kind, cell_args={"hidden_map": "orthogonal"}) for _ in range(3)]
    for made in many:
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.3 * torch.randn_like(p))
    # The sign of an orthogonal map is a buffer.
    states = [made.state_dict() for made in many]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    x = series()
    outputs = vmap(lambda state: functional_call(many[0], state, (x,))[0])(stacked)
    assert close(outputs, torch.stack([made(x)[0] for made in many]))


@one_of_each
def test_forward_mode_derivatives_equal_backward_ones(kind: str):
    made, x, v = make(kind), series(), torch.randn(T, B, N, dtype=torch.float64)
    _, by_func = torch.func.jvp(lambda x: made(x)[0].sum(), (x,), (v,))
    with torch.autograd.forward_ad.dual_level():
        dual = made(torch.autograd.forward_ad.make_dual(x, v))[0].sum()
        by_dual = torch.autograd.forward_ad.unpack_dual(dual).tangent
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(made(x)[0].sum(), x)
    assert close(by_func, (gradient * v).sum(), 1e-9) and close(by_dual, by_func, 1e-9)


@one_of_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_the_steps_in_half_precision(kind: str, dtype: torch.dtype):
    made, x = make(kind, cell_args={"hidden_map": "orthogonal"}).float(), series().float()
    with torch.autocast("cpu", dtype):
        outputs, state = made(x)
        outputs.sum().backward()
    assert outputs.dtype == dtype and parts(state)[0].dtype == dtype
    assert close(outputs.float(), made(x)[0], 0.1)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())
    # What autocast has rounded may be fed back in.
    with torch.autocast("cpu", dtype):
        made(x, state)


@one_of_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cell_takes_a_state_in_full_precision_under_autocast(kind: str, dtype: torch.dtype):
    cell = make(kind, 1).float().cells[0]
    x, state = series().float()[0], [torch.randn(B, H) for _ in cell.states]
    with torch.autocast("cpu", dtype):
        after = parts(cell(x, *state))
        again = parts(cell(x, *after))
    again[0].sum().backward()
    for ours, plain in zip(after, parts(cell(x, *state)), strict=True):
        assert close(ours.float(), plain, 0.1)


@one_of_each
def test_autocast_leaves_double_precision_alone(kind: str):
    made, x = make(kind), series()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = made(x)[0]
    assert torch.equal(outputs, made(x)[0])


@one_of_each
def test_maps_of_two_dtypes_are_refused_with_both(kind: str):
    made = make(kind)
    made.cells[1].float()
    with pytest.raises(DtypeError, match=r"weights of torch\.float32, got an input of torch\.float64"):
        made(series())
    for one in made.float().cells[0].maps()[1]:
        one.double()
    with pytest.raises(DtypeError, match=r"weights of torch\.float64, got an input of torch\.float32"):
        made(series().float())


@one_of_each
def test_an_exported_recurrence_takes_any_batch(kind: str):
    made = make(kind, 2, {"hidden_map": "orthogonal"}, bidirectional=True, batch_first=True).eval()
    batches = {"sequence": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(made, (series(B, 3),), dynamic_shapes=batches).module()
    for batch in (1, 2, 7):
        x = series(batch, 3)
        assert close(program(x)[0], made(x)[0])


@pytest.mark.parametrize("kind", ["gelu", "GRU"])
def test_compiled_packed_sequences_come_back_packed(kind: str):
    torch._dynamo.reset()
    made = make(kind, 1)
    packed = pack_padded_sequence(series(), [4, T, 1, 4], enforce_sorted=False)
    outputs = torch.compile(made, backend="aot_eager")(packed)[0]
    assert close(outputs.data, made(packed)[0].data)
    assert torch.equal(outputs.unsorted_indices, packed.unsorted_indices)


@one_of_each
def test_a_recurrence_moves_whole(kind: str):
    made, x = make(kind, cell_args={"hidden_map": "orthogonal"}, bidirectional=True), series()
    reference = made(x)[0]
    for dtype, tol in ((torch.float32, 1e-5), (torch.bfloat16, 0.1)):
        moved = copy.deepcopy(made).to(dtype)
        outputs = moved(x.to(dtype))[0]
        assert outputs.dtype == dtype and close(outputs.double(), reference, tol)
        outputs.sum().backward()
    assert made.to("meta")(x.to("meta"))[0].device.type == "meta"


@one_of_each
def test_copies_state_and_pickle_give_the_same_recurrence(kind: str):
    made, x = make(kind, cell_args={"hidden_map": "orthogonal"}, bidirectional=True), series()
    outputs = made(x)[0]
    loaded = make(kind, cell_args={"hidden_map": "orthogonal"}, bidirectional=True)
    loaded.load_state_dict(made.state_dict())
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), loaded):
        assert torch.equal(twin(x)[0], outputs)


def test_an_empty_batch_has_empty_outputs():
    for kind in ("tanh", "any", "GRU", "LSTM"):
        assert make(kind)(series(batch=0))[0].shape == (T, 0, H)


def test_the_examples_of_the_reference_have_its_shapes():
    cell = slim.RNNCell(5, 8, input_map=slim.Linear, hidden_map=slim.PerronFrobeniusLinear)
    assert cell(torch.rand(20, 5), torch.rand(20, 8)).shape == (20, 8)
    rnn = slim.RNN(5, hidden_size=8, num_layers=3, cell_args={"hidden_map": slim.PerronFrobeniusLinear})
    outputs, h_n = rnn(torch.rand(20, 10, 5))
    assert outputs.shape == (20, 10, 8) and h_n.shape == (3, 10, 8)


# ---- as nodes -------------------------------------------------------------------------------------------------------


@one_of_each
def test_a_recurrence_is_a_node_and_its_cell_a_node_of_a_system(kind: str):
    made = make(kind, 1, {"hidden_map": "spectral"}, batch_first=True)
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    node = Node(made, ["u"], ["outputs", *(f"{s}_last" for s in states)])
    u = series().transpose(0, 1)
    series_of = node({"u": u})
    system = System([Node(made.cells[0], ["u", *states], states)], nstep_key="u")
    start = dict(zip(states, (s[:, None] for s in starts(made, B)[0]), strict=True))
    rolled = system({"u": u, **start})
    assert close(rolled["h"][:, 1:], series_of["outputs"])
    for s in states:
        assert close(rolled[s][:, -1], series_of[f"{s}_last"][0])
    streamed = Node(made, ["u", *(f"{s}_last" for s in states)], ["outputs", *(f"{s}_last" for s in states)])
    first = node({"u": u[:, :2]})
    assert close(streamed({**first, "u": u[:, 2:]})["outputs"], series_of["outputs"][:, 2:])


# ---- pictures and words ---------------------------------------------------------------------------------------------


@one_of_each
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "residual": True}], ids=str)
def test_a_recurrence_has_a_graph_with_its_loops(kind: str, options: dict):
    made = make(kind, input_size=H, **options)
    graph = made.to_networkx()
    loops = [key for _, _, key, feedback in graph.edges(keys=True, data="feedback") if feedback]
    assert sorted(loops) == sorted(["hidden", "cell"][: 1 + (kind == "LSTM")] * len(made.cells))
    assert {data["kind"] for _, data in graph.nodes(data=True)} == {"data", "map", "operation"}
    maps = [node for node, data in graph.nodes(data=True) if data["kind"] == "map"]
    assert len(maps) == len([m for m in made.modules() if isinstance(m, slim.LinearBase)])
    clusters = {data["cluster"][0] for _, data in graph.nodes(data=True) if "cluster" in data}
    assert clusters == {f"layer {i}{way}" for i in (0, 1) for way in ["", " backwards"][: made.directions]}
    assert len(graph.in_edges("outputs")) == (1 if options else made.directions)
    assert "outputs" in made.draw().dot and "x" in made.cells[0].to_networkx()


def test_repr_tells_what_was_chosen():
    assert repr(make("GRU", dropout=0.5, bidirectional=True)).startswith(
        "GRU(\n  3, 5, num_layers=2, batch_first=False, bidirectional=True, dropout=0.5"
    )


@one_of_each
def test_reg_error_is_the_mean_over_maps_and_cells(kind: str):
    made = make(kind, cell_args={"hidden_map": "softSVD", "input_map": "softSVD"})
    errors = [m.reg_error() for m in made.modules() if isinstance(m, slim.LinearBase)]
    assert close(made.reg_error(), torch.stack(errors).mean())
    assert close(made.cells[0].reg_error(), torch.stack(errors[: len(errors) // 2]).mean())
    assert close(slim.total_reg_error(made), torch.stack(errors).sum())


# ---- what is refused ------------------------------------------------------------------------------------------------


@one_of_each
def test_bad_series_and_states_are_refused_with_both_values(kind: str):
    made, x = make(kind), series()
    name = type(made).__name__
    for bad, got in ((x[0], "shape (4, 3)"), (x[..., :2], "shape (6, 4, 2)"), (x.tolist(), "list")):
        with pytest.raises(ShapeError) as caught:
            made(bad)
        assert str(caught.value) == f"{name} needs a sequence (time, batch, 3), got {got}"
    with pytest.raises(ShapeError, match=rf"{name} needs a sequence of at least 1 step, got 0"):
        made(x[:0])
    with pytest.raises(DtypeError, match=r"weights of torch\.float64, got an input of torch\.float32"):
        made(x.float())
    zero = torch.zeros(2, B, H, dtype=torch.float64)
    for bad, got in (
        (zero[:1], r"got 1 of shape \(4, 5\)"),
        (zero[:, :3], r"got 2 of shape \(3, 5\)"),
        ([zero[0], zero[1, :, :3]], r"got 2 of shape \[\(4, 5\), \(4, 3\)\]"),
    ):
        with pytest.raises(ShapeError, match=rf"{name} needs init_states \(2, 4, 5\).*{got}"):
            made(x, (bad, zero) if kind == "LSTM" else bad)
    with pytest.raises(DtypeError, match=rf"{name} needs init_states .*torch\.float64, got torch\.float32"):
        made(x, (zero.float(), zero) if kind == "LSTM" else zero.float())
    for bad, got in ((0, "int"), (zero.numpy(), "ndarray"), ([None, zero[0]], "NoneType, Tensor"), ([[0.0]], "list")):
        with pytest.raises(ShapeError, match=rf"{name} needs init_states as a tensor or a list of tensors, got {got}"):
            made(x, bad, zero) if kind == "LSTM" else made(x, bad)
    cell = made.cells[0]
    with pytest.raises(ShapeError, match=rf"{name}Cell needs a tensor for hidden, got int"):
        cell(x[0], 0, zero[0]) if kind == "LSTM" else cell(x[0], 0)
    with pytest.raises(ShapeError, match=rf"{name}Cell needs a tensor for x, got list"):
        cell(x[0].tolist())


@pytest.mark.parametrize("cls", [slim.RNN, slim.GRU, slim.LSTM])
def test_bad_options_are_refused_with_their_values(cls):
    name = cls.__name__
    cases = [
        (lambda: cls(N, H, 2.0), OptionError, f"{name} needs a whole number for num_layers, got 2.0"),
        (lambda: cls(N, H, 0), OptionError, f"{name} needs num_layers >= 1, got num_layers=0"),
        (lambda: cls(N, 2.5), OptionError, f"{name} needs a whole number for hidden_size, got 2.5"),
        (lambda: cls(0, H), OptionError, f"{name} needs input_size >= 1, got input_size=0"),
        (lambda: cls(N, H, 2, dropout=1.5), OptionError, f"{name} needs a dropout from 0 to 1, got dropout=1.5"),
        (lambda: cls(N, H, dropout=0.5), OptionError, "dropout=0.5 has no place in num_layers=1"),
        (lambda: cls(N, H, bidirectinal=True), UnknownOptionError, "Did you mean 'bidirectional'"),
        (lambda: cls(N, H, 1, {"input_size": 3}), OptionError, r"gives \['input_size'\] to its cells itself"),
        (lambda: cls(N, H, batch_first="no"), OptionError, f"{name} needs batch_first to be .* got batch_first='no'"),
        (lambda: cls(N, H, bidirectional=2), OptionError, f"{name} needs bidirectional to be .* got bidirectional=2"),
        (lambda: cls(N, H, residual=None), OptionError, f"{name} needs residual to be .* got residual=None"),
        (lambda: cls(N, H, learn_init=1), OptionError, f"{name} needs learn_init to be .* got learn_init=1"),
        (lambda: cls(N, H, 1, "tanh"), OptionError, f"{name} needs a dict .* for cell_args, got 'tanh'"),
        (lambda: cls(N, H, 1, {1: 2}), OptionError, f"{name} needs a dict .* for cell_args, got {{1: 2}}"),
        (lambda: cls(N, H, 1, {"input_args": 3}), OptionError, f"{name}Cell needs a dict .* for input_args"),
        (lambda: cls(N, H, 1, {"biass": True}), UnknownOptionError, f"{name}Cell has no option 'biass'. .*'bias'"),
        (lambda: cls(N, H, 1, {"hidden_map": "orthogonl"}), UnknownMapError, "'orthogonl'. Did you mean 'orthogonal'"),
        (lambda: cls(N, H, 1, {"input_map": "orthogonal"}), OptionError, "got insize=3 and outsize=5"),
        (
            lambda: cls(N, H, 1, {"hidden_args": {"bias": True}}),
            OptionError,
            "got bias=True among the options of hidden",
        ),
        (
            lambda: cls(N, H, 1, {"hidden_map": lambda insize, outsize, bias: slim.Linear(insize, 2)}),
            OptionError,
            r"of size \(5, 5\), got Linear of size \(5, 2\)",
        ),
    ]
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
