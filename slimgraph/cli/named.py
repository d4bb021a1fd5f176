"""What a command line names: "module:function" with its arguments, or a configuration file that holds both."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimgraph.doors import bind_named, resolve
from slimgraph.errors import MissingFileError, OptionError


@contextmanager
def current_folder_on_path() -> Iterator[None]:
    """Inside, modules of the current folder can be imported, as `python -m` has it."""
    before = list(sys.path)
    here = str(Path.cwd())
    if here not in before:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path[:] = before


def arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments as `key=value`, the value JSON or else text, and as JSON objects; the later ones win.

    >>> arguments(["width=8", "map=pf", '{"sizes": [1, 2]}'])
    {'width': 8, 'map': 'pf', 'sizes': [1, 2]}
    """
    given: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if key.isidentifier() and equals:
            given[key] = _json_or_text(value)
            continue
        whole = _json_or_text(text)
        if not isinstance(whole, dict):
            raise OptionError(f'arguments are key=value or a JSON object like {{"key": 1}}, got {text!r}')
        given |= whole
    return given


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def maker(path: str, given: Mapping[str, Any]) -> Callable[[], Any]:
    """What gives the thing that `"module:name"` stands for: itself, or what a function or class makes of arguments."""
    thing = resolve(path)
    is_thing = isinstance(thing, nn.Module) or hasattr(thing, "to_networkx") or not callable(thing)
    if not is_thing or inspect.isclass(thing):
        return bind_named(path, given)
    if given:
        raise OptionError(f"{path!r} is a {type(thing).__name__} and takes no arguments, got {', '.join(given)}")
    return lambda: thing


def training_set(data: Any) -> Any:
    """The training set of what a setup function gives: a dict of sets, or neuromancer's (train, val, test, batch_size).

    Anything else is what can be checked itself: a batch, a data set, a loader.
    """
    if isinstance(data, tuple) and len(data) == 4:
        return data[0]
    if isinstance(data, Mapping) and "train" in data and not isinstance(data["train"], Tensor):
        return data["train"]
    return data


def read_config(path: str) -> dict[str, Any]:
    """The sections of a configuration file of `slimgraph fit`, numbers read as Lightning's command line reads them."""
    # YAML's own loader takes 1e-3 for a text.
    from jsonargparse import get_loader

    try:
        text = Path(path).read_text()
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {path!r}") from error
    config = get_loader("yaml")(text)
    if not isinstance(config, dict):
        raise OptionError(f"{path!r} holds no sections model and data")
    return config
