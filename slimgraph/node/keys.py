"""Keys as they are declared, the arguments that they are handed to, and lists of what has keys."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from slimgraph.errors import DtypeError, MissingKeyError, OptionError, did_you_mean

# Where it stands among the output keys, that result is dropped.
DISCARD = "_"


def key_names(keys: Sequence[str | Any], what: str) -> list[str]:
    """`keys` as strings; a Variable stands for its key. `what` names the list in errors."""
    if isinstance(keys, str) or not isinstance(keys, Sequence):
        written = list(keys) if isinstance(keys, Mapping | set | frozenset) else [keys]
        raise OptionError(f"{what} is a list of keys; got {type(keys).__name__}: {keys!r}. Write {written!r}")
    names = [key if isinstance(key, str) else getattr(key, "key", "") for key in keys]
    for key, name in zip(keys, names, strict=True):
        # What a Variable computes, or holds, is no entry of the data.
        if not isinstance(key, str) and name and getattr(key, "input_key", name) != name:
            raise OptionError(f"{what} holds the expression {key!r}, which is no key; compute it in a node of its own")
    if "" in names:
        bad = keys[names.index("")]
        raise OptionError(f"{what} holds strings or Variables; got {type(bad).__name__}: {bad!r}")
    for name in names:
        if names.count(name) > 1 and name != DISCARD:
            raise OptionError(f"{what} holds {name!r} twice: {names}")
    return names


def input_names(keys: Sequence[str | Any] | Mapping[Any, str], label: str) -> tuple[list[str], list[str] | None]:
    """The keys that a node reads and, where they are given as a dict, the arguments that take them."""
    what = f"the input_keys of {label}"
    names = key_names(list(keys) if isinstance(keys, Mapping) else keys, what)
    if DISCARD in names:
        raise OptionError(f"{what} holds {DISCARD!r}, which discards an output and can never be read")
    if not isinstance(keys, Mapping):
        return names, None
    arguments = list(keys.values())
    for argument in arguments:
        if not isinstance(argument, str):
            raise OptionError(f"{what} gives each key the name of an argument; got {argument!r} in {dict(keys)}")
        if arguments.count(argument) > 1:
            raise OptionError(f"{what} gives the argument {argument!r} twice: {dict(keys)}")
    return names, arguments


def check_arguments(callable: Callable[..., Any], arguments: Sequence[str], label: str) -> None:
    """Raises OptionError for an argument that `callable` does not have, or needs and does not get."""
    try:
        signature = inspect.signature(callable.forward if isinstance(callable, nn.Module) else callable)
    except (TypeError, ValueError):
        # Functions written in C, torch.add among them, do not say what they take.
        return
    parameters = signature.parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for argument in arguments:
        if argument not in named and not takes_any:
            hint = did_you_mean(argument, named)
            raise OptionError(f"the callable of {label} has no argument {argument!r}; it takes {named}.{hint}")
    for p in parameters:
        if p.name in named and p.name not in arguments and p.default is p.empty:
            raise OptionError(f"the callable of {label} needs the argument {p.name!r}; its input_keys give {arguments}")


def matched_keys(keys: list[str], own: list[str], by_name: bool, what: str) -> list[str]:
    """Under which of its `own` keys a System or a Problem finds a node's `keys`: the same ones, or by their order."""
    if by_name:
        return keys
    if len(keys) != len(own):
        raise OptionError(f"{what} {own}; got {keys}. Use these keys, or one key for each of them in their order")
    return own


def check_tensors(node: Any, data: Mapping[str, Any]) -> None:
    """Raises DtypeError for anything but a tensor among those entries of `data` that the node reads."""
    for key in node.input_keys:
        if key in data and not isinstance(data[key], Tensor):
            value = data[key]
            raise DtypeError(
                f"{node.title} reads {key!r} as a tensor; the data holds {type(value).__name__}: {value!r}. "
                f"Write torch.as_tensor(...)"
            )


def missing_key(node: Any, data: Mapping[str, Any]) -> MissingKeyError | None:
    """The error for the first key that the node reads and `data` does not hold."""
    for key in node.input_keys:
        if key not in data:
            hint = did_you_mean(key, data)
            return MissingKeyError(f"{node.title} reads {key!r}, the data holds {sorted(map(str, data))}.{hint}")
    return None


def node_list(nodes: Sequence[Any], who: str) -> list[Any]:
    """`nodes` as a list of things with keys; `who` holds them, and is named in errors.

    What can stand as a node without being one, such as a Problem, says how by `as_node()`.
    """
    if hasattr(nodes, "input_keys") or not isinstance(nodes, Iterable):
        raise OptionError(f"{who} takes a list of nodes; got {type(nodes).__name__}: {nodes!r}. Write [...] around it")
    listed = [node.as_node() if hasattr(node, "as_node") else node for node in nodes]
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
