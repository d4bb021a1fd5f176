"""The split maps against their definition: what a difference of two bounded non-negative matrices can be."""

from __future__ import annotations

import pytest
import torch

from slimgraph import slim
from slimgraph.errors import OptionError
from tests.helpers import close, perturb


def test_a_split_is_the_difference_of_its_two_non_negative_parts():
    m = perturb(slim.SplitLinear(4, 6, bias=True).double(), 1.0)
    B, C = m.parts()
    assert torch.equal(B, m.B.weight.relu()) and torch.equal(C, m.C.weight.relu())
    assert torch.equal(m.effective_W(), B - C)
    assert set(m.state_dict()) == {"B.weight", "C.weight", "bias"}
    assert isinstance(m.B, slim.NonNegativeLinear)


@pytest.mark.parametrize("cls", [slim.SplitLinear, slim.LassoLinear, slim.LassoLinearRELU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_halves_hold_any_matrix_exactly_and_every_entry_can_still_be_trained(cls: type, dtype: torch.dtype):
    W = torch.tensor([[1.5, -2.5, 0.0], [1e20, -1e-20, 3.0]], dtype=dtype)
    m = cls.from_dense(W)
    assert torch.equal(m.effective_W(), W)
    m.effective_W().sum().backward()
    for p in m.parameters():
        assert (p.grad.abs() == 1).all()


def test_a_row_of_a_stable_split_shares_sigma_max_between_its_parts():
    m = perturb(slim.StableSplitLinear(5, 7, sigma_min=0.4, sigma_max=0.9).double(), 3.0)
    B, C = m.parts()
    c = 0.25 * torch.sigmoid(m.p).squeeze(1)
    assert (B >= 0).all() and (C >= 0).all()
    assert close(C.sum(1), c) and close(B.sum(1), 0.9 - c)
    assert torch.equal(m.effective_W(), B - C)
    assert close(m.effective_W().sum(1), 0.9 - 2 * c)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_a_stable_split_and_its_parts_are_stable(size: float):
    for seed in range(20):
        torch.manual_seed(seed)
        m = perturb(slim.StableSplitLinear(6, 6).double(), size)
        for matrix in (m.effective_W(), *m.parts()):
            assert torch.linalg.matrix_norm(matrix, torch.inf) <= 1 + 1e-14
            assert torch.linalg.eigvals(matrix).abs().max() <= 1 + 1e-12


def test_contains_knows_exactly_what_a_stable_split_can_be():
    """A row w is b - c with these sums if and only if its sum and its l1 norm are within the bounds."""
    low, high = 0.2, 1.0
    m = slim.StableSplitLinear(1, 3, sigma_min=low, sigma_max=high).double()
    for row, inside in [
        ([0.6, -0.4, 0.0], True),
        ([0.6, -0.5, 0.05], False),
        ([0.1, 0.1, 0.0], True),
        ([0.1, 0.05, 0.0], False),
        ([0.5, 0.5, 0.0], True),
        ([0.5, 0.5, 0.01], False),
    ]:
        w = torch.tensor([row], dtype=torch.float64)
        assert m.contains(w) is inside
        if inside:
            # What is missing to sigma_max stands in both parts alike and cancels.
            spare = (high - w.abs().sum()) / 2
            b, c = w.clamp(min=0) + spare / 3, (-w).clamp(min=0) + spare / 3
            assert low - 1e-12 <= (b - c).sum() <= high + 1e-12
            assert 0 <= c.sum() <= (high - low) / 2 + 1e-12 and close((b + c).sum(), torch.tensor(high).double())


def test_a_stable_split_reaches_both_its_bounds():
    m = slim.StableSplitLinear(2, 3, sigma_min=0.3, sigma_max=0.8).double()
    for p, total in [(-60.0, 0.8), (60.0, 0.3)]:
        torch.nn.init.constant_(m.p, p)
        assert close(m.effective_W().sum(1), torch.full((2,), total, dtype=torch.float64))


def test_a_negative_sum_of_non_negative_entries_is_refused():
    with pytest.raises(OptionError, match=r"StableSplitLinear needs sigma_min >= 0, got sigma_min=-0\.1"):
        slim.StableSplitLinear(2, 2, sigma_min=-0.1)
    with pytest.raises(OptionError, match="StableSplitLinear has no from_dense"):
        slim.StableSplitLinear.from_dense(torch.eye(2))
