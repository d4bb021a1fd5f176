"""AugmentedLagrangeLoss against optima that are known exactly, primal and dual, with whole batches and parts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from slimgraph import AugmentedLagrangeLoss, DictDataset, Node, Problem, Variable, variable

torch64 = {"dtype": torch.float64}


def kkt(Q: Tensor, q: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The minimiser of x'Qx / 2 + q'x where A x = b, and its multipliers, from the linear KKT system."""
    n, m = len(q), len(b)
    system = torch.cat([torch.cat([Q, A.mT], 1), torch.cat([A, A.new_zeros(m, m)], 1)])
    return torch.linalg.solve(system, torch.cat([-q, b])).split([n, m])


def active_set(Q: Tensor, q: Tensor, G: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The same where G x <= h: the one set of active rows with multipliers >= 0 and all other rows kept."""
    for size in range(len(q) + 1):
        for rows in itertools.combinations(range(len(h)), size):
            x, active = kkt(Q, q, G[list(rows)], h[list(rows)])
            if (G @ x <= h + 1e-9).all() and (active >= 0).all():
                multipliers = h.new_zeros(len(h))
                multipliers[list(rows)] = active
                return x, multipliers
    raise ValueError("no point keeps all rows")


def solve(loss, parameters, data, outer=30):
    """Outer steps of the multipliers between inner minimisations by LBFGS, on one batch."""

    def closure():
        for p in parameters:
            p.grad = None
        result = loss(data)["loss"]
        result.backward()
        return result

    for _ in range(outer):
        options = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12, "tolerance_change": 1e-16}
        torch.optim.LBFGS(parameters, max_iter=80, **options).step(closure)
        with torch.no_grad():
            loss.update(loss(data))


def quadratic(n: int, m: int, seed: int = 0) -> tuple[Tensor, ...]:
    """A well-conditioned x'Qx / 2 + q'x with m rows."""
    generator = torch.Generator().manual_seed(seed)
    R, q, A, b = (torch.randn(*size, generator=generator, **torch64) for size in ((n, n), (n,), (m, n), (m,)))
    return R @ R.mT / n + torch.eye(n, **torch64), q, A, b


def unknown(start) -> tuple[nn.Parameter, Variable]:
    point = nn.Parameter(torch.as_tensor(start, **torch64))
    return point, variable(point)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_an_equality_quadratic_programme(weight):
    Q, q, A, b = quadratic(4, 2)
    point, x = unknown(torch.zeros(4))
    objective = (0.5 * torch.sum(x * (x @ Q)) + torch.sum(q * x)).minimize()
    loss = AugmentedLagrangeLoss([objective], [weight * (x @ A.mT == b)], mu_init=0.1)
    solve(loss, [point], {})
    primal, dual = kkt(Q, q, A, b)
    close(point.detach(), primal, 1e-6)
    # The weight multiplies the whole term, so that the multiplier of A x = b is weight times the one that is kept.
    close(weight * loss.multipliers, dual, 1e-5)


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_an_inequality_quadratic_programme(seed):
    Q, q, G, h = quadratic(4, 5, seed)
    h = h.abs()  # Zero keeps every row.
    point, x = unknown(torch.full((4,), 2.0))
    objective = (0.5 * torch.sum(x * (x @ Q)) + torch.sum(3 * q * x)).minimize()
    loss = AugmentedLagrangeLoss([objective], [x @ G.mT <= h], mu_init=0.1)
    solve(loss, [point], {})
    primal, dual = active_set(Q, 3 * q, G, h)
    assert 0 < (dual > 0).sum() < 5, "some rows are active and some are not"
    close(point.detach(), primal, 1e-6)
    close(loss.multipliers, dual, 1e-5)


def test_a_box_active_below_above_and_nowhere():
    # min |x - t|^2 / 2 in [-1, 1]: x is t clipped, the multipliers are what was clipped off.
    t = torch.tensor([-3.0, -0.5, 0.25, 2.0], **torch64)
    point, x = unknown(torch.zeros(4))
    objective = (0.5 * torch.sum((x - t) ** 2)).minimize()
    loss = AugmentedLagrangeLoss([objective], [*x.between(-1.0, 1.0)], mu_init=0.1)
    solve(loss, [point], {})
    close(point.detach(), t.clamp(-1, 1), 1e-6)
    close(loss.multipliers, torch.cat([torch.relu(-1 - t), torch.relu(t - 1)]), 1e-5)


def test_rosenbrock_in_a_disc():
    # The optimum lies on the circle: there it is a minimum over one angle, found on an ever finer grid.
    def rosenbrock(x, y):
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    low, high = 0.0, math.pi / 2
    for _ in range(12):
        angles = torch.linspace(low, high, 1001, **torch64)
        best = angles[rosenbrock(angles.cos(), angles.sin()).argmin()].item()
        low, high = best - (high - low) / 100, best + (high - low) / 100
    optimum = torch.tensor([[math.cos(best), math.sin(best)]], **torch64).requires_grad_()
    (slope,) = torch.autograd.grad(rosenbrock(*optimum[0]), optimum)
    multiplier = -(slope * optimum).sum() / 2  # slope + 2 multiplier x = 0 on the circle.

    z = variable("z")
    a, b = z[:, :1], z[:, 1:]
    point = nn.Parameter(torch.tensor([[-1.2, 1.0]], **torch64))
    loss = AugmentedLagrangeLoss([rosenbrock(a, b).minimize()], [a**2 + b**2 <= 1], mu_init=0.1)
    solve(loss, [point], {"z": point}, outer=40)
    close(point.detach(), optimum.detach(), 1e-4)
    close(loss.multipliers, multiplier.detach().reshape(1), 1e-3)


# ---- families: a policy x = K p + k, and multipliers for each sample


def family(samples: int = 12) -> tuple[DictDataset, Tensor, Tensor]:
    """min |x|^2 / 2 - p'x where x_1 + x_2 = 1: x = p - lambda, lambda = (p_1 + p_2 - 1) / 2, for each p."""
    p = torch.randn(samples, 2, generator=torch.Generator().manual_seed(1), **torch64)
    dual = (p.sum(1, keepdim=True) - 1) / 2
    return DictDataset({"p": p}, index=True), p - dual, dual


def family_problem(data: DictDataset, **options) -> Problem:
    torch.manual_seed(0)
    x, p = variable("x"), variable("p")
    objective = torch.sum(0.5 * x**2 - p * x, -1).minimize()
    loss = AugmentedLagrangeLoss([objective], [x[:, :1] + x[:, 1:] == 1], data, per_sample=True, **options)
    return Problem([Node(nn.Linear(2, 2), ["p"], ["x"], name="policy")], loss).double()


@pytest.mark.parametrize("size", [12, 5], ids=["whole", "parts"])
def test_a_family_has_a_multiplier_for_each_sample_in_any_batches(size):
    data, primal, dual = family()
    problem = family_problem(data, mu_init=2.0, mu_max=2.0)
    steps = torch.optim.SGD(problem.parameters(), 0.2)
    for _ in range(30):
        for _ in range(12):
            order = torch.randperm(12)
            for part in order.split(size):
                steps.zero_grad()
                problem(data[part])["loss"].backward()
                steps.step()
        with torch.no_grad():
            outputs = [problem(data[part]) for part in order.split(size)]
            problem.loss.update({key: torch.cat([out[key] for out in outputs]) for key in ("C_values", "index")})
    # At the optimum every sample is stationary by itself, so that parts of the data pull nowhere else.
    close(problem(data[:])["x"].detach(), primal, 1e-4)
    close(problem.loss.multipliers, dual, 1e-3)
