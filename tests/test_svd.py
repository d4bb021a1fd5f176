"""Decompositions with free factors and products of factors, against dense algebra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimgraph import slim
from slimgraph.errors import OptionError
from slimgraph.slim.linear.svd import random_orthogonal
from tests.helpers import close, perturb

F64 = torch.float64


def fit(m: slim.LinearBase, target: torch.Tensor, steps: int = 600, reg: float = 0.0) -> float:
    """The Frobenius distance to `target` after training."""
    optimizer = torch.optim.Adam(m.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        ((m.effective_W() - target).square().sum() + reg * m.reg_error()).backward()
        optimizer.step()
    return torch.dist(m.effective_W(), target).item()


# Starts


def test_random_orthogonal_matrices_are_orthogonal_and_uniform():
    many = torch.stack([random_orthogonal(3) for _ in range(4000)]).double()
    assert close(many @ many.mT, torch.eye(3, dtype=F64).expand(4000, 3, 3), 1e-5)
    # Under the Haar measure entries have mean 0, mean square 1/n, fourth moment 3/(n(n+2)), and E tr(Q)^2 = 1.
    assert many.mean(0).abs().max() < 0.05
    assert (many.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert (many.pow(4).mean(0) - 3 / 15).abs().max() < 0.03
    assert many.diagonal(dim1=1, dim2=2).sum(1).square().mean().item() == pytest.approx(1, abs=0.1)
    assert torch.linalg.det(many).mean().abs() < 0.06


# Singular value decompositions


@pytest.mark.parametrize("cls", [slim.SVDLinear, slim.SVDLinearLearnBounds])
@pytest.mark.parametrize("size", [(4, 4), (3, 6), (6, 3)])
def test_svd_is_U_Sigma_V(cls: type, size: tuple[int, int]):
    m = perturb(cls(*size, sigma_min=0.5, sigma_max=1.5).double())
    assert close(m.effective_W(), m.U @ m.Sigma() @ m.V)
    expected = m.sigma_min + (m.sigma_max - m.sigma_min) * torch.sigmoid(m.p)
    assert close(m.Sigma().diagonal(), expected)
    eye = [torch.eye(n, dtype=F64) for n in size]
    errors = [
        np.linalg.norm(one - A @ B)
        for M, one in zip((m.U, m.V), eye, strict=True)
        for A, B in ((M.detach(), M.detach().T), (M.detach().T, M.detach()))
    ]
    assert m.reg_error().item() == pytest.approx(sum(errors), rel=1e-12)


def test_learned_bounds_stay_an_interval_whatever_the_parameters():
    m = slim.SVDLinearLearnBounds(3, 3, sigma_min=0.2, sigma_max=0.5).double()
    assert (m.sigma_min.item(), m.sigma_max.item()) == pytest.approx((0.2, 0.5))
    for _ in range(50):
        perturb(m, 3.0)
        assert 0 <= m.sigma_min <= m.sigma_max
        assert (m.sigma() >= m.sigma_min).all() and (m.sigma() <= m.sigma_max).all()
    assert isinstance(m, slim.SVDLinear)


def test_learned_bounds_are_what_contains_reads_and_the_state_holds():
    m = slim.SVDLinearLearnBounds(2, 2, sigma_min=0.2, sigma_max=0.5).double()
    W = torch.diag(torch.tensor([0.3, 2.0], dtype=F64))
    assert not m.contains(W)
    with torch.no_grad():
        m.width.fill_(-3.0)
    assert m.contains(W) and not m.contains(0.1 * W)
    fresh = slim.SVDLinearLearnBounds(2, 2).double()
    fresh.load_state_dict(m.state_dict())
    assert torch.equal(fresh.sigma_max, m.sigma_max) and fresh.contains(W)
    assert "sigma_min=0.2, sigma_max=3.2" in repr(m)
    assert "sigma_min=?" in repr(m.to("meta"))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (0.0, 1.0), (0.7, 0.7)])
def test_bounds_that_start_at_zero_or_equal_can_be_learned(bounds: tuple[float, float]):
    m = slim.SVDLinearLearnBounds(3, 3, False, *bounds).double()
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    target = Q @ torch.diag(torch.tensor([4.0, 3.0, 2.0], dtype=F64)) @ Q.T
    assert fit(m, target, 2000, reg=0.01) < 0.2
    assert m.sigma_max > 3


def test_symmetric_svd_has_one_factor_and_is_symmetric_wherever_it_is():
    m = perturb(slim.SymmetricSVDLinear(65, 65), 1.0)
    W = m.effective_W()
    assert torch.equal(W, W.mT)
    assert {name for name, _ in m.named_parameters()} == {"p", "U"}
    assert isinstance(m, slim.SVDLinear) and isinstance(m, slim.SquareLinear) and torch.equal(m.V, m.U.mT)
    m = perturb(slim.SymmetricSVDLinear(4, 4).double())
    assert close(m.effective_W(), m.U @ m.Sigma() @ m.U.T)
    assert close(m.reg_error(), slim.SVDLinear.orthogonal_error(m.U))


def test_symmetric_svd_from_dense_clips_the_eigenvalues():
    W = 2 * torch.randn(5, 5, dtype=F64)
    values, vectors = np.linalg.eigh((W + W.T).numpy() / 2)
    expected = vectors @ np.diag(values.clip(0.5, 1.5)) @ vectors.T
    m = slim.SymmetricSVDLinear.from_dense(W, sigma_min=0.5, sigma_max=1.5)
    assert close(m.effective_W(), torch.from_numpy(expected)) and m.reg_error() < 1e-13


def test_a_symmetric_svd_refuses_a_negative_eigenvalue():
    assert not slim.SymmetricSVDLinear(2, 2).contains(torch.diag(torch.tensor([0.5, -0.5])))
    assert slim.SVDLinear(2, 2).contains(torch.diag(torch.tensor([0.5, -0.5])))


def test_tiny_bounds_have_a_tiny_tolerance():
    m = slim.SVDLinear(3, 3, sigma_min=0.0, sigma_max=1e-9)
    assert m.contains(m.effective_W())
    assert not m.contains(1e-7 * torch.eye(3))


# Symmetries


def test_psd_from_dense_clips_the_negative_eigenvalues():
    W = torch.randn(6, 6, dtype=F64)
    values, vectors = np.linalg.eigh((W + W.T).numpy() / 2)
    expected = torch.from_numpy(vectors @ np.diag(values.clip(0)) @ vectors.T)
    assert close(slim.PSDLinear.from_dense(W).effective_W(), expected)
    member = torch.outer(torch.arange(4.0), torch.arange(4.0))
    assert close(slim.PSDLinear.from_dense(member).effective_W(), member, 1e-5)


@pytest.mark.parametrize("W", [torch.zeros(3, 3), -torch.eye(3), torch.diag(torch.tensor([1.0, 0.0, 0.0]))])
def test_psd_can_leave_the_edge_that_from_dense_puts_it_on(W: torch.Tensor):
    m = slim.PSDLinear.from_dense(W)
    target = torch.tensor([[3.0, 1.0, 0.5], [1.0, 2.0, 0.2], [0.5, 0.2, 1.0]])
    (m.effective_W() * target).sum().backward()
    assert (m.weight.grad != 0).all()
    assert fit(m, target) < 1e-2


@pytest.mark.parametrize("n", [9, 11, 17, 65])
def test_psd_is_symmetric_to_the_last_bit(n: int):
    m = perturb(slim.PSDLinear(n, n), 100.0)
    W = m.effective_W()
    assert torch.equal(W, W.mT) and close(W, m.weight.T @ m.weight, 1e-4)
    assert torch.linalg.eigvalsh(W.double()).min() > -1e-5 * W.abs().max()


def test_large_and_tiny_entries_keep_their_symmetry():
    huge = slim.SymmetricLinear.from_dense(torch.full((3, 3), 3e38))
    assert huge.effective_W().isfinite().all() and huge.contains(huge.effective_W())
    assert slim.SkewSymmetricLinear.from_dense(torch.full((3, 3), 3e38).tril()).effective_W().isfinite().all()
    for cls in (slim.SymmetricLinear, slim.SkewSymmetricLinear, slim.PSDLinear):
        m = cls(3, 3)
        assert not m.contains(1e-9 * torch.randn(3, 3)) and not m.contains(1e9 * torch.randn(3, 3))
        assert m.contains(1e-9 * m.effective_W()) and m.contains(torch.zeros(3, 3))
    damped = slim.DampedSkewSymmetricLinear(3, 3, sigma_min=0.0, sigma_max=1e-9)
    assert damped.contains(1e-9 * slim.SkewSymmetricLinear(3, 3).effective_W())
    assert not damped.contains(1e-9 * torch.randn(3, 3))
    assert not damped.contains(-1e-8 * torch.eye(3))


# Factors


FACTORED = [
    lambda: slim.LowRankLinear(40, 30, bias=True, rank=3),
    lambda: slim.SVDLinear(30, 40),
    lambda: slim.SVDLinearLearnBounds(40, 40),
    lambda: slim.SymmetricSVDLinear(40, 40, bias=True),
    lambda: slim.PSDLinear(40, 40, bias=True),
    lambda: slim.TrivialNullSpaceLinear(30, 40),
]


@pytest.mark.parametrize("make", FACTORED)
def test_few_rows_do_not_build_W_and_many_do(make, monkeypatch: pytest.MonkeyPatch):
    m = make().double()
    few, many = (torch.randn(rows, m.in_features, dtype=F64) for rows in (5, 5000))
    expected, built = m.to_linear()(few), []
    build = type(m).effective_W
    monkeypatch.setattr(type(m), "effective_W", lambda self: built.append(self) or build(self))
    assert close(m(few), expected) and not built
    m(many)
    # These two are cheaper by their factors for any number of rows.
    assert len(built) == (not isinstance(m, slim.LowRankLinear | slim.TrivialNullSpaceLinear))


def test_low_rank_from_dense_is_the_truncated_decomposition():
    W = torch.randn(7, 5, dtype=F64)
    U, s, V = np.linalg.svd(W.numpy(), full_matrices=False)
    m = slim.LowRankLinear.from_dense(W, rank=2)
    assert close(m.effective_W(), torch.from_numpy(U[:, :2] @ np.diag(s[:2]) @ V[:2]))
    assert torch.dist(m.effective_W(), W).item() == pytest.approx(np.sqrt((s[2:] ** 2).sum()))
    assert close(m.A.mT @ m.A, m.B @ m.B.mT)
    assert m.contains(m.effective_W()) and not m.contains(W)
    assert close(slim.LowRankLinear.from_dense(W, rank=5).effective_W(), W)


@pytest.mark.parametrize("W", [torch.zeros(4, 5), torch.outer(torch.arange(4.0), torch.ones(5))])
def test_low_rank_can_leave_a_lower_rank(W: torch.Tensor):
    m = slim.LowRankLinear.from_dense(W, rank=2)
    assert close(m.effective_W(), W, 1e-4)
    target = torch.outer(torch.arange(4.0), torch.ones(5)) + torch.outer(torch.ones(4), torch.arange(5.0) - 2)
    assert fit(m, target, 1500) < 1e-2


@pytest.mark.parametrize("size, rank", [((300, 100), 30), ((100, 300), 2), ((200, 200), None)])
def test_low_rank_starts_with_the_variance_of_a_dense_map(size: tuple[int, int], rank: int | None):
    W = slim.LowRankLinear(*size, rank=rank).effective_W()
    assert W.var().item() == pytest.approx(slim.Linear(*size).effective_W().var().item(), rel=0.3 if rank == 2 else 0.1)
    m = slim.LowRankLinear(*size, rank=rank)
    # Balanced: the factors have the same mean squared singular value.
    assert m.A.square().sum().item() == pytest.approx(m.B.square().sum().item(), rel=0.15)


def test_the_default_rank_is_a_quarter_and_a_rank_out_of_range_is_refused():
    assert [slim.LowRankLinear(n, 2 * n).rank for n in (1, 3, 4, 100)] == [1, 1, 1, 25]
    assert sum(p.numel() for p in slim.LowRankLinear(64, 64).parameters()) == 64 * 64 // 2
    assert slim.LowRankLinear(4, 3, False, 2).rank == 2
    with pytest.raises(OptionError, match=r"LowRankLinear needs rank <= min\(insize, outsize\) = 3, got rank=4"):
        slim.LowRankLinear(5, 3, rank=4)
    for bad, message in [(0, "needs rank >= 1, got rank=0"), (1.5, "needs a whole number for rank, got 1.5")]:
        for cls in (slim.LowRankLinear, slim.TrivialNullSpaceLinear):
            with pytest.raises(OptionError, match=f"{cls.__name__} {message}"):
                cls(3, 3, rank=bad)


# Trivial null spaces


@pytest.mark.parametrize("size, rank", [((3, 3), None), ((3, 7), 1), ((1, 4), None), ((6, 7), 6)])
def test_trivial_null_space_is_its_formula(size: tuple[int, int], rank: int | None):
    m = perturb(slim.TrivialNullSpaceLinear(*size, False, rank, 0.3).double(), 2.0)
    assert m.G1.shape == (rank or math.ceil(size[0] / 2), size[0])
    stacked = torch.cat([m.G1.T @ m.G1 + 0.3 * torch.eye(size[0], dtype=F64), m.G2])
    assert close(m.effective_W(), stacked.T)
    assert torch.linalg.svdvals(m.effective_W()).min() >= 0.3 - 1e-9
    assert not m.contains(m.effective_W() - 0.2 * torch.eye(*size)) or m.rank == size[0]
    assert m.contains(0.3 * torch.eye(*size, dtype=F64)) and not m.contains(0.29 * torch.eye(*size, dtype=F64))


def test_trivial_null_space_says_what_it_refuses():
    cls = slim.TrivialNullSpaceLinear
    with pytest.raises(OptionError, match=r"takes no bias, got bias=True: x W \+ bias could be zero for a nonzero x"):
        cls(3, 4, bias=True)
    with pytest.raises(OptionError, match="needs insize <= outsize, .* got insize=4 and outsize=3"):
        cls(4, 3)
    with pytest.raises(OptionError, match="needs rank <= insize = 3, got rank=4"):
        cls(3, 5, rank=4)
    for bad in (0.0, -1, math.inf, True, "x"):
        with pytest.raises(OptionError, match=rf"TrivialNullSpaceLinear needs .*epsilon.*, got epsilon={bad!r}"):
            cls(3, 5, epsilon=bad)
    assert cls in slim.tall_maps
