"""Butterflies against their factors written out, their ranks, and the transforms that they are made for."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.linalg
import torch
from torch.func import functional_call, vmap

from slimgraph import slim
from slimgraph.errors import OptionError
from tests.helpers import assert_forward_is_the_product, close

FLAGS = ("complex", "tied_weight", "increasing_stride", "ortho_init")
EVERY = [dict(zip(FLAGS, flags, strict=True)) for flags in itertools.product([False, True], repeat=4)]
every_option = pytest.mark.parametrize("options", EVERY, ids=lambda o: "-".join(k for k, v in o.items() if v) or "none")


def written_out(m: slim.ButterflyLinear) -> torch.Tensor:
    """The product of the sparse factors, each placed entry by entry."""
    twiddle, n = m.twiddle.detach(), m.n
    twiddle = torch.view_as_complex(twiddle) if m.complex else twiddle
    products = []
    for blocks in twiddle:
        factors = []
        for level in range(int(math.log2(n))):
            d = 2**level
            factor = torch.zeros(n, n, dtype=twiddle.dtype)
            for pair, (group, place) in enumerate(itertools.product(range(n // (2 * d)), range(d))):
                at = torch.tensor([2 * d * group + place, 2 * d * group + place + d])
                factor[at[:, None], at] = blocks[d - 1 + place] if m.tied_weight else blocks[level, pair]
            factors.append(factor)
        ordered = factors if m.increasing_stride else factors[::-1]
        products.append(torch.linalg.multi_dot(ordered) if len(ordered) > 1 else ordered[0])
    return torch.cat(products, 1)[: m.in_features, : m.out_features]


@pytest.fixture
def by_factors(monkeypatch):
    """`forward` multiplies by the factors, however little there is to multiply."""
    monkeypatch.setattr("slimgraph.slim.linear.butterfly.pays", lambda *_: True)


def backwards(n: int) -> list[int]:
    """The places 0 ... n - 1 by their bits read backwards."""
    return [int(f"{i:b}".zfill(n.bit_length() - 1)[::-1], 2) for i in range(n)]


@every_option
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 5), (16, 16), (13, 70)], ids=str)
def test_W_is_the_product_of_the_factors_cut_to_size(size, options):
    m = slim.ButterflyLinear(*size, **options).double()
    product = written_out(m)
    assert close(m.complex_W(), product.to(torch.complex128))
    assert close(m.effective_W(), product.real if m.complex else product)


@every_option
@pytest.mark.parametrize("size", [(4, 4), (6, 11), (16, 3), (32, 32)], ids=str)
def test_folded_groups_are_the_same_function(size, options, by_factors):
    m = slim.ButterflyLinear(*size, bias=True, **options).double()
    assert_forward_is_the_product(m)


@pytest.mark.parametrize("options", [{}, {"complex": True, "tied_weight": False, "increasing_stride": False}])
def test_gradients_through_the_groups_are_exact_twice(options, by_factors):
    m = slim.ButterflyLinear(6, 5, **options).double()
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    twiddle = m.twiddle.detach().clone().requires_grad_()

    def call(x, twiddle):
        return functional_call(m, {"twiddle": twiddle}, (x,))

    assert torch.autograd.gradcheck(call, (x, twiddle), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, twiddle))


@pytest.mark.parametrize("options", [{}, {"complex": True, "tied_weight": False, "increasing_stride": False}])
def test_the_groups_compile_map_and_move(options, by_factors):
    torch._dynamo.reset()
    ms = [slim.ButterflyLinear(12, 20, **options) for _ in range(3)]
    x = torch.randn(4, 12)
    assert close(torch.compile(ms[0], fullgraph=True, backend="aot_eager")(x), ms[0](x))
    stacked = {"twiddle": torch.stack([m.twiddle.detach() for m in ms])}
    many = vmap(lambda state: functional_call(ms[0], state, (x,)))(stacked)
    assert close(many, torch.stack([m(x) for m in ms]))
    assert ms[0].to("meta")(x.to("meta")).device.type == "meta"


@pytest.mark.parametrize("options", [{}, {"complex": True}, {"tied_weight": False}])
def test_a_large_map_never_builds_W(options, monkeypatch):
    m, x = slim.ButterflyLinear(1024, 1024, **options), torch.randn(64, 1024)
    expected = x @ m.effective_W()
    monkeypatch.setattr(slim.ButterflyLinear, "effective_W", lambda _: pytest.fail("W was built"))
    assert close(m(x), expected)


def test_a_small_map_or_a_W_at_hand_uses_W(monkeypatch):
    monkeypatch.setattr(slim.ButterflyLinear, "_multiply", lambda *_: pytest.fail("the factors were used"))
    slim.ButterflyLinear(16, 16)(torch.randn(8, 16))
    m = slim.ButterflyLinear(256, 256)
    with slim.materialized(m):
        m(torch.randn(4, 256))


def test_the_number_of_blocks_is_that_of_the_formula():
    assert slim.ButterflyLinear(1, 1).n == slim.ButterflyLinear(2, 2).n == 2
    assert slim.ButterflyLinear(33, 9).n == 64
    assert slim.ButterflyLinear(5, 17).twiddle.shape == (3, 7, 2, 2)
    assert slim.ButterflyLinear(5, 17, complex=True, tied_weight=False).twiddle.shape == (3, 3, 4, 2, 2, 2)
    assert slim.ButterflyLinear(64, 64, bias=True).bias.shape == (64,)
    assert all(slim.ButterflyLinear(9, 9, **o).twiddle.is_contiguous() for o in EVERY)


@pytest.mark.parametrize("options", [o for o in EVERY if o["ortho_init"]], ids=str)
def test_ortho_init_starts_orthogonal(options):
    W = slim.ButterflyLinear(32, 32, **options).double().complex_W()
    assert close(W @ W.mH, torch.eye(32, dtype=torch.complex128), 1e-5)
    assert W.imag.abs().max() > 0.1 if options["complex"] else not W.imag.any()


@pytest.mark.parametrize("options", [{}, {"complex": True}, {"complex": True, "tied_weight": False}], ids=str)
def test_entries_start_with_the_variance_of_a_dense_map(options):
    W = torch.stack([slim.ButterflyLinear(12, 64, **options).effective_W() for _ in range(200)])
    assert abs(W.square().mean() * 3 * 12 - 1) < 0.1


# The ranks that `contains` reads


def others(m: slim.ButterflyLinear) -> dict[str, slim.ButterflyLinear]:
    """The maps of one size that differ from `m` in one option."""
    flags = {flag: getattr(m, flag) for flag in FLAGS}
    return {
        flag: slim.ButterflyLinear(m.in_features, m.out_features, **{**flags, flag: not flags[flag]}) for flag in FLAGS
    }


@every_option
@pytest.mark.parametrize("size", [(32, 32), (27, 50), (64, 20)], ids=str)
def test_contains_tells_the_classes_apart(size, options):
    m = slim.ButterflyLinear(*size, **options)
    W = m.effective_W()
    changed = W.clone()
    changed[3, 4] += 0.1 * W.abs().max()
    for scale in (1e-12, 1.0, 1e12):
        assert m.contains(scale * W) and not m.contains(scale * changed) and not m.contains(scale * torch.randn(size))
    assert m.contains(0 * W)
    other = others(m)
    assert not other["increasing_stride"].contains(W)
    assert other["tied_weight"].contains(W) is options["tied_weight"]
    assert other["complex"].contains(W) is not options["complex"]


@pytest.mark.parametrize("increasing", [True, False])
def test_a_group_that_is_cut_counts_too(increasing):
    size = (7, 8) if increasing else (8, 7)
    tied, untied = (slim.ButterflyLinear(*size, tied_weight=t, increasing_stride=increasing) for t in (True, False))
    W = tied.effective_W().detach()
    (W if increasing else W.mT)[6] *= 3
    assert untied.contains(W) and not tied.contains(W)


@every_option
def test_training_keeps_the_ranks_of_a_larger_map(options):
    m = slim.ButterflyLinear(30, 40, **options)
    x, target = torch.randn(16, 30), 3 * torch.randn(16, 40)
    optimizer = torch.optim.Adam(m.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (m(x) - target).square().mean().backward()
        optimizer.step()
    assert m.contains(m.effective_W())


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e3])
def test_extreme_blocks_keep_the_promise(scale):
    m = slim.ButterflyLinear(16, 16, tied_weight=False)
    with torch.no_grad():
        m.twiddle.mul_(scale)
    assert m.contains(m.effective_W())
    (m(torch.randn(3, 16)) ** 2).mean().backward()
    assert m.twiddle.grad.isfinite().all()


def test_the_transforms_are_members_in_the_right_order_of_rows():
    n = 32
    F = torch.from_numpy(scipy.linalg.dft(n, scale="sqrtn"))[backwards(n)]
    real, whole = slim.ButterflyLinear(n, n), slim.ButterflyLinear(n, n, complex=True)
    assert whole.contains(F.real) and whole.contains(F.imag) and not whole.contains(F.real[backwards(n)])
    H = torch.from_numpy(scipy.linalg.hadamard(n)).double()
    assert real.contains(H) and real.contains(torch.eye(n)) and not real.contains(F.real)


def test_the_fft_is_a_butterfly():
    m = slim.ButterflyLinear(16, 16, complex=True).double()
    with torch.no_grad():
        for d in (1, 2, 4, 8):
            w = torch.exp(-1j * math.pi * torch.arange(d, dtype=torch.float64) / d)
            one = torch.ones_like(w)
            m.twiddle[0, d - 1 : 2 * d - 1] = torch.view_as_real(
                torch.stack([torch.stack([one, one], -1), torch.stack([w, -w], -1)], -2)
            )
    F = torch.from_numpy(scipy.linalg.dft(16))[backwards(16)]
    assert close(m.complex_W(), F)
    x = torch.randn(16, dtype=torch.float64)
    assert close(x[backwards(16)] @ m.effective_W(), torch.fft.fft(x).real)


@pytest.mark.parametrize("complex", [False, True])
def test_it_starts_orthogonal_in_half_precision_too(complex):
    torch.set_default_dtype(torch.bfloat16)
    try:
        m = slim.ButterflyLinear(8, 8, complex=complex, ortho_init=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert m.twiddle.dtype == torch.bfloat16
    W = m.float().complex_W()
    assert close(W @ W.mH, torch.eye(8, dtype=W.dtype), 0.05)


@pytest.mark.parametrize("flag", FLAGS)
def test_an_option_that_is_no_flag_is_refused(flag):
    with pytest.raises(OptionError, match=rf"ButterflyLinear needs {flag} to be True or False, got {flag}=0\.1"):
        slim.ButterflyLinear(4, 4, **{flag: 0.1})


def test_half_precision_computes_the_product_in_single():
    m = slim.ButterflyLinear(64, 64, complex=True).bfloat16()
    assert torch.equal(m.effective_W(), m.float().effective_W().bfloat16())
