"""explain_infeasibility: by how much constraints must give way to hold together, and which few of them cannot."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, MissingKeyError, OptionError, did_you_mean
from slimgraph.node import key_names
from slimgraph.problem import Problem
from slimgraph.report import cut, finite, label, table
from slimgraph.symbolic import Plan

# A smaller conflict is looked for among so many sets of one size at most.
SETS = 500
# How far the square root of the smooth slack is rounded, as a share of the largest violation.
ROUNDING = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Slack:
    """How far one constraint must give way, in the units of its two sides, where the sum of all slacks is least.

    `largest` and `mean` over the entries, `samples` the share of samples with any.
    """

    name: str
    text: str
    largest: float
    mean: float
    samples: float


@dataclass(frozen=True)
class Infeasibility:
    """What `explain_infeasibility` found; printing it gives a table.

    `conflict` names the constraints that cannot hold together, none where all can; leaving out any one of them, the
    others can. `smallest` says that no conflict has fewer members. `samples` are those for which it stands, `free` what
    could be chosen.
    """

    feasible: bool
    slacks: list[Slack]
    conflict: list[str]
    smallest: bool
    samples: list[int]
    free: list[str]
    starts: int
    tolerance: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, as JSON takes it."""
        return asdict(self)

    def as_json(self, indent: int | None = None) -> str:
        """Everything as JSON; what is not finite becomes null."""
        return json.dumps(finite(self.as_dict()), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        free = ", ".join(self.free)
        if self.feasible:
            return f"feasible: all {len(self.slacks)} constraints can hold together; free: {cut(free, 40)}"
        rows = [
            [label(s), "x" if s.name in self.conflict else "", f"{s.largest:.4g}", f"{s.mean:.4g}", f"{s.samples:.1%}"]
            for s in self.slacks
        ]
        shown = ", ".join(map(str, self.samples[:6])) + (", ..." if len(self.samples) > 6 else "")
        kind = "no fewer conflict" if self.smallest else "without any one of them the others can"
        return "\n".join(
            [
                f"infeasible: the {len(self.conflict)} marked x cannot hold together; {kind}",
                table(["constraint", "conflict", "slack", "mean", "samples"], rows),
                f"in samples {shown}" if self.samples else "in no single sample, but in all together",
                f"free: {cut(free, 90)}",
                f"by local search from {self.starts} starts: sure where the constraints are convex in what is free",
            ]
        )


def explain_infeasibility(
    problem: Problem,
    data: dict[str, Tensor],
    free: Sequence[Any] | str | None = None,
    *,
    tolerance: float = 1e-5,
    starts: int = 5,
    seed: int = 0,
) -> Infeasibility:
    """Which constraints of `problem` cannot hold together on `data`, and by how much each must give way.

    `free` lists the keys that may be chosen anew for each sample, whichever node writes them: what nodes make of them
    is computed, all other data stay. As None it is what trainable nodes give to the constraints (or, where none is
    trainable, what any node gives); as "parameters" the trainable parameters, the same for all samples, which is the
    question for a System that is trained inside. Trainable variables in constraints are always free.

    First the slack: the least sum over constraints, samples and entries of the violations, found smoothly. Then a
    deletion filter: a constraint without which the others still cannot hold is dropped, so that what stays is an
    irreducible conflict; then smaller sets are tried, as far as they are few. All is done in float64 on a copy, by
    L-BFGS from `starts` points. "Feasible" is then sure, to `tolerance`; "infeasible" is sure where the constraints are
    convex in what is free, and otherwise says that no start led to a point where they hold.

    Raises OptionError where nothing is free, MissingKeyError for a key that is not there.

    Source: Chinneck and Dravnieks, Locating minimal infeasible constraint sets in linear programs, ORSA Journal on
    Computing 3(2), 1991.

    >>> from slimgraph import Node, PenaltyLoss, variable
    >>> x = variable("x")
    >>> net = Node(torch.nn.Linear(1, 1), ["p"], ["x"], name="net")
    >>> problem = Problem([net], PenaltyLoss([], [x >= 2, x <= 1, x >= -5]))
    >>> explain_infeasibility(problem, {"p": torch.zeros(3, 1)}).conflict
    ['constraint_1', 'constraint_2']
    """
    # Not above: the front page offers this function, and should cost little more than torch.
    from rich.console import Console
    from rich.progress import Progress

    if not problem.loss.constraints:
        raise OptionError("explain_infeasibility needs a problem with constraints; its loss has none")
    if starts < 1 or not tolerance > 0:
        raise OptionError(f"explain_infeasibility needs starts >= 1 and tolerance > 0; got {starts} and {tolerance}")
    search = _Search(problem, data, free, tolerance, starts, seed)
    every = range(len(search.constraints))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("constraints", total=len(every) + 1)

        def tick() -> None:
            progress.advance(task)

        excess = search.solve(every)
        violated = search.violated()
        slacks = search.slacks()
        tick()
        if excess.max() <= tolerance:
            conflict, smallest = [], True
        else:
            conflict, smallest = search.smallest(search.irreducible(violated, tick))
            excess = search.solve(conflict)
    names = [search.names[j] for j in conflict]
    samples = (excess > tolerance).nonzero().flatten().tolist() if conflict and search.by_sample else []
    return Infeasibility(not conflict, slacks, names, smallest, samples, search.free, starts, tolerance)


class _Search:
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
        return total

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

        def closure() -> Tensor:
            optimizer.zero_grad()
            found = self.violations()
            # A constraint on fixed data alone has no gradient.
            idle = [0 * v.sum() for v in self.variables]
            total = torch.stack([*idle, *(cost(found[j]).sum() for j in chosen)]).sum()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(closure)

    def _place(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for variable, value in zip(self.variables, values, strict=True):
                variable.copy_(value)

    def _starts(self) -> Iterator[list[Tensor]]:
        """Where the problem stands, then ever further from there."""
        yield self.starting
        for number in range(1, self.starts):
            generator = torch.Generator().manual_seed(self.seed * 1009 + number)
            yield [
                v + 2.0 ** (number - 1) * (1 + v.abs().mean()) * torch.randn(v.shape, generator=generator).to(v)
                for v in self.starting
            ]

    def solve(self, chosen: Sequence[int]) -> Tensor:
        """The least `excess` that was found; the variables are left there."""
        best = best_excess = None
        for start in self._starts():
            self._place(start)
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
        scale = max(v.max().item() for v in self._known())
        if math.isfinite(scale) and scale > self.tolerance:
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
