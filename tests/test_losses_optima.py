"""AugmentedLagrangeLoss against optima that are known exactly, primal and dual, with whole batches and parts."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimgraph import AugmentedLagrangeLoss, Variable, variable

RANKS = Path(__file__).parent / "ranks"
sys.path.insert(0, str(RANKS))

import family  # noqa: E402

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


# ---- a family of programmes: one policy, and a multiplier for each sample


def check_family(problem) -> None:
    samples, primal, dual = family.data()
    close(problem(samples[:])["x"].detach(), primal, 1e-4)
    close(problem.loss.multipliers, dual, 1e-3)


@pytest.mark.parametrize("size", [12, 7], ids=["whole", "parts"])
def test_a_family_has_a_multiplier_for_each_sample_in_any_batches(size):
    # At the optimum every sample is stationary by itself, so that parts of the data pull nowhere else.
    problem = family.make()
    family.fit(problem, size)
    check_family(problem)


def test_a_fit_goes_on_from_a_file_as_if_it_had_not_stopped(tmp_path):
    whole, first, resumed = family.make(), family.make(), family.make()
    family.fit(whole, 7)
    family.fit(first, 7, range(5))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    family.fit(resumed, 7, range(5, 12))
    assert_equal(whole.state_dict(), resumed.state_dict(), 0)
    check_family(resumed)


def test_two_ranks_reach_what_one_reaches(tmp_path):
    path = os.pathsep.join([str(RANKS.parents[1]), os.environ.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANKS / "family.py"), str(rank), "2", str(tmp_path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )
        for rank in (0, 1)
    ]
    one = family.make()
    family.fit(one, 7)
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for rank in (0, 1):
        problem = family.make()
        problem.load_state_dict(torch.load(tmp_path / f"family{rank}.pt", weights_only=True))
        assert_equal(one.state_dict(), problem.state_dict(), 1e-12)
        check_family(problem)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for key in one:
        close(other[key], one[key], tolerance)
