"""Exports: equal to the subgraph for any batch, in a process that has no slimgraph, whole or not there."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from slimgraph import RNN, MovingHorizon, Node, PenaltyLoss, Problem, System, SystemPreview, slim, variable
from slimgraph.blocks import MLP
from slimgraph.errors import MissingFileError, MissingKeyError, OptionError, ShapeError, SlimgraphError
from slimgraph.problem import export
from slimgraph.problem.subgraph import Subgraph
from tests.helpers import keys

ONNX = all(find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed: the .onnx export")
STEPS = 3
MASK = [[1] * (place % STEPS + 1) + [0] * (STEPS - 1 - place % STEPS) for place in range(17)]


def mlp() -> nn.Module:
    layers = [slim.SpectralLinear(3, 6, bias=True), nn.Tanh(), slim.OrthogonalLinear(6, 6) @ slim.SVDLinear(6, 6)]
    return nn.Sequential(*layers, nn.Dropout(), slim.L0Linear(6, 2))


def policy() -> Subgraph:
    nodes = [
        Node(mlp(), ["p"], ["u"], name="policy"),
        Node(lambda u, r: (u - r).square(), ["u", "r"], ["cost"], name="cost"),
    ]
    return Problem(nodes, PenaltyLoss([variable("cost").minimize()])).subgraph(["u"])


def loop(**options) -> list[Node]:
    act = Node(lambda x, r: torch.tanh(x + r[:, :1]), ["x", "r"], ["u"], name="act")
    return [act, Node(slim.SchurStableLinear(1, 1), ["x"], ["free"], name="free"), node_sum()]


def node_sum() -> Node:
    return Node(torch.add, ["free", "u"], ["x"], name="plant")


def recurrence(kind) -> Subgraph:
    net = kind(3, 4, num_layers=2, batch_first=True, cell_args={"hidden_map": "orthogonal"})
    ends = ["h", "h_last", "c_last"] if kind is slim.LSTM else ["h", "h_last"]
    return Subgraph([Node(net, ["s"], ends, name="net")], ends[:1])


def window() -> Subgraph:
    return Subgraph([MovingHorizon(Node(lambda p: p.sum(1), ["p"], ["w"]), ndelay=2)], ["w"])


CASES = {
    "policy": (policy, {"p": (3,)}),
    # Inputs that are joined have one batch, whatever its size.
    "joined": (lambda: Subgraph([Node(MLP(5, 2), ["p", "r"], ["u"])], ["u"]), {"p": (3,), "r": (2,)}),
    "system": (lambda: Subgraph([System(loop(), nstep_key="r")], ["u", "x"]), {"x": (1, 1), "r": (STEPS, 1)}),
    "counted": (lambda: Subgraph([System(loop(), nstep_key="T")], ["x"]), {"x": (1, 1), "r": (1,), "T": (STEPS, 1)}),
    "preview": (
        lambda: Subgraph([SystemPreview(loop(), {"r": ["act"]}, nstep_key="r")], ["u"]),
        {"x": (1, 1), "r": (STEPS, 1)},
    ),
    "rnn": (lambda: recurrence(RNN), {"s": (STEPS, 3)}),
    "lstm": (lambda: recurrence(slim.LSTM), {"s": (STEPS, 3)}),
    "horizon": (window, {"p": (3,)}),
    "masked": (
        lambda: Subgraph([System(loop(), nstep_key="r", mask_key="m")], ["x"]),
        {"x": (1, 1), "r": (STEPS, 1), "m": ()},
    ),
}
cases = pytest.mark.parametrize("case", CASES)


def batch_of(shapes, size: int):
    batch = {key: torch.randn(size, *shape) for key, shape in shapes.items()}
    return batch | ({"m": torch.tensor(MASK[:size])} if "m" in shapes else {})


def make(case: str):
    torch.manual_seed(0)
    subgraph, shapes = CASES[case]
    return subgraph(), shapes


@cases
def test_a_pt2_file_is_the_subgraph_for_any_batch(case, tmp_path):
    subgraph, shapes = make(case)
    path = subgraph.export(tmp_path / "net.pt2", {**batch_of(shapes, 5), "name": "train", "unread": torch.ones(3)})
    deployed = torch.export.load(path).module()
    subgraph.eval()
    for size in (1, 2, 17):
        batch = batch_of(shapes, size)
        output = deployed(batch)
        assert list(output) == subgraph.output_keys
        for key, value in subgraph(batch).items():
            torch.testing.assert_close(output[key], value, atol=1e-6, rtol=1e-6)
            assert not output[key].requires_grad


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_an_onnx_file_is_the_subgraph_for_any_batch(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    subgraph = Subgraph([Node(mlp(), ["p"], ["v"]), System(loop(), nstep_key="r")], ["v", "u", "x"])
    shapes = {"p": (3,), "x": (1, 1), "r": (STEPS, 1)}
    path = subgraph.export(tmp_path / "net.onnx", batch_of(shapes, 5))
    session = onnxruntime.InferenceSession(path)
    assert {each.name for each in session.get_inputs()} == set(shapes)
    assert [each.name for each in session.get_outputs()] == [
        f"{k}_out" if k in shapes else k for k in subgraph.output_keys
    ]
    subgraph.eval()
    for size in (1, 2, 17):
        batch = batch_of(shapes, size)
        output = session.run(None, {key: value.numpy() for key, value in batch.items()})
        for value, ours in zip(output, subgraph(batch).values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(value), ours, atol=1e-6, rtol=1e-6)


WITHOUT_SLIMGRAPH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "slimgraph":
            raise ImportError("slimgraph is not here")

sys.meta_path.insert(0, Refuse())
import torch
batch, expected = torch.load(sys.argv[2])
output = torch.export.load(sys.argv[1]).module()(batch)
assert all(torch.allclose(output[key], expected[key], atol=1e-6) for key in expected)
assert not [name for name in sys.modules if name.startswith("slimgraph")]
try:
    import slimgraph
except ImportError:
    print("equal")
"""


