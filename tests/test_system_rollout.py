"""Roll-outs of a System in every variant against loops written by hand."""

from __future__ import annotations

import copy
import pickle
import re
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from benchmarks.measure import held_memory
from slimgraph import MovingHorizon, Node, PenaltyLoss, Problem, System, SystemPreview, slim, variable
from slimgraph.errors import CycleError, DtypeError, MissingKeyError, OptionError, ShapeError, UnknownOptionError

f64 = torch.float64
exact = {"rtol": 1e-12, "atol": 1e-12}


class Mix(nn.Module):
    """tanh of a linear function of its inputs side by side."""

    def __init__(self, insize, outsize):
        super().__init__()
        self.linear = nn.Linear(insize, outsize, dtype=f64)

    def forward(self, *entries):
        return torch.tanh(self.linear(torch.cat([entry.flatten(1) for entry in entries], -1)))


class HalfSum(nn.Module):
    """Half the sum over the window of x plus that of u; fails at one of its calls."""

    def __init__(self, fails_at):
        super().__init__()
        self.calls, self.fails_at = 0, fails_at

    def forward(self, x, u):
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("stop here")
        return 0.5 * x.sum(1) + u.sum(1)


class Setting:
    """A random set of nodes with feedback, its data, and the loop over it written by hand.

    Node k writes key k. It reads states as they stood at the start of the step, others of this step only if these were
    declared before it, and sees the last `delays[k]` entries of its inputs, or one entry ahead of the series.
    """

    def __init__(self, seed, nsteps, batch):
        draw = torch.Generator().manual_seed(seed)

        def pick(n):
            return int(torch.randint(n, (), generator=draw))

        torch.manual_seed(seed)
        self.nsteps, self.size = nsteps, 2
        count = 1 + pick(4)
        self.states = [f"k{k}" for k in range(count) if pick(2)]
        self.delays = [(1, 1, 2, 3)[pick(4)] for _ in range(count)]
        self.ahead = [self.delays[k] == 1 and pick(2) == 1 for k in range(count)]
        self.reads, self.mixes = [], []
        for k in range(count):
            known = [*self.states, *(f"k{j}" for j in range(k) if f"k{j}" not in self.states)]
            reads = [key for key in known if pick(2)] + ["c"] * pick(2) + ["u"]
            self.reads.append(reads)
            extra = 1 if self.ahead[k] else 0
            self.mixes.append(Mix(self.size * (self.delays[k] * len(reads) + extra), self.size))
        leaf = {"dtype": f64, "requires_grad": True}
        self.data = {"u": torch.randn(batch, nsteps, self.size, **leaf), "c": torch.randn(batch, self.size, **leaf)}
        self.data |= {key: torch.randn(batch, 1, self.size, **leaf) for key in self.states}

    def system(self, **options):
        nodes = [
            Node(mix, reads, [f"k{k}"], name=f"n{k}")
            for k, (mix, reads) in enumerate(zip(self.mixes, self.reads, strict=True))
        ]
        nodes = [
            node if delay == 1 else MovingHorizon(node, delay) for node, delay in zip(nodes, self.delays, strict=True)
        ]
        seers = [node.name for node, ahead in zip(nodes, self.ahead, strict=True) if ahead]
        return SystemPreview(nodes[::-1], {"u": seers}, nsteps=self.nsteps, **options)

    def by_hand(self, truncate_every=None):
        u, series = self.data["u"], {f"k{k}": [] for k in range(len(self.mixes))}
        state = {key: self.data[key][:, 0] for key in self.states}
        for key in self.states:
            series[key].append(state[key])
        pasts = [{key: [] for key in reads} for reads in self.reads]
        for i in range(self.nsteps):
            if truncate_every and i % truncate_every == 0 and i:
                state = {key: x.detach() for key, x in state.items()}
                pasts = [{key: [x.detach() for x in past] for key, past in p.items()} for p in pasts]
            now = {"u": u[:, i], "c": self.data["c"], **state}
            fresh = {}
            for k, (mix, reads) in enumerate(zip(self.mixes, self.reads, strict=True)):
                inputs = []
                for key in reads:
                    past = pasts[k][key] = [*pasts[k][key], now[key]][-self.delays[k] :]
                    window = [past[0]] * (self.delays[k] - len(past)) + past
                    inputs.append(torch.stack(window, 1))
                if self.ahead[k]:
                    inputs[-1] = torch.cat([u[:, i], u[:, min(i + 1, self.nsteps - 1)]], -1)
                fresh[f"k{k}"] = mix(*inputs)
                series[f"k{k}"].append(fresh[f"k{k}"])
                if f"k{k}" not in self.states:
                    now[f"k{k}"] = fresh[f"k{k}"]
            state = {key: fresh[key] for key in self.states}
        return {key: torch.stack(column, 1) for key, column in series.items()}

    def leaves(self):
        return [*self.data.values(), *(p for mix in self.mixes for p in mix.parameters())]


