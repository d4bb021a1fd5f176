"""Choice: what may be chosen in a problem, and by how much its constraints are violated there."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import DtypeError, MissingKeyError, OptionError, did_you_mean
from slimgraph.node import describe, key_names
from slimgraph.problem import Problem
from slimgraph.symbolic import Plan
from slimgraph.system import System

# What a violation costs that is no finite number.
WALL = 1e12


class Choice:
    """The constraints of a problem as functions of the `variables` that are free, on a copy in float64."""

    def __init__(self, problem: Problem, data: dict[str, Any], free: Any) -> None:
        self.problem = copy.deepcopy(problem).double().eval()
        loss = self.problem.loss
        self.constraints, self.names = loss.constraints, loss.names()[len(loss.objectives) :]
        self.plan = Plan([side for constraint in self.constraints for side in constraint.expressions]).double()
        self.data = {key: _widened(value) for key, value in data.items() if key != "name"}
        self.samples = next((len(v) for v in self.data.values() if isinstance(v, Tensor) and v.ndim), 1)
        if not self.samples:
            shapes = ", ".join(f"{key} {describe(value)}" for key, value in data.items())
            raise OptionError(f"explain_infeasibility needs data with at least one sample; got {shapes}")
        self.shared = [p for p in self.plan.parameters() if p.requires_grad]
        self.free = [name for name, p in self.plan.named_parameters() if p.requires_grad]
        self.rows: dict[str, Tensor] = {}
        # What the data give as the start of a free series stays.
        self.starts: dict[str, Tensor] = {}
        if isinstance(free, str) and free == "parameters":
            with torch.no_grad():
                self.problem.step(self.data)
            self._free_parameters()
        else:
            self._free_keys(None if free is None else key_names(free, "free of explain_infeasibility"))
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
        self.starting = self.now()

    # ---- what is free -----------------------------------------------------------------------------------------------

    def _free_parameters(self) -> None:
        named = {p: name for name, p in self.problem.named_parameters() if p.requires_grad}
        self.shared = list(dict.fromkeys([*self.shared, *named]))
        self.free = [named.get(p, "variable") for p in self.shared]

    def _free_keys(self, keys: Sequence[str] | None) -> None:
        systems = [node for node in self.problem.nodes if isinstance(node, System)]
        for system in systems:
            system.keep = system.written
        with torch.no_grad():
            start = self.problem.step(self.data)
        for key in keys or ():
            if key not in start:
                raise MissingKeyError(
                    f"free={key!r} is neither in the data nor written by a node; there are {sorted(start)}."
                    f"{did_you_mean(key, start)}"
                )
            if not start[key].is_floating_point():
                raise DtypeError(f"free={key!r} has the dtype {start[key].dtype}; only real numbers can be chosen")
        opened = self._open_systems(keys)
        keys = self._default(opened) if keys is None else list(dict.fromkeys(keys))
        if keys and self.plan.derives:
            raise OptionError(
                f"a constraint derives by {self.plan.derived_keys}, and what is chosen freely has no derivative; "
                'write free="parameters"'
            )
        rolled = {key for system in systems for key in system.output_keys}
        for key in keys:
            row = start[key].detach().clone()
            if key in rolled and key in self.data:
                self.starts[key], row = row[:, :1], row[:, 1:].clone()
            self.rows[key] = row
        self.free = [*keys, *self.free]

    def _open_systems(self, keys: Sequence[str] | None) -> list[str]:
        """Takes the nodes that write `keys`, or where that is None the trainable ones, out of the Systems.

        What they wrote, which is returned, is a series then that the rest of the System reads and computes with.
        """
        nodes, opened = [], []
        for system in self.problem.nodes:
            out = _freed(system, keys) if type(system) is System else []
            rest = [node for node in system.nodes if node not in out] if out else []
            if rest:
                steps = system.nstep_key, system.init_func, system.nsteps
                system = System(rest, system.name, *steps, mask_key=system.mask_key)
                opened += [key for node in out for key in node.output_keys]
            nodes.append(system)
        if opened:
            self.problem = Problem(nodes, self.problem.loss).double().eval()
        return opened

    def _default(self, opened: Sequence[str]) -> list[str]:
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
        found += [key for key in opened if key in needed]
        written = [key for node in self.problem.run_order for key in node.output_keys if key in read]
        return list(dict.fromkeys(found or written))

    # ---- where the variables stand ----------------------------------------------------------------------------------

    def now(self) -> list[Tensor]:
        """A copy of the variables."""
        return [v.detach().clone() for v in self.variables]

    def place(self, values: Sequence[Tensor]) -> None:
        """Puts the variables there."""
        with torch.no_grad():
            for variable, value in zip(self.variables, values, strict=True):
                variable.copy_(value)

    def violations(self) -> list[Tensor]:
        """Per constraint `(samples, entries)`, or one row where it has no samples."""
        chosen = {k: torch.cat([self.starts[k], v], 1) if k in self.starts else v for k, v in self.rows.items()}
        data = self.problem.step({**self.data, **chosen}, held=frozenset(self.rows))
        sides = self.plan(data)
        found = []
        for constraint, left, right in zip(self.constraints, sides[::2], sides[1::2], strict=True):
            _, _, violation = constraint.comparator(left, right)
            found.append(violation.reshape(len(violation) if constraint.keys and violation.ndim else 1, -1))
        return found

    def known(self) -> list[Tensor]:
        """The violations as numbers: one that is none is infinite."""
        # A derivative in a constraint needs the graph here too.
        with torch.enable_grad():
            return [torch.nan_to_num(v.detach(), nan=math.inf) for v in self.violations()]

    def excess(self, chosen: Sequence[int]) -> Tensor:
        """The largest violation of the chosen constraints in each sample, `(samples,)`."""
        found = self.known()
        total = found[0].new_zeros(self.samples)
        for j in chosen:
            worst = found[j].amax(1)
            total = torch.maximum(total, worst if len(worst) == self.samples else worst.max())
        # Sums of them are compared, which infinities would make equal.
        return total.clamp(max=WALL)


def _freed(system: System, keys: Sequence[str] | None) -> list[Any]:
    """The nodes of `system` that are replaced by what is chosen."""
    if keys is None:
        return [node for node in system.nodes if any(p.requires_grad for p in node.parameters())]
    for node in system.nodes:
        left = [key for key in node.output_keys if key not in keys]
        if left and len(left) < len(node.output_keys):
            raise OptionError(
                f"free={list(keys)} holds a part of what {node.title} in {system.title} writes; add {left} or leave all"
            )
    return [node for node in system.nodes if set(node.output_keys) <= set(keys)]


def _widened(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
