"""Bounded norms and the power bound, against torch.linalg, numpy's eigenvalues and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimgraph import slim
from slimgraph.errors import OptionError
from tests.helpers import close, perturb

INF = math.inf
NORMS = [1, 2, INF, "fro", "nuc"]


def double(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Bounded norms


@pytest.mark.parametrize("p", NORMS)
def test_the_norm_is_numpys_norm_of_W_and_the_error_its_distance_to_the_bounds(p):
    for size, scale in [((4, 6), 1.0), ((6, 4), 0.01), ((5, 5), 0.3)]:
        m = slim.BoundedNormLinear(*size, p=p).double()
        with torch.no_grad():
            m.weight.copy_(scale * torch.randn_like(m.weight))
        expected = np.linalg.norm(m.effective_W().detach().numpy(), p)
        assert m.norm().item() == pytest.approx(expected, rel=1e-12)
        assert m.reg_error().item() == pytest.approx(max(expected - 1, 0) + max(0.1 - expected, 0), abs=1e-12)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("bounds", [(0.1, 1.0), (5.0, 6.0), (0.0, 1e-3)])
def test_the_start_keeps_the_bounds_in_every_dtype(p, bounds: tuple[float, float]):
    m = slim.BoundedNormLinear(20, 7, False, *bounds, p)
    assert bounds[0] <= m.norm() <= bounds[1]
    assert m.reg_error() == 0 and m.double().reg_error() == 0


def test_a_legal_draw_is_that_of_linear():
    torch.manual_seed(1)
    m = slim.BoundedNormLinear(4, 4, sigma_max=100.0)
    torch.manual_seed(1)
    assert close(m.weight, slim.Linear(4, 4).weight)


@pytest.mark.parametrize("p", NORMS)
def test_from_dense_raises_a_small_matrix_as_little_as_can_be(p):
    """The distance to the sphere of a norm that is a sum of k absolute values is the gap / sqrt k."""
    for W in (0.01 * torch.randn(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)):
        m = slim.BoundedNormLinear.from_dense(W, sigma_min=2.0, sigma_max=3.0, p=p)
        gap = 2 - np.linalg.norm(W.numpy(), p)
        terms = {1: 4, INF: 3, "nuc": 3}.get(p, 1)
        assert m.norm().item() == pytest.approx(2.0)
        assert torch.dist(m.effective_W(), W).item() == pytest.approx(gap / math.sqrt(terms))


@pytest.mark.parametrize("p, expected", [(1, [[2.0, 0], [0, 1]]), (INF, [[2.0, 0], [0, 1]]), (2, [[2.0, 0], [0, 1]])])
def test_from_dense_lowers_only_what_is_too_large(p, expected):
    assert close(
        slim.BoundedNormLinear.from_dense(double([[5, 0], [0, 1]]), sigma_max=2.0, p=p).effective_W(), double(expected)
    )


def test_from_dense_projects_the_singular_values_onto_their_sum():
    m = slim.BoundedNormLinear.from_dense(torch.diag(double([5, 4, 1])), sigma_max=3.0, p="nuc")
    assert close(m.effective_W(), torch.diag(double([2, 1, 0])))
    for p in NORMS:
        zero = slim.BoundedNormLinear.from_dense(torch.randn(3, 4).double(), sigma_min=0.0, sigma_max=0.0, p=p)
        assert not zero.effective_W().any() and zero.contains(zero.effective_W())


@pytest.mark.parametrize("p", NORMS)
def test_the_gradient_of_a_norm_is_finite_at_zero_and_at_equal_singular_values(p):
    for W in (torch.zeros(3, 3), torch.eye(3), torch.ones(3, 3), 1e20 * torch.eye(3), 1e-30 * torch.eye(3)):
        m = slim.BoundedNormLinear(3, 3, p=p)
        with torch.no_grad():
            m.weight.copy_(W)
        m.reg_error().backward()
        assert m.weight.grad.isfinite().all()


def test_another_p_is_refused_with_the_ones_there_are():
    for p in (3, -2, "nuk", True, None, [2]):
        with pytest.raises(
            OptionError, match=r"BoundedNormLinear needs a matrix norm p of 1, 2, inf, 'fro', 'nuc'"
        ) as e:
            slim.BoundedNormLinear(3, 3, p=p)
        assert f"got p={p!r}" in str(e.value)
    for p in (2.0, np.int64(2), np.float32(INF)):
        m = slim.BoundedNormLinear(3, 3, p=p)
        assert m.contains(m.effective_W())


# The spectral radius


def jordan(n: int, value: float) -> torch.Tensor:
    return value * torch.eye(n, dtype=torch.float64) + torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)


def companion(*coefficients: float) -> torch.Tensor:
    n = len(coefficients)
    C = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
    C[-1] = -double(coefficients)
    return C


def rotation(angle: float, length: float = 1.0) -> torch.Tensor:
    c, s = length * math.cos(angle), length * math.sin(angle)
    return double([[c, -s], [s, c]])


def random(n: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MATRICES = {
    "1x1": double([[-0.7]]),
    "identity": torch.eye(5, dtype=torch.float64),
    "negative": torch.diag(double([-3, 1, 2])),
    "opposite signs": torch.diag(double([-2, 2, 1])),
    "rotation": rotation(1.0, 0.9),
    "rotation and a real of one modulus": torch.block_diag(rotation(2.5), double([[1.0]]), double([[-1.0]])),
    "complex pair in a skewed basis": double([[1.0, -1e6], [1e-6, 1.0]]),
    "jordan 2": jordan(2, 1.0),
    "jordan 2 negative": jordan(2, -0.3),
    "jordan 5": jordan(5, 0.2),
    "jordan 20": jordan(20, 1.0),
    "jordan 65": jordan(65, 0.5),
    "defective complex": torch.cat(
        [torch.cat([rotation(1.0), torch.eye(2).double()], 1), torch.cat([torch.zeros(2, 2), rotation(1.0)], 1)]
    ),
    "companion": companion(-0.5, 0.2, 1.3, -0.4),
    "companion of (x - 1)^3": companion(-1, 3, -3),
    "companion of x^7 = 2": companion(-2, 0, 0, 0, 0, 0, 0),
    "triangular with a large corner": double([[0.5, 1e8], [0.0, -0.49]]),
    "one large, one small": torch.diag(double([1e3, 1e-9])),
    "permutation": torch.eye(6, dtype=torch.float64).roll(1, 0),
    "rank one": torch.outer(double([1, 2, 3]), double([1, -1, 0.5])),
    "tiny": 1e-120 * random(4, 0),
    "huge": 1e120 * random(4, 0),
    **{f"random {n} ({seed})": random(n, seed) for n in (2, 3, 8, 65) for seed in range(4)},
}


def bound_of(W: torch.Tensor, **options) -> slim.PowerBoundLinear:
    m = slim.PowerBoundLinear(len(W), len(W), **options).to(W.dtype)
    with torch.no_grad():
        m.weight.copy_(W)
    return m


@pytest.mark.parametrize("pwr_iters", [1, 200])
@pytest.mark.parametrize("W", MATRICES.values(), ids=MATRICES.keys())
def test_the_spectral_radius_is_that_of_the_eigenvalues_within_two_percent(W: torch.Tensor, pwr_iters: int):
    expected = np.abs(np.linalg.eigvals(W.numpy())).max()
    m = bound_of(W, pwr_iters=pwr_iters, max_p=0.1)
    rho = m.spectral_radius()
    assert rho.item() == pytest.approx(expected, rel=0.02)
    assert m.reg_error().item() == pytest.approx(max(rho.item() - 0.1, 0))
    assert torch.equal(rho, m.spectral_radius())
    assert torch.autograd.grad(rho, m.weight)[0].isfinite().all()


def test_float32_weights_are_judged_as_exactly():
    for n, seed in [(3, 0), (65, 1), (65, 2)]:
        W = random(n, seed, torch.float32)
        rho = bound_of(W).spectral_radius()
        assert rho.dtype == torch.float32
        assert rho.item() == pytest.approx(np.abs(np.linalg.eigvals(W.double().numpy())).max(), rel=0.005)


@pytest.mark.parametrize(
    "W",
    [torch.zeros(3, 3), torch.zeros(1, 1), jordan(65, 0.0), double([[1, 1], [-1, -1]]), double([[6, -9], [4, -6]]),
     1e-30 * jordan(4, 0.0), double([[5, -3, 2], [15, -9, 6], [10, -6, 4]])],
)  # fmt: skip
def test_a_nilpotent_matrix_has_the_radius_zero_and_a_finite_gradient(W: torch.Tensor):
    m = bound_of(W)
    assert m.spectral_radius() == 0 and m.reg_error() == 0
    m.spectral_radius().backward()
    assert m.weight.grad.isfinite().all()
    assert all(v.isfinite().all() for v in m.eig_v_estimate())


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_eigenvalue(seed: int):
    """d|lambda| = Re(conj(lambda)/|lambda| y^H dW x / y^H x) for the right and left eigenvectors x, y."""
    W = random(6, seed)
    values, X = np.linalg.eig(W.numpy())
    i = np.abs(values).argmax()
    x, y = X[:, i], np.linalg.inv(X)[i].conj()
    phase = values[i].conj() / abs(values[i])
    expected = (phase * np.outer(y.conj(), x) / (y.conj() @ x)).real
    m = bound_of(W, max_p=0.0)
    m.reg_error().backward()
    assert np.abs(m.weight.grad.numpy() - expected).max() < (0.02 if values[i].imag else 1e-3) * np.abs(expected).max()


def test_more_powers_come_nearer():
    errors = [abs(bound_of(jordan(8, 1.0), pwr_iters=k).spectral_radius().item() - 1) for k in (1, 10**5, 10**6)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_the_reg_error_compiles_whole():
    m = perturb(slim.PowerBoundLinear(4, 4))
    compiled = torch.compile(lambda: m.reg_error(), fullgraph=True, backend="aot_eager")()
    assert close(compiled, m.reg_error())


def test_the_dominant_vectors_span_an_invariant_subspace():
    for name in (
        "rotation",
        "opposite signs",
        "complex pair in a skewed basis",
        "random 8 (0)",
        "random 65 (1)",
        "1x1",
    ):
        W = MATRICES[name]
        a, b = bound_of(W).eig_v_estimate()
        assert a.shape == b.shape == (len(W), 1)
        assert (a.square().sum() + b.square().sum()).item() == pytest.approx(1)
        Wab, ab = W @ torch.cat([a, b], 1), torch.cat([a, b], 1)
        coordinates = torch.linalg.pinv(ab, rcond=1e-9) @ Wab
        assert (ab @ coordinates - Wab).norm() < 1e-6 * Wab.norm()
        rho = torch.linalg.eigvals(W).abs().max()
        # a was the last power's, so its image grows as the dominant eigenvalues do.
        grown = (torch.linalg.matrix_power(W / rho, 64) @ a).norm() / a.norm()
        assert 1e-7 < grown < 1e7


@pytest.mark.parametrize("max_p", [0.0, 0.2, 1, 5.0])
def test_the_start_is_inside_and_not_needlessly_small(max_p: float):
    for n in (1, 2, 7, 64):
        for seed in range(5):
            torch.manual_seed(seed)
            m = slim.PowerBoundLinear(n, n, max_p)
            rho = m.eig(eigenvectors=False).abs().max()
            assert rho <= max_p and m.double().reg_error() == 0
            assert n < 64 or rho >= 0.4 * min(max_p, 1)


def test_the_start_is_the_same_inside_autocast():
    starts = []
    for autocast in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            starts.append(slim.PowerBoundLinear(33, 33, max_p=0.3).weight)
    assert torch.equal(*starts)


def test_from_dense_scales_and_keeps_the_eigenvectors():
    W = random(5, 3)
    rho = np.abs(np.linalg.eigvals(W.numpy())).max()
    assert close(slim.PowerBoundLinear.from_dense(W, max_p=0.5).effective_W(), W * (0.5 / rho))
    assert torch.equal(slim.PowerBoundLinear.from_dense(W, max_p=50).effective_W(), W)


def test_the_options_of_the_power_bound_stand_before_its_bias():
    m = slim.PowerBoundLinear(3, 3, 0.7, 50, True)
    assert (m.max_p, m.pwr_iters, m.use_bias) == (0.7, 50, True)
    for options, message in [
        ({"max_p": True}, "needs a number for max_p, got max_p=True"),
        ({"max_p": -1.0}, "needs max_p >= 0, got max_p=-1"),
        ({"max_p": INF}, "needs a finite max_p, got max_p=inf"),
        ({"pwr_iters": 0}, "needs pwr_iters >= 1, got pwr_iters=0"),
        ({"pwr_iters": 2.5}, "needs a whole number for pwr_iters, got 2.5"),
    ]:
        with pytest.raises(OptionError, match=f"PowerBoundLinear {message}"):
            slim.PowerBoundLinear(3, 3, **options)