def slopes(outputs, leaves):
    total = sum((i + 1.5) * (x**2 + x).sum() for i, x in enumerate(outputs.values()))
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def assert_same(ours, theirs, leaves):
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, **exact)
    for a, b in zip(slopes(ours, leaves), slopes(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b, **exact)


every = st.one_of(st.none(), st.integers(1, 12))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 3), every, every)
def test_random_nodes_with_feedback_equal_the_loop_by_hand(seed, nsteps, batch, recompute, cut):
    setting = Setting(seed, nsteps, batch)
    system = setting.system(checkpoint_every=recompute, truncate_every=cut)
    theirs = setting.by_hand(cut)
    ours = system(setting.data)
    assert_same({key: ours[key] for key in theirs}, theirs, setting.leaves())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=3), every, st.booleans())
def test_masked_samples_equal_each_sample_alone_at_its_length(seed, lengths, recompute, rank3):
    setting = Setting(seed, 6, len(lengths))
    system, alone = setting.system(checkpoint_every=recompute, mask_key="m"), setting.system()
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    data = {**setting.data, "m": mask[..., None].to(f64) if rank3 else mask}
    # What stands in the padding is never looked at.
    data["u"] = torch.where(mask[..., None], data["u"], torch.full((), float("nan"), dtype=f64))
    out = system(data)
    ours = {f"{key}{i}": out[key][i] for i in range(len(lengths)) for key in system.keep}
    theirs = {}
    for i, length in enumerate(lengths):
        alone.nsteps = length
        sample = {key: value[i : i + 1] for key, value in setting.data.items()}
        sample["u"] = sample["u"][:, :length]
        for key, series in alone(sample).items():
            if key in system.keep:
                last = series[:, -1:] if key in setting.states else torch.zeros_like(series[:, -1:])
                theirs[f"{key}{i}"] = torch.cat([series, last.expand(-1, 6 - length, -1)], 1)[0]
    assert_same(ours, {key: theirs[key] for key in ours}, setting.leaves())


@pytest.mark.parametrize("lengths", [[4, 0, 2], [0, 1, 0]])
def test_a_sample_without_steps_keeps_its_start_and_leaves_every_gradient_finite(lengths):
    mix, mask = Mix(3, 1), torch.arange(4) < torch.tensor(lengths)[:, None]
    system = System([Node(lambda x, u: mix(x, u.log()), ["x", "u"], ["x"])], nstep_key="u", mask_key="m")
    x, u = torch.randn(3, 1, 1, dtype=f64), torch.rand(3, 4, 2, dtype=f64)
    whole = u.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    out = system({"x": x, "u": whole, "m": mask})["x"]
    assert all((out[i] == x[i]).all() for i, length in enumerate(lengths) if not length)
    for slope in torch.autograd.grad(out.sum(), [whole, *mix.parameters()]):
        assert slope.isfinite().all()


