"""The laws of every registered map; a new map is under them by being registered."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import pickle
import re

import pytest
import torch
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint

from slimgraph import slim
from slimgraph.errors import DtypeError, OptionError, ShapeError, UnknownOptionError
from tests.helpers import (
    FREE_WEIGHTS,
    KEPT_BY_REG_ERROR,
    NEARLY_EVERYTHING_IN_HALF,
    NOT_NEAREST,
    RANDOM_IN_TRAINING,
    SIZES,
    SMALL,
    WITHOUT_BIAS,
    Case,
    cases,
    close,
    keys,
    legal,
    perturb,
)

BOTH = (torch.float32, torch.float64)


# What a map is said to be


@pytest.mark.parametrize("key", keys())
def test_the_first_line_of_a_map_is_its_formula_and_its_promise(key: str):
    line = inspect.getdoc(slim.maps[key]).splitlines()[0]
    assert re.fullmatch(r"W(\[i, j\])? = [^:]+: .+\.", line) and len(line) <= 115, line


def product(m: slim.LinearBase, x: torch.Tensor) -> torch.Tensor:
    y = x @ m.effective_W()
    return y if m.bias is None else y + m.bias


# Law 1


@cases(SIZES)
def test_forward_is_the_product_with_effective_W_plus_bias(case: Case):
    # Few rows and many rows: a map may multiply by its factors or by W.
    shapes = [(), (4,), (2, 3), (0,), (300,)]
    m = case.make().eval()
    for leading, dtype in [
        *((shape, torch.float64) for shape in shapes),
        ((4,), torch.float32),
        ((300,), torch.float32),
    ]:
        m, x = m.to(dtype), case.input(*leading).to(dtype)
        expected = product(m, x)
        assert close(m(x), expected)
        with slim.materialized(m):
            assert close(m(x), expected)


# Law 2


@cases(SIZES, biases=(False,))
def test_a_new_map_keeps_its_promise(case: Case):
    m = case.make()
    assert m.effective_W().shape == (case.insize, case.outsize)
    assert m.contains(m.effective_W())
    assert m.float().contains(m.effective_W())


@cases([(1, 1), (8, 8), (3, 5), (5, 3)], biases=(True,), dtypes=(torch.float32,), options=[(8, 8), (3, 5)])
def test_a_trained_map_keeps_its_promise(case: Case):
    m = case.make().train()
    if not list(m.parameters()):
        return
    x, target = case.input(16), 3 * torch.randn(16, case.outsize)
    optimizer = torch.optim.Adam(m.parameters(), lr=0.1, fused=True)
    for _ in range(300):
        optimizer.zero_grad()
        (m(x) - target).square().mean().backward()
        optimizer.step()
    if case.key in KEPT_BY_REG_ERROR:
        drive_reg_error_to_zero(m)
    for name, p in m.named_parameters():
        assert p.isfinite().all(), name
    tol = 1e-3 if case.key in KEPT_BY_REG_ERROR else None
    assert m.contains(m.effective_W(), tol)
    fresh = case.make(seed=1)
    fresh.load_state_dict(m.state_dict())
    assert fresh.contains(fresh.effective_W(), tol)
    if case.key not in KEPT_BY_REG_ERROR:
        assert fresh.double().contains(fresh.effective_W())


def drive_reg_error_to_zero(m: slim.LinearBase) -> None:
    for lr in (0.1, 0.01, 0.001, 0.0001):
        optimizer = torch.optim.Adam(m.parameters(), lr=lr, fused=True)
        for _ in range(150):
            optimizer.zero_grad()
            m.reg_error().backward()
            optimizer.step()


@cases([(3, 3), (3, 5)], biases=(False,))
def test_contains_refuses_what_breaks_the_promise(case: Case):
    m = case.make()
    W = m.effective_W().detach()
    assert not m.contains(W[:, :1])
    assert not m.contains(torch.full_like(W, torch.nan))
    if type(m)._contains is not slim.LinearBase._contains and not case.reaches_everything():
        assert not m.contains(W - 7 * torch.rand_like(W))


@cases([(64, 64), (8, 65)], biases=(False,), options=False)
def test_a_member_rounded_to_half_precision_is_still_a_member(case: Case):
    m = case.make()
    W = m.effective_W()
    for dtype in (torch.bfloat16, torch.float16):
        assert m.contains(W.to(dtype))
        if type(m)._contains is not slim.LinearBase._contains and case.key not in NEARLY_EVERYTHING_IN_HALF:
            assert not m.contains((W + 0.2 * torch.randn_like(W)).to(dtype))


@pytest.mark.parametrize("key", keys())
def test_contains_and_distance_refuse_what_is_no_real_tensor(key: str):
    m = slim.maps[key](4, 4)
    for ask in ("contains", "distance"):
        name = f"{type(m).__name__}.{ask}"
        for dtype in (torch.int64, torch.bool, torch.complex64):
            with pytest.raises(DtypeError, match=rf"{name} needs a real floating-point matrix, got {dtype}"):
                getattr(m, ask)(torch.zeros(4, 4, dtype=dtype))
        for other in (torch.zeros(4, 4).numpy(), [[0.0] * 4] * 4, 1.0, None):
            with pytest.raises(
                DtypeError, match=rf"{name} needs its matrix as a tensor, got .*; write torch.as_tensor"
            ):
                getattr(m, ask)(other)
    with pytest.raises(ShapeError, match=r"distance needs a matrix of shape \(4, 4\), got shape \(3, 3\)"):
        m.distance(torch.zeros(3, 3))


# Law 3


@cases(SIZES, biases=(True,))
def test_gradient_reaches_every_parameter(case: Case):
    m = case.make().train()
    # Once through W, once through whatever forward does with few rows; a gate that is drawn may be shut by one draw.
    for call, rows in ((functools.partial(product, m), 50), (m, 1)):
        m.zero_grad()
        for _ in range(100 if case.key in RANDOM_IN_TRAINING else 1):
            y = call(case.input(rows))
            if y.requires_grad:
                (y * torch.randn_like(y)).sum().backward()
        for name, p in m.named_parameters():
            assert p.grad is not None, f"{name} is unused"
            assert p.grad.isfinite().all()
            if p.numel() and case.is_free(name):
                assert p.grad.abs().max() > 0, f"no gradient reaches {name}"


@cases([(8, 8)], biases=(False,), options=False)
def test_a_random_start_has_no_dead_half(case: Case):
    m = case.make()
    if not list(m.parameters()):
        return
    (m(case.input(50)) * torch.randn(50, case.outsize, dtype=case.dtype)).sum().backward()
    for name, p in m.named_parameters():
        # Reflectors stand in an upper triangle; the rest of that array is no degree of freedom.
        live = p.grad[p.triu() != 0] if p.ndim == 2 and torch.equal(p, p.triu()) and p.any() else p.grad
        assert p.numel() == 0 or (live != 0).double().mean() > 0.9, name


@cases([(1, 1), (3, 3), (2, 4), (4, 2)], biases=(True,))
def test_gradients_equal_finite_differences(case: Case):
    m = case.elsewhere().eval()
    names = [name for name, _ in m.named_parameters()]

    def of_parameters(x: torch.Tensor, *values: torch.Tensor):
        state = dict(zip(names, values, strict=True))
        W = functional_call(m, state, (torch.eye(case.insize, dtype=case.dtype),))
        return functional_call(m, state, (x,)), W

    x = case.input(2).requires_grad_()
    values = [p.detach().clone().requires_grad_() for p in m.parameters() if p.numel()]
    names = [name for name, p in m.named_parameters() if p.numel()]
    assert torch.autograd.gradcheck(of_parameters, (x, *values), check_forward_ad=True)


@cases([(1, 1), (3, 3), (2, 4), (4, 2)], biases=(False,))
def test_gradients_of_reg_error_equal_finite_differences(case: Case):
    if type(case.make()).reg_error is slim.LinearBase.reg_error:
        return
    m = case.elsewhere(2.0).eval()
    names, values = zip(*((name, p.detach().clone().requires_grad_()) for name, p in m.named_parameters()), strict=True)

    class Error(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = m

        def forward(self) -> torch.Tensor:
            return self.m.reg_error()

    def of_parameters(*values: torch.Tensor):
        return functional_call(Error(), {f"m.{name}": v for name, v in zip(names, values, strict=True)}, ())

    # The spectral radius is a limit of many powers, and its gradient comes from finitely many phases of them.
    close_enough = 2e-2 if case.key == "Power_bound" else 1e-3
    assert torch.autograd.gradcheck(of_parameters, values, rtol=close_enough, atol=close_enough)


# Law 4


@cases(SMALL, biases=(True,), dtypes=BOTH, options=False)
def test_reg_error_is_a_finite_non_negative_scalar(case: Case):
    m = perturb(case.make())
    error = m.reg_error()
    assert error.shape == ()
    assert error.dtype == case.dtype
    assert error.isfinite() and error >= 0
    assert torch.equal(error, m.reg_error())


@cases(SMALL, biases=(False,))
def test_reg_error_is_zero_exactly_where_the_promise_holds(case: Case):
    for size in (0.0, 0.03, 0.3, 3.0):
        m = perturb(case.make(), size)
        error, W = m.reg_error(), m.effective_W()
        if case.key in KEPT_BY_REG_ERROR:
            assert m.contains(W, 1e-2) or error > 1e-3
        if case.key in FREE_WEIGHTS:
            assert error < 2e-2 or not m.contains(W, 1e-6)
        elif case.key in KEPT_BY_REG_ERROR:
            assert (error < 1e-5) == (size == 0)


# Law 5


@cases(SMALL, biases=(True,))
def test_the_state_is_all_that_a_map_is(case: Case):
    m = perturb(case.make())
    state = m.state_dict()
    pointers = [t.data_ptr() for t in state.values() if t.numel()]
    assert len(pointers) == len(set(pointers))
    fresh = case.make(seed=1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.effective_W(), m.effective_W())
    assert torch.equal(fresh(case.input(3) * 0), m(case.input(3) * 0))


@cases(SMALL, biases=(True,))
def test_copies_and_files_give_the_same_map(case: Case):
    m = perturb(case.make())
    with slim.materialized(m):
        m(case.input(2))
        twins = [copy.deepcopy(m), pickle.loads(pickle.dumps(m))]
    file = io.BytesIO()
    torch.save(m.state_dict(), file)
    file.seek(0)
    loaded = case.make(seed=1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for twin in (*twins, loaded):
        assert torch.equal(twin.effective_W(), m.effective_W())
        assert not twin.is_materialized
        perturb(twin)
        assert not list(twin.parameters()) or not torch.equal(twin.effective_W(), m.effective_W()) or case.outsize == 1


@cases(SMALL, biases=(True,), dtypes=(torch.float32,))
def test_the_parameters_may_be_views_of_one_vector(case: Case):
    m = case.make().eval()
    before = m.effective_W()
    parameters = list(m.parameters())
    if parameters:
        # Optimisers of other libraries and sharded training keep them so.
        vector = torch.nn.utils.parameters_to_vector(parameters)
        torch.nn.utils.vector_to_parameters(vector, parameters)
        assert torch.equal(m.effective_W(), before)


# Law 6


@cases([(1, 1), (8, 8), (3, 5), (5, 3)], biases=(True,), dtypes=(torch.float32,))
def test_a_map_moves_whole(case: Case):
    m = case.make()
    reference = copy.deepcopy(m)
    m.double()
    x = case.input(3)
    assert all(t.dtype == torch.float64 for t in m.state_dict().values() if t.is_floating_point())
    assert close(m(x.double()).float(), reference(x), 1e-5)
    # A tensor that was left on the CPU, or made there, cannot meet one on the meta device.
    m.float().to("meta")
    for rows in (1, 300):
        assert m(case.input(rows).to("meta")).device.type == "meta"
    assert m.effective_W().device.type == m.reg_error().device.type == m.device.type == "meta"
    with torch.device("meta"):
        empty = case.make()
    empty.to_empty(device="cpu").load_state_dict(reference.state_dict())
    assert torch.equal(empty.effective_W(), reference.effective_W())


# Law 7


@cases([(5, 5), (3, 4)], biases=(True,), dtypes=(torch.float32,), options=False)
def test_compiled_map_gives_the_same_numbers(case: Case):
    torch._dynamo.reset()
    m = case.make().eval()
    x = case.input(4).requires_grad_()
    expected = m(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    # What dynamo traces depends on the shape; how it is differentiated does not.
    backend = "aot_eager" if case.insize == case.outsize else "eager"
    compiled = torch.compile(m, fullgraph=True, backend=backend)(x)
    assert close(compiled, expected, 1e-5)
    assert close(torch.autograd.grad(compiled.sum(), x)[0], gradient, 1e-5)


@cases([(3, 3), (2, 5), (65, 65)], biases=(True,))
def test_vmap_over_parameters_equals_a_loop_over_maps(case: Case):
    maps = [perturb(case.make(seed)).eval() for seed in range(3)]
    stacked = {name: torch.stack([m.state_dict()[name] for m in maps]) for name in maps[0].state_dict()}
    x = case.input(4)
    many = vmap(lambda state: functional_call(maps[0], state, (x,)))(stacked)
    assert close(many, torch.stack([m(x) for m in maps]))


# Law 8


@pytest.mark.parametrize("key", keys())
def test_bad_options_are_refused_with_their_names_and_values(key: str):
    cls = slim.maps[key]
    with pytest.raises(UnknownOptionError, match=rf"{cls.__name__} has no option 'bais'\. Did you mean 'bias'\?"):
        cls(3, 3, bais=True)
    with pytest.raises(OptionError, match=rf"{cls.__name__} needs insize >= 1, got insize=0"):
        cls(0, 0)
    with pytest.raises(OptionError, match=rf"{cls.__name__} needs a whole number for insize, got 2\.5"):
        cls(2.5, 2.5)


@pytest.mark.parametrize("key", [k for k in keys() if "sigma_min" in str(slim.maps[k].__init__.__annotations__)])
def test_bounds_the_wrong_way_round_are_refused(key: str):
    cls = slim.maps[key]
    with pytest.raises(
        OptionError, match=rf"{cls.__name__} needs sigma_min <= sigma_max, got sigma_min=2\.0 and .*=1\.5"
    ):
        cls(4, 4, sigma_min=2.0, sigma_max=1.5)
    with pytest.raises(OptionError, match=rf"{cls.__name__} needs a finite sigma_max, got sigma_max=inf"):
        cls(4, 4, sigma_max=float("inf"))
    with pytest.raises(UnknownOptionError, match="has no option 'sigma_mn'. Did you mean 'sigma_min'"):
        cls(4, 4, sigma_mn=0.1)


@pytest.mark.parametrize("key", keys())
@pytest.mark.parametrize("option", ["rank", "n_reflectors", "n_U_reflectors", "n_V_reflectors"])
def test_more_ranks_or_reflectors_than_the_size_are_refused(key: str, option: str):
    cls = slim.maps[key]
    if option in inspect.signature(cls.__init__).parameters:
        for bad in (0, 5):
            with pytest.raises(OptionError, match=rf"{cls.__name__} needs .*{option} .*, got {option}={bad}"):
                cls(4, 4, **{option: bad})


@cases([(3, 3), (3, 5), (65, 65)], biases=(False,), dtypes=(torch.float32,), options=False)
def test_bad_inputs_are_refused_with_both_sizes(case: Case):
    m = case.make()
    name, n = type(m).__name__, case.insize
    for bad in (torch.zeros(2, n + 1), torch.zeros(300, n + 1), torch.zeros(n + 1)):
        with pytest.raises(ShapeError, match=rf"{name} needs a last axis of size {n}, got {n + 1}"):
            m(bad)
    with pytest.raises(ShapeError, match=rf"{name} needs a last axis of size {n}, got none"):
        m(torch.zeros(()))
    for dtype in (torch.int64, torch.complex64, torch.float64):
        with pytest.raises(DtypeError, match=rf"{name} has weights of torch\.float32, got an input of {dtype}"):
            m(torch.zeros(2, n, dtype=dtype))
    for bad in (torch.zeros(2, n).numpy(), [[0.0] * n]):
        with pytest.raises(
            DtypeError, match=rf"{name} needs a tensor, got {type(bad).__name__}; write torch.as_tensor"
        ):
            m(bad)


# Law 9


@pytest.mark.parametrize("key", keys())
def test_rectangles_work_or_are_refused_with_both_sizes(key: str):
    for sizes in [(2, 5), (5, 2), (1, 3), (3, 1), (3, 3), (4, 4)]:
        if legal(key, *sizes):
            assert slim.maps[key](*sizes)(torch.zeros(7, sizes[0])).shape == (7, sizes[1])
        else:
            with pytest.raises(
                OptionError, match=rf"{slim.maps[key].__name__}.*insize={sizes[0]} and outsize={sizes[1]}"
            ):
                slim.maps[key](*sizes)


# Law 10


@cases(SMALL, dtypes=BOTH, options=False)
def test_from_dense_gives_back_what_the_class_made(case: Case):
    cls = slim.maps[case.key]
    m = case.make() if case.key in KEPT_BY_REG_ERROR else perturb(case.make(), 1.0)
    W, bias = m.effective_W().detach(), None if m.bias is None else m.bias.detach()
    if cls._set_dense is slim.LinearBase._set_dense:
        with pytest.raises(OptionError, match=f"{cls.__name__} has no from_dense"):
            cls.from_dense(W)
        return
    again = cls.from_dense(W, bias).eval()
    assert type(again) is cls and again.effective_W().dtype == case.dtype
    assert close(again.effective_W(), W)
    assert again.bias is None if bias is None else torch.equal(again.bias, bias)


@cases(SMALL, biases=(False,))
def test_from_dense_of_any_matrix_keeps_the_promise_and_is_a_projection(case: Case):
    cls = slim.maps[case.key]
    if cls._set_dense is slim.LinearBase._set_dense or {"n_reflectors", "n_U_reflectors", "n_V_reflectors"} & set(
        case.options
    ):
        return
    W = 2 * torch.randn(case.insize, case.outsize, dtype=case.dtype)
    m = cls.from_dense(W, **case.options).eval()
    nearest = m.effective_W().detach()
    assert m.contains(nearest)
    assert all(p.isfinite().all() for p in m.parameters())
    if case.key in NOT_NEAREST:
        return
    # Nearest in the Frobenius norm: no member that a random step leads to is nearer.
    distance = torch.linalg.matrix_norm(W - nearest)
    for _ in range(20):
        for size in (0.01, 0.3):
            other = perturb(copy.deepcopy(m), size).effective_W().detach()
            if m.contains(other, 1e-6):
                assert torch.linalg.matrix_norm(W - other) >= distance - 1e-6


# Autocast and half precision


@cases([(8, 8), (65, 65), (8, 65)], biases=(False,), dtypes=(torch.float32,))
def test_autocast_rounds_the_product_and_not_the_factors(case: Case):
    m = case.make().eval()
    x = case.input(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        W, y = m.effective_W(), m(x)
        assert m.contains(W)
    assert W.dtype == torch.float32 and y.dtype == torch.bfloat16
    assert m.contains(W)
    assert torch.equal(y, x.bfloat16() @ W.bfloat16())


@cases([(8, 8)], biases=(True,), options=False)
def test_float64_stays_float64_under_autocast_as_in_torch(case: Case):
    m, x = case.make().eval(), case.input(4)
    expected = m(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert close(m(x), expected)
        # torch.nn.Linear refuses a mixture too, in a message about its product.
        with pytest.raises(DtypeError, match=r"has weights of torch\.float64, got an input of torch\.float32"):
            m(x.float())
        with pytest.raises(DtypeError, match=r"has weights of torch\.float32, got an input of torch\.float64"):
            m.float()(x)


@cases([(8, 8), (8, 65)], biases=(True,), dtypes=(torch.float32,), options=False)
def test_a_map_in_half_precision_runs_and_trains(case: Case):
    for half in (torch.bfloat16, torch.float16):
        m = case.make().to(half).eval()
        for rows in (1, 300):
            y = m(case.input(rows).to(half))
            assert y.dtype == half
        (y.mean() + m.reg_error()).backward() if y.requires_grad else None
        assert all(p.grad.dtype == half and p.grad.isfinite().all() for p in m.parameters())


# What follows from the base


@cases(SMALL, dtypes=BOTH, options=False)
def test_to_linear_is_the_same_function(case: Case):
    m = case.make().eval()
    linear = m.to_linear()
    x = case.input(6)
    assert type(linear) is torch.nn.Linear and linear.weight.is_contiguous()
    assert close(linear(x), m(x))


@cases([(4, 4), (2, 3)], biases=(False,), options=False)
def test_eig_is_that_of_a_square_W_and_refuses_a_rectangle(case: Case):
    m = case.make()
    if case.insize != case.outsize:
        with pytest.raises(ShapeError, match=rf"{type(m).__name__}\.eig needs a square matrix, got shape \(2, 3\)"):
            m.eig()
        return
    values, vectors = m.eig()
    assert close(m.effective_W().to(vectors) @ vectors, vectors * values, 1e-9)
    assert torch.equal(m.eig(eigenvectors=False), torch.linalg.eigvals(m.effective_W()))
    for half in (torch.bfloat16, torch.float16):
        m = case.make().to(half).eval()
        assert torch.equal(m.eig(eigenvectors=False), torch.linalg.eigvals(m.effective_W().float()))


@cases([(3, 3), (3, 5)], biases=(False,), dtypes=BOTH, options=False)
def test_distance_is_the_frobenius_norm_of_the_difference(case: Case):
    m, W = case.make().eval(), torch.randn(case.insize, case.outsize, dtype=case.dtype)
    assert m.distance(m.effective_W()) == 0
    assert m.distance(W).shape == ()
    assert close(m.distance(W), (m.effective_W() - W).square().sum().sqrt())


@pytest.mark.parametrize("reentrant", [False, True])
@cases([(4, 4), (3, 5)], biases=(True,), options=False)
def test_checkpointing_gives_the_same_gradients_inside_materialized_and_outside(case: Case, reentrant: bool):
    m = case.make().eval()
    parameters = [p for p in m.parameters() if p.numel()]

    def gradients(inside: bool, run, opened) -> list[torch.Tensor]:
        for p in parameters:
            p.grad = None
        # Several uses of one map: a graph that two of them shared would be gone after the first.
        x = torch.ones(3, case.insize, dtype=case.dtype, requires_grad=True)
        with opened(m):
            m.effective_W()
            loss = sum(run(m, scale * x).sin().square().sum() for scale in (1, 2, 3))
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return [x.grad, *(p.grad for p in parameters)]

    def again(function, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(function, x, use_reentrant=reentrant)

    expected = gradients(False, lambda m, x: m(x), slim.materialized)
    for inside in (False, True):
        for opened in (slim.materialized, lambda m: contextlib.nullcontext()):
            assert all(map(close, gradients(inside, again, opened), expected))


@pytest.mark.parametrize("key", keys())
def test_a_map_has_a_graph_of_strings(key: str):
    graph = slim.maps[key](4, 4, bias=key not in WITHOUT_BIAS).to_networkx()
    assert all(isinstance(node, str) and {"kind", "label"} <= set(data) for node, data in graph.nodes(data=True))
    assert graph.has_edge("x", "map") and graph.has_edge("map", "y")