def test_it_loads_where_slimgraph_is_not_installed(tmp_path):
    shapes = {"x": (1, 1), "r": (STEPS, 1), "p": (3,)}
    whole = Subgraph([Node(mlp(), ["p"], ["v"]), System(loop(), nstep_key="r")], ["v", "u", "x"])
    path = whole.export(tmp_path / "net.pt2", batch_of(shapes, 5))
    batch = batch_of(shapes, 3)
    with torch.no_grad():
        torch.save((batch, whole.eval()(batch)), tmp_path / "expected.pt")
    command = [sys.executable, "-I", "-c", WITHOUT_SLIMGRAPH, path, tmp_path / "expected.pt"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={})
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_no_structured_map_is_left_and_the_problem_stays_as_it_is():
    subgraph = policy()
    before = copy.deepcopy(subgraph.state_dict())
    dense = subgraph.densified()
    kinds = {type(module).__name__ for module in dense.modules()}
    assert kinds == {"Subgraph", "ModuleList", "Node", "Sequential", "Linear", "Tanh", "Dropout"}
    assert not any(module.training for module in dense.modules())
    assert all(module.training for module in subgraph.modules())
    after = subgraph.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert all(p.requires_grad for p in subgraph.parameters())


@pytest.mark.parametrize("key", keys())
def test_every_map_is_the_same_function_when_it_is_dense(key):
    torch.manual_seed(0)
    subgraph = Subgraph([Node(slim.maps[key](4, 4).double(), ["x"], ["y"])], ["y"])
    batch = {"x": torch.randn(3, 4, dtype=torch.float64)}
    torch.testing.assert_close(subgraph.densified()(batch), subgraph.eval()(batch))


def test_a_map_in_two_places_is_one_map_when_it_is_dense():
    shared = slim.OrthogonalLinear(3, 3)
    nodes = [Node(nn.Sequential(shared, nn.Tanh()), ["x"], ["y"], name="a"), Node(shared, ["y"], ["z"], name="b")]
    dense = Subgraph(nodes, ["z"]).densified()
    assert dense.node("a").callable[0] is dense.node("b").callable


