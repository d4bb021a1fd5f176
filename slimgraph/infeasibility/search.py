"""The search for a point where constraints hold, and for the few that have none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from slimgraph.errors import OptionError
from slimgraph.infeasibility.choice import WALL, Choice
from slimgraph.infeasibility.result import Slack

# A smaller conflict is looked for among so many sets of one size at most.
SETS = 500
# How far the square root of the smooth slack is rounded, as a share of the largest violation.
ROUNDING = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# How often a sample that starts there is put elsewhere.
REDRAWS = 10


class Search:
    """Puts the variables of a choice where constraints hold, or are violated least, by local search."""

    def __init__(self, choice: Choice, tolerance: float, starts: int, seed: int) -> None:
        self.choice, self.tolerance, self.starts, self.seed = choice, tolerance, starts, seed
        # Sets of constraints that are known to hold together.
        self.holding: list[set[int]] = []

    def _minimise(self, cost: Callable[[Tensor], Tensor], chosen: Sequence[int]) -> None:
        optimizer = torch.optim.LBFGS(
            self.choice.variables,
            max_iter=300,
            tolerance_grad=1e-11,
            tolerance_change=1e-15,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        # Where the logarithm of a negative number starts there is no way down; a step that leads there is too long.
        outside = [torch.where(v.isfinite(), WALL, 0.0) for v in self.choice.known()]

        def closure() -> Tensor:
            optimizer.zero_grad()
            found = self.choice.violations()
            # A constraint on fixed data alone has no gradient.
            idle = [0 * v.sum() for v in self.choice.variables]
            costs = [torch.where(found[j].isfinite(), cost(found[j]), outside[j]).sum() for j in chosen]
            total = torch.stack([*idle, *costs]).sum()
            total.backward()
            for variable in self.choice.variables:
                if variable.grad is not None:
                    variable.grad.nan_to_num_(0.0, 0.0, 0.0)
            return total

        with torch.enable_grad():
            optimizer.step(closure)

    def _start(self, number: int, chosen: Sequence[int]) -> None:
        """Puts the variables where the problem stands, or the further from there the larger `number` is."""
        generator = torch.Generator().manual_seed(self.seed * 1009 + number)
        self.choice.place(self.choice.starting if number == 0 else self._drawn(number, generator))
        for _ in range(REDRAWS if self.choice.by_rows else 0):
            outside = self.choice.excess(chosen) >= WALL
            if not outside.any():
                break
            now = self.choice.now()
            self.choice.place(_rows_where(outside, self._drawn(number, generator), now))

    def _drawn(self, number: int, generator: torch.Generator) -> list[Tensor]:
        return [
            v + 2.0 ** (number - 1) * (1 + v.abs().mean()) * torch.randn(v.shape, generator=generator).to(v)
            for v in self.choice.starting
        ]

    def solve(self, chosen: Sequence[int]) -> Tensor:
        """The least `excess` that was found; the variables are left there."""
        best = best_excess = None
        for number in range(self.starts):
            self._start(number, chosen)
            self._minimise(torch.square, chosen)
            excess = self.choice.excess(chosen)
            if best is not None and best_excess is not None:
                self.choice.place(self._better(best, best_excess, excess))
                excess = self.choice.excess(chosen)
                if not excess.sum() < best_excess.sum():
                    self.choice.place(best)
                    excess = best_excess
            best, best_excess = self.choice.now(), excess
            if excess.max() <= self.tolerance:
                break
        if best_excess is None:
            raise OptionError("no start was made")
        return best_excess

    def _better(self, best: list[Tensor], best_excess: Tensor, excess: Tensor) -> list[Tensor]:
        """Sample by sample the better of two points, or the better whole where samples share variables."""
        now = self.choice.now()
        if not self.choice.by_sample or any(len(v) != self.choice.samples for v in now):
            return now if excess.sum() < best_excess.sum() else best
        gained = excess < best_excess
        return [torch.where(gained.reshape(-1, *[1] * (v.ndim - 1)), v, old) for v, old in zip(now, best, strict=True)]

    def holds(self, chosen: Sequence[int]) -> bool:
        """Whether a point was found where the chosen constraints hold in every sample."""
        if not chosen or any(known.issuperset(chosen) for known in self.holding):
            return True
        if self.solve(chosen).max() > self.tolerance:
            return False
        # All that holds here by the way need not be asked for again.
        self.holding.append({j for j, v in enumerate(self.choice.known()) if v.max() <= self.tolerance} | set(chosen))
        return True

    def violated(self) -> list[int]:
        """The constraints that do not hold where the variables stand."""
        return [j for j, v in enumerate(self.choice.known()) if v.max() > self.tolerance]

    def irreducible(self, violated: list[int], tick: Callable[[], None]) -> list[int]:
        """The deletion filter; `violated` are those where the squares of all violations are least."""
        kept = list(range(len(self.choice.constraints)))
        # By stationarity the violated constraints conflict by themselves, if all are convex.
        if len(violated) < len(kept) and not self.holds(violated):
            kept = violated
        for j in range(len(self.choice.constraints)):
            rest = [k for k in kept if k != j]
            if len(rest) < len(kept) and not self.holds(rest):
                kept = rest
            tick()
        return kept

    def smallest(self, kept: list[int]) -> tuple[list[int], bool]:
        """A conflict with fewer members, if the sets of each size are few enough to try; and whether they were."""
        count = len(self.choice.constraints)
        for size in range(1, len(kept)):
            if math.comb(count, size) > SETS:
                return kept, False
            for chosen in itertools.combinations(range(count), size):
                if not self.holds(chosen):
                    return list(chosen), True
        return kept, True

    def slacks(self) -> list[Slack]:
        """The violations where their sum is least, from where the variables stand."""
        every = range(len(self.choice.constraints))
        scale = max(torch.where(v.isfinite(), v, 0.0).max().item() for v in self.choice.known())
        if scale > self.tolerance:
            for share in ROUNDING:
                rounding = share * scale
                self._minimise(lambda v, r=rounding: (v.square() + r * r).sqrt() - r, every)
        found = [torch.where(v > self.tolerance, v, 0.0) for v in self.choice.known()]
        return [
            Slack(name, str(c), v.max().item(), v.mean().item(), (v > 0).any(1).double().mean().item())
            for name, c, v in zip(self.choice.names, self.choice.constraints, found, strict=True)
        ]


def _rows_where(chosen: Tensor, these: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """The rows of `these` where `chosen`, `(samples,)`, is true, elsewhere those of `others`."""
    return [
        torch.where(chosen.reshape(-1, *[1] * (v.ndim - 1)), v, other) for v, other in zip(these, others, strict=True)
    ]
