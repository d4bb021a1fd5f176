"""Plan: many expressions compiled into one flat program, evaluated for one batch after another.

What several expressions share is evaluated once. A Plan is a module: it owns the trainable leaves, one entry each, and
the constants, which follow device and dtype; the expressions themselves own nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import ExpressionError, MissingKeyError, did_you_mean
from slimgraph.symbolic.broadcasts import SIGNS, warn_of_broadcast
from slimgraph.symbolic.derivative import gradient, require_grad
from slimgraph.symbolic.expression import Variable
from slimgraph.symbolic.program import Nested, Slot, Step, steps_between, with_derivatives_joined, with_slots_reused
from slimgraph.symbolic.sharing import hashable, is_pure
from slimgraph.symbolic.walk import Operation, in_order, replace


class Plan(nn.Module):
    """Evaluates `expressions` together: `plan(data)` gives the list of their values.

    It keeps no tensor of a batch and writes nothing into `data`. Where an operator would pair every sample with every
    other, as `y - t` of `(batch, 1)` and `(batch,)`, the value is torch's, with a warning once for each rank of inputs.

    Derivatives are autograd's; under torch.compile they are `torch.func.vjp` of the steps between the two expressions,
    which sees nothing outside them, such as a node.

    Raises MissingKeyError for a key that is not there; under torch.compile ExpressionError for a derivative of what was
    computed outside.

    >>> from slimgraph import variable
    >>> x = variable("x")
    >>> s = torch.sin(x)
    >>> Plan([s + 1, s * 2])({"x": torch.zeros(1)})
    [tensor([1.]), tensor([0.])]
    """

    def __init__(self, expressions: Sequence[Variable]) -> None:
        super().__init__()
        # The keys of inputs by which something is derived: their tensors must be leaves that require a gradient.
        self.derived_keys: list[str] = []
        # For each derivative by an input: the keys that the derived expression reads, and the key of that input.
        self.derivatives: list[tuple[list[str], str]] = []
        # Whether anything is derived at all.
        self.derives = False
        # For each derivative, by its slots (y, x): the steps that lead from x to y, and the keys that y reads besides.
        self._paths: dict[tuple[int, int], tuple[list[Step], list[str]]] = {}
        self._start: list[Any] = []
        self._inputs: list[tuple[int, str]] = []
        self._leaves: list[tuple[int, str]] = []
        # The steps in the order of the operations, and as they run but where torch.compile traces them.
        self._program: list[Step] = []
        self._functions = nn.ModuleList()
        # The steps of `_eager` between two values that depend on the data: their sign, and the keys of both.
        self._watched: dict[int, tuple[str, tuple[Any, Any]]] = {}
        # The ranks of the inputs for which these steps were looked at.
        self._seen: set[tuple[int, ...]] = set()
        self._keys_of: dict[int, dict[str, None]] = {}
        slots: dict[Variable, int] = {}
        known: dict[Any, int] = {}
        for variable in in_order(expressions):
            slots[variable] = self._place(variable, slots, known)
        del self._keys_of
        self._results = [slots[expression] for expression in expressions]
        joined = with_derivatives_joined(self._program)
        self._watched = {i: self._watched[step[0]] for i, step in enumerate(joined) if step[0] in self._watched}
        # Where torch.compile asks which steps lead to a derivative, each slot stands for one value.
        self._eager = joined if self.derives else with_slots_reused(joined, self._results)

    # ---- building ---------------------------------------------------------------------------------------------------

    def _place(self, variable: Variable, slots: dict[Variable, int], known: dict[Any, int]) -> int:
        """The slot of `variable`, made now unless an equal expression has one already."""
        if variable.operation is not None:
            return self._operation(variable.operation, slots, known)
        identity = variable.input_key if variable.input_key is not None else id(variable.value)
        if ("leaf", identity) in known:
            return known["leaf", identity]
        known["leaf", identity] = slot = self._new(None)
        if variable.input_key is not None:
            self._inputs.append((slot, variable.input_key))
            self._keys_of[slot] = {variable.input_key: None}
        elif isinstance(variable.value, Tensor):
            self._leaves.append((slot, self._register(variable.value, variable.display_name)))
        else:
            self._start[slot] = variable.value
        return slot

    def _register(self, value: Tensor, display_name: str | None) -> str:
        trainable = isinstance(value, nn.Parameter)
        name = display_name if display_name and display_name.isidentifier() else ""
        place = len(self._leaves)
        while not name or hasattr(self, name):
            place += 1
            name = f"{'variable' if trainable else 'constant'}_{place}"
        if trainable:
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value, persistent=False)
        return name

    def _operation(self, operation: Operation, slots: dict[Variable, int], known: dict[Any, int]) -> int:
        function, args, kwargs = operation.function, operation.args, operation.kwargs
        if isinstance(function, nn.Module) and function not in self._functions:
            self._functions.append(function)
        template = replace((args, kwargs), Variable, lambda v: Slot(slots[v]))
        sharing_key = (function, hashable(template)) if is_pure(function) else None
        try:
            if sharing_key in known:
                return known[sharing_key]
        except TypeError:  # A constant without a hash among the arguments.
            sharing_key = None
        program_slots, function = self._call(function, template)
        if function is gradient:
            self._mark_derived(args[0], args[1], program_slots)
        slot = self._new(None)
        keys = [self._keys_of.get(i, {}) for i in program_slots]
        if function in SIGNS and len(keys) == 2 and all(keys):
            self._watched[slot] = SIGNS[function], (tuple(keys[0]), tuple(keys[1]))
        self._keys_of[slot] = keys[0] if len(keys) == 1 else {key: None for each in keys for key in each}
        self._program.append((slot, function, program_slots))
        if sharing_key is not None:
            known[sharing_key] = slot
        return slot

    def _call(self, function: Callable[..., Any], template: Any) -> tuple[tuple[int, ...], Callable[..., Any]]:
        """The slots to read and the function to call with their values."""
        used: list[int] = []

        def renumber(slot: Slot) -> Slot:
            used.append(slot.number)
            return Slot(len(used) - 1)

        inner = replace(template, Slot, renumber)
        args, kwargs = template
        if kwargs or len(used) > sum(isinstance(arg, Slot) for arg in args):
            return tuple(used), Nested(function, *inner)
        return tuple(arg.number if isinstance(arg, Slot) else self._new(arg) for arg in args), function

    def _new(self, content: Any) -> int:
        self._start.append(content)
        return len(self._start) - 1

    def _mark_derived(self, y: Variable, x: Variable, slots: tuple[int, ...]) -> None:
        self.derives = True
        self.derived_keys += [key for key in x.keys if key not in self.derived_keys]
        if x.input_key is not None:
            self.derivatives.append((y.keys, x.input_key))
        self._paths[slots[0], slots[1]] = (
            steps_between(self._program, slots[1], slots[0]),
            [key for key in y.keys if key != x.input_key],
        )

    @property
    def input_keys(self) -> list[str]:
        """The keys that it reads."""
        return [key for _, key in self._inputs]

    @property
    def keys_read_by_derivatives(self) -> list[str]:
        """The keys that derived expressions read, besides the one by which they are derived."""
        return list(dict.fromkeys(key for _, keys in self._paths.values() for key in keys))

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, data: dict[str, Tensor]) -> list[Any]:
        if self.derives and torch.compiler.is_compiling():
            return self._run_traced(data)
        if self.derives:
            with torch.inference_mode(False), torch.enable_grad():
                return self._run(require_grad(data, self.derived_keys))
        return self._run(data)

    def _load(self, data: dict[str, Tensor]) -> list[Any]:
        """The slots as they stand before the first step."""
        values = self._start.copy()
        try:
            for slot, key in self._inputs:
                values[slot] = data[key]
        except KeyError as error:
            (key,) = error.args
            raise MissingKeyError(
                f"an expression reads {key!r}, the data holds {sorted(map(str, data))}.{did_you_mean(key, data)}"
            ) from None
        for slot, name in self._leaves:
            values[slot] = getattr(self, name)
        return values

    def _run(self, data: dict[str, Tensor]) -> list[Any]:
        values = self._load(data)
        if self._watched and not torch.compiler.is_compiling():
            ranks = tuple([getattr(values[slot], "ndim", 0) for slot, _ in self._inputs])
            if ranks not in self._seen:
                self._run_watched(values)
                self._seen.add(ranks)
                return [values[i] for i in self._results]
        for slot, function, arguments in self._eager:
            values[slot] = function(*[values[i] for i in arguments])
        return [values[i] for i in self._results]

    def _run_watched(self, values: list[Any]) -> None:
        """All steps, with a warning where one would pair every sample with every other."""
        for place, (slot, function, arguments) in enumerate(self._eager):
            inputs = [values[i] for i in arguments]
            if place in self._watched:
                sign, keys = self._watched[place]
                warn_of_broadcast(sign, inputs[0], inputs[1], keys)
            values[slot] = function(*inputs)

    def _run_traced(self, data: dict[str, Tensor]) -> list[Any]:
        """The same with derivatives by torch.func, which torch.compile can trace."""
        values = self._load(data)
        for y_keys in self._paths.values():
            for key in y_keys[1]:
                if not data[key].is_leaf:
                    raise ExpressionError(
                        f"a derivative reads {key!r}, which was computed outside the expression, where torch.compile "
                        f"cannot follow it; write variable([inputs], function) for {key!r}, or do not compile"
                    )
        for step in self._program:
            values[step[0]] = self._traced(step, values)
        return [values[i] for i in self._results]

    def _traced(self, step: Step, values: list[Any]) -> Any:
        _, function, arguments = step
        if function is not gradient:
            return function(*[values[i] for i in arguments])
        end, start = arguments
        steps, _ = self._paths[end, start]

        def y_of(x: Tensor) -> Tensor:
            inner = values.copy()
            inner[start] = x
            for each in steps:
                inner[each[0]] = self._traced(each, inner)
            return inner[end]

        pair = torch.func.vjp(y_of, values[start])
        return pair[1](torch.ones_like(pair[0]))[0]
