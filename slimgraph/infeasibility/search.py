"""The search for a point where constraints hold, and for the few that have none."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, MissingKeyError, OptionError, did_you_mean
from slimgraph.infeasibility.result import Slack
from slimgraph.node import key_names
from slimgraph.problem import Problem
from slimgraph.symbolic import Plan

# A smaller conflict is looked for among so many sets of one size at most.
SETS = 500
# How far the square root of the smooth slack is rounded, as a share of the largest violation.
ROUNDING = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# What a violation costs that is no finite number.
WALL = 1e12
# How often a sample that starts there is put elsewhere.
REDRAWS = 10


class Search:
    """The constraints of a problem as functions of what is free, on a copy in float64."""

    def __init__(
        self, problem: Problem, data: dict[str, Any], free: Any, tolerance: float, starts: int, seed: int
    ) -> None:
        self.tolerance, self.starts, self.seed = tolerance, starts, seed
        self.problem = copy.deepcopy(problem).double().eval()
        loss = self.problem.loss
        self.constraints, self.names = loss.constraints, loss.names()[len(loss.objectives) :]
        self.plan = Plan([side for constraint in self.constraints for side in constraint.expressions]).double()
        self.data = {key: _widened(value) for key, value in data.items() if key != "name"}
        self.samples = next((len(v) for v in self.data.values() if isinstance(v, Tensor) and v.ndim), 1)
        self.shared = [p for p in self.plan.parameters() if p.requires_grad]
        self.free = [name for name, p in self.plan.named_parameters() if p.requires_grad]
        self.rows: dict[str, Tensor] = {}
        with torch.no_grad():
            start = self.problem.step(self.data)
        if isinstance(free, str) and free == "parameters":
            self._free_parameters()
        else:
            keys = self._default() if free is None else key_names(free, "free of explain_infeasibility")
            self._free_keys(keys, start)
        if not self.free:
            raise OptionError(
                "explain_infeasibility has nothing to choose: the constraints read no output of a node and no trainable"
                ' variable; list the keys that may change, free=[...], or free="parameters"'
            )
        # Samples are judged one by one where no variable belongs to several.
        self.by_sample = not self.shared
        self.problem.requires_grad_(False)
        self.plan.requires_grad_(False)
        self.variables = [v.requires_grad_() for v in (*self.rows.values(), *self.shared)]
        self.by_rows = self.by_sample and all(v.ndim and len(v) == self.samples for v in self.variables)
        self.starting = [v.detach().clone() for v in self.variables]
        # Sets of constraints that are known to hold together.
        self.holding: list[set[int]] = []

    # ---- what is free -----------------------------------------------------------------------------------------------

    def _free_parameters(self) -> None:
        named = {p: name for name, p in self.problem.named_parameters() if p.requires_grad}
        self.shared = list(dict.fromkeys([*self.shared, *named]))
        self.free = [named.get(p, "variable") for p in self.shared]

    def _free_keys(self, keys: Sequence[str], start: dict[str, Tensor]) -> None:
        if keys and self.plan.derives:
            raise OptionError(
                f"a constraint derives by {self.plan.derived_keys}, and what is chosen freely has no derivative; "
                'write free="parameters"'
            )
        for key in keys:
            if key not in start:
                raise MissingKeyError(
                    f"free={key!r} is neither in the data nor written by a node; there are {sorted(start)}."
                    f"{did_you_mean(key, start)}"
                )
            if not start[key].is_floating_point():
                raise DtypeError(f"free={key!r} has the dtype {start[key].dtype}; only real numbers can be chosen")
            self.rows[key] = start[key].detach().clone()
        self.free = [*keys, *self.free]

    def _default(self) -> list[str]:
        """The outputs of trainable nodes that reach a constraint with no other trainable node between."""
        needed = {key for constraint in self.constraints for key in constraint.keys}
        read = set(needed)
        found: list[str] = []
        for node in reversed(self.problem.run_order):
            if needed.isdisjoint(node.output_keys):
                continue
            if any(p.requires_grad for p in node.parameters()):
                found += node.output_keys
            else:
                needed |= {*node.input_keys}
        written = [key for node in self.problem.run_order for key in node.output_keys if key in read]
        return list(dict.fromkeys(found or written))

    # ---- violations -------------------------------------------------------------------------------------------------

    def violations(self) -> list[Tensor]:
        """Per constraint `(samples, entries)`, or one row where it has no samples."""
        data = self.problem.step({**self.data, **self.rows}, held=frozenset(self.rows))
        sides = self.plan(data)
        found = []
        for constraint, left, right in zip(self.constraints, sides[::2], sides[1::2], strict=True):
            _, _, violation = constraint.comparator(left, right)
            found.append(violation.reshape(len(violation) if constraint.keys and violation.ndim else 1, -1))
        return found

    def _known(self) -> list[Tensor]:
        # A derivative in a constraint needs the graph here too.
        with torch.enable_grad():
            return [torch.nan_to_num(v.detach(), nan=math.inf) for v in self.violations()]

    def excess(self, chosen: Sequence[int]) -> Tensor:
        """The largest violation of the chosen constraints in each sample, `(samples,)`."""
        found = self._known()
        total = found[0].new_zeros(self.samples)
        for j in chosen:
            worst = found[j].amax(1)
            total = torch.maximum(total, worst if len(worst) == self.samples else worst.max())
        # Sums of them are compared, which infinities would make equal.
        return total.clamp(max=WALL)

    # ---- the search -------------------------------------------------------------------------------------------------

    def _minimise(self, cost: Callable[[Tensor], Tensor], chosen: Sequence[int]) -> None:
        optimizer = torch.optim.LBFGS(
            self.variables,
            max_iter=300,
            tolerance_grad=1e-11,
            tolerance_change=1e-15,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        # Where the logarithm of a negative number starts there is no way down; a step that leads there is too long.
        outside = [torch.where(v.isfinite(), WALL, 0.0) for v in self._known()]

        def closure() -> Tensor:
            optimizer.zero_grad()
            found = self.violations()
            # A constraint on fixed data alone has no gradient.
            idle = [0 * v.sum() for v in self.variables]
            costs = [torch.where(found[j].isfinite(), cost(found[j]), outside[j]).sum() for j in chosen]
            total = torch.stack([*idle, *costs]).sum()
            total.backward()
            for variable in self.variables:
                if variable.grad is not None:
                    variable.grad.nan_to_num_(0.0, 0.0, 0.0)
            return total

        with torch.enable_grad():
            optimizer.step(closure)

    def _place(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for variable, value in zip(self.variables, values, strict=True):
                variable.copy_(value)

    def _start(self, number: int, chosen: Sequence[int]) -> None:
        """Puts the variables where the problem stands, or the further from there the larger `number` is."""
        generator = torch.Generator().manual_seed(self.seed * 1009 + number)
        self._place(self.starting if number == 0 else self._drawn(number, generator))
        for _ in range(REDRAWS if self.by_rows else 0):
            outside = self.excess(chosen) >= WALL
            if not outside.any():
                break
            now = [v.detach().clone() for v in self.variables]
            self._place(_rows_where(outside, self._drawn(number, generator), now))

    def _drawn(self, number: int, generator: torch.Generator) -> list[Tensor]:
        return [
            v + 2.0 ** (number - 1) * (1 + v.abs().mean()) * torch.randn(v.shape, generator=generator).to(v)
            for v in self.starting
        ]

    def solve(self, chosen: Sequence[int]) -> Tensor:
        """The least `excess` that was found; the variables are left there."""
        best = best_excess = None
        for number in range(self.starts):
            self._start(number, chosen)
            self._minimise(torch.square, chosen)
            excess = self.excess(chosen)
            if best is not None and best_excess is not None:
                self._place(self._better(best, best_excess, excess))
                excess = self.excess(chosen)
                if not excess.sum() < best_excess.sum():
                    self._place(best)
                    excess = best_excess
            best, best_excess = [v.detach().clone() for v in self.variables], excess
            if excess.max() <= self.tolerance:
                break
        if best_excess is None:
            raise OptionError("no start was made")
        return best_excess

    def _better(self, best: list[Tensor], best_excess: Tensor, excess: Tensor) -> list[Tensor]:
        """Sample by sample the better of two points, or the better whole where samples share variables."""
        now = [v.detach().clone() for v in self.variables]
        if not self.by_sample or any(len(v) != self.samples for v in now):
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
        self.holding.append({j for j, v in enumerate(self._known()) if v.max() <= self.tolerance} | set(chosen))
        return True

    def violated(self) -> list[int]:
        """The constraints that do not hold where the variables stand."""
        return [j for j, v in enumerate(self._known()) if v.max() > self.tolerance]

    def irreducible(self, violated: list[int], tick: Callable[[], None]) -> list[int]:
        """The deletion filter; `violated` are those where the squares of all violations are least."""
        kept = list(range(len(self.constraints)))
        # By stationarity the violated constraints conflict by themselves, if all are convex.
        if len(violated) < len(kept) and not self.holds(violated):
            kept = violated
        for j in range(len(self.constraints)):
            rest = [k for k in kept if k != j]
            if len(rest) < len(kept) and not self.holds(rest):
                kept = rest
            tick()
        return kept

    def smallest(self, kept: list[int]) -> tuple[list[int], bool]:
        """A conflict with fewer members, if the sets of each size are few enough to try; and whether they were."""
        count = len(self.constraints)
        for size in range(1, len(kept)):
            if math.comb(count, size) > SETS:
                return kept, False
            for chosen in itertools.combinations(range(count), size):
                if not self.holds(chosen):
                    return list(chosen), True
        return kept, True

    def slacks(self) -> list[Slack]:
        """The violations where their sum is least, from where the variables stand."""
        every = range(len(self.constraints))
        scale = max(torch.where(v.isfinite(), v, 0.0).max().item() for v in self._known())
        if scale > self.tolerance:
            for share in ROUNDING:
                rounding = share * scale
                self._minimise(lambda v, r=rounding: (v.square() + r * r).sqrt() - r, every)
        found = [torch.where(v > self.tolerance, v, 0.0) for v in self._known()]
        return [
            Slack(name, str(c), v.max().item(), v.mean().item(), (v > 0).any(1).double().mean().item())
            for name, c, v in zip(self.names, self.constraints, found, strict=True)
        ]


def _widened(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _rows_where(chosen: Tensor, these: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    """The rows of `these` where `chosen`, `(samples,)`, is true, elsewhere those of `others`."""
    return [
        torch.where(chosen.reshape(-1, *[1] * (v.ndim - 1)), v, other) for v, other in zip(these, others, strict=True)
    ]
