"""What single maps are, against dense algebra; the registry; `materialized`; the sum of `reg_error`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from slimgraph import slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownOptionError
from slimgraph.slim.linear.compact_wy import in_blocks
from slimgraph.slim.linear.householder import reflect
from tests.helpers import close, keys, perturb


def by_loop(x: torch.Tensor, U: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """`x` through the reflections one after the other, from their definition."""
    n = U.shape[1]
    for i, u in enumerate(U.triu()):
        u = torch.eye(n, dtype=U.dtype)[i] if not u.any() else u
        x = x - 2 * torch.outer(x @ u, u) / (u @ u)
    return torch.cat([x[:, :-1], x[:, -1:] * sign], dim=1)


# Registry


def test_the_keys_stand_for_their_classes():
    assert slim.maps["orthogonal"] is slim.OrthogonalLinear
    assert slim.maps["skew_symetric"] is slim.maps["skew_symmetric"] is slim.SkewSymmetricLinear
    assert slim.square_maps == {cls for cls in slim.maps.values() if issubclass(cls, slim.SquareLinear)}
    assert slim.get_map("pf") is slim.get_map(slim.PerronFrobeniusLinear) is slim.PerronFrobeniusLinear


def test_an_unknown_map_is_refused_with_the_nearest():
    with pytest.raises(UnknownOptionError, match=r"there is no map 'spectrl'\. Did you mean 'spectral'\?"):
        slim.get_map("spectrl")
    with pytest.raises(OptionError, match="a map is chosen by its key or its class, got 3"):
        slim.get_map(3)


def test_a_key_is_given_once():
    with pytest.raises(OptionError, match=r"the map key 'linear' of SquareLinear is taken by Linear"):
        slim.register("linear")(slim.SquareLinear)


def test_the_classes_are_what_users_expect():
    assert issubclass(slim.IdentityLinear, slim.IdentityInitLinear) and issubclass(slim.IdentityInitLinear, slim.Linear)
    assert issubclass(slim.DampedSkewSymmetricLinear, slim.SkewSymmetricLinear)


def test_the_bases_are_abstract():
    for base in (slim.LinearBase, slim.SquareLinear):
        with pytest.raises(TypeError, match="abstract"):
            base(3, 3)


# Free and entrywise maps


def test_linear_draws_what_torch_draws_and_reads_its_state():
    torch.manual_seed(3)
    ours = slim.Linear(5, 2, bias=True)
    torch.manual_seed(3)
    theirs = nn.Linear(5, 2)
    assert close(ours.weight, theirs.weight, 1e-7) and close(ours.bias, theirs.bias, 1e-7)
    ours.load_state_dict(nn.Linear(5, 2).state_dict())


def test_the_draw_depends_on_the_inputs_alone():
    weight = slim.RightStochasticLinear(1000, 10).weight
    assert 0.9 / 1000**0.5 < weight.abs().max() <= 1 / 1000**0.5


def test_identity_starts():
    for cls in (slim.IdentityLinear, slim.IdentityInitLinear):
        for size in [(3, 3), (2, 4), (4, 2)]:
            assert torch.equal(cls(*size, bias=True).effective_W(), torch.eye(*size))
            assert not cls(*size, bias=True).bias.any()


def test_the_identity_cannot_be_trained():
    m = slim.IdentityLinear(3, 3, bias=True).requires_grad_(True)
    assert list(m.parameters()) == []
    assert not m(torch.ones(2, 3)).requires_grad
    with pytest.raises(AttributeError):
        m.weight.grad.zero_()


def test_non_negative_starts_from_the_absolute_value():
    torch.manual_seed(1)
    free = slim.RightStochasticLinear(4, 3).weight
    torch.manual_seed(1)
    assert torch.equal(slim.NonNegativeLinear(4, 3).effective_W(), free.abs())


def test_identity_grad_relu_passes_the_gradient_through():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    y = slim.IdentityGradReLU.apply(x)
    y.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert y.tolist() == [0, 0, 2] and x.grad.tolist() == [1, 2, 3]


# Stochastic maps


def test_the_dominant_eigenvalue_of_a_perron_frobenius_map_is_in_the_bounds():
    for low, high in [(0.8, 1.0), (0.2, 0.3), (1.5, 2.0)]:
        m = perturb(slim.PerronFrobeniusLinear(6, 6, sigma_min=low, sigma_max=high).double(), 3)
        assert low <= m.eig(eigenvectors=False).abs().max() <= high
        assert (m.effective_W() > 0).all()


def test_perron_frobenius_is_its_formula():
    m = perturb(slim.PerronFrobeniusLinear(3, 4, sigma_min=0.4, sigma_max=0.9).double())
    scale = 0.9 - (0.9 - 0.4) * torch.sigmoid(m.scaling)
    assert close(m.effective_W(), scale * torch.softmax(m.weight, dim=1))


def test_a_negative_sum_of_non_negative_entries_is_refused():
    with pytest.raises(OptionError, match=r"PerronFrobeniusLinear needs sigma_min >= 0, got sigma_min=-0\.5"):
        slim.PerronFrobeniusLinear(3, 3, sigma_min=-0.5)


# Symmetries


def test_skew_eigenvalues_are_imaginary_and_damped_ones_left_of_the_axis():
    skew = slim.SkewSymmetricLinear(7, 7).double()
    assert skew.eig(eigenvectors=False).real.abs().max() < 1e-12
    damped = perturb(slim.DampedSkewSymmetricLinear(7, 7, sigma_min=0.3, sigma_max=0.4).double())
    real = damped.eig(eigenvectors=False).real
    assert 0.3 <= damped.gamma <= 0.4
    assert close(real, -damped.gamma.expand(7), 1e-9)


def test_skew_has_as_many_parameters_as_freedoms():
    assert [sum(p.numel() for p in slim.SkewSymmetricLinear(n, n).parameters()) for n in (1, 2, 5)] == [0, 1, 10]


def test_symmetric_is_the_symmetric_part_exactly():
    m = slim.SymmetricLinear(5, 5)
    assert torch.equal(m.effective_W(), (m.weight + m.weight.T) / 2)
    assert torch.equal(m.effective_W(), m.effective_W().T)


# Householder products


@pytest.mark.parametrize("n, k", [(1, 0), (2, 1), (5, 4), (5, 2), (32, 31), (34, 33), (66, 65), (130, 129), (130, 70)])
def test_compact_form_equals_the_loop_over_reflectors(n: int, k: int):
    U, x = (torch.randn(rows, n, dtype=torch.float64, requires_grad=True) for rows in (k, 7))
    weights = torch.randn(7, n, dtype=torch.float64)
    for sign in (torch.ones(1, dtype=torch.float64), -torch.ones(1, dtype=torch.float64)):
        expected = by_loop(x, U, sign)
        loss = (expected * weights).sum() + 0 * U.sum()
        dx, dU = torch.autograd.grad(loss, (x, U))
        # Ours with its own backward, and in the plain operations that torch.func and compilers see.
        for y in (reflect(x, U, sign), in_blocks(x, U, sign)):
            assert close(y, expected, 1e-12)
            ours = torch.autograd.grad((y * weights).sum(), (x, U))
            assert close(ours[0], dx, 1e-12) and close(ours[1], dU, 1e-11)


def test_second_derivatives_of_reflections_equal_finite_differences():
    U = torch.randn(5, 6, dtype=torch.float64).triu().requires_grad_()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    sign = -torch.ones(1, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x, U: reflect(x, U, sign), (x, U))
    assert torch.autograd.gradgradcheck(lambda x: reflect(x, U.detach(), sign), (x,))
    assert torch.autograd.gradgradcheck(lambda U: reflect(x.detach(), U, sign), (U,))


def test_torch_func_differentiates_reflections_both_ways():
    U, x = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    sign, direction = torch.ones(1, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def loss(U: torch.Tensor) -> torch.Tensor:
        return reflect(x, U, sign).sin().sum()

    gradient = torch.func.grad(loss)(U)
    assert close(gradient, torch.autograd.functional.jacobian(loss, U))
    assert close(torch.func.jvp(loss, (U,), (direction,))[1], (gradient * direction).sum())
    assert close(torch.func.hessian(loss)(U), torch.autograd.functional.hessian(loss, U))


def test_hprod_in_a_loop_gives_the_orthogonal_map():
    m = slim.OrthogonalLinear(6, 6).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    y = x
    for i, u in enumerate(m.U):
        y = slim.Hprod(y, u, 6 - i)
    assert close(torch.cat([y[:, :-1], y[:, -1:] * m.sign], dim=1), m(x))


def test_hprod_reflects_the_last_entries_alone():
    x, u = torch.randn(4, 5).double(), torch.randn(5).double()
    y = slim.Hprod(x, u, 3)
    v = u[2:] / u[2:].norm()
    assert torch.equal(y[:, :2], x[:, :2])
    assert close(y[:, 2:], x[:, 2:] - 2 * torch.outer(x[:, 2:] @ v, v))
    assert close(slim.Hprod(y, u, 3), x)
    for k in (0, 6):
        with pytest.raises(OptionError, match=f"Hprod needs 1 <= k <= 5, got k={k}"):
            slim.Hprod(x, u, k)
    with pytest.raises(ShapeError, match=r"got shapes \(4, 5\) and \(4,\)"):
        slim.Hprod(x, u[:4], 2)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-30, 1e-18, 1e15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_tiny_and_huge_reflectors_are_safe(size: float, dtype: torch.dtype):
    m = slim.OrthogonalLinear(5, 5).to(dtype)
    with torch.no_grad():
        m.U[1] *= size
        m.U[3] = 0
    W = m.effective_W()
    assert m.contains(W)
    W.sin().sum().backward()
    assert m.U.grad.isfinite().all()


def test_a_zero_reflector_reflects_its_first_entry_and_can_leave_zero():
    m = slim.OrthogonalLinear(4, 4, n_reflectors=2, det=1)
    with torch.no_grad():
        m.U.zero_()
    assert close(m.effective_W(), torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    m.effective_W().sin().sum().backward()
    assert m.U.grad[0].abs().max() > 0
    assert close(slim.Hprod(torch.ones(1, 3), torch.zeros(3), 2), torch.tensor([[1.0, -1.0, 1.0]]))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("k", [None, 1])
def test_both_determinants_are_reached(n: int, k: int | None):
    for det in (1, -1):
        m = slim.OrthogonalLinear(n, n, n_reflectors=k, det=det).double()
        assert close(torch.linalg.det(m.effective_W()), torch.tensor(det, dtype=torch.float64))
    drawn = {slim.OrthogonalLinear(n, n).double().effective_W().det().round().item() for _ in range(30)}
    assert drawn == {1, -1}


@pytest.mark.parametrize("options, message", [
    ({"n_reflectors": 2.5}, r"needs 1 <= n_reflectors <= 4, got n_reflectors=2\.5"),
    ({"n_reflectors": True}, "needs 1 <= n_reflectors <= 4, got n_reflectors=True"),
    ({"n_reflectors": "a"}, "needs 1 <= n_reflectors <= 4, got n_reflectors='a'"),
    ({"det": True}, "needs det to be 1, -1 or None, got det=True"),
    ({"n_reflectors": 0}, "needs 1 <= n_reflectors <= 4, got n_reflectors=0"),
    ({"n_reflectors": 5}, "needs 1 <= n_reflectors <= 4, got n_reflectors=5"),
    ({"det": 2}, "needs det to be 1, -1 or None, got det=2"),
])  # fmt: skip
def test_options_of_the_orthogonal_map_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(OptionError, match=message):
        slim.OrthogonalLinear(4, 4, **options)


@pytest.mark.parametrize("n", [2, 3, 8, 65])
def test_orthogonal_from_dense_is_exact_at_special_matrices(n: int):
    permutation = torch.eye(n, dtype=torch.float64)[torch.randperm(n)]
    for Q in (torch.eye(n, dtype=torch.float64), -torch.eye(n, dtype=torch.float64), permutation):
        assert close(slim.OrthogonalLinear.from_dense(Q).effective_W(), Q)
    rotation = torch.eye(n, dtype=torch.float64)
    c, s = torch.tensor(1e-7).cos(), torch.tensor(1e-7).sin()
    rotation[:2, :2] = torch.tensor([[c, -s], [s, c]])
    assert close(slim.OrthogonalLinear.from_dense(rotation).effective_W(), rotation, 1e-13)


def test_orthogonal_from_dense_with_a_determinant_is_the_nearest_of_that_determinant():
    W = torch.randn(4, 4, dtype=torch.float64)
    left, values, right = torch.linalg.svd(W)
    for det in (1, -1):
        m = slim.OrthogonalLinear.from_dense(W, det=det)
        turned = values.clone()
        if torch.linalg.det(left @ right) * det < 0:
            turned[-1] *= -1
        # The distance of the polar factor: |W - Q|^2 = |W|^2 + n - 2 trace(W^T Q).
        expected = (W.square().sum() + 4 - 2 * turned.sum()).sqrt()
        assert m.contains(m.effective_W()) and close(torch.linalg.matrix_norm(W - m.effective_W()), expected)


def test_what_few_reflectors_made_comes_back_with_all_of_them():
    m = slim.OrthogonalLinear(6, 6, n_reflectors=2).double()
    W = m.effective_W().detach()
    assert close(slim.OrthogonalLinear.from_dense(W).effective_W(), W)
    with pytest.raises(OptionError, match=r"OrthogonalLinear\.from_dense needs all reflectors"):
        slim.OrthogonalLinear.from_dense(W, n_reflectors=2)
    with pytest.raises(OptionError, match=r"SpectralLinear\.from_dense needs all reflectors"):
        slim.SpectralLinear.from_dense(W, n_U_reflectors=2)


@pytest.mark.parametrize("n", [1, 2, 8, 65])
def test_a_bfloat16_orthogonal_matrix_is_orthogonal_to_its_rounding(n: int):
    m = slim.OrthogonalLinear(n, n)
    with torch.autocast("cpu"):
        W = m.effective_W().bfloat16().double()
    assert (W @ W.T - torch.eye(n)).abs().max() <= 5e-3


# Singular values


@pytest.mark.parametrize("size", [(4, 4), (3, 6), (6, 3), (1, 5)])
def test_spectral_is_U_Sigma_V(size: tuple[int, int]):
    m = perturb(slim.SpectralLinear(*size, sigma_min=0.5, sigma_max=1.5).double())
    U, V = m.Umultiply(torch.eye(size[0]).double()), m.Vmultiply(torch.eye(size[1]).double())
    assert close(U @ U.T, torch.eye(size[0]).double()) and close(V @ V.T, torch.eye(size[1]).double())
    assert close(m.effective_W(), U @ m.Sigma() @ V)
    r = 0.5
    expected = 2 * r * (torch.sigmoid(m.p) - 0.5) + 1.0
    assert close(torch.linalg.svdvals(m.effective_W()), expected.sort(descending=True).values)


def test_spectral_takes_either_reflector_count_alone():
    assert slim.SpectralLinear(5, 4, n_U_reflectors=2).U.shape == (2, 5)
    m = slim.SpectralLinear(5, 4, n_V_reflectors=2)
    assert (m.U.shape, m.V.shape) == ((4, 5), (2, 4))
    with pytest.raises(OptionError, match="SpectralLinear needs 1 <= n_V_reflectors <= 4, got n_V_reflectors=5"):
        slim.SpectralLinear(5, 4, n_V_reflectors=5)
    with pytest.raises(OptionError, match=r"SpectralLinear needs sigma_min >= 0, got sigma_min=-0\.1"):
        slim.SpectralLinear(5, 4, sigma_min=-0.1)


@pytest.mark.parametrize("cls", [slim.SpectralLinear, slim.SVDLinear])
def test_from_dense_clips_the_singular_values(cls: type):
    W = 2 * torch.randn(5, 3, dtype=torch.float64)
    left, values, right = torch.linalg.svd(W, full_matrices=False)
    expected = left @ torch.diag(values.clamp(0.5, 1.5)) @ right
    assert close(cls.from_dense(W, sigma_min=0.5, sigma_max=1.5).effective_W(), expected)


def test_orthogonal_error_is_zero_exactly_at_orthogonal_matrices():
    Q = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert slim.SVDLinear.orthogonal_error(Q) < 1e-14
    D = torch.diag(torch.tensor([1.0, 1.0, 1.0, 2.0], dtype=torch.float64))
    assert close(slim.SVDLinear.orthogonal_error(D @ Q), torch.tensor(6.0, dtype=torch.float64))


# from_dense's own errors


def test_from_dense_refuses_what_is_no_matrix():
    with pytest.raises(ShapeError, match=r"Linear\.from_dense needs a matrix \(insize, outsize\), got shape \(3,\)"):
        slim.Linear.from_dense(torch.ones(3))
    with pytest.raises(ShapeError, match=r"Linear\.from_dense needs a bias of 2 entries, got shape \(3,\)"):
        slim.Linear.from_dense(torch.ones(3, 2), torch.ones(3))
    with pytest.raises(OptionError, match=r"Linear\.from_dense needs a finite matrix"):
        slim.Linear.from_dense(torch.tensor([[torch.nan]]))
    for dtype in (torch.int64, torch.complex64):
        with pytest.raises(TypeError, match=rf"Linear\.from_dense needs a real floating-point matrix, got {dtype}"):
            slim.Linear.from_dense(torch.ones(2, 2, dtype=dtype))
    for other in (torch.ones(2, 2).numpy(), [[1.0, 0.0], [0.0, 1.0]], None):
        with pytest.raises(
            DtypeError, match=r"Linear\.from_dense needs its matrix as a tensor, got .*torch\.as_tensor"
        ):
            slim.Linear.from_dense(other)
    with pytest.raises(DtypeError, match=r"Linear\.from_dense needs its bias as a tensor, got list"):
        slim.Linear.from_dense(torch.eye(2), [1.0, 2.0])
    with pytest.raises(UnknownOptionError, match=r"SpectralLinear has no option 'sigma_mx'\. Did you mean 'sigma_max'"):
        slim.SpectralLinear.from_dense(torch.eye(2), sigma_mx=2)


# materialized


class Counted(slim.OrthogonalLinear):
    builds = 0

    def effective_W(self):
        self.builds += 1
        return super().effective_W()


def test_materialized_builds_W_once():
    m = nn.Sequential(Counted(4, 4), nn.Tanh(), Counted(4, 4))
    x = torch.randn(2, 4)
    with slim.materialized(m):
        for _ in range(50):
            x = m(x)
        assert m[0].effective_W() is m[0].effective_W()
    assert (m[0].builds, m[2].builds) == (1, 1)
    m[0].effective_W()
    assert m[0].builds == 2


def test_materialized_is_lazy():
    m = Counted(4, 4)
    with slim.materialized(m):
        pass
    assert m.builds == 0


def test_materialized_gives_the_gradients_of_the_loop():
    m, x = Counted(4, 4, bias=True).double(), torch.randn(2, 4, dtype=torch.float64)

    def rolled_out() -> list[torch.Tensor]:
        y = x
        for _ in range(10):
            y = m(y).tanh()
        return list(torch.autograd.grad(y.square().sum(), list(m.parameters())))

    expected = rolled_out()
    with slim.materialized(m):
        gradients = rolled_out()
    assert all(close(a, b, 1e-12) for a, b in zip(gradients, expected, strict=True))


def test_materialized_keeps_the_grad_modes_apart():
    m = Counted(4, 4)
    with slim.materialized(m):
        with torch.no_grad():
            assert not m.effective_W().requires_grad
        assert m.effective_W().requires_grad
        with torch.inference_mode():
            assert not m.effective_W().requires_grad
    assert m.builds == 3


def test_materialized_nests_and_ends_with_the_outermost():
    m = nn.Sequential(Counted(4, 4))
    with slim.materialized(m):
        W = m[0].effective_W()
        with slim.materialized(m[0]):
            assert m[0].effective_W() is W
        with pytest.raises(ZeroDivisionError), slim.materialized(m):
            raise ZeroDivisionError
        assert m[0].effective_W() is W
    assert not m[0].is_materialized and m[0].builds == 1


def test_materialized_ends_with_an_exception_and_can_be_entered_again():
    m = Counted(4, 4)
    with pytest.raises(ZeroDivisionError), slim.materialized(m):
        m.effective_W()
        raise ZeroDivisionError
    assert not m.is_materialized
    with torch.no_grad():
        m.U.add_(torch.randn(3, 4))
    with slim.materialized(m):
        assert torch.equal(m.effective_W(), Counted.effective_W(m))


def test_materialized_opened_inside_a_checkpointed_function_builds_W_once_a_run():
    m, x = Counted(4, 4), torch.randn(2, 4, requires_grad=True)

    def steps(x: torch.Tensor) -> torch.Tensor:
        with slim.materialized(m):
            for _ in range(10):
                x = m(x).tanh()
        return x

    with slim.materialized(m):
        W = m.effective_W()
        checkpoint(steps, x, use_reentrant=False).sum().backward()
        assert m.effective_W() is W
    # One for the outer context, one forward, one when it runs again.
    assert m.builds == 3


def test_materialized_compiles_to_the_same_numbers():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = slim.OrthogonalLinear(3, 3)

        def forward(self, x):
            with slim.materialized(self):
                for _ in range(3):
                    x = self.map(x).tanh()
            return x

    torch._dynamo.reset()
    loop, x = Loop(), torch.randn(2, 3)
    assert close(torch.compile(loop, fullgraph=True, backend="eager")(x), loop(x))
    assert not loop.map.is_materialized


# reg_error


def test_reg_error_counts_each_map_once_and_leaves_out_zeros():
    shared = perturb(slim.SVDLinear(3, 3))
    other = perturb(slim.SVDLinear(3, 3))
    net = nn.ModuleDict({"a": nn.Sequential(shared, slim.OrthogonalLinear(3, 3)), "b": shared, "c": other})
    assert slim.reg_error_terms(net) == [("a.0", shared), ("c", other)]
    assert close(slim.total_reg_error(net), shared.reg_error() + other.reg_error())
    assert slim.total_reg_error(slim.OrthogonalLinear(2, 2)) is None
    assert slim.reg_error_terms(shared) == [("", shared)]


def test_a_module_with_its_own_reg_error_is_taken_whole():
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = slim.SVDLinear(3, 3)

        def reg_error(self):
            return torch.tensor(5.0)

    class Container(Penalised):
        looked_through = True

    whole, container = Penalised(), Container()
    assert slim.reg_error_terms(nn.Sequential(whole, container)) == [("0", whole), ("1.inner", container.inner)]
    assert slim.total_reg_error(whole) == 5


def test_a_map_that_does_not_exist_is_told_with_the_nearest():
    with pytest.raises(UnknownOptionError, match="there is no map 'othogonal'. Did you mean 'orthogonal'"):
        slim.maps["othogonal"]
    assert "othogonal" not in slim.maps and slim.maps.get("othogonal") is None


@pytest.mark.parametrize("key", ["orthogonal", "spectral"])
def test_a_backward_pass_inside_autocast_is_the_same(key: str):
    m, x = slim.maps[key](5, 5), torch.randn(6, 5)
    m(x).sin().sum().backward()
    expected = [p.grad.clone() for p in m.parameters()]
    m.zero_grad()
    y = m(x).sin().sum()
    with torch.autocast("cpu", torch.bfloat16):
        y.backward()
    assert all(close(p.grad, e) for p, e in zip(m.parameters(), expected, strict=True))


@pytest.mark.parametrize("scale", [1.0, 1e8, 1e30])
def test_the_nearest_stochastic_matrix_is_found_for_large_entries(scale: float):
    W = scale * torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    W[0] += scale
    assert close(
        slim.RightStochasticLinear.from_dense(W).effective_W(), torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), 1e-5
    )


def test_hprod_in_half_precision_is_hprod():
    u, x = torch.tensor([1e-3, 5e-3, 2e-3]), torch.tensor([[1.0, 2.0, 3.0]])
    assert close(slim.Hprod(x.half(), u.half(), 3).float(), slim.Hprod(x, u, 3), 1e-2)


def test_every_entry_of_a_non_negative_map_from_a_matrix_can_be_trained():
    m = slim.NonNegativeLinear.from_dense(torch.randn(5, 5))
    m.effective_W().sum().backward()
    assert (m.weight.grad == 1).all()


def test_reg_error_of_maps_inside_maps_and_of_foreign_modules_counts():
    class Sum(slim.LinearBase):
        def __init__(self):
            super().__init__(2, 2, provide_weights=False)
            self.a = slim.SVDLinear(2, 2)

        def effective_W(self):
            return self.a.effective_W()

    class Foreign(torch.nn.Module):
        def reg_error(self):
            return 3.0

    both = torch.nn.Sequential(Sum(), Foreign())
    assert [name for name, _ in slim.reg_error_terms(both)] == ["0.a", "1"]
    assert close(slim.total_reg_error(both), 3.0 + both[0].a.reg_error())


@pytest.mark.parametrize("make, message", [
    (lambda: slim.PerronFrobeniusLinear(3, 3, 0.8, 1.0), "bias to be True or False, got 0.8; options come after it"),
    (lambda: slim.PerronFrobeniusLinear(3, 3, sigma_min=None), "needs a number for sigma_min, got sigma_min=None"),
    (lambda: slim.Linear(3, True), "needs a whole number for outsize, got True"),
    (lambda: slim.get_map(slim.Linear(2, 2)), "got an instance of Linear; give the class"),
    (lambda: slim.RNNCell(3, 5, nonlin="tanh"), "a function for nonlin, such as torch.tanh, got 'tanh'"),
])  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused(make, message: str):
    with pytest.raises(OptionError, match=message):
        make()


def test_numbers_of_numpy_are_numbers():
    for key in keys():
        assert slim.maps[key](np.int64(4), np.int32(4))(torch.ones(2, 4)).shape == (2, 4)
    m = slim.PerronFrobeniusLinear(3, 3, sigma_min=np.float32(0.5), sigma_max=np.int64(1))
    assert (m.sigma_min, m.sigma_max) == (0.5, 1.0) and type(m.sigma_min) is type(m.sigma_max) is float
    for value in (np.float32("nan"), 10**400, -np.inf):
        with pytest.raises(OptionError, match=f"PerronFrobeniusLinear needs a finite sigma_max, got sigma_max={value}"):
            slim.PerronFrobeniusLinear(3, 3, sigma_max=value)
    with pytest.raises(OptionError, match=r"needs a number for sigma_max, got sigma_max=np\.True_"):
        slim.PerronFrobeniusLinear(3, 3, sigma_max=np.bool_(True))
