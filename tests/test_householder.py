"""Householder products at their limits, and the maps on them: orthogonal, Stiefel, symmetric spectral."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.autograd import forward_ad

from slimgraph import slim
from slimgraph.errors import OptionError
from slimgraph.slim.linear.compact_wy import ONE_BLOCK, in_blocks, in_one_block
from slimgraph.slim.linear.householder import decomposition, first_columns, product, reflect
from tests.helpers import close, perturb

ONE = torch.ones(1, dtype=torch.float64)


def by_loop(U: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """The product of the reflections, one after the other, in double precision."""
    Q = torch.eye(U.shape[1], dtype=torch.float64)
    for u in U.double().triu():
        u = u / u.abs().max()
        Q = Q - 2 * torch.outer(Q @ u, u) / (u @ u)
    return torch.cat([Q[:, :-1], Q[:, -1:] * sign], dim=1)


# Products


@pytest.mark.parametrize("n, k", [(1, 0), (2, 1), (6, 2), (64, 63), (65, 64), (70, 3), (100, 40), (130, 129)])
@pytest.mark.parametrize("sign", [ONE, -ONE])
def test_every_way_to_the_product_is_the_loop_with_its_gradient(n: int, k: int, sign: torch.Tensor):
    U = torch.randn(k, n, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(n, n, dtype=torch.float64)
    Q = by_loop(U, sign)
    expected = torch.autograd.grad((Q * weights).sum() + 0 * U.sum(), U)[0]
    eye = torch.eye(n, dtype=torch.float64)
    ways = [product(U, sign), reflect(eye, U, sign), in_blocks(eye, U, sign), first_columns(U, sign, n)]
    if n <= ONE_BLOCK:
        ways.append(in_one_block(U, sign))
    for way in ways:
        assert close(way, Q, 1e-12)
        assert close(torch.autograd.grad((way * weights).sum(), U)[0], expected, 1e-11)


def test_several_products_at_once_are_each_alone():
    U, signs = torch.randn(2, 6, 7, dtype=torch.float64, requires_grad=True), torch.stack([ONE, -ONE])
    both = product(U, signs)
    gradient = torch.autograd.grad(both.sin().sum(), U)[0]
    for i in range(2):
        alone = product(U[i], signs[i])
        assert close(both[i], alone)
        assert close(torch.autograd.grad(alone.sin().sum(), U)[0][i], gradient[i])
    assert torch.autograd.gradcheck(lambda U: product(U, signs), U)
    assert torch.autograd.gradgradcheck(lambda U: product(U, signs), U)


def test_a_decomposition_is_the_product_of_its_factors():
    U, V = (torch.randn(5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    sigma = torch.rand(6, dtype=torch.float64, requires_grad=True)

    def found(U: torch.Tensor, V: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return decomposition(U, V, -ONE, ONE, sigma)

    assert close(found(U, V, sigma), by_loop(U, -ONE) @ torch.diag(sigma) @ by_loop(V, ONE))
    assert torch.autograd.gradcheck(found, (U, V, sigma), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(found, (U, V, sigma))


@pytest.mark.parametrize("key", ["orthogonal", "spectral", "stiefel", "symmetric_spectral"])
@pytest.mark.parametrize("n, rows", [(4, 2), (70, 2), (70, 300)])
def test_what_a_map_returns_may_be_changed_in_place(key: str, n: int, rows: int):
    m, x = slim.maps[key](n, n), torch.randn(rows, 1, n)
    for make in (m.effective_W, lambda: m(x)):
        m.zero_grad()
        (make() * 2).sum().backward()
        expected = [p.grad.clone() for p in m.parameters()]
        m.zero_grad()
        make().mul_(2).sum().backward()
        assert all(close(p.grad, e) for p, e in zip(m.parameters(), expected, strict=True))


@pytest.mark.parametrize("p", [1, 4, 33, 64, 90])
def test_the_first_columns_are_those_of_the_product(p: int):
    U = torch.randn(p, 91, dtype=torch.float64)
    assert close(first_columns(U, ONE, p), product(U, ONE)[:, :p], 1e-12)


@pytest.mark.parametrize("n", [5, 70])
@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e17, 1e19, 1e30, 3e38])
def test_a_reflector_of_any_size_reflects(n: int, size: float):
    U = torch.randn(n - 1, n).triu()
    U = U / U.abs().amax(dim=1, keepdim=True).clamp(min=1)
    far = U.clone()
    far[2] *= size
    if size < 1e-19:
        # So small a row counts as zero.
        U[2] = torch.eye(n)[2]
    far.requires_grad_()
    for Q in (product(far, torch.ones(1)), reflect(torch.eye(n), far, torch.ones(1))):
        assert close(Q.double(), by_loop(U, ONE), 1e-5)
        (gradient,) = torch.autograd.grad(Q.sin().sum(), far)
        assert gradient.isfinite().all()
    u = size * torch.tensor([0.5, -1.0, 0.25])
    v = torch.tensor([1.0, 0, 0]) if size < 1e-19 else u / u.abs().max()
    x = torch.randn(4, 3)
    assert close(slim.Hprod(x, u, 3), x - 2 * torch.outer(x @ v, v) / (v @ v), 1e-5)


def test_double_precision_reflectors_reach_the_ends_of_its_range():
    U = torch.randn(4, 5, dtype=torch.float64).triu()
    far = torch.diag(torch.tensor([1e-150, 1e150, 1e200, 1e300], dtype=torch.float64)) @ U
    assert close(product(far, ONE), by_loop(U, ONE), 1e-12)


# Differentiation


@pytest.mark.parametrize("key", ["orthogonal", "spectral", "stiefel", "symmetric_spectral"])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_vectorised_jacobian_is_the_jacobian(key: str, rows: int):
    m = slim.maps[key](4, 4).double()
    x = torch.randn(rows, 4, dtype=torch.float64)
    names, values = zip(*m.named_parameters(), strict=True)

    def of(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(m, dict(zip(names, values, strict=True)), (x,)).sin().sum(0)

    expected = torch.autograd.functional.jacobian(of, values)
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(of, values, vectorize=True, strategy=strategy)
        assert all(close(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("n", [4, 70])
def test_a_batch_of_gradients_is_each_gradient(n: int):
    U = torch.randn(n - 1, n, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, n, dtype=torch.float64, requires_grad=True)
    for y, inputs in ((reflect(x, U, -ONE), (x, U)), (product(U, -ONE), (U,))):
        many = torch.randn(2, *y.shape, dtype=torch.float64)
        found = torch.autograd.grad(y, inputs, many, is_grads_batched=True, retain_graph=True)
        for i in range(2):
            expected = torch.autograd.grad(y, inputs, many[i], retain_graph=True)
            assert all(close(a[i], b, 1e-11) for a, b in zip(found, expected, strict=True))


def test_forward_mode_needs_no_torch_func():
    m = slim.OrthogonalLinear(4, 4).double()
    U, direction, x = m.U.detach(), torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    for f in (lambda U: reflect(x, U, m.sign), lambda U: product(U, m.sign)):
        with forward_ad.dual_level():
            slope = forward_ad.unpack_dual(f(forward_ad.make_dual(U, direction))).tangent
        assert close(slope, torch.func.jvp(f, (U,), (direction,))[1])
        assert close(slope, (f(U + 1e-6 * direction) - f(U - 1e-6 * direction)) / 2e-6, 1e-6)


# States


@pytest.mark.parametrize("n_reflectors", [None, 1, 2])
def test_a_state_of_the_other_determinant_is_refused_and_changes_no_sign(n_reflectors: int | None):
    plus, minus = (slim.OrthogonalLinear(4, 4, n_reflectors=n_reflectors, det=det) for det in (1, -1))
    message = rf"OrthogonalLinear was made for the other determinant and needs sign={plus.sign.item():g}; leave det out"
    with pytest.raises(RuntimeError, match=rf"{message}, the state has sign={minus.sign.item():g}"):
        plus.load_state_dict(minus.state_dict())
    assert plus.contains(plus.effective_W())
    net = torch.nn.Sequential(plus)
    with pytest.raises(RuntimeError, match=rf"the state has 0\.sign={minus.sign.item():g}"):
        net.load_state_dict(torch.nn.Sequential(minus).state_dict())
    free = slim.OrthogonalLinear(4, 4, n_reflectors=n_reflectors)
    free.load_state_dict(minus.state_dict())
    assert torch.equal(free.effective_W(), minus.effective_W())
    for twin in (copy.deepcopy(plus), pickle.loads(pickle.dumps(plus))):
        with pytest.raises(RuntimeError, match="the other determinant"):
            twin.load_state_dict(minus.state_dict())


@pytest.mark.parametrize("key, name", [("orthogonal", "sign"), ("stiefel", "sign"), ("spectral", "sign_V")])
def test_a_state_with_a_sign_that_is_none_is_refused(key: str, name: str):
    m = slim.maps[key](3, 3)
    state = m.state_dict() | {name: torch.tensor([0.5])}
    with pytest.raises(RuntimeError, match=rf"{type(m).__name__} needs {name} to be 1 or -1, the state has {name}=0.5"):
        m.load_state_dict(state)
    assert m.contains(m.effective_W())


# Stiefel


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (4, 5), (5, 4), (4, 4), (3, 90), (90, 40), (70, 70)])
def test_every_matrix_with_orthonormal_rows_or_columns_is_reached(size: tuple[int, int]):
    long, short = max(size), min(size)
    square = torch.eye(long, dtype=torch.float64)
    for Q in (torch.linalg.qr(torch.randn_like(square)).Q, square, -square, square.flip(0), square.roll(1, 0)):
        for W in (Q[:, :short], Q[:, :short] * torch.tensor([-1.0] + [1.0] * (short - 1))):
            W = W if size[0] >= size[1] else W.mT
            m = slim.StiefelLinear.from_dense(W)
            assert close(m.effective_W(), W, 1e-12) and m.contains(W)


def test_stiefel_has_as_many_reflectors_as_freedoms():
    for size in [(3, 7), (7, 3), (4, 4)]:
        n, p = max(size), min(size)
        U = slim.StiefelLinear(*size).U
        assert U.shape == (min(p, n - 1), n)
        # Each reflector is free up to its length.
        assert int((U != 0).sum()) - len(U) == n * p - p * (p + 1) // 2
    drawn = {slim.StiefelLinear(3, 3).double().effective_W().det().round().item() for _ in range(30)}
    assert drawn == {1, -1}


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 4)])
def test_stiefel_from_dense_is_the_polar_factor(size: tuple[int, int]):
    W = torch.randn(size, dtype=torch.float64)
    left, values, right = torch.linalg.svd(W, full_matrices=False)
    nearest = slim.StiefelLinear.from_dense(W).effective_W()
    assert close(nearest, left @ right, 1e-12)
    assert close(torch.linalg.matrix_norm(W - nearest), (values - 1).square().sum().sqrt(), 1e-12)


def test_stiefel_refuses_columns_that_are_not_orthonormal():
    W = slim.StiefelLinear(5, 3).double().effective_W()
    tall, wide = slim.StiefelLinear(5, 3), slim.StiefelLinear(3, 5)
    assert tall.contains(W) and wide.contains(W.mT)
    assert not tall.contains(1.001 * W) and not wide.contains(torch.ones_like(W.mT))


# Symmetric spectral


@pytest.mark.parametrize("n, k", [(1, None), (5, None), (5, 2), (70, None)])
def test_symmetric_spectral_is_U_Sigma_U_transposed(n: int, k: int | None):
    m = perturb(slim.SymmetricSpectralLinear(n, n, n_reflectors=k, sigma_min=-0.5, sigma_max=2.0).double())
    eye = torch.eye(n, dtype=torch.float64)
    U, V, W = m.Umultiply(eye), m.Vmultiply(eye), m.effective_W()
    assert close(V, U.mT) and close(U @ V, eye)
    assert torch.equal(W, W.mT) and close(W, U @ m.Sigma() @ V)
    expected = (-0.5 + 2.5 * torch.sigmoid(m.p)).sort().values
    assert close(torch.linalg.eigvalsh(W), expected, 1e-11)
    assert sorted(name for name, _ in m.named_parameters()) == ["U", "p"]
    assert isinstance(m, slim.SpectralLinear)


def test_symmetric_spectral_from_dense_clips_the_eigenvalues_of_the_symmetric_part():
    W = 2 * torch.randn(6, 6, dtype=torch.float64)
    values, vectors = torch.linalg.eigh((W + W.mT) / 2)
    for low, high in ((-1.0, 0.5), (0.2, 0.7)):
        m = slim.SymmetricSpectralLinear.from_dense(W, sigma_min=low, sigma_max=high)
        assert close(m.effective_W(), vectors @ torch.diag(values.clamp(low, high)) @ vectors.mT)
    with pytest.raises(OptionError, match=r"SymmetricSpectralLinear\.from_dense needs all reflectors"):
        slim.SymmetricSpectralLinear.from_dense(W, n_reflectors=2)


def test_symmetric_spectral_contains_symmetric_matrices_within_the_bounds_alone():
    m = slim.SymmetricSpectralLinear(2, 2, sigma_min=0.1, sigma_max=1.0)
    assert m.contains(torch.tensor([[0.5, 0.1], [0.1, 0.5]]))
    # Not symmetric, an eigenvalue too large, and one too small whose absolute value is not.
    for W in ([[0.5, 0.1], [0.0, 0.5]], [[1.1, 0.0], [0.0, 0.5]], [[-0.5, 0.0], [0.0, 0.5]]):
        assert not m.contains(torch.tensor(W))
    for word, bad in (("n_reflectors", 0), ("n_reflectors", 3)):
        with pytest.raises(OptionError, match=rf"needs 1 <= {word} <= 2, got {word}={bad}"):
            slim.SymmetricSpectralLinear(2, 2, n_reflectors=bad)


# Rectangles of the spectral map


@pytest.mark.parametrize("size", [(90, 20), (20, 90), (70, 70)])
def test_a_rectangular_spectral_map_leaves_out_only_what_sigma_leaves_out(size: tuple[int, int]):
    m = slim.SpectralLinear(*size).double()
    U, V = (f(torch.eye(n, dtype=torch.float64)) for f, n in zip((m.Umultiply, m.Vmultiply), size, strict=True))
    assert close(m.effective_W(), U @ m.Sigma() @ V, 1e-12)
    x = torch.randn(2, size[0], dtype=torch.float64)
    assert close(m(x), x @ U @ m.Sigma() @ V, 1e-12)
