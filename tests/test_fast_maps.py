"""Monarch and Toeplitz maps against their matrices written out, scipy, and the nearest members."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.func import functional_call, vmap

from slimgraph import slim
from slimgraph.errors import OptionError
from slimgraph.slim.linear.toeplitz import fft_length
from tests.helpers import assert_forward_is_the_product, close

RECTANGLES = [(1, 1), (2, 2), (8, 8), (16, 16), (12, 30), (30, 12), (1, 7), (7, 1), (13, 11)]


@pytest.fixture
def fast(monkeypatch):
    """`forward` takes the fast way, however little there is to multiply."""
    monkeypatch.setattr("slimgraph.slim.linear.monarch.pays", lambda *_: True)
    monkeypatch.setattr(slim.ToeplitzLinear, "_transforms", lambda *_: True)


@pytest.mark.parametrize("size", RECTANGLES, ids=str)
@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_the_fast_product_is_the_same_function(key, size, fast):
    m = slim.maps[key](*size, bias=True).double()
    x = assert_forward_is_the_product(m)
    # A frozen map, and an input that needs no gradient.
    m(x.detach()).sum().backward()
    m.requires_grad_(False)
    m(x).sum().backward()
    assert all(tensor.grad is not None for tensor in (x, *m.parameters()))


@pytest.mark.parametrize("size", [(6, 4), (3, 5)], ids=str)
@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_gradients_of_the_fast_product_are_exact_twice(key, size, fast):
    m = slim.maps[key](*size).double()
    names = [name for name, _ in m.named_parameters()]

    def call(x, *values):
        return functional_call(m, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(2, size[0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *m.parameters()), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, *m.parameters()))


@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_the_fast_product_compiles_maps_and_moves(key, fast):
    torch._dynamo.reset()
    ms = [slim.maps[key](12, 20) for _ in range(3)]
    x = torch.randn(4, 12)
    assert close(torch.compile(ms[0], fullgraph=True, backend="aot_eager")(x), ms[0](x), 1e-5)
    stacked = {name: torch.stack([m.state_dict()[name] for m in ms]) for name in ms[0].state_dict()}
    many = vmap(lambda state: functional_call(ms[0], state, (x,)))(stacked)
    assert close(many, torch.stack([m(x) for m in ms]), 1e-5)
    assert ms[0].to("meta")(x.to("meta")).device.type == "meta"


@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_a_large_map_never_builds_W(key, monkeypatch):
    cls = slim.maps[key]
    m, x = cls(1000, 1030), torch.randn(64, 1000)
    expected = x @ m.effective_W()
    with slim.materialized(m):
        assert close(m(x), expected)
    monkeypatch.setattr(cls, "effective_W", lambda _: pytest.fail("W was built"))
    assert close(m(x), expected)


@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_half_precision_and_few_rows_use_W(key, monkeypatch):
    m = slim.maps[key](512, 512).bfloat16()
    x = torch.randn(64, 512).bfloat16()
    assert torch.equal(m(x), x @ m.effective_W())
    small, x = slim.maps[key](32, 32), torch.randn(3, 32)
    assert torch.equal(small(x), x @ small.effective_W())


# Monarch


@pytest.mark.parametrize("nblocks", [1, 2, 3, 4, 12])
def test_monarch_is_block_diagonal_permutation_block_diagonal(nblocks):
    n, size = 12, 12 // nblocks
    m = slim.MonarchLinear(n, n, nblocks=nblocks).double()
    left, right = m.left.detach(), m.right.detach()
    L = torch.block_diag(*left.view(nblocks, size, size))
    R = torch.block_diag(*(right[:, j::size] for j in range(size)))
    # P takes place q size + j to place j nblocks + q.
    P = torch.eye(n, dtype=torch.float64)[:, torch.arange(n).view(nblocks, size).T.flatten()]
    assert close(m.effective_W(), L @ P @ R @ P.T)


def test_about_sqrt_blocks_have_the_fewest_parameters():
    def count(nblocks=None):
        return sum(p.numel() for p in slim.MonarchLinear(64, 64, nblocks=nblocks).parameters())

    assert count() == count(8) == 2 * 64 * 8 == min(count(b) for b in range(1, 65))
    assert slim.MonarchLinear(64, 64, False, 4).nblocks == 4


@pytest.mark.parametrize("p", [2, 4, 8])
def test_every_butterfly_is_a_monarch_matrix(p):
    W = slim.ButterflyLinear(16, 16, tied_weight=False).effective_W()
    m = slim.MonarchLinear(16, 16, nblocks=16 // p)
    for scale in (1e-12, 1.0, 1e12):
        assert m.contains(scale * W) and not m.contains(scale * torch.randn(16, 16))
    assert close(slim.MonarchLinear.from_dense(W.detach(), nblocks=16 // p).effective_W(), W)


@pytest.mark.parametrize(("size", "nblocks"), [((12, 12), 3), ((13, 11), 4), ((6, 20), 2), ((20, 6), 5)], ids=str)
def test_from_dense_of_a_monarch_takes_each_block_to_its_nearest_rank_one(size, nblocks):
    W = torch.randn(size, dtype=torch.float64)
    m = slim.MonarchLinear.from_dense(W, nblocks=nblocks)
    nearest, p, stride = np.zeros(size), -(-size[0] // nblocks), -(-size[1] // nblocks)
    for q in range(nblocks):
        for j in range(stride):
            block = np.s_[q * p : (q + 1) * p, j::stride]
            u, sigma, vh = np.linalg.svd(W.numpy()[block], full_matrices=False)
            if sigma.size:
                nearest[block] = sigma[0] * np.outer(u[:, 0], vh[0])
    assert close(m.effective_W(), torch.from_numpy(nearest))


def test_one_block_reaches_every_matrix_and_zero_can_be_trained():
    W = torch.randn(5, 7)
    assert close(slim.MonarchLinear.from_dense(W, nblocks=1).effective_W(), W)
    m = slim.MonarchLinear.from_dense(torch.zeros(8, 8))
    (m(torch.randn(4, 8)) - 1).square().sum().backward()
    assert not m.effective_W().any() and m.right.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("nblocks", "words"),
    [
        (0, r"MonarchLinear needs nblocks >= 1, got nblocks=0"),
        (2.0, r"MonarchLinear needs a whole number for nblocks, got 2\.0"),
        (True, r"MonarchLinear needs a whole number for nblocks, got True"),
        (5, r"MonarchLinear needs nblocks <= insize, got nblocks=5 and insize=4"),
    ],
)
def test_a_wrong_number_of_blocks_is_refused(nblocks, words):
    with pytest.raises(OptionError, match=words):
        slim.MonarchLinear(4, 9, nblocks=nblocks)


@pytest.mark.parametrize("key", ["monarch", "toeplitz"])
def test_entries_start_with_the_variance_of_a_dense_map(key):
    W = torch.stack([slim.maps[key](20, 30).effective_W() for _ in range(200)])
    assert abs(W.square().mean() * 3 * 20 - 1) < 0.1


# Toeplitz


@pytest.mark.parametrize("size", RECTANGLES, ids=str)
def test_toeplitz_is_that_of_scipy(size):
    m = slim.ToeplitzLinear(*size).double()
    t, n = m.t.detach().numpy(), size[0]
    assert t.shape == (sum(size) - 1,)
    assert torch.equal(m.effective_W(), torch.from_numpy(scipy.linalg.toeplitz(t[:n][::-1], t[n - 1 :])))


def test_the_transforms_are_exact_to_a_rounding_of_the_largest_entry():
    m, x = slim.ToeplitzLinear(3000, 2000), torch.randn(20, 3000)
    exact = x.double() @ m.effective_W().double()
    assert (m(x) - exact).abs().max() <= 4 * torch.finfo(torch.float32).eps * exact.abs().max()


def test_lengths_of_transforms_are_even_enough_and_near():
    lengths = [fft_length(n) for n in range(1, 3000)]
    assert all(n <= length <= 1.25 * n + 2 and length % 2 == 0 for n, length in enumerate(lengths, 1))
    assert fft_length(8191) == 8192 and fft_length(4097) == 4608


def test_from_dense_of_a_toeplitz_takes_the_mean_of_each_diagonal():
    W = torch.randn(5, 8)
    t = slim.ToeplitzLinear.from_dense(W).t
    assert close(t, torch.stack([W.diagonal(k).mean() for k in range(-4, 8)]))


def test_contains_refuses_a_diagonal_that_drifts():
    W = torch.eye(200, dtype=torch.float64) + 1e-8 * torch.diag(torch.arange(200, dtype=torch.float64))
    m = slim.ToeplitzLinear(200, 200)
    assert m.contains(W, 1e-5) and not m.contains(W, 1e-7)
    assert m.contains(torch.zeros(200, 200)) and m.contains(1e-30 * torch.eye(200))
