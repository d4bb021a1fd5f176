"""Node: a callable with named inputs and outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import OptionError, StrictOptions, WiringError
from slimgraph.node.keys import (
    DISCARD,
    check_arguments,
    check_tensors,
    describe,
    input_names,
    key_names,
    matched_keys,
    missing_key,
)


class Node(nn.Module, Drawable, metaclass=StrictOptions):
    """`callable` applied to the tensors under `input_keys`; its results stand under `output_keys`.

    `callable` is any function or module that takes one tensor per input key and gives one tensor, a tuple of them in
    the order of the output keys (a tuple within it, such as the state of an LSTM, counts entry by entry), or a dict
    that holds them. Keys are strings or Variables. `input_keys` as a dict, data key to argument, hands each tensor over
    by the name of the argument. The output key `"_"` discards its result.

    A System, a Problem (its nodes without its loss) or a Node given as `callable` gets and gives tensors by its own
    keys where `input_keys` hold all that it reads and `output_keys` only what it gives, otherwise in their order.
    A module, or the module behind a method or a partial, is trained with the node; modules that a function finds in
    its closure are not.

    Called with a dict it gives a new dict of the outputs; called with tensors, one per input key in their order, it
    gives the tensor that would stand under the output key, or a tuple of several.

    Raises OptionError for keys or arguments that cannot be meant; when it runs MissingKeyError, DtypeError for what is
    no tensor, and WiringError when the results do not fit the output keys. What `callable` itself raises is passed on
    with the node's name, keys and input shapes as a note.

    >>> import torch
    >>> node = Node(torch.add, ["x", "r"], ["u"], name="policy")
    >>> node
    policy: (x, r) -> (u)
    >>> node({"x": torch.ones(2), "r": torch.ones(2)})
    {'u': tensor([2., 2.])}
    >>> node(torch.ones(2), torch.ones(2))
    tensor([2., 2.])
    >>> Node(torch.nn.LSTM(1, 2), {"u": "input"}, ["y", "_", "_"], name="memory")
    memory: (input=u) -> (y, _, _)
    """

    kind = "node"

    def __init__(
        self,
        callable: Callable[..., Any],
        input_keys: Sequence[str | Any] | Mapping[Any, str],
        output_keys: Sequence[str | Any],
        name: str | None = None,
    ) -> None:
        super().__init__()
        if name is not None and not isinstance(name, str):
            raise OptionError(f"the name of a node is a string; got {type(name).__name__}: {name!r}")
        label = f"node {name!r}" if name else "a node"
        self.input_keys, self._arguments = input_names(input_keys, label)
        self._results = key_names(output_keys, f"the output_keys of {label}")
        self.output_keys = [key for key in self._results if key != DISCARD]
        if not self.output_keys:
            raise OptionError(f"{label} gives nothing: output_keys is {self._results or 'empty'}")
        if not isinstance(callable, Callable):
            raise OptionError(f"{label} needs a callable; got {type(callable).__name__}: {callable!r}")
        self.name = name
        # A modules.Module answers with a triple; what a graph calls is its plain-tensor view.
        self.callable: Callable[..., Any] = getattr(callable, "to_torch", lambda: callable)()
        # The keys under which a System or a Problem, called as this node, gets and gives its tensors.
        self.inner_keys: tuple[list[str], list[str]] | None = None
        if hasattr(self.callable, "input_keys") and hasattr(self.callable, "run"):
            self.inner_keys = self._keys_of(self.callable, label)
        elif self._arguments is not None:
            check_arguments(self.callable, self._arguments, label)
        plain = self.inner_keys is None and self._arguments is None and self._results == self.output_keys
        self._adapted = not plain
        if (owner := owner_of(callable)) is not callable and isinstance(owner, nn.Module):
            # A method of a module, or a partial call of one: its parameters are trained with the node.
            self.owner = owner

    def _keys_of(self, inner: Any, label: str) -> tuple[list[str], list[str]]:
        """The keys under which `inner` gets this node's inputs and gives its results."""
        who = f"the {type(inner).__name__} that {label} calls"
        reads = list(getattr(inner, "node_input_keys", inner.input_keys))
        gives = list(getattr(inner, "keep", inner.output_keys))
        keys = self._arguments or self.input_keys
        taken = matched_keys(keys, reads, set(reads) <= set(keys), f"{who} reads")
        if set(self.output_keys) <= set(gives):
            return taken, self.output_keys
        given = matched_keys(self._results, gives, False, f"{who} gives")
        return taken, [key for key, ours in zip(given, self._results, strict=True) if ours != DISCARD]

    @property
    def label(self) -> str:
        """Its name, or what it calls where it has none."""
        return self.name or getattr(self.callable, "__name__", type(self.callable).__name__)

    # ---- running ----------------------------------------------------------------------------------------------------

    @property
    def call(self) -> Callable[..., Any]:
        """What takes one tensor per input key, in their order, and gives what stands under the output keys."""
        return self._call_adapted if self._adapted else self.callable

    def _call_adapted(self, *values: Tensor) -> Any:
        if self.inner_keys is not None:
            takes, gives = self.inner_keys
            inner: Any = self.callable
            result = inner.run(dict(zip(takes, values, strict=True)))
            return tuple(result[key] for key in gives)
        if self._arguments is None:
            result = self.callable(*values)
        else:
            result = self.callable(**dict(zip(self._arguments, values, strict=True)))
        if isinstance(result, dict) or self._results == self.output_keys:
            return result
        named = zip(self._results, self._in_order(result, self._results), strict=True)
        return tuple(value for key, value in named if key != DISCARD)

    def run(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for `data`, without the hooks of a module call; what problems run."""
        try:
            keys = self.input_keys
            # The search of nn.Module for an attribute that is a module takes longer than all the rest.
            call: Any = self._call_adapted if self._adapted else self._modules.get("callable")
            if call is None:
                call = self.callable
            # Before Python 3.12 a comprehension is a call of its own; most nodes read one key.
            result = call(data[keys[0]]) if len(keys) == 1 else call(*[data[key] for key in keys])
        except Exception as error:
            self.explain(error, data)
            raise
        keys = self.output_keys
        if type(result) is Tensor and len(keys) == 1:
            return {keys[0]: result}
        return self.named(result)

    @overload
    def forward(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def forward(self, data: Tensor, *values: Tensor) -> Any: ...
    def forward(self, data: Any, *values: Any) -> Any:
        if isinstance(data, Mapping) and not values:
            check_tensors(self, data)
            return self.run(data)
        values = (data, *values)
        if len(values) != len(self.input_keys) or not all(isinstance(value, Tensor) for value in values):
            got = ", ".join(describe(value) for value in values)
            raise OptionError(
                f"{self.title} takes a dict of tensors, or a tensor for each of {self.input_keys}; got {got}"
            )
        results = tuple(self.run(dict(zip(self.input_keys, values, strict=True))).values())
        return results[0] if len(results) == 1 else results

    def named(self, result: Any) -> dict[str, Tensor]:
        """The results by key, from a tensor, a tuple or a dict."""
        keys = self.output_keys
        if isinstance(result, dict):
            if missing := [key for key in keys if key not in result]:
                raise WiringError(
                    f"{self.title} must give {keys}; its callable gave a dict with {sorted(result)}, without {missing}"
                )
            results = tuple(result[key] for key in keys)
        else:
            results = self._in_order(result, keys)
        for key, value in zip(keys, results, strict=True):
            if not isinstance(value, Tensor):
                raise WiringError(
                    f"{self.title} must give a tensor for {key!r}; its callable gave {type(value).__name__}: {value!r}"
                )
        return dict(zip(keys, results, strict=True))

    def _in_order(self, result: Any, keys: list[str]) -> tuple[Any, ...]:
        """One result for each of `keys`, from a tensor or a tuple; tuples in it, such as an LSTM's state, opened."""
        if isinstance(result, Tensor):
            result = (result,)
        elif not isinstance(result, tuple | list):
            raise WiringError(
                f"{self.title} must give tensors for {keys}; its callable gave {type(result).__name__}: {result!r}"
            )
        opened = tuple(one for entry in result for one in (entry if isinstance(entry, tuple) else (entry,)))
        if len(opened) != len(keys):
            advice = f". Discard one by the output key {DISCARD!r}" if len(opened) > len(keys) else ""
            raise WiringError(
                f"{self.title} must give {len(keys)} tensors for {keys}; its callable gave {len(opened)}{advice}"
            )
        return opened

    # ---- what is said of it -----------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"node {self.label!r}"

    def explain(self, error: Exception, data: Mapping[str, Any], when: str = "") -> None:
        """Notes on `error` which node it came from, or raises MissingKeyError for a key that `data` does not hold."""
        if missing := missing_key(self, data):
            raise missing from None
        shapes = ", ".join(f"{key} {describe(data[key])}" for key in self.input_keys)
        error.add_note(f"in {self.title}, {self.signature},{when} called with {shapes or 'nothing'}")

    @property
    def signature(self) -> str:
        """`(inputs) -> (outputs)`; an input that goes to an argument of another name as `argument=key`."""
        arguments = self._arguments or self.input_keys
        pairs = zip(arguments, self.input_keys, strict=True)
        inputs = [key if argument == key else f"{argument}={key}" for argument, key in pairs]
        return f"({', '.join(inputs)}) -> ({', '.join(self._results)})"

    def freeze(self) -> None:
        """Its parameters are no longer trained."""
        for parameter in self.parameters():
            # Unlike requires_grad_() this takes parameters of lazy modules too.
            parameter.requires_grad = False

    def unfreeze(self) -> None:
        """Its parameters are trained again, but for those that have no gradient, such as integers."""
        for parameter in self.parameters():
            parameter.requires_grad = parameter.is_floating_point() or parameter.is_complex()

    @property
    def result_keys(self) -> list[str]:
        """The key of each result in order, `"_"` for those that are discarded."""
        return list(self._results)

    def as_graph(self) -> Any:
        """The component graph of what it calls, down to the weights; its wires are the features of its keys in order.

        A function, or a module that cannot be looked into, is one GraphModule with a wire for each key.
        """
        from slimgraph.node.as_graph import Held

        return Held([self], [self.label], self.output_keys, self.label).keyed({}).graph

    def to_networkx(self) -> Any:
        """The node between its keys, as a networkx MultiDiGraph."""
        from slimgraph.wiring import to_networkx

        return to_networkx([self])

    def __repr__(self) -> str:
        return f"{self.label}: {self.signature}"


def owner_of(callable: Any) -> Any:
    """The object of a method, or what a partial calls."""
    while isinstance(callable, functools.partial):
        callable = callable.func
    return getattr(callable, "__self__", callable)