@pytest.mark.parametrize("structured", [True, False], ids=["map", "network"])
@pytest.mark.parametrize("wrap", [lambda m: m.forward, functools.partial, lambda m: functools.partial(m.forward)])
def test_a_map_that_is_called_by_its_method_is_dense_too(wrap, structured):
    the_map = slim.OrthogonalLinear(3, 3)
    subgraph = Subgraph([Node(wrap(the_map if structured else nn.Sequential(the_map)), ["x"], ["y"])], ["y"])
    dense, batch = subgraph.densified(), {"x": torch.randn(2, 3)}
    assert [type(m) for m in dense.modules() if isinstance(m, slim.LinearBase)] == [slim.Linear]
    torch.testing.assert_close(dense(batch), subgraph(batch))
    for parameter in dense.parameters():
        parameter.zero_()
    assert dense(batch)["y"].abs().max() == 0


def test_another_method_of_a_map_keeps_its_structure():
    subgraph = Subgraph([Node(slim.OrthogonalLinear(3, 3).effective_W, [], ["W"])], ["W"])
    torch.testing.assert_close(subgraph.densified()({}), subgraph({}))


def test_an_example_of_one_sample_gives_a_file_for_any_batch(tmp_path):
    subgraph, shapes = make("policy")
    deployed = torch.export.load(subgraph.export(str(tmp_path / "net.pt2"), batch_of(shapes, 1))).module()
    assert deployed(batch_of(shapes, 7))["u"].shape == (7, 2)


class Broken(nn.Module):
    """Runs, and cannot be traced."""

    def forward(self, p):
        return p if p.sum() > 0 else -p


def test_where_it_fails_nothing_is_written_and_an_older_file_stays(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_text("older")
    broken = Subgraph([Node(Broken(), ["p"], ["u"], name="broken")], ["u"])
    with pytest.raises(Exception) as error:
        broken.export(path, {"p": torch.ones(2, 3)})
    assert "in the export of Subgraph to" in error.value.__notes__[-1] and "p (2, 3)" in error.value.__notes__[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"] and path.read_text() == "older"


def test_without_onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    subgraph, shapes = make("policy")
    with pytest.raises(SlimgraphError, match=r"needs the package 'onnx'.*pip install 'slimgraph\[onnx\]'.*\.pt2"):
        subgraph.export(tmp_path / "net.onnx", batch_of(shapes, 2))
    assert not list(tmp_path.iterdir())


good = {"p": torch.ones(2, 3)}


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        ("net.pt", good, OptionError, r"ends in one of \['.pt2', '.onnx'\]; got '.pt'.*Did you mean '.pt2'"),
        ("net", good, OptionError, r"ends in one of \['.pt2', '.onnx'\]; got ''"),
        ("no/net.pt2", good, MissingFileError, "there is no folder '.*no' to write 'net.pt2' into; make it first"),
        ("net.pt2", {"P": good["p"]}, MissingKeyError, r"example of 'p', the data hold \['P'\]"),
        ("net.pt2", good["p"], OptionError, r"needs a batch, a dict of tensors.*got \(2, 3\) float32"),
        ("net.pt2", {"p": 3.0}, OptionError, "needs 'p' as a tensor whose first axis is the batch; got float"),
        ("net.pt2", {"p": torch.tensor(3.0)}, OptionError, "got a single number"),
        ("net.pt2", {"p": torch.ones(2, 4)}, ShapeError, "last axis of size 3, got 4"),
    ],
    ids=["ending", "none", "folder", "key", "no dict", "no tensor", "number", "shape"],
)
def test_wrong_input_is_named(name, data, error, words, tmp_path):
    with pytest.raises(error, match=words):
        policy().export(tmp_path / name, data)
    assert not list(tmp_path.iterdir())


def test_without_an_input_there_is_no_file(tmp_path):
    with pytest.raises(OptionError, match="the export of Subgraph reads nothing from the data"):
        Subgraph([Node(lambda: torch.ones(1), [], ["u"])], ["u"]).export(tmp_path / "net.pt2", {})


def test_batches_of_two_sizes_are_refused(tmp_path):
    subgraph = Subgraph([System(loop(), nstep_key="r")], ["u"])
    data = {"x": torch.ones(2, 1, 1), "r": torch.ones(3, STEPS, 1)}
    with pytest.raises(ShapeError, match=r"one batch size for all keys, got \{'r': 3, 'x': 2\}"):
        subgraph.export(tmp_path / "net.pt2", data)
