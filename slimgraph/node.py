"""Node: a callable with named inputs and outputs, the unit that computation graphs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from slimgraph.doors import Drawable
from slimgraph.errors import MissingKeyError, OptionError, StrictOptions, WiringError, did_you_mean


class Node(nn.Module, Drawable, metaclass=StrictOptions):
    """`callable` applied to the tensors under `input_keys`; its results stand under `output_keys`.

    `callable` is any function or module that takes one tensor per input key and gives one tensor, a tuple of them in
    the order of the output keys (a tuple within it, such as the state of an LSTM, counts entry by entry), or a dict
    that holds them. Keys are strings or Variables. A module, a method of one or a System given as `callable` is trained
    with the node; modules that a function finds in its closure are not.

    Raises OptionError for a bare string instead of a list of keys; WiringError when the number of results differs from
    the output keys. What `callable` itself raises is passed on with the node's name, keys and input shapes as a note.

    >>> import torch
    >>> node = Node(torch.add, ["x", "r"], ["u"], name="policy")
    >>> node
    policy: (x, r) -> (u)
    >>> node({"x": torch.ones(2), "r": torch.ones(2)})
    {'u': tensor([2., 2.])}
    """

    kind = "node"

    def __init__(
        self,
        callable: Callable[..., Any],
        input_keys: Sequence[str | Any],
        output_keys: Sequence[str | Any],
        name: str | None = None,
    ) -> None:
        super().__init__()
        label = f"node {name!r}" if name else "a node"
        self.input_keys = key_names(input_keys, f"the input_keys of {label}")
        self.output_keys = key_names(output_keys, f"the output_keys of {label}")
        if not self.output_keys:
            raise OptionError(f"{label} gives nothing: output_keys is empty")
        if not isinstance(callable, Callable):
            raise OptionError(f"{label} needs a callable; got {type(callable).__name__}: {callable!r}")
        self.name = name
        # A modules.Module answers with a triple; what a graph calls is its plain-tensor view.
        self.callable: Callable[..., Any] = getattr(callable, "to_torch", lambda: callable)()
        self._is_keyed = hasattr(self.callable, "input_keys")
        owner = getattr(callable, "__self__", getattr(callable, "func", None))
        if isinstance(owner, nn.Module):
            # A method of a module, or a partial call of one: its parameters are trained with the node.
            self.owner = owner

    @property
    def label(self) -> str:
        """Its name, or what it calls where it has none."""
        return self.name or getattr(self.callable, "__name__", type(self.callable).__name__)

    @property
    def call(self) -> Callable[..., Any]:
        """What takes one tensor per input key; a System is called with them under its own keys, in their order."""
        return self._call_by_key if self._is_keyed else self.callable

    def _call_by_key(self, *values: Tensor) -> tuple[Tensor, ...]:
        inner: Any = self.callable
        result = inner(dict(zip(inner.input_keys, values, strict=True)))
        return tuple(result[key] for key in inner.output_keys)

    def run(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs for `data`, without the hooks of a module call; what problems run."""
        try:
            result = self.call(*[data[key] for key in self.input_keys])
        except Exception as error:
            self.explain(error, data)
            raise
        keys = self.output_keys
        if type(result) is Tensor and len(keys) == 1:
            return {keys[0]: result}
        return self.named(result)

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.run(data)

    def named(self, result: Any) -> dict[str, Tensor]:
        """The results by key, from a tensor, a tuple or a dict."""
        keys = self.output_keys
        if isinstance(result, dict):
            if missing := [key for key in keys if key not in result]:
                raise WiringError(
                    f"{self.title} must give {keys}; its callable gave a dict with {sorted(result)}, without {missing}"
                )
            return {key: result[key] for key in keys}
        results = (
            (result,) if isinstance(result, Tensor) else opened(result) if isinstance(result, tuple | list) else None
        )
        if results is None:
            raise WiringError(
                f"{self.title} must give tensors for {keys}; its callable gave {type(result).__name__}: {result!r}"
            )
        if len(results) != len(keys):
            raise WiringError(
                f"{self.title} must give {len(keys)} tensors for {keys}; its callable gave {len(results)}"
            )
        return dict(zip(keys, results, strict=True))

    @property
    def title(self) -> str:
        """What errors call it."""
        return f"node {self.label!r}"

    def explain(self, error: Exception, data: Mapping[str, Any], when: str = "") -> None:
        """Notes on `error` which node it came from, or raises MissingKeyError for a key that `data` does not hold."""
        if not isinstance(data, Mapping):
            raise OptionError(f"{self.title} takes a dict of tensors; got {describe(data)}") from None
        for key in self.input_keys:
            if key not in data:
                hint = did_you_mean(key, data)
                raise MissingKeyError(f"{self.title} reads {key!r}, the data holds {sorted(data)}.{hint}") from None
        shapes = ", ".join(f"{key} {describe(data[key])}" for key in self.input_keys)
        error.add_note(f"in {self.title}, {self.signature},{when} called with {shapes}")

    @property
    def signature(self) -> str:
        """`(inputs) -> (outputs)`."""
        return f"({', '.join(self.input_keys)}) -> ({', '.join(self.output_keys)})"

    def freeze(self) -> None:
        """Its parameters are no longer trained."""
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Its parameters are trained again."""
        self.requires_grad_(True)

    def to_networkx(self) -> Any:
        """The node between its keys, as a networkx MultiDiGraph."""
        from slimgraph.wiring import to_networkx

        return to_networkx([self])

    def __repr__(self) -> str:
        return f"{self.label}: {self.signature}"


def key_names(keys: Sequence[str | Any], what: str) -> list[str]:
    """`keys` as strings; a Variable stands for its key. `what` names the list in errors."""
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        raise OptionError(f"{what} is a list of keys; got {type(keys).__name__}: {keys!r}. Write [{keys!r}]")
    names = [key if isinstance(key, str) else getattr(key, "key", "") for key in keys]
    if "" in names:
        bad = keys[names.index("")]
        raise OptionError(f"{what} holds strings or Variables; got {type(bad).__name__}: {bad!r}")
    return names


def opened(results: Sequence[Any]) -> tuple[Any, ...]:
    """`results` with the tuples among them, such as the state of an LSTM, opened."""
    return tuple(entry for result in results for entry in (result if isinstance(result, tuple) else (result,)))


def node_list(nodes: Sequence[Any], who: str) -> list[Any]:
    """`nodes` as a list of things with keys; `who` holds them, and is named in errors."""
    if hasattr(nodes, "input_keys") or not isinstance(nodes, Iterable):
        raise OptionError(f"{who} takes a list of nodes; got {type(nodes).__name__}: {nodes!r}. Write [...] around it")
    listed = list(nodes)
    for node in listed:
        if not (hasattr(node, "input_keys") and hasattr(node, "run")):
            raise OptionError(f"{who} holds Nodes and Systems; got {type(node).__name__}: {node!r}. Wrap it in a Node")
    return listed


def describe(value: Any) -> str:
    """A tensor's shape and dtype, or the type of anything else."""
    return (
        f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if isinstance(value, Tensor)
        else type(value).__name__
    )