def drawing_system(**options):
    """A loop whose nodes draw random numbers: gates once a roll-out, dropout at every step."""
    torch.manual_seed(0)
    policy = nn.Sequential(
        slim.maps["l0"](3, 8), nn.Dropout(0.4), nn.Tanh(), slim.maps["orthogonal"](8, 8), nn.Linear(8, 3)
    )
    plant = slim.maps["softSVD"](3, 3)
    nodes = [
        Node(policy, ["x"], ["u"], name="policy"),
        Node(lambda x, u: plant(x) + u, ["x", "u"], ["x"], name="plant"),
    ]
    nodes[1].plant = plant
    return System(nodes, nsteps=23, **options).double()


@pytest.mark.parametrize("options", [{"checkpoint_every": k} for k in (1, 5, 23, 100)])
def test_recomputing_draws_the_same_gates_and_dropout_and_gives_the_same_gradients(options):
    results = []
    for system in (drawing_system(), drawing_system(**options)):
        torch.manual_seed(7)
        out = system({"x": torch.ones(4, 1, 3, dtype=f64)})
        (out["x"].square().sum() + out["u"].sum()).backward()
        results.append([out["x"], out["u"], *(p.grad for p in system.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_recomputing_builds_each_map_once():
    built = []

    class Counted(slim.Linear):
        def effective_W(self):
            built.append(1)
            return super().effective_W()

    system = System([Node(Counted(2, 2), ["x"], ["x"])], nsteps=20, checkpoint_every=4)
    system({"x": torch.ones(1, 1, 2)})["x"].sum().backward()
    assert len(built) == 1


def test_a_map_that_a_later_step_calls_first_is_recomputed_too():
    late = slim.maps["orthogonal"](2, 2).double()
    calls = []

    def step(x, t):
        calls.append(1)
        return late(x) if t[0, 0] > 2 else 2 * x

    data = {"x": torch.ones(1, 1, 2, dtype=f64, requires_grad=True), "t": torch.arange(9, dtype=f64).reshape(1, 9, 1)}
    node = Node(step, ["x", "t"], ["x"])
    node.late = late
    outs = [System([node], nsteps=9, checkpoint_every=k)(data) for k in (None, 2)]
    leaves = [data["x"], *late.parameters()]
    assert_same({"x": outs[1]["x"]}, {"x": outs[0]["x"]}, leaves)


def test_second_derivatives_go_through_recomputed_pieces():
    results = []
    for k in (None, 3):
        x = torch.full((1, 1, 1), 0.5, dtype=f64, requires_grad=True)
        out = System([Node(torch.sin, ["x"], ["x"])], nsteps=7, checkpoint_every=k)({"x": x})["x"]
        (first,) = torch.autograd.grad(out[:, -1].sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.sum(), x)[0])
    torch.testing.assert_close(*results, **exact)


class Lag(nn.Module):
    """Scales by a buffer, which each call replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("past", torch.zeros(()))

    def forward(self, x):
        past, self.past = self.past, x.detach().mean()
        return x * (1 + past)


@pytest.mark.parametrize("module", [lambda: nn.BatchNorm1d(2), Lag, lambda: spectral_norm(nn.Linear(2, 2))])
def test_buffers_that_steps_change_do_so_once_though_steps_are_recomputed(module):
    results = []
    for k in (None, 2):
        torch.manual_seed(0)
        system = System([Node(nn.Sequential(module(), nn.Tanh()), ["x"], ["x"])], nsteps=6, checkpoint_every=k).double()
        x = torch.randn(8, 1, 2, dtype=f64, requires_grad=True)
        loss = system({"x": x})["x"].pow(3).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        results.append([x.grad, *(p.grad for p in system.parameters()), *system.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **exact)


# ---- memory ---------------------------------------------------------------------------------------------------------


def policy_and_plant(nsteps, **options):
    torch.manual_seed(0)
    policy, plant = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(3, 2)
    nodes = [
        Node(policy, ["x"], ["u"], name="policy"),
        Node(lambda x, u: plant(torch.cat([x, u], -1)), ["x", "u"], ["x"], name="plant"),
    ]
    nodes[1].plant = plant
    return System(nodes, nsteps=nsteps, **options)


def saved_bytes(system, batch=8):
    """The bytes of all storages that the backward pass needs."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        system({"x": torch.ones(batch, 1, 2)})
    return sum(storage.nbytes() for storage in storages.values())


def test_what_the_backward_pass_needs_is_linear_in_time():
    assert 1.9 < saved_bytes(policy_and_plant(400)) / saved_bytes(policy_and_plant(200)) <= 2.1


def test_recomputing_cuts_what_is_held_for_the_backward_pass_tenfold():
    data = {"x": torch.ones(64, 1, 2)}

    def held(system):
        return held_memory(lambda: system(data)["x"].sum())

    assert held(policy_and_plant(600, checkpoint_every=40, keep=["x"])) * 10 < held(policy_and_plant(600, keep=["x"]))


def test_an_output_that_is_not_kept_is_dropped_as_soon_as_no_step_needs_it():
    made, alive = [], []

    def watched(x):
        alive.append(sum(reference() is not None for reference in made))
        big = torch.ones(1, 1)
        made.append(weakref.ref(big))
        return big, x + 1

    system = System([Node(watched, ["x"], ["big", "x"])], nsteps=20, keep=["x"])
    with torch.no_grad():
        out = system({"x": torch.zeros(1, 1, 1)})
    assert max(alive) <= 3 and "big" not in out and out["x"].shape == (1, 21, 1)
    assert system.trace({"x": torch.zeros(1, 1, 1)})["big"].shape == (1, 20, 1) and max(alive) == 20 - 1


def test_a_trace_has_every_output_and_the_same_numbers():
    system = policy_and_plant(4, keep=["x"], checkpoint_every=2)
    data = {"x": torch.ones(2, 1, 2)}
    out, traced = system(data), system.trace(data)
    assert list(out) == ["x"] and sorted(traced) == ["u", "x"]
    assert torch.equal(out["x"], traced["x"]) and traced["u"].shape == (2, 4, 1)


def test_a_state_that_is_not_kept_still_moves():
    node = Node(lambda x: (x + 1, 10 * x), ["x"], ["x", "y"])
    for k in (None, 2):
        out = System([node], nsteps=4, keep=["y"], checkpoint_every=k)({"x": torch.ones(1, 1, 1, requires_grad=True)})
        assert out["y"].flatten().tolist() == [10, 20, 30, 40] and out["x"].shape == (1, 1, 1)


# ---- windows --------------------------------------------------------------------------------------------------------


def windowed(fails_at=0, **options):
    node = Node(HalfSum(fails_at), ["x", "u"], ["x"], name="total")
    return System([MovingHorizon(node, 3)], nstep_key="u", **options)


def test_windows_forget_between_batches_after_errors_and_in_copies():
    fresh, used = windowed(), windowed(fails_at=4)
    data = {"x": torch.rand(2, 1, 1, requires_grad=True), "u": torch.rand(2, 6, 1)}
    wider = {"x": torch.rand(5, 1, 1), "u": torch.rand(5, 6, 1)}
    with pytest.raises(RuntimeError, match="stop here"):
        used(data)
    for batch in (data, wider, data):
        assert torch.equal(used(batch)["x"], fresh(batch)["x"])
        used = pickle.loads(pickle.dumps(copy.deepcopy(used)))


def test_windows_are_as_before_after_a_recomputing_backward_pass():
    system = windowed(checkpoint_every=2)
    out = system({"x": torch.rand(2, 1, 1, requires_grad=True), "u": torch.rand(2, 6, 1)})
    window = system.nodes[0].window
    window.history["u"] = marked = [torch.ones(1, 1)]
    out["x"].sum().backward()
    assert window.history["u"] is marked


# ---- compiled -------------------------------------------------------------------------------------------------------


def test_compiled_steps_have_the_same_numbers_and_gradients_and_compile_once_for_a_shape():
    policy = Node(nn.Sequential(slim.maps["l0"](4, 2), nn.Tanh()), ["x"], ["u"], name="policy")
    plant = MovingHorizon(Node(Mix(8, 4), ["x", "u", "r"], ["x"], name="plant"), 1)
    system = System([policy, plant], nstep_key="r", mask_key="m", keep=["x"]).double()
    x = torch.randn(3, 1, 4, dtype=f64, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[6], [3], [5]])
    batch = {"x": x, "r": torch.randn(3, 6, 2, dtype=f64), "m": mask}

    def results(system):
        torch.manual_seed(3)
        out = system(batch)["x"]
        return [out, *torch.autograd.grad(out.square().sum(), [x, *system.parameters()])]

    eager = results(system)
    system.compile(2, backend="eager")
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    for _ in range(2):
        for a, b in zip(results(system), eager, strict=True):
            torch.testing.assert_close(a, b, **exact)
    assert graphs["unique_graphs"] == 1
    system.compile(None)
    assert all(torch.equal(a, b) for a, b in zip(results(system), eager, strict=True))


def test_copies_and_pickles_of_a_compiled_system_compile_for_themselves():
    system = System([Node(torch.sin, ["x"], ["x"])], nsteps=5)
    start = {"x": torch.ones(1, 1, 1)}
    eager = system(start)["x"]
    system.compile(2, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(system(start)["x"], eager)
        assert system.compiled.made
        system = pickle.loads(pickle.dumps(copy.deepcopy(system)))
        assert system.compiled.steps == 2 and not system.compiled.made


def test_the_code_of_the_page_about_roll_outs_runs():
    page = (Path(__file__).parent.parent / "docs" / "roll-outs.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    assert names["x_end"].shape == (8, 2)


def test_compiled_steps_call_what_a_node_calls_now():
    system = System([Node(torch.sin, ["x"], ["x"])], nsteps=5)
    start = {"x": torch.ones(1, 1, 1)}
    system.compile(2, backend="eager")
    system(start)
    system.nodes[0].callable = torch.cos
    ours = system(start)["x"]
    system.compile(None)
    torch.testing.assert_close(ours, system(start)["x"])


# ---- one step -------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_a_loop_of_steps_equals_the_roll_out(seed, nsteps):
    setting = Setting(seed, nsteps, 2)
    system = setting.system(keep=["k0"], checkpoint_every=2)
    whole = system.trace(setting.data)
    for _ in range(2):
        system.reset()
        now = {key: setting.data[key][:, 0] for key in setting.states}
        for i in range(nsteps):
            u = setting.data["u"][:, [i, min(i + 1, nsteps - 1)]]
            out = system.step({**now, "c": setting.data["c"], "u": u})
            system(setting.data)
            for key, value in out.items():
                later = i + (key in setting.states)
                torch.testing.assert_close(value, whole[key][:, later], **exact)
            now = {key: out[key] for key in setting.states}


# ---- systems in systems and beside each other -----------------------------------------------------------------------


def test_a_system_within_a_system_is_a_fast_loop_in_a_slow_one():
    fast = System([Node(lambda x, u, w: 0.9 * x + u + w, ["x", "u", "w"], ["x"], name="euler")], name="fast", nsteps=3)
    policy = Node(lambda x, r: r - x, ["x", "r"], ["u"], name="policy")
    leaf = {"dtype": f64, "requires_grad": True}
    data = {"x": torch.randn(2, 1, 1, **leaf), "r": torch.randn(2, 4, 1, **leaf), "w": torch.randn(2, 4, 3, 1, **leaf)}

    def by_hand():
        x, xs, us = data["x"][:, 0], [data["x"][:, 0]], []
        for i in range(4):
            us.append(data["r"][:, i] - x)
            for j in range(3):
                x = 0.9 * x + us[-1] + data["w"][:, i, j]
            xs.append(x)
        return {"u": torch.stack(us, 1), "x": torch.stack(xs, 1)}

    for options in ({}, {"checkpoint_every": 2}):
        system = System([policy, fast], nstep_key="r", **options)
        out, theirs = system(data), by_hand()
        assert_same({key: out[key] for key in theirs}, theirs, list(data.values()))
    step = system.step({"x": data["x"][:, 0], "r": data["r"][:, 0], "w": data["w"][:, 0]})
    torch.testing.assert_close(step["x"], theirs["x"][:, 1], **exact)
    assert "fast" in "".join(str(label) for _, label in system.to_networkx().nodes(data="label"))
    with pytest.raises(ShapeError) as caught:
        System([policy, fast], nsteps=4)({**data, "w": data["w"][:, :, :2]})
    assert (
        "runs 3 steps, but 'w'" in str(caught.value) and "in system 'fast', at step 0 of 4" in caught.value.__notes__[0]
    )


@pytest.mark.parametrize(("every", "compiled"), [(None, False), (1, False), (None, True)])
def test_starts_and_counts_reach_a_system_below_a_system(every, compiled):
    force, move = Node(lambda x: -x, ["x"], ["f"], name="force"), Node(lambda f: 2 * f, ["f"], ["x"], name="move")
    counted = System([force, move], name="counted", nstep_key="w")
    below = System([System([force, move], nsteps=2)], name="below", nsteps=1)
    x = torch.ones(1, 1, 1, requires_grad=True)
    for inner, data in ((counted, {"x": x, "w": torch.zeros(1, 3, 2, 1)}), (below, {"x": x})):
        system = System([inner], nsteps=3, checkpoint_every=every)
        if compiled:
            system.compile(1, backend="eager")
        out = system(data)["x"]
        assert out.flatten().tolist() == [1, 4, 16, 64]
        assert torch.autograd.grad(out[:, -1].sum(), x)[0] == 64
    step = system.step({"x": x[:, 0]})
    assert step["x"] == 4
    with pytest.raises(CycleError, match="of a System wait for each other"):
        system({})


def test_one_system_of_a_problem_reads_what_another_has_kept():
    plan = System([Node(lambda r: 2 * r, ["r"], ["u"], name="double")], name="plan", nstep_key="r")
    move = System([Node(torch.add, ["x", "u"], ["x"], name="add")], name="move", nstep_key="u")
    for nodes in ([plan, move], [move, plan]):
        problem = Problem(nodes, PenaltyLoss([variable("x")[:, -1].minimize(name="end")]))
        assert problem({"r": torch.ones(2, 3, 1), "x": torch.zeros(2, 1, 1)})["end"] == 6
    hidden = System([Node(lambda r: (2 * r, r), ["r"], ["u", "v"])], name="plan", nstep_key="r", keep=["v"])
    assert hidden.output_keys == ["v"]
    with pytest.raises(MissingKeyError, match="'move' reads 'u'"):
        Problem([hidden, move], PenaltyLoss())({"r": torch.ones(2, 3, 1), "x": torch.zeros(2, 1, 1)})


# ---- wrong input ----------------------------------------------------------------------------------------------------

add = Node(torch.add, ["x", "u"], ["x"], name="add")
x0, u5 = torch.zeros(2, 1, 1), torch.zeros(2, 5, 1)
data = {"x": x0, "u": u5}


def masked(mask, **options):
    return System([add], nsteps=5, mask_key="m", **options)({**data, **({} if mask is None else {"m": mask})})


def assigned():
    system = System([add])
    system.nsteps = True
    return system(data)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: System([add], nsteps=-1), OptionError, "System needs nsteps >= 1, got nsteps=-1"),
        (lambda: System([add], nsteps=True), OptionError, "whole number for nsteps, got True"),
        (assigned, OptionError, "whole number for nsteps, got True"),
        (lambda: System([add], checkpoint_every=0), OptionError, "checkpoint_every >= 1, got checkpoint_every=0"),
        (lambda: System([add], checkpoint_every=1.5), OptionError, "whole number for checkpoint_every, got 1.5"),
        (lambda: System([add], truncate_every=-3), OptionError, "truncate_every >= 1, got truncate_every=-3"),
        (lambda: System([add], truncate_evry=3), UnknownOptionError, "Did you mean 'truncate_every'"),
        (lambda: System([add], checkpoint_every=2).compile(), OptionError, "checkpoint_every=2, so they are not"),
        (lambda: System([add]).compile(0), OptionError, "System needs steps >= 1, got steps=0"),
        (lambda: MovingHorizon(add, True), OptionError, "whole number for ndelay, got True"),
        (lambda: System([add], nstep_key="u")({"x": x0, "u": u5[:, :0]}), ShapeError,
         r"\(2, 0, 1\) has no entry in time"),
        (lambda: System([add], nstep_key="u")({"x": x0, "u": [1.0]}), DtypeError, "reads 'u' as a tensor; got list"),
        (lambda: System([add], nsteps=2)({"x": 0.0, "u": u5}), DtypeError, "'x' as a tensor; got float"),
        (lambda: System([add], nsteps=2)({"x": x0, "u": u5[None]}), ShapeError, r"reads 'u' as .*; got \(1, 2, 5, 1\)"),
        (lambda: System([add], nsteps=2)({"x": x0, "u": torch.zeros(3, 5, 1)}), ShapeError,
         r"a System needs one batch size: 'x' is \(2, 1\) float32, 'u' is \(3, 5, 1\) float32"),
        (lambda: masked(None), MissingKeyError, r"a System has no mask 'm' in the data \['u', 'x'\]"),
        (lambda: masked(torch.ones(2, 5, 2)), ShapeError, r"mask 'm' as \(batch, time\) or .*; got \(2, 5, 2\)"),
        (lambda: masked(torch.ones(5)), ShapeError, r"mask 'm' as \(batch, time\) or .*; got \(5,\)"),
        (lambda: masked(torch.ones(2, 4)), ShapeError, r"runs 5 steps, but its mask 'm' of shape \(2, 4\) has 4"),
        (lambda: masked(torch.ones(3, 5)), ShapeError,
         r"one batch size: 'x' is \(2, 1\) float32, 'm' is \(3, 5\) bool"),
        (lambda: masked([1, 1]), DtypeError, "reads 'm' as a tensor; got list"),
        (lambda: masked(torch.tensor([[1, 0, 1, 1, 1]] * 2)), ShapeError, "here a 1 follows a 0"),
        (lambda: SystemPreview([add], {"u": ["add"]}, mask_key="m", pad_mode="circular"), OptionError,
         "pad_mode='replicate'; got 'circular'"),
        (lambda: System([add]).step(data), ShapeError,
         r"a step of a System reads 'x' as \(batch, features\); got \(2, 1, 1\). Write data\['x'\]\[:, i\]"),
        (lambda: System([add]).step({"u": u5[:, 0]}), MissingKeyError,
         r"It is a state: give its start, \(batch, features\)"),
        (lambda: System([add]).step(x0), OptionError, r"takes a dict of tensors; got \(2, 1, 1\)"),
        (lambda: SystemPreview([add], {"u": ["add"]}).step({"x": x0[:, 0], "u": u5[:, :3]}), ShapeError,
         r"reads 'u', now and ahead, as \(batch, 2, features\); got \(2, 3, 1\)"),
        (lambda: SystemPreview([add], {"u": ["add"]}).step({"x": x0[:, 0], "u": u5[:, 0]}), ShapeError,
         r"reads 'u' as \(batch, 2, features\); got \(2, 1\)"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_constant_of_batch_size_1_serves_every_sample_and_long_truncation_is_none():
    out = System([add], nsteps=2, truncate_every=99)({"x": x0, "u": torch.ones(1, 1)})
    assert out["x"].squeeze().tolist() == [[0, 1, 2]] * 2
