"""Integrators: orders by halving h, exact polynomials, conserved forms, scipy, and the gradients."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jacrev

from slimgraph import Node, PenaltyLoss, Problem, System, slim, variable
from slimgraph.errors import DtypeError, OptionError, ShapeError, SlimgraphError, UnknownOptionError
from slimgraph.integrators import RK2, RK4, DiffEqIntegrator, Euler, LeapFrog
from tests.helpers import close

f64 = torch.float64
FIRST_ORDER = [Euler, RK2, RK4]
FIXED = [*FIRST_ORDER, LeapFrog]
ORDER = {Euler: 1, RK2: 2, RK4: 4, LeapFrog: 2}


class Forced(nn.Module):
    """dx/dt = tanh(map([x, u])), with as many states as asked for."""

    def __init__(self, nx: int, nu: int, states: int | None = None, key: str = "linear"):
        super().__init__()
        self.map = slim.maps[key](nx + nu, states or nx, bias=True)
        self.insize, self.outsize = nx, states or nx

    def forward(self, x, u):
        return torch.tanh(self.map(torch.cat([x, u], -1)))

    def reg_error(self):
        return self.map.reg_error()


def forced(cls=RK4, **options):
    """A forced right side for any integrator on four states, and an input that fits."""
    torch.manual_seed(0)
    block = Forced(2, 1) if cls is LeapFrog else Forced(4, 1)
    return cls(block.double(), **options), torch.randn(3, 4, dtype=f64), torch.randn(3, 1, dtype=f64)


def rolled(cls, block, x, end, n, **options):
    step = cls(block, h=end / n, **options)
    for _ in range(n):
        x = step(x)
    return x


def errors(cls, ns=(16, 32, 64)):
    """How far the pendulum is from the truth after one unit of time, in n steps."""
    x = torch.tensor([[1.0, 0.5]], dtype=f64)

    def full(x):
        return torch.stack([x[:, 1], -torch.sin(x[:, 0])], -1)

    exact = rolled(RK4, full, x, 1.0, 2000)
    block = (lambda q: -torch.sin(q)) if cls is LeapFrog else full
    return [(rolled(cls, block, x, 1.0, n) - exact).norm().item() for n in ns]


# ---- accuracy


@pytest.mark.parametrize("cls", FIXED)
def test_halving_h_divides_the_error_by_two_to_the_order(cls):
    e = errors(cls)
    rates = [np.log2(e[i] / e[i + 1]) for i in range(2)]
    assert rates == pytest.approx([ORDER[cls]] * 2, abs=0.15)


@pytest.mark.parametrize("cls", FIRST_ORDER)
def test_a_right_side_that_depends_on_time_keeps_the_order(cls):
    # x' = cos(t) x, so x = exp(sin t); time is an input that goes on within the step.
    def end(n):
        step = cls(lambda x, time: torch.cos(time) * x, interp_u=lambda tq, t, time: time + (tq - t), h=2 / n)
        x = torch.ones(1, 1, dtype=f64)
        for i in range(n):
            x = step(x, torch.full((1, 1), 2 * i / n, dtype=f64))
        return abs(x.item() - np.exp(np.sin(2.0)))

    assert np.log2(end(64) / end(128)) == pytest.approx(ORDER[cls], abs=0.15)


@pytest.mark.parametrize(("cls", "degree"), [(Euler, 1), (RK2, 2), (RK4, 4)])
def test_one_step_along_a_polynomial_of_the_orders_degree_is_exact(cls, degree):
    def clock(tq, t, time):
        return time + (tq - t)

    step = cls(lambda x, time: degree * time ** (degree - 1) + 0 * x, interp_u=clock, h=0.7)
    time = torch.full((1, 1), 0.3, dtype=f64)
    assert close(step(time**degree, time), (time + 0.7) ** degree)
    beyond = cls(lambda x, time: (degree + 1) * time**degree + 0 * x, interp_u=clock, h=0.7)
    assert not close(beyond(time ** (degree + 1), time), (time + 0.7) ** (degree + 1))


@pytest.mark.parametrize("cls", FIRST_ORDER)
def test_the_step_of_a_linear_system_is_the_taylor_polynomial_of_its_exponential(cls):
    A, x = torch.randn(3, 3, dtype=f64), torch.randn(5, 3, dtype=f64)
    expected, term = x, x
    for k in range(1, ORDER[cls] + 1):
        term = 0.3 * term @ A / k
        expected = expected + term
    assert close(cls(lambda x: x @ A, h=0.3)(x), expected)


@pytest.mark.parametrize("cls", FIRST_ORDER)
def test_several_inputs_reach_the_right_side_at_their_time(cls):
    asked = []

    def between(tq, t, u, v):
        asked.append((tq, t))
        return u + tq, v

    def slope(x, u, v):
        return u + v + 0 * x

    x = torch.zeros(2, 1, dtype=f64)
    y = cls(slope, between, 0.5)(x, torch.ones(2, 1, dtype=f64), 2.0)
    wanted = {Euler: [0.0], RK2: [0.0, 0.25], RK4: [0.0, 0.25, 0.25, 0.5]}[cls]
    assert asked == [(tq, 0.0) for tq in wanted]
    assert close(y, x + 0.5 * 3 + (0 if cls is Euler else 0.5**2 / 2))


# ---- LeapFrog


def force(q):
    """Minus the gradient of V = q1^4/4 + cos(q1 - q2) + q2^2."""
    a, b = q.unbind(-1)
    return torch.stack([-(a**3) + torch.sin(a - b), -torch.sin(a - b) - 2 * b], -1)


def energy(x):
    a, b, va, vb = x.unbind(-1)
    return (va**2 + vb**2) / 2 + a**4 / 4 + torch.cos(a - b) + b**2


def test_leapfrog_backwards_in_time_returns_to_the_start():
    start = torch.randn(7, 4, dtype=f64)
    there = rolled(LeapFrog, force, start, 2.0, 40)
    assert not close(there, start) and close(rolled(LeapFrog, force, there, -2.0, 40), start, 1e-12)


def test_the_jacobian_of_leapfrog_is_symplectic_and_that_of_rk4_is_not():
    zero, one = torch.zeros(2, 2, dtype=f64), torch.eye(2, dtype=f64)
    omega = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    x = torch.randn(4, dtype=f64)
    J = jacrev(LeapFrog(force, h=0.3))(x)
    assert close(J.T @ omega @ J, omega, 1e-13)
    J = jacrev(RK4(lambda x: torch.cat([x[2:], force(x[:2])]), h=0.3))(x)
    assert not close(J.T @ omega @ J, omega, 1e-7)


def test_the_energy_of_leapfrog_stays_near_its_start_where_that_of_euler_drifts():
    step, euler = LeapFrog(force, h=0.1), Euler(lambda x: torch.cat([x[:, 2:], force(x[:, :2])], -1), h=0.1)
    x = z = torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=f64)
    drifts = []
    for i in range(3000):
        x, z = step(x), euler(z) if i < 100 else z
        drifts.append((energy(x) - energy(torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=f64))).abs().item())
    # Bounded for good: the last third drifts no further than the first.
    assert max(drifts[2000:]) < 1.2 * max(drifts[:1000]) < 0.02
    assert (energy(z) - energy(torch.tensor([[1.0, 0.0, 0.0, 0.5]], dtype=f64))).abs() > 1


def test_leapfrog_is_the_verlet_recursion_of_positions():
    h, q, v = 0.1, torch.randn(3, 2, dtype=f64), torch.randn(3, 2, dtype=f64)
    step, x = LeapFrog(force, h=h), torch.cat([q, v], -1)
    q1, q2, q3 = (x := step(x), x := step(x), x := step(x))
    assert close(q3[:, :2] - 2 * q2[:, :2] + q1[:, :2], h**2 * force(q2[:, :2]), 1e-13)


# ---- gradients, dtypes, copies


@pytest.mark.parametrize("cls", FIXED)
def test_gradients_reach_state_inputs_and_parameters(cls):
    step, x, u = forced(cls, h=0.3)
    wanted = [x.requires_grad_(), u.requires_grad_()]
    assert torch.autograd.gradcheck(step, wanted)
    assert torch.autograd.gradgradcheck(step, wanted)
    for gradient in torch.autograd.grad(step(x, u).square().sum(), [*wanted, *step.parameters()]):
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, f64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("cls", FIXED)
def test_the_state_keeps_its_dtype_and_shape(cls, dtype):
    for shape in [(4,), (3, 4), (2, 3, 4), (0, 4)]:
        x = torch.ones(shape, dtype=dtype)
        y = cls(lambda x: -x, h=0.1)(x)
        assert y.dtype == dtype and y.shape == x.shape
        assert cls(lambda x: -x, h=0.1)(x.to("meta")).device.type == "meta"


@pytest.mark.parametrize("cls", FIXED)
def test_a_copy_and_a_pickle_step_alike_and_the_weights_keep_their_names(cls):
    step, x, u = forced(cls, h=0.3)
    for other in (copy.deepcopy(step), pickle.loads(pickle.dumps(step))):
        assert torch.equal(other(x, u), step(x, u))
    assert list(step.state_dict()) == ["block.map.weight", "block.map.bias"]


@pytest.mark.parametrize("key", ["linear", "orthogonal"])
@pytest.mark.parametrize("cls", FIXED)
def test_a_compiled_step_equals_the_step(cls, key):
    # A bare map as right side: where the slope is a matrix product, the compiler merges it with what adds it.
    torch._dynamo.reset()
    step, x = cls(slim.maps[key](2, 2) if cls is LeapFrog else slim.maps[key](4, 4), h=0.3), torch.randn(3, 4)
    backend = "inductor" if key == "linear" and cls is Euler else "aot_eager"
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    assert close(compiled(x), step(x))
    ours, theirs = (torch.autograd.grad(s(x).square().sum(), list(step.parameters())) for s in (step, compiled))
    assert all(close(a, b, 1e-4) for a, b in zip(ours, theirs, strict=True))


def test_a_map_builds_its_matrix_once_a_step(monkeypatch):
    counted, build = [], slim.OrthogonalLinear.effective_W
    monkeypatch.setattr(slim.OrthogonalLinear, "effective_W", lambda self: counted.append(1) or build(self))
    RK4(slim.OrthogonalLinear(2, 2), h=0.1)(torch.ones(3, 2))
    assert len(counted) == 1


# ---- as a node, and on a node


def test_a_system_with_rk4_over_physics_is_the_loop_one_would_write():
    def tank(x, u):
        return u - 0.5 * x**2

    step = RK4(tank, h=0.2)
    system = System([Node(step, ["x", "u"], ["x"], name="tank")], nstep_key="u")
    data = {"x": torch.ones(2, 1, 1, dtype=f64), "u": torch.rand(2, 20, 1, dtype=f64)}
    x = data["x"][:, 0]
    for i, entry in enumerate(system(data)["x"].unbind(1)[1:]):
        u, h = data["u"][:, i], 0.2
        k1 = tank(x, u)
        k2 = tank(x + h / 2 * k1, u)
        k3 = tank(x + h / 2 * k2, u)
        k4 = tank(x + h * k3, u)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        assert close(entry, x)


@pytest.mark.parametrize("cls", FIRST_ORDER)
def test_a_node_is_a_right_side_and_so_is_a_method(cls):
    step, x, u = forced(cls, h=0.3)
    node = Node(step.block, ["x", "u"], ["dx"], name="plant")
    for block in (node, step.block.forward):
        made = cls(block, h=0.3)
        assert torch.equal(made(x, u), step(x, u))
        assert set(made.parameters()) == set(step.parameters())


def test_sizes_are_told_where_the_right_side_knows_them():
    step, *_ = forced(Euler)
    for made in (step, Euler(Node(step.block, ["x", "u"], ["dx"])), RK4(nn.Linear(4, 4))):
        assert (made.insize, made.outsize, made.in_features, made.out_features) == (4, 4, 4, 4)
    assert RK2(torch.neg).insize is None and RK2(torch.neg).out_features is None


def test_reg_error_passes_through_and_counts_once():
    step = RK4(Forced(3, 1, states=3, key="softSVD"), h=0.1)
    assert step.reg_error() == step.block.map.reg_error() > 0
    assert Euler(torch.neg).reg_error() == 0
    y = variable("y")
    data = {"x": torch.zeros(2, 3), "u": torch.zeros(2, 1)}
    nodes = [Node(step, ["x", "u"], ["y"], name="a"), Node(step, ["y", "u"], ["z"], name="b")]
    assert Problem(nodes, PenaltyLoss([y.minimize()], []))(data)["reg_loss"] == step.reg_error()


# ---- errors


@pytest.mark.parametrize("cls", FIRST_ORDER)
@pytest.mark.parametrize(
    ("block", "words"),
    [
        (lambda x: x[:, :1], "<lambda> gave one of (3, 1)"),
        (lambda x: (x, x[:, :1]), "<lambda> gave a tuple of 2: one of (3, 4), one of (3, 1)"),
        (nn.Linear(4, 2), "Linear gave one of (3, 2)"),
        (Node(lambda x: x.sum(-1), ["x"], ["dx"], name="plant"), "node 'plant' gave one of (3,)"),
        (lambda x: 0.0, "<lambda> gave a float"),
    ],
    ids=["narrow", "tuple", "module", "node", "number"],
)
def test_a_right_side_of_another_shape_is_told_with_both_shapes(cls, block, words):
    with pytest.raises(ShapeError) as error:
        cls(block)(torch.ones(3, 4))
    assert f"{cls.__name__} needs a right side that gives one tensor of the shape (3, 4)" in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: RK4("f"), OptionError, "RK4 needs a right side that can be called, got str: 'f'"),
        (lambda: RK4(torch.neg, 0.1), OptionError, "interp_u(tq, t, *args), got 0.1; h is written h=..."),
        (lambda: RK4(torch.neg, h=0), OptionError, "RK4 needs h != 0, got h=0"),
        (lambda: RK4(torch.neg, h="0.1"), OptionError, "RK4 needs a number for h, got h='0.1'"),
        (lambda: RK4(torch.neg, h=float("nan")), OptionError, "RK4 needs a finite h, got h=nan"),
        (lambda: RK4(torch.neg, h=nn.Parameter(torch.ones(()))), OptionError, "got one to be trained"),
        (lambda: RK4(torch.neg, h=torch.ones(2)), OptionError, "RK4 needs one number for h, got a tensor (2,)"),
        (lambda: RK4(torch.neg, hh=0.1), UnknownOptionError, "RK4 has no option 'hh'. Did you mean 'h'?"),
        (lambda: RK4(Node(torch.frexp, ["x"], ["m", "e"], name="n")), OptionError, "with one output"),
        (lambda: RK4(torch.neg)(torch.ones(3, 4, dtype=int)), DtypeError, "got torch.int64"),
        (lambda: RK4(torch.neg)([1.0]), DtypeError, "got list"),
        (lambda: LeapFrog(torch.neg)(torch.ones(3, 5)), ShapeError, "(..., 2 n), positions and then velocities; got"),
        (lambda: RK4(Node(torch.neg, ["x"], ["y"], name="n"))(torch.ones(1), 2.0), ShapeError, "reads 1 keys, ['x']"),
    ],
)
def test_a_wrong_option_or_input_says_what_was_needed_and_what_was_there(make, kind, words):
    with pytest.raises(kind) as error:
        make()
    assert words in str(error.value)


def test_h_may_be_a_tensor_of_one_number():
    assert RK4(torch.neg, h=torch.tensor(0.5)).h == 0.5 == RK4(torch.neg, h=np.float64(0.5)).h


def test_nothing_opens_torchdiffeq_before_an_adaptive_integrator_is_made():
    program = (
        "import sys; sys.modules['torchdiffeq'] = None; import slimgraph; from slimgraph import integrators as i\n"
        "i.RK4(abs)\n"
        "try: i.DiffEqIntegrator(abs)\n"
        "except slimgraph.errors.SlimgraphError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == (
        'DiffEqIntegrator needs the package torchdiffeq, which is not installed; pip install "slimgraph[ode]"'
    ), done.stderr


# ---- adaptive


@pytest.fixture
def torchdiffeq():
    return pytest.importorskip("torchdiffeq")


def van_der_pol(x):
    a, b = x.unbind(-1)
    return torch.stack([b, 2 * (1 - a**2) * b - a], -1)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_an_adaptive_step_equals_scipy_to_the_tolerance(torchdiffeq, method):
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp
    start = [2.0, 0.5]
    exact = solve_ivp(
        lambda t, x: van_der_pol(torch.tensor(x)).numpy(), (0, 3), start, method="DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    errors = []
    for rtol in (1e-4, 1e-8):
        step = DiffEqIntegrator(van_der_pol, h=3.0, method=method, rtol=rtol, atol=rtol)
        errors.append(abs(step(torch.tensor(start, dtype=f64)).numpy() - exact).max())
    assert errors[0] < 1e-2 and errors[1] < 1e-6 < errors[0]


@pytest.mark.parametrize(("method", "cls"), [("euler", Euler), ("midpoint", RK2)])
def test_a_fixed_method_of_torchdiffeq_equals_ours(torchdiffeq, method, cls):
    x = torch.randn(5, 2, dtype=f64)
    theirs = DiffEqIntegrator(van_der_pol, h=0.1, method=method, options={"step_size": 0.05})(x)
    assert close(theirs, rolled(cls, van_der_pol, x, 0.1, 2))


@pytest.mark.parametrize("time", [False, True])
def test_the_gradient_of_the_adjoint_equals_that_of_the_steps(torchdiffeq, time):
    block = forced()[0].block
    x = torch.randn(3, 4, dtype=f64, requires_grad=True)
    source = torch.randn(3, 1, dtype=f64, requires_grad=True)
    gradients = []
    for adjoint in (False, True):
        interp_u = (lambda tq, t, u: u * (1 - tq**2)) if time else None
        step = DiffEqIntegrator(block, interp_u, 1.0, rtol=1e-10, atol=1e-10, adjoint=adjoint)
        # The input has a history of its own, as the output of a policy does.
        loss = step(x, torch.sin(source)).square().sum()
        gradients.append(torch.autograd.grad(loss, [x, source, *block.parameters()]))
    for a, b in zip(*gradients, strict=True):
        assert a.abs().max() > 0 and close(a, b, 1e-8)


def test_the_adjoint_refuses_what_it_cannot_see(torchdiffeq):
    net, x = nn.Linear(2, 2), torch.randn(3, 2)
    with pytest.raises(OptionError, match=r"finds no gradient for a tensor of shape \(2, 2\) that <lambda> reads"):
        DiffEqIntegrator(lambda x: net(x), adjoint=True)(x)
    with torch.no_grad():
        DiffEqIntegrator(lambda x: net(x), adjoint=True)(x)
    for block in (net, net.forward, Node(net, ["x"], ["dx"])):
        DiffEqIntegrator(block, adjoint=True)(x).sum().backward()
        assert net.weight.grad.abs().max() > 0
        net.zero_grad()
    fixed = torch.eye(2)
    DiffEqIntegrator(lambda x: x @ fixed, adjoint=True)(x)


def test_an_adaptive_integrator_is_a_node_of_a_system(torchdiffeq):
    step = DiffEqIntegrator(Forced(2, 1).double(), h=0.2, rtol=1e-9, atol=1e-9)
    step = pickle.loads(pickle.dumps(copy.deepcopy(step)))
    data = {"x": torch.ones(3, 1, 2, dtype=f64), "u": torch.randn(3, 5, 1, dtype=f64)}
    ends = [
        System([Node(made, ["x", "u"], ["x"], name="plant")], nstep_key="u")(data)["x"]
        for made in (step, RK4(step.block, h=0.2))
    ]
    assert close(*ends, 1e-5) and not close(*ends, 1e-14)
    assert "method=dopri5" in repr(step) and "adjoint" not in repr(step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128])
def test_an_adaptive_step_keeps_the_dtype(torchdiffeq, dtype):
    x = torch.ones(2, 3, dtype=dtype)
    y = DiffEqIntegrator(lambda x: -x, h=1.0)(x)
    assert y.dtype == dtype and torch.allclose(y, x * np.exp(-1), atol=1e-5)


def test_a_wrong_method_or_shape_of_an_adaptive_integrator_is_told(torchdiffeq):
    with pytest.raises(OptionError, match=r"method='dopri': .*dopri5"):
        DiffEqIntegrator(torch.neg, method="dopri")
    with pytest.raises(OptionError, match=r"rtol >= 0, got rtol=-1"):
        DiffEqIntegrator(torch.neg, rtol=-1)
    with pytest.raises(ShapeError, match=r"one tensor of the shape \(2, 3\).* gave one of \(2, 1\)"):
        DiffEqIntegrator(lambda x: x[:, :1])(torch.ones(2, 3))
    with pytest.raises(OptionError, match=r"options=\{'step': 1\}: .*Unexpected arguments"):
        DiffEqIntegrator(torch.neg, options={"step": 1})


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        (torch.square, {}, "square within h=2 at .*underflow in dt"),
        (lambda x: x * float("nan"), {}, "<lambda> within h=2 at .*underflow in dt"),
        (lambda x: -1e6 * x, {"max_num_steps": 9}, r"max_num_steps exceeded .*take a smaller h"),
    ],
)
def test_a_solver_that_gives_up_says_on_what(torchdiffeq, block, options, words):
    with pytest.raises(SlimgraphError, match=words):
        DiffEqIntegrator(block, h=2.0, options=options)(torch.ones(1, 1))


def test_an_assertion_of_the_right_side_is_its_own(torchdiffeq):
    def refuses(x):
        assert x.sum() < 0, "mine"
        return x

    with pytest.raises(AssertionError, match="mine"):
        DiffEqIntegrator(refuses)(torch.ones(1, 1))
