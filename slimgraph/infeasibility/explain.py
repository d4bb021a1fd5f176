"""explain_infeasibility: by how much constraints must give way to hold together, and which few of them cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from slimgraph.errors import OptionError
from slimgraph.infeasibility.choice import Choice
from slimgraph.infeasibility.result import Infeasibility
from slimgraph.infeasibility.search import Search
from slimgraph.problem import Problem


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

    `free` lists the keys that may be chosen anew for each sample, whichever node writes them, also inside a System,
    where each entry in time is chosen and a start in the data stays: what other nodes make of them is computed, all
    other data stay. As None it is what trainable nodes give to the constraints (or, where none is trainable, what any
    node gives); as "parameters" the trainable parameters, the same for all samples: can this network do it? Trainable
    variables in constraints are always free. Of a SystemPreview all outputs are free, or none.

    First the slack: the least sum over constraints, samples and entries of the violations, found smoothly. Then a
    deletion filter: a constraint without which the others still cannot hold is dropped, so that what stays is an
    irreducible conflict; then smaller sets are tried, as far as they are few. All is done in float64 on a copy, by
    L-BFGS from `starts` points. "Feasible" is then sure, to `tolerance`; "infeasible" is sure where the constraints are
    convex in what is free, and otherwise says that no start led to a point where they hold.

    Raises OptionError where nothing is free, MissingKeyError for a key that is not there.

    Source: Chinneck and Dravnieks, Locating minimal infeasible constraint sets in linear programs, ORSA Journal on
    Computing 3(2), 1991.

    >>> import torch
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

    _check(problem, data, tolerance, starts, seed)
    choice = Choice(problem, data, free)
    search = Search(choice, tolerance, starts, seed)
    every = range(len(choice.constraints))
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
    names = [choice.names[j] for j in conflict]
    samples = (excess > tolerance).nonzero().flatten().tolist() if conflict and choice.by_sample else []
    return Infeasibility(not conflict, slacks, names, smallest, samples, choice.free, starts, tolerance)


def _check(problem: Any, data: Any, tolerance: Any, starts: Any, seed: Any) -> None:
    who = "explain_infeasibility"
    if not isinstance(problem, Problem):
        raise OptionError(f"{who} needs a Problem; got {type(problem).__name__}")
    if not isinstance(data, dict):
        raise OptionError(f"{who} needs data as a dict of tensors; got {type(data).__name__}")
    if not problem.loss.constraints:
        raise OptionError(f"{who} needs a problem with constraints; its loss has none")
    for word, number, least in (("starts", starts, 1), ("seed", seed, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise OptionError(f"{who} needs a whole number {word} >= {least}; got {word}={number!r}")
    if not isinstance(tolerance, Real) or isinstance(tolerance, bool) or not 0 < float(tolerance) < math.inf:
        raise OptionError(f"{who} needs a finite number tolerance > 0; got tolerance={tolerance!r}")
