"""Node: keys in, keys out, whatever the callable gives; and what it says when something is wrong."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from slimgraph import MovingHorizon, Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import DtypeError, MissingKeyError, OptionError, UnknownOptionError, WiringError

x, r = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    "callable",
    [
        lambda a, b: (a + b, a - b),
        lambda a, b: [a + b, a - b],
        lambda a, b: {"t": a - b, "s": a + b, "unused": a},
    ],
    ids=["tuple", "list", "dict"],
)
def test_results_stand_under_the_output_keys(callable):
    out = Node(callable, ["x", "r"], ["s", "t"])({"x": x, "r": r})
    assert list(out) == ["s", "t"]
    assert torch.equal(out["s"], x + r) and torch.equal(out["t"], x - r)


def difference(left, right=0.0, *, scale=1.0):
    return scale * (left - right)


def test_a_dict_of_keys_names_the_arguments():
    node = Node(difference, {"r": "right", variable("x"): "left"}, ["d"])
    assert node.input_keys == ["r", "x"] and repr(node) == "difference: (right=r, left=x) -> (d)"
    assert torch.equal(node({"x": x, "r": r})["d"], x - r)
    assert torch.equal(Node(difference, {"x": "left", "s": "scale"}, ["d"])({"x": x, "s": 2 * r})["d"], 2 * x)
    # A function written in C does not say what it takes; the arguments reach it all the same.
    assert torch.equal(Node(torch.sub, {"x": "other", "r": "input"}, ["d"])({"x": x, "r": r})["d"], r - x)


def test_a_discarded_result_stands_nowhere():
    memory = nn.LSTM(3, 2)
    node = Node(memory, ["x"], ["y", "_", "_"], name="memory")
    assert node.output_keys == ["y"] and repr(node) == "memory: (x) -> (y, _, _)"
    out = node({"x": x})
    assert list(out) == ["y"] and torch.equal(out["y"], memory(x)[0])
    problem = Problem([node], PenaltyLoss([variable("y").minimize()]))
    assert "_" not in problem({"x": x})
    shown = [*problem.to_networkx().nodes(data="label"), *problem.to_networkx().edges(keys=True)]
    assert not any("_" in place for place in shown)
    first = Node(lambda x: (x, x + 1, x + 2), ["x"], ["_", "a", "_"])
    assert torch.equal(first({"x": x})["a"], x + 1)


def test_tensors_are_answered_with_what_stands_under_the_output_keys():
    assert torch.equal(Node(torch.add, ["x", "r"], ["s"])(x, r), x + r)
    assert torch.equal(Node(difference, {"r": "right", "x": "left"}, ["d"])(r, x), x - r)
    both = Node(lambda a, b: {"t": a - b, "s": a + b}, ["x", "r"], ["s", "t"])(x, r)
    assert type(both) is tuple and torch.equal(both[0], x + r) and torch.equal(both[1], x - r)
    assert torch.equal(Node(lambda x: (x, -x), ["x"], ["_", "y"])(x), -x)


def adapted():
    """A node that names arguments and discards a result."""
    return Node(Step(), {"u": "shift", "x": "state"}, ["_", "x"], name="step")


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, state, shift):
        return shift, self.inner(state) + shift


def test_arguments_and_discarded_results_work_in_a_system():
    node, u = adapted(), torch.rand(2, 4, 3)
    rolled = System([node], nstep_key="u")({"x": x[:, None], "u": u})
    state = x
    for i in range(4):
        state = node.callable.inner(state) + u[:, i]
    assert sorted(rolled) == ["u", "x"] and torch.equal(rolled["x"][:, -1], state)


def test_arguments_and_discarded_results_work_over_a_window():
    seen = MovingHorizon(
        Node(lambda now, past: (past, past.sum(1) + now.sum(1)), {"r": "now", "x": "past"}, ["_", "y"]), 2
    )
    seen({"x": x, "r": r})
    assert torch.equal(seen({"x": 2 * x, "r": r})["y"], 3 * x + 2 * r)


def test_arguments_and_discarded_results_compile_whole():
    node = adapted()
    data = {"x": x, "u": r}
    compiled = torch.compile(node, fullgraph=True, backend="eager")
    assert torch.equal(compiled(data)["x"], node(data)["x"]) and torch.equal(compiled(r, x), node(r, x))
    problem = Problem([Node(adapted(), ["v", "h"], ["w"]), Node(torch.neg, ["x"], ["h"])], PenaltyLoss())
    compiled = torch.compile(problem, fullgraph=True, backend="eager")
    data = {"x": x, "v": r}
    assert torch.equal(compiled(data)["w"], problem(data)["w"])


def test_a_system_in_a_node_goes_by_its_own_keys_or_by_their_order():
    system = System([Node(lambda u, x: (x + u, x - u), ["u", "x"], ["x", "y"])], nsteps=2)
    data = {"x": x[:, None], "u": torch.ones(2, 2, 3)}
    rolled = system(data)
    out = Node(system, ["x", "u"], ["y", "x"])(data)
    assert torch.equal(out["y"], rolled["y"]) and torch.equal(out["x"], rolled["x"])
    assert list(Node(system, ["x", "u"], ["y"])(data)) == ["y"]
    out = Node(system, ["push", "start"], ["states", "_"])({"push": data["u"], "start": data["x"]})
    assert torch.equal(out["states"], rolled["x"]) and list(out) == ["states"]
    out = Node(system, {"start": "x", "u": "u"}, ["y"])({"start": data["x"], "u": data["u"]})
    assert torch.equal(out["y"], rolled["y"])


def test_a_variable_stands_for_its_key():
    node = Node(torch.neg, [variable("x")], [variable("y")], name="minus")
    assert (node.input_keys, node.output_keys) == (["x"], ["y"])
    assert torch.equal(node({"x": x})["y"], -x)


def test_the_data_are_not_written_to():
    data = {"x": x}
    Node(torch.neg, ["x"], ["x"])(data)
    assert torch.equal(data["x"], x)


def test_a_module_api_module_is_called_by_its_tensor_view():
    class Triple(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x), {}, {}

        def to_torch(self):
            return self.inner

    module = Triple()
    assert torch.equal(Node(module, ["x"], ["y"])({"x": x})["y"], module.inner(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda net: net.forward, lambda net: functools.partial(net), lambda net: functools.partial(net.forward)],
    ids=["method", "partial", "partial of a method"],
)
def test_the_parameters_behind_a_method_or_a_partial_are_trained(wrap):
    net = nn.Linear(3, 1)
    node = copy.deepcopy(Node(wrap(net), ["x"], ["y"]))
    node({"x": x})["y"].sum().backward()
    assert all(p.grad is not None for p in node.parameters()) and len(list(node.parameters())) == 2


def test_freeze_and_unfreeze_reach_every_parameter_and_none_is_needed():
    node = Node(slim.maps["orthogonal"](3, 3), ["x"], ["y"])
    node.freeze()
    assert not any(p.requires_grad for p in node.parameters())
    node.unfreeze()
    assert all(p.requires_grad for p in node.parameters())
    Node(torch.neg, ["x"], ["y"]).freeze()


def test_freezing_takes_lazy_and_integer_parameters():
    net = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 1))
    net.register_parameter("codes", nn.Parameter(torch.arange(3), requires_grad=False))
    node = Node(net, ["x"], ["y"])
    node.freeze()
    assert not any(p.requires_grad for p in node.parameters())
    node.unfreeze()
    assert [name for name, p in node.named_parameters() if not p.requires_grad] == ["callable.codes"]


def test_a_module_that_takes_the_place_of_the_callable_is_called():
    node = Node(nn.Linear(3, 3), ["x"], ["y"])
    node.callable = nn.Identity()
    assert node({"x": x})["y"] is x
    node = Node(torch.neg, ["x"], ["y"])
    node.callable = nn.Identity()
    assert node({"x": x})["y"] is x


@pytest.mark.parametrize("make", [lambda: Node(nn.Linear(3, 2), ["u"], ["x"], name="net"), adapted])
def test_copies_and_pickles_give_the_same_numbers(make):
    node = make()
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert torch.equal(twin({"x": x, "u": r})["x"], node({"x": x, "u": r})["x"])
        assert repr(twin) == repr(node) and list(twin.state_dict()) == list(node.state_dict())
        twin.callable.apply(lambda m: nn.init.zeros_(m.weight) if isinstance(m, nn.Linear) else None)
        assert not torch.equal(twin({"x": x, "u": r})["x"], node({"x": x, "u": r})["x"])


def test_parameters_stand_once_in_the_state():
    assert list(Node(nn.Linear(3, 2), ["x"], ["y"]).state_dict()) == ["callable.weight", "callable.bias"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Node(torch.neg, "x", ["y"]), OptionError, r"list of keys; got str: 'x'. Write \['x'\]"),
        (lambda: Node(torch.neg, ["x"], "y", name="n"), OptionError, r"output_keys of node 'n' .* got str: 'y'"),
        (lambda: Node(torch.neg, ["x", 3], ["y"]), OptionError, "strings or Variables; got int: 3"),
        (lambda: Node(torch.neg, {"x"}, ["y"]), OptionError, r"list of keys; got set: {'x'}. Write \['x'\]"),
        (lambda: Node(torch.neg, ["x"], {"y": "out"}), OptionError, r"list of keys; got dict: .*. Write \['y'\]"),
        (lambda: Node(torch.neg, variable("x"), ["y"]), OptionError, "list of keys; got Variable"),
        (lambda: Node(torch.add, ["x", "x"], ["y"], name="n"), OptionError, "input_keys of node 'n' holds 'x' twice"),
        (lambda: Node(torch.neg, ["x"], ["y", "y"]), OptionError, "output_keys of a node holds 'y' twice"),
        (
            lambda: Node(torch.neg, ["_"], ["y"]),
            OptionError,
            "holds '_', which discards an output and can never be read",
        ),
        (lambda: Node(torch.neg, ["x"], ["_", "_"]), OptionError, r"gives nothing: output_keys is \['_', '_'\]"),
        (
            lambda: Node(difference, {"x": "lft"}, ["d"], name="n"),
            OptionError,
            r"callable of node 'n' has no argument 'lft'; it takes \['left', 'right', 'scale'\]. Did you mean 'left'\?",
        ),
        (
            lambda: Node(difference, {"x": "right"}, ["d"]),
            OptionError,
            r"needs the argument 'left'; its input_keys give \['right'\]",
        ),
        (lambda: Node(nn.Linear(3, 1), {"x": "inp"}, ["y"]), OptionError, r"no argument 'inp'; it takes \['input'\]"),
        (lambda: Node(difference, {"x": "left", "r": "left"}, ["d"]), OptionError, "gives the argument 'left' twice"),
        (lambda: Node(difference, {"x": 0}, ["d"]), OptionError, "gives each key the name of an argument; got 0"),
        (
            lambda: Node(System([Node(torch.neg, ["x"], ["y"])], nsteps=1), ["x", "u"], ["a", "b"], name="n"),
            OptionError,
            r"the System that node 'n' calls gives \['y'\]; got \['a', 'b'\]. Use these keys, or one key for each",
        ),
        (
            lambda: Node(System([Node(torch.neg, ["x"], ["y"])], nsteps=1), ["u", "v"], ["y"], name="n"),
            OptionError,
            r"the System that node 'n' calls reads \['x'\]; got \['u', 'v'\]",
        ),
        (lambda: Node(torch.neg, ["x"], []), OptionError, "output_keys is empty"),
        (lambda: Node(3, ["x"], ["y"]), OptionError, "needs a callable; got int: 3"),
        (lambda: Node(torch.neg, ["x"], ["y"], nam="n"), UnknownOptionError, "no option 'nam'. Did you mean 'name'"),
    ],
)
def test_a_wrong_declaration_is_told_at_once(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_a_missing_key_is_told_with_the_nearest_one():
    with pytest.raises(MissingKeyError, match=r"node 'head' reads 'hh', the data holds \['h', 'u'\]. Did you mean 'h'"):
        Node(torch.neg, ["hh"], ["y"], name="head")({"h": x, "u": x})


def test_tensors_that_do_not_match_the_keys_are_told():
    takes = r"node 'n' takes a dict of tensors, or a tensor for each of \['x', 'r'\]; got "
    with pytest.raises(OptionError, match=takes + r"\(2, 3\) float32$"):
        Node(torch.add, ["x", "r"], ["y"], name="n")(x)
    with pytest.raises(OptionError, match=takes + "dict, dict"):
        Node(torch.add, ["x", "r"], ["y"], name="n")({"x": x}, {"r": r})
    with pytest.raises(OptionError, match=takes + r"\(2, 3\) float32, float$"):
        Node(torch.add, ["x", "r"], ["y"], name="n")(x, 1.0)


@pytest.mark.parametrize("value", [[1.0], 2.0, None, "a"], ids=["list", "float", "None", "str"])
def test_what_is_no_tensor_is_told_before_the_node_runs(value):
    node = Node(lambda x: pytest.fail("it ran"), ["x"], ["y"], name="n")
    kind = type(value).__name__
    for call in (node, Problem([node], PenaltyLoss())):
        with pytest.raises(DtypeError, match=rf"node 'n' reads 'x' as a tensor; the data holds {kind}: "):
            call({"x": value})


def test_a_wrong_number_of_results_is_told_with_both():
    with pytest.raises(WiringError, match=r"node 'two' must give 2 tensors for \['a', 'b'\]; its callable gave 3"):
        Node(lambda x: (x, x, x), ["x"], ["a", "b"], name="two")({"x": x})
    with pytest.raises(WiringError, match=r"must give \['a'\]; its callable gave a dict with \['b'\]"):
        Node(lambda x: {"b": x}, ["x"], ["a"])({"x": x})
    with pytest.raises(WiringError, match="gave float: 1.0"):
        Node(lambda x: 1.0, ["x"], ["a"])({"x": x})
    with pytest.raises(WiringError, match=r"must give a tensor for 'b'; its callable gave NoneType: None"):
        Node(lambda x: (x, None), ["x"], ["a", "b"])({"x": x})
    with pytest.raises(WiringError, match=r"must give 2 tensors for \['a', '_'\]; its callable gave 1"):
        Node(lambda x: x, ["x"], ["a", "_"])({"x": x})
    with pytest.raises(WiringError, match=r"gave 2\. Discard one by the output key '_'"):
        Node(lambda x: (x, x), ["x"], ["a"])({"x": x})


def test_an_error_inside_keeps_its_kind_and_gains_node_keys_and_shapes():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        Node(nn.Linear(4, 2), ["x"], ["y"], name="net")({"x": x})
    assert caught.value.__notes__ == ["in node 'net', (x) -> (y), called with x (2, 3) float32"]


class OwnError(Exception):
    pass


def raises(left):
    raise OwnError("mine")


def test_an_error_of_the_users_own_class_is_told_with_its_arguments_in_a_problem_and_a_system():
    node = Node(raises, {"x": "left"}, ["y", "_"], name="net")
    told = "in node 'net', (left=x) -> (y, _),"
    with pytest.raises(OwnError) as caught:
        Problem([node], PenaltyLoss())({"x": x})
    assert caught.value.__notes__ == [f"{told} called with x (2, 3) float32"]
    with pytest.raises(OwnError) as caught:
        System([node], nsteps=2, name="roll")({"x": x})
    assert caught.value.__notes__ == [f"{told} at step 0 of 2 of system 'roll', called with x (2, 3) float32"]


@pytest.mark.parametrize("key", [variable("x") + 1, variable(1), variable("x")[:, 0]])
def test_an_expression_is_no_key(key):
    with pytest.raises(OptionError, match="the input_keys of a node holds the expression .*, which is no key"):
        Node(torch.neg, [key], ["y"])
    with pytest.raises(OptionError, match="the output_keys of a node holds the expression .*, which is no key"):
        Node(torch.neg, ["x"], [key])


def test_a_name_is_a_string():
    with pytest.raises(OptionError, match="the name of a node is a string; got int: 3"):
        Node(torch.neg, ["x"], ["y"], name=3)


def test_a_missing_key_is_told_among_keys_of_any_kind():
    with pytest.raises(MissingKeyError, match=r"reads 'x', the data holds \['3', 'a'\]"):
        Node(torch.neg, ["x"], ["y"])({3: torch.ones(1), "a": torch.ones(1)})
