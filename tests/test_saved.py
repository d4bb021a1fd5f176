"""predict in the units of the data; save and load of a problem's numbers."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from helpers import files_of_at_most
from torch import nn

from slimgraph import (
    AugmentedLagrangeLoss,
    BarrierLoss,
    Node,
    PenaltyLoss,
    Problem,
    System,
    __version__,
    slim,
    variable,
)
from slimgraph.data import Normalizer
from slimgraph.errors import DataError, DtypeError, MissingFileError, MissingKeyError, OptionError, ShapeError

X, Y, T = variable("x"), variable("y"), variable("t")
BATCH = 5


def data(samples=BATCH):
    return {"x": 20 + 3 * torch.randn(samples, 3), "t": 100 + 10 * torch.randn(samples, 2)}


def scale():
    """x and t normalised; y has the units of t."""
    return Normalizer.fit(data(100), shared={"y": "t"})


def fitted(loss=PenaltyLoss, width=8, name="net", term="fit", outsize=2, writes="y", **options):
    net = nn.Sequential(
        nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), slim.maps["linear"](width, outsize)
    )
    gain = variable(1, display_name="gain")
    objective = ((gain * variable(writes) - T) ** 2).minimize(name=term)
    return Problem([Node(net, ["x"], [writes], name=name)], loss([objective], [variable(writes) <= 1]), **options)


def states_equal(one, two):
    return list(one) == list(two) and all(torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype for k in one)


# ---- predict --------------------------------------------------------------------------------------------------------


def test_predict_is_what_one_would_write_by_hand():
    problem, batch = fitted(normalizer=scale()), data()
    problem(scale()(batch))
    net = problem.node("net").callable.eval()
    means = problem.normalizer
    expected = net((batch["x"] - means.mean_0) / means.std_0) * means.std_1 + means.mean_1
    problem.train()
    predicted = problem.predict({"x": batch["x"]})
    torch.testing.assert_close(predicted["y"], expected.detach(), rtol=1e-6, atol=1e-5)
    assert not predicted["y"].requires_grad
    assert list(predicted) == ["x", "y"] and predicted["x"] is batch["x"]
    assert all(module.training for module in problem.modules())


def test_the_round_trip_through_an_identity_is_exact_in_double_precision():
    problem = Problem([Node(lambda x: x, ["x"], ["y"])], PenaltyLoss([(Y - T).minimize()])).double()
    x = (20 + 3 * torch.randn(1000, 3)).double()
    problem.normalizer = Normalizer.fit({"x": x}, shared={"y": "x"})
    predicted = problem.predict({"x": x})
    assert (predicted["y"] - x).abs().max() <= 4 * torch.finfo(torch.float64).eps * x.abs().max()
    assert predicted["x"] is x


def test_predict_refuses_what_is_no_dict():
    with pytest.raises(OptionError, match=r"^predict takes a dict of tensors; got list"):
        fitted().predict([torch.zeros(2)])  # pyright: ignore[reportArgumentType]


def test_without_a_normalizer_predict_gives_what_the_nodes_give():
    problem, batch = fitted(), data()
    assert torch.equal(problem.predict(batch)["y"], problem.eval().step(batch)["y"])


def test_predict_needs_what_nodes_read_and_nothing_that_terms_read():
    problem = fitted()
    with pytest.raises(MissingKeyError, match="node 'net' reads 'x', the data holds .'xx'"):
        problem.predict({"xx": torch.zeros(2, 3)})
    assert problem.predict({"x": torch.zeros(2, 3)})["y"].shape == (2, 2)
    with pytest.raises(MissingKeyError, match="objective 'fit' reads 't'"):
        problem({"x": torch.zeros(2, 3)})


def test_a_key_that_a_node_overwrites_comes_back_in_its_units():
    problem = Problem([Node(lambda x: 2 * x, ["x"], ["x"])], PenaltyLoss([X.minimize()]))
    problem.normalizer = Normalizer({"x": 1})
    problem.normalizer.mean_0.fill_(10.0)
    problem.normalizer.std_0.fill_(2.0)
    assert problem.predict({"x": torch.tensor([[14.0]])})["x"] == 18.0


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_predict_works_where_nodes_need_derivatives(mode):
    def slope(x):
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad((x**3).sum(), x, create_graph=True)[0]

    problem = Problem([Node(slope, ["x"], ["y"])], PenaltyLoss([Y.minimize()]), grad_inference=True)
    with mode():
        predicted = problem.predict({"x": torch.tensor([[2.0]])})["y"]
    assert predicted == 12.0 and not predicted.requires_grad


def test_wrong_features_are_told_with_the_key():
    with pytest.raises(ShapeError, match=r"'x' was fitted with 3 features, got \(5, 4\)"):
        fitted(normalizer=scale()).predict({"x": torch.zeros(5, 4)})


def test_the_normalizer_is_no_part_of_the_loss():
    with_one, batch = fitted(normalizer=scale()), data()
    without = fitted()
    without.load_state_dict(with_one.state_dict(), strict=False)
    assert torch.equal(with_one.eval()(batch)["loss"], without.eval()(batch)["loss"])


# ---- save and load --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [PenaltyLoss, BarrierLoss, AugmentedLagrangeLoss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loaded_problem_gives_the_same_numbers(tmp_path, loss, dtype):
    problem, batch = fitted(loss, normalizer=scale()).to(dtype), {k: v.to(dtype) for k, v in data().items()}
    output = problem(batch)
    if loss is AugmentedLagrangeLoss:
        problem.loss.update(output)
    problem.save(tmp_path / "model.pt")
    again = fitted(loss, normalizer=Normalizer(problem.normalizer.features, shared={"y": "t"})).to(dtype)
    assert again.load(tmp_path / "model.pt") is again
    assert states_equal(again.state_dict(), problem.state_dict())
    assert torch.equal(again.predict(batch)["y"], problem.predict(batch)["y"])
    torch.manual_seed(1)
    expected = problem(batch)
    torch.manual_seed(1)
    assert torch.equal(again(batch)["loss"], expected["loss"])


def test_a_problem_that_saw_a_batch_loads_one_that_saw_none(tmp_path):
    fitted(AugmentedLagrangeLoss).save(tmp_path / "fresh.pt")
    used = fitted(AugmentedLagrangeLoss)
    used(data())
    used.load(tmp_path / "fresh.pt")
    assert used.loss.multipliers is None


def test_the_file_loads_under_weights_only_and_says_what_it_is(tmp_path):
    problem = fitted()
    problem.save(tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    state = content.pop("state")
    assert content == {
        "format": 1, "slimgraph": __version__, "nodes": {"net": "(x) -> (y)"},
        "terms": {"fit": "objective", "constraint_1": "constraint"}, "normalizer": {},
    }  # fmt: skip
    assert states_equal(state, problem.state_dict())


def test_the_file_has_the_rights_of_other_files_and_nothing_lies_beside_it(tmp_path):
    (tmp_path / "other").write_text("")
    fitted().save(tmp_path / "model.pt")
    fitted().save(str(tmp_path / "model.pt"))
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "other"]
    assert stat.S_IMODE((tmp_path / "model.pt").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    problem, path = fitted(), tmp_path / "model.pt"
    problem.save(path)
    before = path.read_bytes()
    with files_of_at_most(1000), pytest.raises(DataError, match=r"model.pt could not be written: File too large; what"):
        problem.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_told_by_one_error(tmp_path, share):
    problem, path = fitted(), tmp_path / "model.pt"
    problem.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(problem, path, "model.pt was cut short, or problem.save did not write it")


def refused(problem, path, words):
    """Loading fails with one error that holds `words`, and leaves the problem as it was."""
    before = {key: value.clone() for key, value in problem.state_dict().items()}
    with pytest.raises(DataError) as caught:
        problem.load(path)
    assert words in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert states_equal(problem.state_dict(), before)


OTHERS = {
    "another name of a node": (
        lambda: fitted(name="policy"), "has node 'net', (x) -> (y); the problem has no node 'net'.",
    ),
    "other keys": (
        lambda: fitted(writes="u"), "has node 'net', (x) -> (y); the problem has node 'net', (x) -> (u).",
    ),
    "another name of a term": (
        lambda: fitted(term="fits"), "has term 'fit', objective; the problem has no term 'fit'. Did you mean 'fits'?",
    ),
    "another width": (
        lambda: fitted(width=9),
        "'nodes.0.callable.0.weight' is (8, 3) float32 in",
    ),
    "another dtype": (
        lambda: fitted().double(),
        "(8, 3) float64 in the problem; bring the problem to that dtype first",
    ),
    "a normalizer that the file lacks": (
        lambda: fitted(normalizer=scale()), "'normalizer.mean_0' is missing in",
    ),
    "another loss": (
        lambda: fitted(AugmentedLagrangeLoss), "'loss.mu' is missing in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_of_another_problem_is_told_by_its_first_difference(tmp_path, other):
    fitted().save(tmp_path / "model.pt")
    make, words = OTHERS[other]
    refused(make(), tmp_path / "model.pt", words)


def test_nodes_in_another_order_are_refused(tmp_path):
    nodes = [Node(nn.Linear(3, 2), ["x"], [key], name=key) for key in ("y", "z")]
    loss = PenaltyLoss([Y.minimize()])
    Problem(nodes, loss).save(tmp_path / "model.pt")
    refused(Problem(nodes[::-1], loss), tmp_path / "model.pt", "the nodes in the order ['y', 'z'], the problem in")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "was not written by problem.save: it holds a dict with ['state_dict']"),
        ([1, 2], "was not written by problem.save: it holds list"),
        ({"format": 2, "slimgraph": "9.0"}, f"has format 2 of slimgraph 9.0; this is slimgraph {__version__}, which"),
        (nn.Linear(1, 1), "was cut short, or problem.save did not write it"),
        ({"format": 1}, "was not written by problem.save: it holds a dict with ['format']"),
        ({"format": torch.ones(2), "slimgraph": 0}, "was not written by problem.save: it holds a dict with"),
        ({"format": 1, "slimgraph": 0, "nodes": 3, "terms": {}, "state": {}}, "was not written by problem.save"),
    ],
    ids=["a checkpoint", "a list", "a newer format", "a whole module", "a word", "a tensor", "no dict"],
)  # fmt: skip
def test_a_foreign_file_is_told(tmp_path, content, words):
    torch.save(content, tmp_path / "model.pt")
    refused(fitted(), tmp_path / "model.pt", words)


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path):
    fitted().save(tmp_path / "model.pt")
    with pytest.raises(MissingFileError, match=r"modl.pt. Did you mean 'model.pt'"):
        fitted().load(tmp_path / "modl.pt")
    with pytest.raises(DataError, match="no folder .*nowhere to save model.pt in"):
        fitted().save(tmp_path / "nowhere" / "model.pt")
    with pytest.raises(DataError, match="is a folder; name a file in it, as .*model.pt"):
        fitted().save(tmp_path)
    with pytest.raises(MissingFileError, match="is a folder, not a file"):
        fitted().load(tmp_path)


def test_statistics_of_one_key_are_not_taken_for_those_of_another(tmp_path):
    fitted(normalizer=Normalizer({"x": 3, "t": 3})).save(tmp_path / "model.pt")
    words = "has normalized key 'x', statistics of 'x'; the problem has no normalized key 'x'."
    refused(fitted(normalizer=Normalizer({"u": 3, "t": 3})), tmp_path / "model.pt", words)
    words = "has the normalized keys in the order ['x', 't'], the problem in ['t', 'x']"
    refused(fitted(normalizer=Normalizer({"t": 3, "x": 3})), tmp_path / "model.pt", words)


def test_a_roll_out_is_predicted_in_its_units():
    scale = Normalizer.fit({"x": torch.tensor([[10.0], [30.0]])}, shared={"y": "x"})
    nodes = [Node(lambda x: 0.5 * x, ["x"], ["x"]), Node(torch.neg, ["x"], ["y"])]
    problem = Problem([System(nodes, nsteps=2)], PenaltyLoss([Y.minimize()]), normalizer=scale)
    predicted = problem.predict({"x": torch.tensor([[[40.0]]])})
    assert predicted["x"].flatten().tolist() == [40.0, 30.0, 25.0]
    assert predicted["y"].flatten().tolist() == [0.0, 10.0]


def test_the_modes_of_its_parts_are_as_before_when_predicting_fails():
    problem = fitted()
    problem.node("net").callable[2].eval()
    before = [module.training for module in problem.modules()]
    with pytest.raises(RuntimeError):
        problem.predict({"x": torch.zeros(2, 4)})
    assert [module.training for module in problem.modules()] == before


def test_buffers_that_a_first_batch_makes_are_not_taken_for_the_difference(tmp_path):
    used = fitted(AugmentedLagrangeLoss)
    used(data())
    used.save(tmp_path / "model.pt")
    refused(fitted(AugmentedLagrangeLoss, normalizer=scale()), tmp_path / "model.pt", "'normalizer.mean_0' is missing")


def test_predict_builds_no_graph_where_nothing_is_derived():
    modes = []
    node = Node(lambda x: modes.append(torch.is_grad_enabled()) or x, ["x"], ["y"])
    Problem([node], PenaltyLoss([Y.minimize()])).predict({"x": torch.ones(1, 1)})
    assert modes == [False]


def test_predict_takes_tensors_alone():
    with pytest.raises(DtypeError, match="node 'net' reads 'x' as a tensor; the data holds list"):
        fitted(normalizer=scale()).predict({"x": [[1.0, 2.0, 3.0]]})


def test_a_problem_without_the_files_normalizer_is_told_to_take_one(tmp_path):
    fitted(normalizer=scale()).save(tmp_path / "model.pt")
    refused(fitted(), tmp_path / "model.pt", "holds a normalizer of ['x', 't', 'y'], the problem has none; give it one")
    fitted(normalizer=Normalizer({"x": 3, "t": 2}, shared={"y": "t"})).load(tmp_path / "model.pt")
