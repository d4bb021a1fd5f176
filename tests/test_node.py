"""Node: keys in, keys out, whatever the callable gives; and what it says when something is wrong."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

from slimgraph import Node, slim, variable
from slimgraph.errors import MissingKeyError, OptionError, UnknownOptionError, WiringError

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
    "wrap", [lambda net: net.forward, lambda net: functools.partial(net)], ids=["method", "partial"]
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


def test_copies_and_pickles_give_the_same_numbers():
    node = Node(nn.Linear(3, 2), ["x"], ["y"], name="net")
    for twin in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert torch.equal(twin({"x": x})["y"], node({"x": x})["y"])
        assert repr(twin) == "net: (x) -> (y)"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Node(torch.neg, "x", ["y"]), OptionError, r"list of keys; got str: 'x'. Write \['x'\]"),
        (lambda: Node(torch.neg, ["x"], "y", name="n"), OptionError, r"output_keys of node 'n' .* got str: 'y'"),
        (lambda: Node(torch.neg, ["x", 3], ["y"]), OptionError, "strings or Variables; got int: 3"),
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


def test_a_tensor_instead_of_a_dict_is_told():
    with pytest.raises(OptionError, match=r"node 'n' takes a dict of tensors; got \(2, 3\) float32"):
        Node(torch.neg, ["x"], ["y"], name="n")(x)


def test_a_wrong_number_of_results_is_told_with_both():
    with pytest.raises(WiringError, match=r"node 'two' must give 2 tensors for \['a', 'b'\]; its callable gave 3"):
        Node(lambda x: (x, x, x), ["x"], ["a", "b"], name="two")({"x": x})
    with pytest.raises(WiringError, match=r"must give \['a'\]; its callable gave a dict with \['b'\]"):
        Node(lambda x: {"b": x}, ["x"], ["a"])({"x": x})
    with pytest.raises(WiringError, match="gave float: 1.0"):
        Node(lambda x: 1.0, ["x"], ["a"])({"x": x})


def test_an_error_inside_keeps_its_kind_and_gains_node_keys_and_shapes():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        Node(nn.Linear(4, 2), ["x"], ["y"], name="net")({"x": x})
    assert caught.value.__notes__ == ["in node 'net', (x) -> (y), called with x (2, 3) float32"]
