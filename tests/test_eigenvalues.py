"""`SchurDecompositionLinear` and `GershgorinLinear` against their formulas entry by entry, and known spectra."""

from __future__ import annotations

import math

import pytest
import torch

from slimgraph import slim
from slimgraph.errors import OptionError, ShapeError
from tests.helpers import close, perturb


def schur(n: int, size: float = 0.3, **options) -> slim.SchurDecompositionLinear:
    torch.manual_seed(0)
    return perturb(slim.SchurDecompositionLinear(n, n, **options).double(), size)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far two sets of eigenvalues are apart."""
    gaps = (a.unsqueeze(1) - b).abs()
    return max(gaps.amin(0).max().item(), gaps.amin(1).max().item())


# Schur


@pytest.mark.parametrize("n", [2, 4, 10])
def test_the_eigenvalues_are_the_parameters(n: int):
    m = schur(n)
    half = torch.polar(m.gamma.detach(), m.theta.detach())
    assert distance(m.eig(eigenvectors=False).detach(), torch.cat([half, half.conj()])) < 1e-9


def test_T_is_rotations_below_free_blocks():
    m, pairs = schur(8), 4
    T, blocks = torch.zeros(8, 8, dtype=torch.float64), iter(m.N.detach())
    for i in range(pairs):
        gamma, theta = m.gamma[i].item(), m.theta[i].item()
        rotation = [[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]]
        T[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = gamma * torch.tensor(rotation, dtype=torch.float64)
        for j in range(i + 1, pairs):
            T[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = next(blocks)
    assert next(blocks, None) is None
    assert close(m.build_T(), T)
    given = torch.full_like(T, torch.nan)
    assert m.build_T(given) is given and close(given.detach(), T)
    given.sum().backward()
    assert m.N.grad.eq(1).all()
    with pytest.raises(ShapeError, match=r"build_T needs a T of shape \(8, 8\), got \(7, 8\)"):
        m.build_T(torch.zeros(7, 8))


def test_W_is_P_T_PT():
    m = schur(6)
    orthogonal = slim.OrthogonalLinear(6, 6).double()
    with torch.no_grad():
        orthogonal.U.copy_(m.U)
        orthogonal.sign.copy_(m.sign)
    PT = orthogonal.effective_W()
    assert close(m.effective_W(), PT.mT @ m.build_T() @ PT)


def test_it_starts_orthogonal_with_eigenvalues_all_round():
    m = slim.SchurDecompositionLinear(64, 64)
    W = m.effective_W().detach()
    assert close(W @ W.mT, torch.eye(64), 1e-5)
    assert m.theta.min() < -2 and m.theta.max() > 2 and m.reg_error() == 0


def test_reg_error_is_the_mean_distance_of_gamma_from_one():
    m = slim.SchurDecompositionLinear(4, 4, l2=3.0)
    with torch.no_grad():
        m.gamma.copy_(torch.tensor([1.5, -1.0]))
    assert close(m.reg_error(), torch.tensor(3 * (0.25 + 4) / 2))
    for l2, needed in ((-1.0, "l2 >= 0"), (math.inf, "a finite l2"), (None, "a number for l2")):
        with pytest.raises(OptionError, match=f"SchurDecompositionLinear needs {needed}, got l2={l2}"):
            slim.SchurDecompositionLinear(4, 4, l2=l2)


def test_contains_asks_for_pairs():
    m = slim.SchurDecompositionLinear(4, 4)
    turned = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    pairs = [[2.0, 2.0, -1.0, -1.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 1e-3, 1e-3]]
    single = [[1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 1.0 + 1e-5], [1.0, 1.0, 1.0, 2.0], [0.0, 0.0, 1e-3, 2e-3]]
    for values, kept in [(v, True) for v in pairs] + [(v, False) for v in single]:
        T = torch.diag(torch.tensor(values, dtype=torch.float64))
        assert m.contains(turned @ T @ turned.mT) == kept
        assert m.contains((turned @ T @ turned.mT).float()) == kept or not kept
        if values[1] == values[0]:
            # Rounding splits a defective pair by its square root; a tolerance on eigenvalues would have to allow that.
            T[0, 1] = 5.0
            assert m.contains(turned @ T @ turned.mT) == kept


@pytest.mark.parametrize("size", [1.0, 30.0, 1e4])
def test_defective_eigenvalues_of_a_large_map_are_no_broken_promise(size: float):
    torch.manual_seed(0)
    m = slim.SchurDecompositionLinear(64, 64)
    with torch.no_grad():
        m.theta.zero_()
        m.N.copy_(size * torch.randn_like(m.N))
        W = m.effective_W()
    # All 64 eigenvalues are 1; in float32 they are scattered far and wide, some on the real axis alone.
    values = torch.linalg.eigvals(W.double())
    assert (values - 1).abs().max() > 0.1
    assert m.contains(W)
    assert not m.contains(W + 1e-2 * size * torch.rand_like(W))


# Gershgorin


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (-2.0, -0.5), (0.7, 0.7)])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_entry_is_as_the_formula_says(real: bool, low: float, high: float, n: int):
    torch.manual_seed(1)
    m = perturb(slim.GershgorinLinear(n, n, False, low, high, real).double())
    c, r, entries = (low + high) / 2, (high - low) / 2, iter(m.weight.flatten().tolist())
    M = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1 if real else 0, n):
            if i != j:
                M[i, j] = next(entries)
    assert next(entries, None) is None
    M = M + M.mT if real else M
    t, W = m.share.sigmoid(), torch.zeros_like(M)
    for i in range(n):
        W[i, i] = c + (1 - t[i]) * r * (2 * m.centre[i].sigmoid() - 1)
        for j in set(range(n)) - {i}:
            scales = [t[k] * r / M[k].abs().sum() for k in ((i, j) if real else (i,))]
            W[i, j] = min(scales) * M[i, j]
    assert close(m.effective_W(), W)
    inside = (W.diagonal() - c).abs() + (W - torch.diag(W.diagonal())).abs().sum(1)
    assert (inside <= r + 1e-12).all()
    assert (torch.linalg.eigvals(W) - c).abs().max() <= r + 1e-12
    assert not real or torch.equal(m.effective_W(), m.effective_W().mT)


def test_its_bounds_can_be_reached():
    m = slim.GershgorinLinear(3, 3, sigma_min=-1.0, sigma_max=3.0)
    with torch.no_grad():
        m.share.fill_(-40.0)
        m.centre.copy_(torch.tensor([-40.0, 0.0, 40.0]))
    assert close(m.effective_W(), torch.diag(torch.tensor([-1.0, 1.0, 3.0])))
    # A permutation turned round: every eigenvalue on the circle, none of them real but one.
    m = slim.GershgorinLinear(3, 3, sigma_min=-1.0, real=False)
    with torch.no_grad():
        m.share.fill_(40.0)
        m.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert close(m.effective_W(), torch.eye(3)[[1, 2, 0]])
    assert close(m.eig(eigenvectors=False).abs(), torch.ones(3))


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-8, 1e-5, 1e6, 1e30])
def test_weights_of_any_size_are_safe(real: bool, size: float):
    m = slim.GershgorinLinear(4, 4, real=real)
    with torch.no_grad():
        m.weight.mul_(size)
    W = m.effective_W()
    W.square().sum().backward()
    assert m.contains(W) and all(p.grad.isfinite().all() for p in m.parameters())
    assert W.count_nonzero() == (4 if size == 0 else 16)
    sums = (W - torch.diag(W.diagonal())).abs().sum(1)
    assert real or size < 1e-6 or close(sums, m.share.sigmoid() / 2, 1e-5)


def test_contains_asks_for_the_disc_and_for_symmetry():
    disc = slim.GershgorinLinear(2, 2, sigma_min=-1.0, real=False)
    line = slim.GershgorinLinear(2, 2, sigma_min=-1.0)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert disc.contains(turn) and not line.contains(turn)
    assert not disc.contains(1.001 * turn) and disc.contains(0.999 * turn)
    assert line.contains(turn.abs()) and not line.contains(1.001 * turn.abs())
    assert not line.contains(torch.tensor([[0.5, 0.1], [0.0, 0.5]]))
    assert not slim.GershgorinLinear(2, 2).contains(-0.1 * torch.eye(2))
    with pytest.raises(OptionError, match="GershgorinLinear needs real to be True or False, got real=1"):
        slim.GershgorinLinear(2, 2, real=1)
