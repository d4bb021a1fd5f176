"""Laws of modules as torch modules: optimisers, copies, transforms, ranks and Lightning see an nn.Module."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import lightning
import module_cases as cases
import pytest
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from module_cases import batch, loss, make
from torch import nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, prune, vector_to_parameters
from torch.optim.swa_utils import AveragedModel

from slimgraph import Node
from slimgraph.modules import Linear, Module
from slimgraph.slim import OrthogonalLinear

RANKS = Path(__file__).parent / "ranks"
every_module = pytest.mark.parametrize("name", cases.CASES)


def plain(module: Module) -> list[torch.Tensor]:
    """The parameters as torch itself finds them."""
    return [value for _, value in module.named_parameters()]


def backward(module: Module) -> None:
    loss(module(batch())[0]).backward()


def assert_same_function(one: Module, other: Module) -> None:
    x = batch().to(next(one.parameters()).dtype)
    torch.testing.assert_close(one(x)[0], other(x)[0], rtol=0, atol=0)


# ---- parameters


@every_module
def test_parameters_iterates_as_torch_does(name):
    module = make(name)
    found = plain(module)
    assert [id(p) for p in module.parameters()] == [id(p) for p in found]
    assert [id(p) for p in module.parameters(recurse=True)] == [id(p) for p in found]
    assert [id(p) for p in module.parameters(False)] == [id(p) for p in module._parameters.values() if p is not None]
    assert [id(p) for p in module.parameters().astorch()] == [id(p) for p in found]
    assert next(module.parameters()) is found[0]
    assert list(module.modules()) == list(nn.Module.modules(module))


def test_a_tied_weight_is_iterated_once_and_named_twice():
    module = Module((3, 3))
    module.a, module.b = Linear((3, 3)), Linear((3, 3))
    module.b.weight = module.a.weight
    assert (
        [id(p) for p in module.parameters("weights")] == [id(p) for p in module.parameters()] == [id(module.a.weight)]
    )
    assert list(module.parameters().keys()) == ["a", "b"]


@every_module
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_train_every_parameter(name, optimizer):
    module = make(name)
    before = [p.clone() for p in module.parameters()]
    steps = optimizer(module.parameters(), lr=0.1)
    backward(module)
    assert all(p.grad is not None for p in module.parameters())
    steps.step()
    moved = [not torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True)]
    assert all(moved)
    module.zero_grad()
    assert all(p.grad is None for p in module.parameters())


@every_module
def test_requires_grad_freezes_all(name):
    module = make(name).requires_grad_(False)
    assert not any(p.requires_grad for p in plain(module))
    assert not module(batch())[0].requires_grad


@every_module
def test_clipping_scales_the_norm_of_all_gradients(name):
    module = make(name)
    backward(module)
    norm = torch.stack([p.grad.norm() for p in plain(module)]).norm()
    torch.testing.assert_close(clip_grad_norm_(module.parameters(), 1e-3), norm)
    torch.testing.assert_close(
        torch.stack([p.grad.norm() for p in plain(module)]).norm().item(), 1e-3, rtol=1e-3, atol=0
    )


@every_module
def test_parameters_go_into_a_vector_and_back(name):
    module, other = make(name), make(name)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    vector_to_parameters(parameters_to_vector(module.parameters()), other.parameters())
    assert_same_function(module, other)


@every_module
def test_an_average_of_equal_models_is_the_model(name):
    module = make(name)
    average = AveragedModel(module)
    for _ in range(2):
        average.update_parameters(module)
    torch.testing.assert_close(average(batch())[0], module(batch())[0])


# ---- copies and moves


@every_module
def test_state_dict_loads_strictly_and_in_place(name):
    module, other = make(name), cases.CASES[name]()
    kept = plain(other)
    other.load_state_dict(module.state_dict(), strict=True)
    assert_same_function(module, other)
    assert all(p is q for p, q in zip(kept, plain(other), strict=True))


@every_module
def test_state_dict_fills_a_module_on_the_meta_device(name):
    module = make(name)
    with torch.device("meta"):
        other = cases.CASES[name]()
    other.load_state_dict(module.state_dict(), assign=True)
    assert not any(value.is_meta for value in other.state_dict().values())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in module.state_dict().items())


@every_module
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_is_equal_and_apart(name, copied):
    module = make(name)
    other = copied(module)
    assert_same_function(module, other)
    assert repr(other) == repr(module)
    assert other.parameters("weights").keys() == module.parameters("weights").keys()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    assert not any(torch.equal(p, q) for p, q in zip(plain(module), plain(other), strict=True))
    other.reset_parameters()


@every_module
def test_double_moves_every_float(name):
    module = make(name).double()
    assert {value.dtype for value in [*module.state_dict().values()]} == {torch.float64}
    assert module(batch().double())[0].dtype == torch.float64
    assert module.to(torch.float32)(batch())[0].dtype == torch.float32


# ---- transforms


@every_module
def test_compiles_to_the_same_numbers(name):
    module = make(name)
    expected = module(batch())
    torch._dynamo.reset()
    for compiled in (
        torch.compile(module, fullgraph=True, backend="aot_eager"),
        torch.compile(module.to_torch(), fullgraph=True, backend="aot_eager"),
    ):
        found = compiled(batch())
        found = found[0] if isinstance(found, tuple) else found
        torch.testing.assert_close(found, expected[0])


@every_module
def test_exports_to_the_same_numbers(name):
    module = make(name).to_torch()
    # AUTO: maps that choose the cheaper order of products by the batch hold for a range of sizes only.
    exported = torch.export.export(module, (batch(),), dynamic_shapes=({0: torch.export.Dim.AUTO},)).module()
    for n in (8, 5):
        torch.testing.assert_close(exported(batch(n)), module(batch(n)))


@every_module
def test_functional_call_and_vmap_equal_a_loop(name):
    module = make(name)
    parameters = {key: torch.stack([value, 2 * value]) for key, value in module.named_parameters()}
    found = torch.func.vmap(lambda p, x: torch.func.functional_call(module, p, (x,))[0], (0, None))(parameters, batch())
    for i in range(2):
        with torch.no_grad():
            expected = copy.deepcopy(module)
            for key, value in expected.named_parameters():
                value.copy_(parameters[key][i])
        torch.testing.assert_close(found[i], expected(batch())[0])


@pytest.mark.parametrize("name", ["Linear", "Linear with bias"])
def test_a_pruned_weight_stays_pruned_while_trained(name):
    module = make(name)
    prune.random_unstructured(module, "weight", amount=0.5)
    assert list(module.parameters("weights").keys()) == ["weight_orig"]
    steps = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(2):
        backward(module)
        steps.step()
    x = torch.eye(cases.SIZE_IN)
    held = module(x)[0] - module(0 * x)[0]
    assert int((held == 0).sum()) == 3
    torch.testing.assert_close(module.to_torch()(x), module(x)[0])
    prune.remove(module, "weight")
    assert list(module.parameters("weights").keys()) == ["weight"]
    torch.testing.assert_close(module(x)[0] - module(0 * x)[0], held)


def test_a_parametrised_weight_is_the_one_that_is_used():
    module = make("Linear with bias")
    nn.utils.parametrizations.weight_norm(module)
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(2)
    torch.testing.assert_close(module(batch())[0], batch() @ module.weight + module.bias)


@every_module
def test_hooks_run_once_and_see_the_tensor(name):
    module, seen = make(name), []
    module.register_forward_hook(lambda m, args, output: seen.append((m, output)))
    output = module(batch())[0]
    plain_output = module.to_torch()(batch())
    assert len(seen) == (1 if name == "from torch" else 2)
    assert seen[0][0] is module
    torch.testing.assert_close(seen[0][1], output)
    torch.testing.assert_close(plain_output, output)


# ---- in other hands


@every_module
def test_the_plain_view_gives_the_output_and_shares_the_parameters(name):
    module = make(name)
    view = nn.Sequential(module.to_torch(), nn.Identity())
    torch.testing.assert_close(view(batch()), module(batch())[0])
    assert [id(p) for p in view.parameters()] == [id(p) for p in plain(module)]
    node = Node(module, ["x"], ["y"])
    torch.testing.assert_close(node({"x": batch()})["y"], module(batch())[0])
    assert [id(p) for p in node.parameters()] == [id(p) for p in plain(module)]


def test_two_ranks_train_as_one(tmp_path):
    sys.path.insert(0, str(RANKS))
    import modules as script

    command = [sys.executable, str(RANKS / "modules.py")]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(tmp_path)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in cases.CASES:
        module = make(name)
        script.fit(module)
        parameters = dict(module.named_parameters())
        for key, value in parameters.items():
            torch.testing.assert_close(first[name][key], value.detach(), rtol=1e-5, atol=1e-6)
            assert torch.equal(first[name][key], second[name][key])


class Fit(lightning.LightningModule):
    """What a user writes round a module."""

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def training_step(self, data, index):
        value = loss(self.module(data)[0])
        self.log("train_loss", value)
        return value

    def configure_optimizers(self):
        return torch.optim.Adam(self.module.parameters(), lr=0.05)


def trained(lit: lightning.LightningModule, tmp_path, **options) -> lightning.Trainer:
    loader = torch.utils.data.DataLoader(batch(16), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", devices=1, default_root_dir=tmp_path, enable_progress_bar=False, **options
    )
    trainer.fit(lit, loader)
    return trainer


@pytest.mark.filterwarnings("ignore")
@every_module
def test_lightning_fits_it_with_default_settings(name, tmp_path):
    lit = Fit(make(name))
    before = loss(lit.module(batch(16))[0]).item()
    trained(lit, tmp_path, logger=False)
    assert loss(lit.module(batch(16))[0]).item() < before


@pytest.mark.filterwarnings("ignore")
def test_lightning_averages_its_weights(tmp_path):
    lit = Fit(make("nested"))
    trained(lit, tmp_path, logger=False, callbacks=[StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)])
    assert all(p.isfinite().all() for p in lit.parameters())


class OursFirst(Linear, lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__((cases.SIZE_IN, cases.SIZE_OUT), has_bias=True)

    training_step = Fit.training_step

    @property
    def module(self):
        return self

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class TheirsFirst(lightning.LightningModule, Module):
    def __init__(self) -> None:
        super().__init__()
        Module.__init__(self, (cases.SIZE_IN, cases.SIZE_OUT))
        self.linear = Linear(self.shape)

    def evolve(self, input_data, record=False):
        return self.linear(input_data, record)

    training_step = Fit.training_step
    module = OursFirst.module
    configure_optimizers = OursFirst.configure_optimizers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mixed", [OursFirst, TheirsFirst])
def test_a_module_that_is_a_lightning_module_too(mixed, tmp_path):
    torch.manual_seed(0)
    lit = mixed()
    before = loss(lit(batch(16))[0]).item()
    trained(lit, tmp_path, logger=False)
    assert loss(lit(batch(16))[0]).item() < before
    assert lit.shape == (cases.SIZE_IN, cases.SIZE_OUT)
    assert lit.parameters("weights")


@pytest.mark.filterwarnings("ignore")
def test_a_mixed_module_trains_on_two_ranks(tmp_path):
    torch.manual_seed(0)
    lit = OursFirst()
    before = lit.weight.detach().clone()
    loader = torch.utils.data.DataLoader(batch(16), batch_size=8)
    lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(lit, loader)  # fmt: skip
    assert not torch.equal(lit.weight, before)
    assert lit(batch())[0].shape == (8, cases.SIZE_OUT)


def test_a_map_behind_a_linear_is_found_by_walks():
    module = Linear((4, 4), weight_map=OrthogonalLinear)
    assert [type(m) for m in module.modules()] == [Linear, OrthogonalLinear]
