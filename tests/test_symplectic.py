"""`SymplecticLinear` against factors multiplied out, the exponential of Hamiltonian matrices, and what is not one."""

from __future__ import annotations

import pytest
import torch

from slimgraph import slim
from slimgraph.errors import OptionError
from tests.helpers import close, perturb


def J(n: int) -> torch.Tensor:
    return torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double().kron(torch.eye(n))


def hamiltonian_flow(n: int, seed: int = 0) -> torch.Tensor:
    """exp(J H) with a random symmetric H: symplectic, found without any factor."""
    torch.manual_seed(seed)
    H = torch.randn(2 * n, 2 * n, dtype=torch.float64)
    return torch.matrix_exp(J(n) @ (H + H.mT) / 4)


def made(n: int, size: float = 0.5) -> slim.SymplecticLinear:
    torch.manual_seed(0)
    return perturb(slim.SymplecticLinear(2 * n, 2 * n).double(), size)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_W_is_the_product_of_its_unit_triangular_factors(n: int):
    m, W = made(n), torch.eye(2 * n, dtype=torch.float64)
    for i, row in enumerate(m.weight.tolist()):
        S, entries = torch.zeros(n, n, dtype=torch.float64), iter(row)
        for a in range(n):
            for b in range(a, n):
                S[a, b] = S[b, a] = next(entries)
        factor = torch.eye(2 * n, dtype=torch.float64)
        corner = (slice(0, n), slice(n, None)) if i % 2 == 0 else (slice(n, None), slice(0, n))
        factor[corner] = S
        W = W @ factor
        assert next(entries, None) is None
    assert close(m.effective_W(), W)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_W_preserves_the_form_the_volume_and_pairs_its_eigenvalues(n: int):
    W = made(n).effective_W().detach()
    assert close(W.mT @ J(n) @ W, J(n), 1e-10) and close(W @ J(n) @ W.mT, J(n), 1e-10)
    assert close(torch.linalg.det(W), torch.tensor(1.0).double(), 1e-9)
    values = torch.linalg.eigvals(W)
    assert ((1 / values).unsqueeze(1) - values).abs().min(dim=1).values.max() < 1e-6


def test_it_starts_near_the_identity():
    for n in (1, 8, 64):
        W = slim.SymplecticLinear(2 * n, 2 * n).effective_W()
        assert 0 < torch.linalg.matrix_norm(W - torch.eye(2 * n), 2) < 0.7


@pytest.mark.parametrize("target", [hamiltonian_flow(2), -torch.eye(4).double()], ids=["flow", "minus identity"])
def test_any_symplectic_matrix_is_reached(target: torch.Tensor):
    m = made(2)
    optimizer = torch.optim.LBFGS(m.parameters(), max_iter=2000, line_search_fn="strong_wolfe", tolerance_change=0)

    def error() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (m.effective_W() - target).square().sum()
        loss.backward()
        return loss

    optimizer.step(error)
    assert error() < 1e-8


def test_contains_knows_symplectic_matrices():
    m, W = slim.SymplecticLinear(6, 6), hamiltonian_flow(3)
    assert m.contains(W) and m.contains(W.float()) and m.contains(torch.eye(6)) and m.contains(J(3))
    skew = torch.randn(6, 6)
    other_form = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
    for wrong in (skew - skew.mT, 1.001 * W.float(), W + 1e-9 * torch.rand(6, 6), 2 * torch.eye(6), torch.zeros(6, 6)):
        assert not m.contains(wrong)
    # Preserved pairs (q1, p1, q2, p2, ...) are another form.
    assert not m.contains(torch.block_diag(torch.diag(torch.tensor([2.0, 0.5])), torch.eye(4)).double())
    assert m.contains(torch.block_diag(other_form, other_form, other_form)[[0, 2, 4, 1, 3, 5]][:, [0, 2, 4, 1, 3, 5]])


@pytest.mark.parametrize("scale", [1e-20, 1.0, 30.0, 1e3])
def test_large_weights_keep_the_promise_in_float32(scale: float):
    for n in (1, 4, 32):
        m = slim.SymplecticLinear(2 * n, 2 * n)
        with torch.no_grad():
            m.weight.copy_(scale * torch.randn_like(m.weight))
        W = m.effective_W().detach()
        assert m.contains(W)
        assert not m.contains(W * (1 + 1e-3 * torch.rand_like(W))) or scale > 1


def test_an_odd_size_is_refused_with_both_numbers():
    for cls in (slim.SymplecticLinear, slim.SchurDecompositionLinear):
        with pytest.raises(OptionError, match=rf"{cls.__name__} needs an even size, got insize=3 and outsize=3"):
            cls(3, 3)
        assert cls in slim.even_maps
