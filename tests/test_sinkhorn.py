"""Doubly stochastic maps against Sinkhorn's scaling by hand, linear programming's corners, and hard weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.func import functional_call, vmap

from slimgraph import slim
from slimgraph.errors import OptionError
from slimgraph.slim.linear.sinkhorn import rounded
from tests.helpers import close


def sinkhorn(K: np.ndarray, steps: int) -> np.ndarray:
    """Sinkhorn's scaling of a positive matrix, from its definition."""
    for _ in range(steps):
        K = K / K.sum(1, keepdims=True)
        K = K / K.sum(0, keepdims=True)
    return K


def with_weight(weight: torch.Tensor, **options) -> slim.DoublyStochasticLinear:
    m = slim.DoublyStochasticLinear(*weight.shape, **options).to(weight)
    m.load_state_dict({"weight": weight})
    return m


@pytest.mark.parametrize("n_iters", [1, 3, 10, 200])
def test_it_is_the_rounded_sinkhorn_scaling(n_iters: int):
    weight = 3 * torch.randn(6, 6, dtype=torch.float64)
    F = sinkhorn(weight.exp().numpy(), n_iters)
    F = F * np.minimum(1 / F.sum(1), 1)[:, None]
    F = F * np.minimum(1 / F.sum(0), 1)
    missing_rows, missing_columns = 1 - F.sum(1), 1 - F.sum(0)
    expected = F
    if n_iters < 200:
        expected = F + np.outer(missing_rows, missing_columns) / np.abs(missing_rows).sum()
    assert close(with_weight(weight, n_iters=n_iters).effective_W(), torch.tensor(expected), 1e-12)


def test_a_positive_member_is_a_fixed_point():
    W = torch.tensor(sinkhorn(np.random.default_rng(0).random((7, 7)), 500))
    for n_iters in (1, 10):
        assert close(with_weight(W.log(), n_iters=n_iters).effective_W(), W, 1e-13)


@pytest.mark.parametrize("n", [2, 5, 64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 10.0, 1e3, 1e6, 1e30])
@pytest.mark.parametrize("n_iters", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sums_are_one_to_rounding_at_any_weight(n: int, size: float, n_iters: int, dtype: torch.dtype):
    m = with_weight(size * torch.randn(n, n, dtype=dtype), n_iters=n_iters)
    W = m.effective_W()
    assert (W >= 0).all() and m.contains(W)
    (W * torch.randn_like(W)).sum().backward()
    assert m.weight.grad.isfinite().all()


def test_rows_that_want_the_same_column_are_kept_too():
    weight = torch.zeros(4, 4)
    weight[:, 0] = 1e4
    m = with_weight(weight)
    W = m.effective_W()
    assert m.contains(W)
    W.square().sum().backward()
    assert m.weight.grad.isfinite().all()


def test_a_sharp_weight_gives_the_best_permutation():
    scores = torch.randn(8, 8, dtype=torch.float64)
    rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
    W = with_weight(200 * scores, n_iters=2000).effective_W()
    assert W[rows, columns].min() > 0.99


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_the_gradient_through_all_iterations_equals_finite_differences(spread: float):
    weight = (spread * torch.randn(5, 5, dtype=torch.float64)).requires_grad_()
    m = slim.DoublyStochasticLinear(5, 5).double()
    assert torch.autograd.gradcheck(lambda w: functional_call(m, {"weight": w}, torch.eye(5).double()), (weight,))


def test_rounding_moves_no_further_than_its_bound():
    for seed in range(20):
        torch.manual_seed(seed)
        F = torch.rand(6, 6, dtype=torch.float64) ** 3
        F = F / F.sum(0)
        assert (rounded(F) - F).abs().sum() <= 2 * (F.sum(1) - 1).abs().sum() + 1e-12


def test_a_training_step_under_vmap_and_compiled_equals_the_plain_one():
    weights = 5 * torch.randn(3, 4, 4)
    m = slim.DoublyStochasticLinear(4, 4)

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return functional_call(m, {"weight": weight}, torch.eye(4)).square().sum()

    expected = torch.stack([torch.func.grad(loss)(w) for w in weights])
    assert close(vmap(torch.func.grad(loss))(weights), expected, 1e-5)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    w = weights[0].clone().requires_grad_()

    (gradient,) = torch.autograd.grad(compiled(w), w)
    assert close(gradient, expected[0], 1e-5)


def test_a_count_of_iterations_below_one_is_refused():
    with pytest.raises(OptionError, match="DoublyStochasticLinear needs n_iters >= 1, got n_iters=0"):
        slim.DoublyStochasticLinear(3, 3, n_iters=0)
    with pytest.raises(TypeError):
        slim.DoublyStochasticLinear(3, 3, False, 5)
