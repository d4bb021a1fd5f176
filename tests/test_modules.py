"""Laws of Module: attributes by family, setting all or nothing, resets, the triple and its chain, errors."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import slimgraph
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownOptionError, UnsupportedError, WiringError
from slimgraph.modules import Linear, Module, Parameter, ParameterBase, SimulationParameter, State


class Leaky(Module):
    """A small module with every kind of attribute."""

    def __init__(self, n: int = 2) -> None:
        super().__init__((n, n))
        self.weight = Parameter(shape=(n, n), init_func=torch.rand, family="weights")
        self.tau = Parameter(torch.full((n,), 0.5), family="taus")
        self.v = State(shape=(n,), init_func=torch.zeros, family="voltages")
        self.steps = State(0, family="counters")
        self.dt = SimulationParameter(1e-3, family="times")
        self.mask = SimulationParameter(np.ones(n, dtype=np.float32))

    def evolve(self, input_data, record=False):
        v = self.v + input_data.sum(-2) * self.tau
        return input_data @ self.weight, {"v": v, "steps": self.steps + 1}, {"v": v} if record else {}


class Pair(Module):
    def __init__(self) -> None:
        super().__init__((2, 2))
        self.a = Leaky()
        self.plain = nn.Linear(2, 2)
        self.b = Leaky()

    def evolve(self, input_data, record=False):
        return self.b(self.a(input_data, record=record), record=record)


def x() -> torch.Tensor:
    return torch.ones(4, 2)


def named(nested: dict) -> dict | list:
    """The names in a nested dict."""
    return {key: named(value) if isinstance(value, dict) else None for key, value in nested.items()}


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def refused(error: type[Exception], *words: str):
    """An error whose message holds each of the words, in their order."""
    return pytest.raises(error, match=".*".join(re.escape(word) for word in words))


# ---- where values live


def test_attributes_become_parameters_buffers_and_plain_values():
    module = Leaky()
    assert list(module._parameters) == ["weight", "tau"]
    assert list(module._buffers) == ["v", "steps", "mask"]
    assert list(module.state_dict()) == ["weight", "tau", "v", "steps"]
    assert module.dt == 1e-3
    assert module.steps.dtype == torch.int64
    registry, submodules = module._get_attribute_registry()
    assert list(registry) == ["weight", "tau", "v", "steps", "dt", "mask"]
    assert submodules == {}
    assert not any(name in vars(module) for name in ("weight", "tau", "v", "steps", "mask"))


def test_families_come_in_the_order_asked():
    module = Pair()
    own = {"weight": None, "tau": None}
    assert named(module.parameters()) == {"a": own, "plain": {"weight": None, "bias": None}, "b": own}
    assert named(module.parameters("taus")) == {"a": {"tau": None}, "b": {"tau": None}}
    assert list(module.parameters(["taus", "weights"])["a"].keys()) == ["tau", "weight"]
    assert list(module.parameters(("weights", "taus"))["a"].keys()) == ["weight", "tau"]
    assert named(module.state("voltages")) == {"a": {"v": None}, "b": {"v": None}}
    assert module.simulation_parameters("times") == {"a": {"dt": 1e-3}, "b": {"dt": 1e-3}}
    assert [p.shape for p in module.parameters("taus")] == [(2,), (2,)]


@pytest.mark.parametrize("family", ["weight", "w", "eights", "", 3, [], ["nobody"]])
def test_an_unknown_family_is_empty(family):
    # A family is compared as a whole: 'weight' is no part of 'weights'.
    module = Pair()
    assert dict(module.parameters(family)) == {}
    assert list(module.parameters(family)) == []
    assert module.state(family) == {}


def test_a_family_is_anything_that_can_be_compared():
    module = Module((1, 1))
    module.w = Parameter(1.0, family=3)
    assert list(module.parameters(3).keys()) == ["w"]


def test_the_view_is_a_dict_but_for_its_iteration():
    parameters = Pair().parameters()
    assert isinstance(parameters, dict)
    assert len(parameters) == 3
    assert "a" in parameters
    assert "weight" not in parameters
    assert list({**parameters}) == ["a", "plain", "b"]
    assert all(isinstance(p, nn.Parameter) for p in parameters)
    assert len(list(parameters)) == 6
    assert all(isinstance(p, nn.Parameter) for p in parameters["a"])
    assert len(list(copy.deepcopy(parameters))) == len(list(pickle.loads(pickle.dumps(parameters)))) == 6


def test_a_family_and_recurse_exclude_each_other():
    with refused(OptionError, "Pair.parameters", "'weights'", "False"):
        Pair().parameters("weights", recurse=False)


def test_attributes_named():
    module = Pair()
    assert named(module.attributes_named("tau")) == {"a": {"tau": None}, "b": {"tau": None}}
    assert list(module.attributes_named(["v", "tau"])["a"]) == ["v", "tau"]
    assert module.attributes_named("in_features") == {}
    assert module.attributes_named("dt")["a"]["dt"] == 1e-3


def test_a_kind_of_ones_own_is_found_by_its_name():
    class Delay(SimulationParameter):
        pass

    class Note(ParameterBase):
        pass

    module = Module((1, 1))
    module.delay = Delay(torch.zeros(3), family="delays")
    module.note = Note("hello")
    assert list(module._get_attribute_family("Delay")) == ["delay"]
    assert list(module._get_attribute_family("Delay", "delays")) == ["delay"]
    assert list(module._get_attribute_family(Note)) == ["note"]
    assert list(module.simulation_parameters()) == ["delay"]
    assert list(module._get_attribute_family("ParameterBase")) == ["delay", "note"]


# ---- what it says of itself


def test_names_shapes_and_text():
    module = Pair()
    assert (module.shape, module.size_in, module.size_out) == ((2, 2), 2, 2)
    assert (module.class_name, module.name, module.full_name) == ("Pair", "", "Pair ")
    assert (module.a.name, module.a.full_name, module.a._name) == ("'a'", "Leaky 'a'", "a")
    assert (module.spiking_input, module.spiking_output) == (False, False)
    assert Module((1,), True, True).spiking_input is True
    assert module._submodulenames == ["a", "plain", "b"]
    assert repr(module) == "\n".join(
        [
            "Pair  with shape (2, 2) {",
            "    Leaky 'a' with shape (2, 2)",
            "    Linear 'plain' (in_features=2, out_features=2, bias=True)",
            "    Leaky 'b' with shape (2, 2)",
            "}",
        ]
    )
    with pytest.deprecated_call(match="size_out"):
        assert module.size == 2


@pytest.mark.parametrize("word", ["shape", "size_in", "size_out", "name", "full_name", "spiking_input", "class_name"])
def test_what_it_is_cannot_be_assigned(word):
    with pytest.raises(AttributeError):
        setattr(Pair(), word, 3)


def test_modules_is_a_dict_that_iterates_as_torch_does():
    module = Pair()
    assert list(module.modules().keys()) == ["a", "plain", "b"]
    assert list(module.modules()) == [module, module.a, module.plain, module.b]
    assert module.modules()["a"] is module.a


# ---- setting


def test_what_it_gives_sets_it_back():
    module = Pair()
    before, kept = values(module), list(module.parameters())
    assert module.set_attributes(module.parameters()) is module
    module.set_attributes(module.state()).set_attributes(module.simulation_parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(p is q for p, q in zip(kept, module.parameters(), strict=True))


def test_values_are_written_in_place_and_copied():
    module, given = Pair(), torch.full((2, 2), 7.0)
    weight = module.a.weight
    new = {"a": {"weight": given, "v": [1, 2], "dt": 0.5}, "plain": {"bias": np.ones(2)}}
    module.set_attributes(new)
    given.zero_()
    assert module.a.weight is weight
    assert weight.eq(7).all()
    assert weight.requires_grad
    assert module.a.v.tolist() == [1, 2]
    assert module.a.dt == 0.5
    assert module.plain.bias.eq(1).all()
    assert list(module.parameters("weights")["a"].keys()) == ["weight"]


def test_two_attributes_swap():
    module = Pair()
    before = values(module)
    module.set_attributes({"a": {"weight": module.b.weight}, "b": {"weight": module.a.weight}})
    assert torch.equal(module.a.weight, before["b.weight"])
    assert torch.equal(module.b.weight, before["a.weight"])


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"b": {"wieght": torch.zeros(2, 2)}}, UnknownOptionError, ["Pair.b", "'wieght'", "'weight'"]),
        ({"c": {"weight": 1.0}}, UnknownOptionError, ["Pair", "'c'", "a, plain, b"]),
        ({"b": {"weight": torch.zeros(3, 2)}}, ShapeError, ["Pair.b.weight", "(2, 2)", "(3, 2)"]),
        ({"b": {"weight": torch.zeros(4)}}, ShapeError, ["Pair.b.weight", "(2, 2)", "(4,)"]),
        ({"b": {"steps": 0.5}}, DtypeError, ["Pair.b.steps", "torch.int64", "torch.float32"]),
        ({"b": {"tau": torch.zeros(2, dtype=torch.complex64)}}, DtypeError, ["Pair.b.tau", "float32", "complex64"]),
        ({"b": {"tau": "fast"}}, DtypeError, ["Pair.b.tau", "'fast'"]),
        ({"b": torch.zeros(2)}, OptionError, ["Pair.b", "dict", "Tensor"]),
        ({"plain": {"in_features": 3}}, UnknownOptionError, ["Pair.plain", "'in_features'"]),
    ],
    ids=["name", "module", "shape", "no reshape", "integer", "complex", "text", "no dict", "not declared"],
)
def test_nothing_is_written_when_anything_does_not_fit(wrong, error, words):
    module = Pair()
    before = values(module)
    with refused(error, *words):
        module.set_attributes({"a": {"weight": torch.zeros(2, 2), "dt": 9.0, "steps": 5}, **wrong})
    assert module.a.dt == 1e-3
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_no_dict_at_all():
    with refused(OptionError, "Pair", "dict", "3"):
        Pair().set_attributes(3)


def test_assigning_a_tensor_writes_in_place():
    module = Leaky()
    weight, v = module.weight, module.v
    module.weight = torch.zeros(2, 2, dtype=torch.float64)
    module.v = np.array([1.0, 2.0])
    module.dt = 0.25
    assert module.weight is weight
    assert module.v is v
    assert weight.eq(0).all()
    assert weight.dtype == torch.float32
    assert v.tolist() == [1, 2]
    assert module.simulation_parameters("times") == {"dt": 0.25}


def test_assigning_a_torch_parameter_ties_as_in_torch():
    one, other = Leaky(), Leaky()
    other.weight = one.weight
    assert other.weight is one.weight
    assert list(other.parameters("weights").keys()) == ["weight"]


@pytest.mark.parametrize(
    "value", [torch.zeros(3), nn.Parameter(torch.zeros(3)), [1, 2, 3]], ids=["tensor", "parameter", "list"]
)
def test_assigning_another_shape_is_refused_with_both(value):
    module = Leaky()
    with refused(ShapeError, "Leaky.tau", "(2,)", "(3,)"):
        module.tau = value
    assert module.tau.eq(0.5).all()


@pytest.mark.parametrize(
    "declaration", [Parameter(torch.zeros(2, 2)), State(torch.zeros(2, 2))], ids=["Parameter", "State"]
)
def test_declaring_again_is_refused_after_construction(declaration):
    module = Leaky()
    with refused(OptionError, "Leaky", "'weight'", "already", "del"):
        module.weight = declaration
    assert isinstance(module.weight, nn.Parameter)


@pytest.mark.parametrize("name", ["plain", "a", "shape", "note"])
def test_a_name_that_something_else_has_cannot_be_declared(name):
    module = Pair()
    module.note = "mine"
    with refused(OptionError, "Pair", f"{name!r}", "exists"):
        setattr(module, name, Parameter(torch.ones(2)))
    assert not module._has_registered_attribute(name)
    with refused(OptionError, "Leaky", "'weight'", "exists"):
        module.a._register_module("weight", nn.Linear(2, 2))


def test_a_module_may_take_the_place_of_a_state():
    module = Leaky()
    module.v = nn.Linear(2, 2)
    assert list(module.state()) == ["steps"]
    assert module.parameters()["v"]["weight"] is module.v.weight


def test_what_is_set_to_none_is_left_out_and_stays_away():
    module = Leaky()
    module.v = module.tau = None
    assert list(module.state()) == ["steps"]
    assert list(module.parameters().keys()) == ["weight"]
    assert module.attributes_named(["v", "tau"]) == {}
    module.set_attributes(module.state()).reset_state().reset_parameters()
    assert module.v is None and module.tau is None and "v" not in vars(module)
    with refused(UnknownOptionError, "Leaky has no attribute 'v'", "It has weight, steps, mask, dt"):
        module.set_attributes({"v": [1.0, 1.0]})


def test_a_subclass_declares_anew_in_its_constructor():
    class Slow(Leaky):
        def __init__(self):
            super().__init__()
            self.tau = State(torch.ones(3), family="slow")

    module = Slow()
    assert list(module.parameters().keys()) == ["weight"]
    assert list(module.state("slow")) == ["tau"]
    assert module._in_Module_init is False


def test_deleting_unregisters():
    module = Pair()
    del module.a.tau, module.a.v, module.a.dt, module.plain
    assert named(module.parameters()) == {"a": {"weight": None}, "b": {"weight": None, "tau": None}}
    assert not module.a._has_registered_attribute("tau")
    assert module.a._has_registered_attribute("weight")
    assert named(module.state()["a"]) == {"steps": None}
    module.a.tau = Parameter(torch.ones(5), "new")
    assert module.a.tau.shape == (5,)


def test_force_leaves_out_the_check():
    module = Leaky()
    weight = module.weight
    module._force_set_attributes = True
    module.weight = torch.ones(3, 3)
    assert module.weight is weight
    assert weight.shape == (3, 3)
    module.set_attributes({"weight": torch.zeros(4, 4), "v": [1.0, 2.0]})
    assert module.weight is weight and weight.shape == (4, 4) and module.v.tolist() == [1, 2]


# ---- declarations


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Parameter(), OptionError, ["Parameter needs data", "shape"]),
        (lambda: State(shape=(2,)), OptionError, ["State needs data", "(2,)"]),
        (lambda: State(init_func=torch.zeros), OptionError, ["State needs data", "shape=None"]),
        (lambda: Parameter(shape=(2,), init_func=3), OptionError, ["Parameter", "init_func", "3"]),
        (lambda: Parameter(1.0, shape="two"), OptionError, ["Parameter", "shape", "'two'"]),
        (lambda: Parameter(1.0, famly="x"), UnknownOptionError, ["Parameter", "'famly'", "'family'"]),
        (lambda: Parameter([[1], [2, 3]]), DtypeError, ["Parameter", "[[1], [2, 3]]"]),
        (lambda: Parameter(np.array(["a"])), DtypeError, ["Parameter", "'a'"]),
    ],
    ids=["nothing", "no function", "no shape", "no callable", "shape", "option", "ragged", "text"],
)
def test_a_declaration_that_cannot_be_meant(make, error, words):
    with refused(error, *words):
        make()


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        (Parameter([1.0, 2.0], shape=(3,)), ["Module.p", "(3,)", "(2,)"]),
        (Parameter([1.0, 2.0], shape=[(3,), ()]), ["Module.p", "(3,) or ()", "(2,)"]),
        (Parameter(torch.zeros(6), shape=(2, 3)), ["Module.p", "(2, 3)", "(6,)"]),
        (State(shape=(3,), init_func=lambda s: np.zeros((1, 3))), ["Module.p", "(3,)", "init function", "(1, 3)"]),
    ],
    ids=["data", "choice", "no reshape", "drawn"],
)
def test_a_wrong_shape_is_refused_with_both(declaration, words):
    module = Module()
    with refused(ShapeError, *words):
        module.p = declaration
    assert not module._has_registered_attribute("p")


def test_data_is_copied_and_keeps_its_floats():
    data = torch.ones(2, 3, dtype=torch.float64).T
    module = Module()
    module.p, module.n, module.s = Parameter(data), Parameter([1, 2]), State([1, 2])
    module.d = Parameter(np.ones(2)[::-1], shape=2, cast_fn=lambda a: a * 3)
    data.zero_()
    assert module.p.eq(1).all()
    assert module.p.is_contiguous()
    assert (module.p.dtype, module.n.dtype, module.s.dtype) == (torch.float64, torch.float32, torch.int64)
    assert module.d.tolist() == [3, 3]


# ---- resets


def test_reset_parameters_redraws_in_place_and_below():
    module = Pair()
    weight, tau = module.a.weight, module.a.tau
    module.set_attributes({"a": {"tau": [9.0, 9.0]}, "plain": {"weight": torch.zeros(2, 2)}})
    seen = [weight.clone()]
    for _ in range(2):
        assert module.reset_parameters() is module
        assert module.a.weight is weight
        assert not any(torch.equal(weight, old) for old in seen)
        seen.append(weight.clone())
    assert tau.tolist() == [0.5, 0.5]
    assert module.plain.weight.ne(0).all()


def test_reset_state_restores_states_only():
    module = Pair()
    weight, v = values(module)["a.weight"], module.a.v
    module.set_attributes({"a": {"v": [1.0, 2.0], "steps": 7}, "b": {"v": [3.0, 4.0]}})
    assert module.reset_state() is module
    assert module.a.v is v
    assert v.eq(0).all()
    assert module.b.v.eq(0).all()
    assert module.a.steps == 0
    assert torch.equal(module.a.weight, weight)


def test_reset_goes_on_after_a_move_and_a_copy():
    module = copy.deepcopy(Leaky()).double()
    module.reset_parameters().reset_state()
    assert {p.dtype for p in module.parameters()} == {torch.float64}
    module._reset_attribute("tau")
    assert module.tau.tolist() == [0.5, 0.5]


def test_a_lambda_is_lost_in_a_pickle_and_says_so():
    module = Module()
    module.p = Parameter(shape=(2,), init_func=lambda s: np.zeros(s))
    copy.deepcopy(module).reset_parameters()
    other = pickle.loads(pickle.dumps(module))
    with refused(OptionError, "Module.p", "pickled", "named function"):
        other.reset_parameters()


# ---- evolve and the chain


def test_calling_gives_the_triple_and_keeps_no_state():
    module = Leaky()
    output, state, record = module(x(), record=True)
    torch.testing.assert_close(output, x() @ module.weight)
    assert state["v"].tolist() == [2, 2]
    assert list(record) == ["v"]
    assert module.v.eq(0).all()
    assert torch.equal(module.forward(x()), output)


def test_a_chain_collects_states_that_can_be_set():
    module = Pair()
    output, state, record = module(x(), record=True)
    torch.testing.assert_close(output, x() @ module.a.weight @ module.b.weight)
    assert named(state) == {"a": {"v": None, "steps": None}, "b": {"v": None, "steps": None}}
    assert named(record) == {"a": {"v": None}, "b": {"v": None}}
    module.set_attributes(state)
    assert (int(module.a.steps), int(module.b.steps)) == (1, 1)
    assert module.a.v.tolist() == [2, 2]


def test_two_states_of_one_name_are_refused_in_a_chain():
    first, second = Leaky(), Leaky()
    with refused(WiringError, "'Leaky'", "other names"):
        second(first(x()))
    with refused(WiringError, "'a'"):
        pair = Pair()
        pair.a(pair.b(pair.a(x())))
    # What has no state loses none.
    assert Linear((2, 2))(Linear((2, 2))(x())).name is None


def test_a_plain_triple_goes_on_with_its_states():
    module = Pair()
    _, state, record = module.b((x(), {"a": {"v": 1}}, {}))
    assert list(state) == ["a", "b"]
    assert list(record) == ["b"]


def test_arrays_are_answered_with_arrays():
    module = Pair()
    output, state, record = module(x().numpy(), record=True)
    assert isinstance(output, np.ndarray)
    assert isinstance(state["a"]["v"], np.ndarray)
    assert isinstance(record["b"]["v"], np.ndarray)
    np.testing.assert_allclose(output, module(x())[0].detach())
    module.set_attributes(state)


def test_an_answer_does_not_share_the_memory_of_what_came_in():
    given = np.zeros((4, 2), dtype=np.float32)
    output, _, _ = Module.from_torch(nn.Identity())(given)
    output += 1
    assert not given.any()


def test_forward_alone_is_enough():
    class Double(Module):
        def __init__(self):
            super().__init__((2, 2))
            self.kept = State(torch.ones(1))

        def forward(self, input_data):
            return 2 * input_data

    module = Double()
    for output, state, record in (module(x()), module.evolve(x())):
        assert output.eq(2).all()
        assert list(state) == ["kept"]
        assert record == {}
    assert isinstance(module.evolve(x().numpy())[0], np.ndarray)


def test_a_decorated_evolve_runs_the_forward_of_its_parent():
    class Loud(Linear):
        def evolve(self, input_data, record=False):
            output, state, record = super().evolve(input_data, record)
            return output, state, {"heard": output}

    module = Loud((2, 3))
    assert list(module(x())[2]) == ["heard"]
    assert torch.equal(module.to_torch()(x()), x() @ module.weight)


def test_neither_forward_nor_evolve():
    with refused(UnsupportedError, "Module", "forward(x)", "evolve(x, record=False)"):
        Module((2, 2))(x())


@pytest.mark.parametrize(("answer", "words"), [((1, 2), "2 values"), (None, "NoneType"), (torch.ones(3), "Tensor")])
def test_evolve_must_give_a_triple(answer, words):
    class Short(Module):
        def evolve(self, input_data, record=False):
            return answer

    for call in (Short(), Short().forward):
        with refused(WiringError, "Short.evolve", "(output, new_state, record)", words):
            call(x())


# ---- batches


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3), (2, 5, 1), (2, 5, 3)])
def test_a_series_becomes_a_batch(shape):
    module, data = Module((3, 3)), torch.rand(shape)
    found, (state, wide) = module._auto_batch(data, (torch.rand(3), torch.rand(5, 3)), ((3,), (10, -1, 3)))
    rows = shape[0] if len(shape) == 3 else 1
    assert found.shape == (rows, 5, 3)
    expected = data.reshape(rows, 5, -1)
    assert torch.equal(found, expected.expand(rows, 5, 3))
    assert state.shape == (rows, 3)
    assert wide.shape == (rows, 10, 5, 3)


def test_states_are_repeated_over_the_batch():
    v = torch.rand(3)
    _, (state,) = Module((3, 3))._auto_batch(torch.rand(2, 5, 3), (v,))
    assert torch.equal(state, torch.stack([v, v]))
    _, (array,) = Module((3, 3))._auto_batch(np.ones((2, 5, 3)), (v.numpy(),))
    assert torch.equal(array, state)


@pytest.mark.parametrize(
    ("data", "states", "targets", "words"),
    [
        (torch.rand(5, 2), (), None, ["size 3", "2", "(5, 2)"]),
        (torch.rand(()), (), None, ["(batch, time, 3)", "()"]),
        (torch.rand(1, 2, 3, 3), (), None, ["(batch, time, 3)", "(1, 2, 3, 3)"]),
        (torch.rand(5, 3), (torch.rand(4),), ((3,),), ["(4,)", "(1, 3)"]),
        (torch.rand(5, 3), (torch.rand(4),), (), ["1 states", "0"]),
    ],
    ids=["size", "rank 0", "rank 4", "state", "count"],
)
def test_what_makes_no_batch_is_refused_with_both_shapes(data, states, targets, words):
    with refused(ShapeError, "Module", *words):
        Module((3, 3))._auto_batch(data, states, targets)


# ---- construction, torch, the front door


@pytest.mark.parametrize("shape", [(2, 0), (2, -1), (2, 1.5), "ab", (True, 2), {2, 3}], ids=str)
def test_a_shape_that_is_none_is_refused_with_what_was_given(shape):
    with refused(OptionError, "Module"):
        Module(shape)


def test_from_torch_and_back():
    linear = nn.Linear(2, 3)
    module = Module.from_torch(linear)
    assert module.shape == (2, 3)
    assert module.to_torch() is linear
    assert torch.equal(module(x())[0], linear(x()))
    assert Module.from_torch(module) is module
    pair = Pair()
    assert Module.from_torch(pair.to_torch()) is pair
    assert Module.from_torch(nn.Tanh(), shape=4).shape == (4,)
    with refused(DtypeError, "LSTM", "tuple"):
        Module.from_torch(nn.LSTM(2, 2))(x())
    with refused(OptionError, "from_torch", "int"):
        Module.from_torch(3)


def test_a_class_without_a_graph_says_so():
    with refused(UnsupportedError, "Pair", "as_graph"):
        Pair().as_graph()
    with refused(UnsupportedError, "Pair", "from_graph"):
        Pair.from_graph(None)


def test_the_room_opens_when_it_is_asked_for():
    code = (
        "import sys, slimgraph; print('slimgraph.modules' in sys.modules);"
        "from slimgraph import modules; print(modules.Linear((2, 3)));"
        "print([m for m in ('lightning', 'matplotlib', 'scipy', 'torchdiffeq') if m in sys.modules])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == ["False", "Linear  with shape (2, 3)", "[]"]
    assert all(hasattr(slimgraph.modules, name) for name in slimgraph.modules.__all__)
