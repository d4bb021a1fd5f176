"""The l0 and lasso maps against probabilities by simulation, exact optima of the lasso, and what training does."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import lightning
import numpy as np
import pytest
import torch
from torch.func import functional_call, vmap

from slimgraph import Node, PenaltyLoss, Problem, slim, variable
from slimgraph.errors import OptionError
from slimgraph.training import LitDataModule, LitProblem
from tests.helpers import close, perturb

# Gates


def l0(logits: list[float], outsize: int = 3, **options) -> slim.L0Linear:
    m = slim.L0Linear(len(logits), outsize, **options).double()
    with torch.no_grad():
        m.qz_loga.copy_(torch.tensor(logits))
    return m


def test_the_distribution_of_a_gate_is_that_of_what_is_drawn():
    m = l0([-1.0, 0.5, 3.0], temperature=0.7)
    drawn = m.quantile_concrete(m.get_eps((200_000, 3)))
    for x in (-0.09, 0.0, 0.3, 0.8, 1.0, 1.09):
        frequency = (drawn <= x).double().mean(0)
        assert (frequency - m.cdf_qz(x)).abs().max() < 0.005
    u = torch.rand(50, 3).double()
    assert close(m.cdf_qz(m.quantile_concrete(u)), u, 1e-9)
    assert m.cdf_qz(-0.1).tolist() == [0, 0, 0] and m.cdf_qz(torch.tensor(1.1)).tolist() == [1, 1, 1]


def test_reg_error_is_the_expected_cost_of_the_weights_behind_gates_that_are_not_shut():
    m = l0([-1.0, 0.0, 2.0], outsize=2, weight_decay=0.3, lamda=0.7)
    expected = m.reg_error().item()
    m.train()
    with torch.no_grad():
        drawn = torch.stack([m.gates() for _ in range(40_000)])
    frequency = (drawn != 0).double().mean(0)
    cost = (0.15 * m.weight.square() + 0.7).sum(1)
    simulated = (frequency * cost).sum() + 0.15 * m.bias.square().sum()
    assert expected == pytest.approx(simulated.item(), rel=0.01)
    # Its value at one gate, by hand: a logistic variable L is shut where sigmoid((L + 0)/T) <= 1/12.
    single = l0([0.0], outsize=1, bias=False, weight_decay=0.0, temperature=0.5)
    threshold = 0.5 * math.log((1 / 12) / (11 / 12))
    assert single.reg_error().item() == pytest.approx(1 - 1 / (1 + math.exp(-threshold)))


def test_open_gates_and_zero_weights_cost_lamda_a_weight():
    m = l0([60.0] * 4, outsize=5, lamda=0.25)
    with torch.no_grad():
        m.weight.zero_()
        m.bias.zero_()
    assert m.reg_error().item() == pytest.approx(0.25 * 4 * 5)
    assert l0([-60.0] * 4, bias=False).reg_error().item() < 1e-20


def test_the_evaluated_gates_are_deterministic_and_exact_at_both_ends():
    m = l0([-30.0, -2.5, 0.0, 1.0, 2.5, 30.0]).eval()
    expected = [0.0, 0.0, 0.5, 1.2 / (1 + math.exp(-1)) - 0.1, 1.0, 1.0]
    assert m.gates().tolist() == pytest.approx(expected, abs=1e-12)
    assert torch.equal(m.effective_W(), m.gates()[:, None] * m.weight)
    assert not m.effective_W()[:2].any()


def test_training_draws_one_set_of_gates_for_each_W_or_block():
    m = l0([0.0] * 50).train()
    x = torch.randn(4, 50).double()
    assert not torch.equal(m.effective_W(), m.effective_W())
    with slim.materialized(m):
        assert torch.equal(m.effective_W(), m.effective_W())
        assert close(m(x), x @ m.effective_W() + m.bias)
    ratios = m.effective_W() / m.weight
    assert (ratios - ratios[:, :1]).abs().max() < 1e-12
    assert (ratios == 0).any() and (ratios == 1).any() and ((ratios > 0) & (ratios < 1)).any()
    torch.manual_seed(5)
    first = m.effective_W()
    torch.manual_seed(5)
    assert torch.equal(first, m.effective_W())
    assert torch.equal(m.eval()(x), m(x))


def test_held_gates_are_those_of_the_generator():
    m = l0([0.0] * 50).train()
    model = torch.nn.Sequential(m, torch.nn.Tanh(), l0([0.0] * 3))

    def hold(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed())
        slim.hold_gates_(model, torch.Generator().manual_seed(seed))
        return m.gates()

    assert torch.equal(hold(1), m.gates()) and torch.equal(m.gates(), hold(1))
    assert not torch.equal(hold(1), hold(2))
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(50, generator=generator, dtype=torch.float64)
    assert torch.equal(m.gates(), m.quantile_concrete(uniform).clamp(0, 1))
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert not torch.equal(other.gates(), other.gates())
    slim.hold_gates_(model, None)
    assert not torch.equal(m.gates(), m.gates())


def test_held_gates_are_the_same_when_a_step_is_recomputed():
    m, x = l0([0.0] * 20).train(), torch.randn(4, 20).double()
    m.hold_gates_(torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad(m(x).square().sum(), m.qz_loga)
    again = torch.utils.checkpoint.checkpoint(m, x, use_reentrant=False, preserve_rng_state=False)
    assert torch.equal(*wanted, *torch.autograd.grad(again.square().sum(), m.qz_loga))


def test_the_plain_layer_has_the_gates_of_evaluation():
    m = l0([0.0] * 20).train()
    linear = m.to_linear()
    assert m.training
    assert torch.equal(linear.weight.mT, m.eval().effective_W())


def test_the_gates_start_where_the_drop_rate_says():
    for rate in (0.1, 0.5, 0.9):
        shut = torch.sigmoid(-slim.L0Linear(2000, 1, droprate_init=rate).qz_loga)
        assert shut.mean().item() == pytest.approx(rate, abs=1e-3) and 0 < shut.std() < 0.01


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 2.0])
def test_gates_from_a_matrix_are_open_and_can_still_be_trained(temperature: float):
    W = torch.randn(6, 4)
    m = slim.L0Linear.from_dense(W, temperature=temperature)
    assert torch.equal(m.eval().effective_W(), W)
    drawn_below_one = (m.quantile_concrete(m.get_eps((100_000, 6))) < 1).float().mean()
    assert drawn_below_one.item() <= 1.5e-3
    m.reg_error().backward()
    assert m.qz_loga.grad.abs().min() > 1e-12


@pytest.mark.parametrize("logit", [-1e6, -100.0, 100.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gates_far_out_are_finite(logit: float, dtype: torch.dtype):
    m = slim.L0Linear(3, 2).to(dtype)
    torch.nn.init.constant_(m.qz_loga, logit)
    (m(torch.ones(1, 3, dtype=dtype)).sum() + m.reg_error()).backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())
    assert m.get_eps(1000).max() < 1 and m.get_eps(1000).min() > 0


def test_gates_in_training_under_compile_and_vmap():
    m = slim.L0Linear(40, 3).train()
    x = torch.randn(2, 40)
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(x), compiled(x))
    for seed in range(3):
        m.hold_gates_(torch.Generator().manual_seed(seed))
        # Numbers that are held are an input of what was compiled, which is not compiled again for others.
        with torch.compiler.set_stance("default" if seed == 0 else "fail_on_recompile"):
            assert close(compiled(x), m(x), 1e-6)
    m.hold_gates_(None)
    state = {name: value.expand(4, *value.shape) for name, value in m.state_dict().items()}
    many = vmap(lambda s: functional_call(m, s, (x,)), randomness="different")(state)
    assert not torch.equal(many[0], many[1])


def test_l0_finds_the_inputs_that_matter():
    x = torch.randn(512, 10)
    y = x[:, :3] @ torch.tensor([[2.0], [-1.5], [1.0]])
    m = slim.L0Linear(10, 1, weight_decay=0.0, lamda=0.05)
    optimizer = torch.optim.Adam(m.parameters(), lr=0.03)
    for _ in range(1500):
        optimizer.zero_grad()
        ((m(x) - y).square().mean() + m.reg_error()).backward()
        optimizer.step()
    W = m.eval().effective_W().squeeze(1)
    assert (W[3:] == 0).all()
    assert close(W[:3], torch.tensor([2.0, -1.5, 1.0]), 0.05)


@pytest.mark.parametrize("options, message", [
    ({"droprate_init": 1.0}, "L0Linear needs 0 < droprate_init < 1, got droprate_init=1.0"),
    ({"droprate_init": 0}, "L0Linear needs 0 < droprate_init < 1, got droprate_init=0"),
    ({"temperature": 0.0}, "L0Linear needs temperature > 0, got temperature=0.0"),
    ({"temperature": float("inf")}, "L0Linear needs a finite temperature, got temperature=inf"),
    ({"lamda": -1}, "L0Linear needs lamda >= 0, got lamda=-1"),
    ({"weight_decay": -0.5}, r"L0Linear needs weight_decay >= 0, got weight_decay=-0\.5"),
    ({"weight_decay": "a"}, "L0Linear needs a number for weight_decay, got weight_decay='a'"),
    ({"lambda": 1.0}, "L0Linear has no option 'lambda'. Did you mean 'lamda'"),
])  # fmt: skip
def test_options_of_the_l0_map_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        slim.L0Linear(3, 3, **options)


def test_options_of_the_l0_map_stand_in_their_order():
    m = slim.L0Linear(3, 2, False, 0.1, 0.2, 0.3, 0.4)
    assert (m.weight_decay, m.droprate_init, m.temperature, m.lamda) == (0.1, 0.2, 0.3, 0.4)
    assert slim.L0Linear(3, 2).bias is not None


# Lasso

LASSOS = [slim.LassoLinear, slim.LassoLinearRELU]


def coordinate_descent(x: np.ndarray, y: np.ndarray, gamma: float) -> np.ndarray:
    """The minimum of mean((x w - y)^2) + gamma |w|_1, by exact minimisation along one coordinate after the other."""
    w = np.zeros(x.shape[1])
    for _ in range(500):
        for j in range(len(w)):
            correlation = 2 * np.mean(x[:, j] * (y - x @ w + x[:, j] * w[j]))
            w[j] = np.sign(correlation) * max(abs(correlation) - gamma, 0) / (2 * np.mean(x[:, j] ** 2))
    return w


def sparse_data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(100, 6, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.0], [0.0], [0.3], [0.0]]).double() + 0.1 * torch.randn(100, 1)
    return x, y


def test_projected_gradient_descent_reaches_the_optimum_of_the_lasso_with_its_exact_zeros():
    x, y = sparse_data()
    expected = coordinate_descent(x.numpy(), y.squeeze(1).numpy(), 0.4)
    m = slim.LassoLinear(6, 1, gamma=0.4).double()
    optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
    for _ in range(1000):
        optimizer.zero_grad()
        ((m(x) - y).square().mean() + m.reg_error()).backward()
        optimizer.step()
        slim.project_(m)
    W = m.effective_W().detach().squeeze(1)
    assert np.allclose(W.numpy(), expected, atol=1e-8)
    assert (W == 0).tolist() == (expected == 0).tolist() and (W == 0).sum() >= 3
    assert close(m.reg_error(), 0.4 * W.abs().sum())
    assert (torch.minimum(m.u, m.v) == 0).all()


@pytest.mark.parametrize("cls", LASSOS)
def test_halves_are_cut_at_zero_and_start_positive(cls: type):
    m = cls(30, 20, gamma=0.5)
    assert (m.u > 0).all() and (m.v > 0).all() and m.u.max() <= 30**-0.5
    perturb(m, 1.0)
    u, v = m.u.clamp(min=0), m.v.clamp(min=0)
    assert torch.equal(m.effective_W(), u - v)
    assert close(m.reg_error(), 0.5 * (u.sum() + v.sum()))
    before = {name: p.clone() for name, p in m.named_parameters()}
    m(torch.ones(2, 30))
    assert all(torch.equal(p, before[name]) for name, p in m.named_parameters())


def test_a_half_below_zero_comes_back_in_one_and_stays_in_the_other():
    for cls, slope in zip(LASSOS, (1.0, 0.0), strict=True):
        m = cls(1, 1)
        torch.nn.init.constant_(m.u, -1.0)
        m.effective_W().sum().backward()
        assert m.u.grad.item() == slope
        m.zero_grad()
        m.reg_error().backward()
        assert m.u.grad.item() == slope
    assert not hasattr(slim.LassoLinearRELU(1, 1), "project_")


def test_a_projection_leaves_the_function_as_it_is():
    m = perturb(slim.LassoLinear(4, 3).double(), 1.0)
    W, error = m.effective_W(), m.reg_error()
    assert min(m.u.min(), m.v.min()) < 0
    slim.project_(torch.nn.Sequential(torch.nn.Linear(4, 4), m))
    assert min(m.u.min(), m.v.min()) == 0
    assert torch.equal(m.effective_W(), W) and torch.equal(m.reg_error(), error)
    assert m.u.requires_grad and m.u.is_leaf


@pytest.mark.parametrize("cls", LASSOS)
def test_a_negative_gamma_is_refused(cls: type):
    with pytest.raises(OptionError, match=f"{cls.__name__} needs gamma >= 0, got gamma=-1"):
        cls(2, 2, gamma=-1)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("Adam", {}),
        ("SGD", {"accumulate_grad_batches": 3}),
        ("SGD", {"gradient_clip_val": 0.5, "precision": "bf16-mixed"}),
        (functools.partial(torch.optim.LBFGS, max_iter=4), {}),
    ],
    ids=["adam", "accumulated", "mixed", "lbfgs"],
)
def test_training_projects_after_each_step_of_the_optimiser(optimizer, options: dict, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    x, y = (part.float() for part in sparse_data())
    m = slim.LassoLinear(6, 1, gamma=1.0)
    projections, project_ = [], m.project_
    monkeypatch.setattr(m, "project_", lambda: (projections.append(min(m.u.min(), m.v.min()).item()), project_()))
    loss = PenaltyLoss([((variable("y_hat") - variable("y")) ** 2).minimize(name="fit")])
    problem = Problem([Node(m, ["x"], ["y_hat"], name="lasso")], loss, reg_weight=1.0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=30, enable_model_summary=False, **quiet, **options
    )
    trainer.fit(LitProblem(problem, optimizer, lr=0.1), LitDataModule({"x": x, "y": y}, batch_size=25))
    assert len(projections) == trainer.global_step
    assert min(projections) < 0, "no step left the set, so that this test shows nothing"
    assert min(m.u.min(), m.v.min()) >= 0
