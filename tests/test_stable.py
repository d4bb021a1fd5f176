"""`HurwitzLinear` and `SchurStableLinear`: Lyapunov's inequality, simulations, rounding, and the matrices reached."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimgraph import slim
from slimgraph.errors import OptionError
from slimgraph.slim.linear.householder import reflect, reflections_of
from tests.helpers import close, perturb

KEYS = ["hurwitz", "schur_stable"]


def made(key: str, n: int, seed: int = 0, size: float = 1.0, **options) -> slim.LinearBase:
    torch.manual_seed(seed)
    return perturb(slim.maps[key](n, n, **options).double(), size)


def coordinates(m: slim.LinearBase) -> Tensor:
    """L, from its formula: the orthogonal factor with its columns stretched."""
    spread = math.log(1e4) / 2
    VT = reflect(torch.eye(len(m.weight), dtype=m.weight.dtype), m.U.detach(), m.weight.new_ones(1))
    return VT.mT * (spread * torch.tanh(m.stretch.detach() / spread)).exp()


def excess(key: str, W: Tensor) -> float:
    """How far the eigenvalue furthest out is beyond stability at alpha = 0, radius = 1; in float64."""
    values = torch.linalg.eigvals(W.detach().double())
    return values.real.max().item() if key == "hurwitz" else values.abs().max().item() - 1


def simulated(key: str, W: Tensor, t: int) -> Tensor:
    return torch.matrix_exp(t * W) if key == "hurwitz" else torch.linalg.matrix_power(W, t)


# The promise


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_hurwitz_satisfies_the_continuous_lyapunov_inequality(n: int):
    m = made("hurwitz", n, alpha=0.3)
    W, L = m.effective_W().detach(), coordinates(m)
    X = L @ L.mT
    falls = W @ X + X @ W.mT + 2 * 0.3 * X
    assert torch.linalg.eigvalsh(torch.linalg.solve(L, torch.linalg.solve(L, falls).mT)).max() < 0


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_schur_stable_satisfies_the_discrete_lyapunov_inequality(n: int):
    m = made("schur_stable", n, radius=0.8)
    W, L = m.effective_W().detach(), coordinates(m)
    assert torch.linalg.matrix_norm(torch.linalg.solve(L, W @ L), 2) < 0.8


@pytest.mark.parametrize("key, rate", [("hurwitz", {"alpha": 0.2}), ("schur_stable", {"radius": 0.8})])
def test_simulations_decay_at_the_rate_asked_for(key: str, rate: dict[str, float]):
    for seed in range(5):
        m = made(key, 6, seed, 3.0, **rate)
        L = coordinates(m)
        condition, W = torch.linalg.cond(L, 2), m.effective_W().detach()
        grown = torch.linalg.matrix_norm(W, 2)
        # Not normal: such a W first lets some states grow, by no more than cond(L).
        assert grown > (1.5 if key == "schur_stable" else 0)
        for t in (1, 5, 20, 100, 400):
            bound = condition * (math.exp(-0.2 * t) if key == "hurwitz" else 0.8**t)
            assert torch.linalg.matrix_norm(simulated(key, W, t), 2) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [2, 3, 8, 64])
@pytest.mark.parametrize("stretch", [0.0, 1.0, 30.0])
def test_float32_keeps_the_promise_itself_at_its_edge(key: str, n: int, stretch: float):
    # Without damping, or with a contraction that is orthogonal, the eigenvalues stand on the margin; at 30 it is wide.
    for seed in range(10):
        torch.manual_seed(seed)
        m = slim.maps[key](n, n)
        with torch.no_grad():
            m.weight.mul_(0.0 if key == "hurwitz" else 1e6)
            m.stretch.copy_(stretch * torch.randn(n))
        single, double = excess(key, m.effective_W()), excess(key, m.double().effective_W())
        assert double < 0 and single < double / 2
        assert stretch > 0 or double > -1e-4


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e3, 1e6])
def test_weights_of_any_size_are_safe(key: str, size: float):
    for n in (1, 2, 8, 64):
        torch.manual_seed(0)
        m = slim.maps[key](n, n)
        with torch.no_grad():
            for p in m.parameters():
                p.copy_(size * torch.randn_like(p))
        W = m.effective_W()
        (W / W.detach().abs().max().clamp(min=1e-30)).square().sum().backward()
        assert W.isfinite().all() and m.contains(W)
        # In float32 the squares of 1e-20 are a zero Q.
        assert excess(key, W) < 0 or (key == "hurwitz" and n == 1 and size == 1e-20)
        assert all(p.grad.isfinite().all() for p in m.parameters())


def test_a_large_alpha_does_not_drown_a_small_matrix():
    for seed in range(5):
        torch.manual_seed(seed)
        m = perturb(slim.HurwitzLinear(8, 8, alpha=100.0), 1.0)
        with torch.no_grad():
            m.weight.mul_(1e-4)
            m.skew.mul_(1e-4)
        assert torch.linalg.eigvals(m.effective_W().double()).real.max() < -100


def test_zero_weights_are_the_limit():
    for m, limit in [(slim.HurwitzLinear(3, 3, alpha=2.0), -2.0), (slim.SchurStableLinear(3, 3), 0.0)]:
        with torch.no_grad():
            for p in m.parameters():
                p.zero_()
        W = m.effective_W()
        W.sum().backward()
        assert close(W, limit * torch.eye(3), 2e-6) and m.contains(W)
        assert all(p.grad.isfinite().all() for p in m.parameters())


# The parametrisation


def test_the_contraction_is_the_one_of_cholesky_and_smooth_where_lapack_turns_signs():
    m = slim.SchurStableLinear(4, 4).double()
    with torch.no_grad():
        m.U.zero_()
    for corner in (-1.0, -1e-9, 1e-9, 1.0):
        Y = torch.randn(4, 4, dtype=torch.float64)
        Y[0] = corner
        Z = Y @ torch.linalg.inv(torch.linalg.cholesky(torch.eye(4) + Y.mT @ Y)).mT
        assert close(m._contraction(Y), Z, 1e-10)


def test_without_stretch_hurwitz_is_skew_minus_psd():
    m = slim.HurwitzLinear(5, 5, alpha=0.5).double()
    W = m.effective_W().detach()
    damping = (W + W.mT) / 2 + 0.5 * torch.eye(5)
    Q = m.weight.mT @ m.weight
    assert close(torch.linalg.eigvalsh(damping), -torch.linalg.eigvalsh(Q).flip(0), 1e-4)
    rows, columns = torch.triu_indices(5, 5, 1)
    S = torch.zeros(5, 5, dtype=torch.float64)
    S[rows, columns] = m.skew.detach()
    skew = (W - W.mT) / 2
    assert close(torch.linalg.matrix_norm(skew), torch.linalg.matrix_norm(S - S.mT))


def lyapunov(key: str, W: Tensor) -> Tensor:
    """X with W X + X W^T = -I, or X - W X W^T = I, by one linear system for its entries."""
    n, eye = len(W), torch.eye(len(W), dtype=W.dtype)
    if key == "hurwitz":
        system = -(torch.kron(W, eye) + torch.kron(eye, W))
    else:
        system = torch.eye(n * n, dtype=W.dtype) - torch.kron(W, W)
    X = torch.linalg.solve(system, eye.flatten()).view(n, n)
    return (X + X.mT) / 2


def stable_matrix(key: str, n: int, seed: int) -> Tensor:
    """A stable matrix that is far from normal, made without any Lyapunov function."""
    torch.manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]
    T = 5 / n * torch.randn(n, n, dtype=torch.float64).triu(1)
    T += torch.diag(torch.empty(n).uniform_(-0.8, 0.8).double() - (1.0 if key == "hurwitz" else 0.0))
    return turned @ T @ turned.mT


def with_matrix(key: str, W: Tensor) -> slim.LinearBase:
    """The map whose matrix is the stable `W`, by the Lyapunov function that a linear system gives."""
    m, n = slim.maps[key](*W.shape).double(), len(W)
    X, V = torch.linalg.eigh(lyapunov(key, W))
    U, sign = reflections_of(V.mT, n - 1)
    if sign < 0:
        V[:, 0] *= -1
        U, sign = reflections_of(V.mT, n - 1)
    log_d = X.log() / 2
    log_d = log_d - (log_d.max() + log_d.min()) / 2
    spread, d = math.log(1e4) / 2, log_d.exp()
    share, A = 2.0**-20 * d.max() / d.min(), W
    # The matrix before the margin was taken off, a fixed point as the margin depends on it.
    for _ in range(100):
        margin = share * torch.linalg.matrix_norm(A)
        A = W + margin * torch.eye(n) if key == "hurwitz" else W * (1 + margin)
    C = (V.mT @ A @ V) * d / d.unsqueeze(1)
    with torch.no_grad():
        m.U.copy_(U)
        m.stretch.copy_(spread * torch.atanh(log_d / spread))
        if key == "hurwitz":
            rows, columns = torch.triu_indices(n, n, 1)
            m.skew.copy_(((C - C.mT) / 2)[rows, columns])
            m.weight.copy_(torch.linalg.cholesky(-(C + C.mT) / 2).mT)
        else:
            m.weight.copy_(C @ torch.linalg.inv(torch.linalg.cholesky(torch.eye(n) - C.mT @ C)).mT)
    return m


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_every_stable_matrix_has_this_form(key: str, n: int):
    for seed in range(5):
        W = stable_matrix(key, n, seed)
        assert close(with_matrix(key, W).effective_W().detach(), W, 1e-8)


@pytest.mark.parametrize("key", KEYS)
def test_training_reaches_a_matrix_that_is_not_normal(key: str):
    target = stable_matrix(key, 3, 7)
    assert torch.linalg.matrix_norm(target, 2) > 2
    m = made(key, 3, size=0.1)
    optimizer = torch.optim.LBFGS(m.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        optimizer.zero_grad()
        loss = (m.effective_W() - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(error)
    assert error() < 1e-6 and m.contains(m.effective_W())


# contains and the constructor


def test_contains_asks_for_the_half_plane_and_the_circle():
    turn, shear = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]), torch.tensor([[0.0, 50.0], [0.0, 0.0]])
    hurwitz, disc = slim.HurwitzLinear(2, 2, alpha=0.5), slim.SchurStableLinear(2, 2, radius=0.5)
    for W in (turn - 0.5 * torch.eye(2), shear - 0.5 * torch.eye(2), -3 * torch.eye(2)):
        assert hurwitz.contains(W) and not hurwitz.contains(W + 0.01 * torch.eye(2)) or W[0, 0] == -3
    assert not hurwitz.contains(turn - 0.499 * torch.eye(2)) and not hurwitz.contains(-turn)
    for W in (0.5 * turn, 0.5 * torch.eye(2) + shear, -0.5 * torch.eye(2), 0 * turn):
        assert disc.contains(W)
    for W in (0.501 * turn, 0.51 * torch.eye(2) + shear, -0.501 * torch.eye(2), shear + shear.mT):
        assert not disc.contains(W)


@pytest.mark.parametrize("make, message", [
    (lambda: slim.HurwitzLinear(2, 2, alpha=math.nan), "HurwitzLinear needs a finite alpha, got alpha=nan"),
    (lambda: slim.HurwitzLinear(2, 2, False, "1"), "HurwitzLinear needs a number for alpha, got alpha='1'"),
    (lambda: slim.SchurStableLinear(2, 2, radius=0.0), "SchurStableLinear needs radius > 0, got radius=0.0"),
    (lambda: slim.SchurStableLinear(2, 2, radius=math.inf), "needs a finite radius, got radius=inf"),
])  # fmt: skip
def test_options_out_of_range_are_refused(make, message: str):
    with pytest.raises(OptionError, match=message):
        make()
