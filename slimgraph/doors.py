"""Doors: upwards into a room that is opened only when it is needed, and outwards into a user's own module.

Rooms import downwards only (see docs/architecture.md). `Problem.draw()` stands below `slimgraph.drawing`, so it
goes through `open_door`, and `import slimgraph` stays as light as torch. What a configuration names as
"package.module:function" is found by `resolve` and called by `call_named`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from slimgraph.errors import OptionError, SlimgraphError, UnknownOptionError, did_you_mean


def open_door(room: str) -> ModuleType:
    """The module `slimgraph.<room>`, imported now.

    >>> open_door('errors').did_you_mean('hh', ['h'])
    " Did you mean 'h'?"
    """
    try:
        return import_module(f"slimgraph.{room}")
    except ModuleNotFoundError as error:
        raise SlimgraphError(
            f"slimgraph.{room} needs the package {error.name!r}, which is not installed; pip install {error.name}"
        ) from error


def resolve(path: str) -> Any:
    """The object that `"package.module:name"` stands for.

    Raises OptionError for a path of another form, a module that is not there, and a name that it does not hold.

    >>> resolve("torch.optim:SGD").__name__
    'SGD'
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise OptionError(f"{path!r} is no path to a function; write 'package.module:function'")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            # The module is there; what it imports is not.
            raise OptionError(f"{path!r}: {module_name} imports {error.name!r}, which is not installed") from error
        # The name of a file is what many give first.
        plain = module_name.removesuffix(".py").replace("/", ".").strip(".")
        hint = "is its folder on the Python path?" if plain == module_name else f"write '{plain}:{name}'"
        raise OptionError(f"{path!r}: no module named {error.name!r}; {hint}") from error
    if not hasattr(module, name):
        raise OptionError(f"{path!r}: {module_name} has no {name!r}.{did_you_mean(name, vars(module))}")
    return getattr(module, name)


def call_named(path: str, arguments: Mapping[str, Any]) -> Any:
    """What the function `"package.module:function"` gives for `arguments`; raises what `bind_named` raises."""
    return bind_named(path, arguments)()


def bind_named(path: str, arguments: Mapping[str, Any]) -> Callable[[], Any]:
    """The function `"package.module:function"` with its `arguments`, to be called.

    Raises OptionError for what cannot be called and for an argument that is missing, UnknownOptionError for one that it
    does not take.

    >>> bind_named("math:sqrt", {"x": 4.0})
    Traceback (most recent call last):
    slimgraph.errors.OptionError: math:sqrt: 'x' parameter is positional only, but was passed as a keyword
    """
    function = resolve(path)
    if not callable(function):
        raise OptionError(f"{path!r} is {function!r}, which cannot be called; name a function")
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some functions written in C have none.
        return partial(function, **arguments)
    known = signature.parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        for name in arguments:
            if name not in known:
                hint = did_you_mean(name, known)
                takes = ", ".join(known) or "no arguments"
                raise UnknownOptionError(f"{path} has no argument {name!r}.{hint} It takes {takes}.")
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise OptionError(f"{path}: {error}") from error
    return partial(function, **arguments)


class Drawable:
    """Gives `.draw()`, `.show()`, `.graph()` and its picture in a notebook to anything that has `to_networkx()`."""

    def draw(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        shapes: Any = None,
        values: Any = None,
        depth: int | None = None,
        collapse: Any = (),
        only: Any = None,
        unroll: int | None = None,
        inside: Any = None,
    ):
        """The diagram, written to `path` when one is given (.dot, .mmd, .svg, .png, .pdf, .html).

        `shapes=batch` and `values=report` write into it, `depth`, `collapse`, `only`, `unroll` and `inside` choose
        what is seen: see `slimgraph.drawing.draw`.
        """
        options = {"shapes": shapes, "values": values, "depth": depth, "collapse": collapse, "only": only}
        return open_door("drawing").draw(self, path, **options, unroll=unroll, inside=inside)

    def graph(self, **options: Any):
        """The picture as a `pydot.Dot`, to be changed before it is drawn; with the options of `draw`."""
        return open_door("drawing").graph(self, **options)

    def show(self, figname: str | os.PathLike[str] | None = None, **options: Any):
        """neuromancer's name for `draw`, with its options: writes the diagram to `figname`, or returns it."""
        return self.draw(figname, **options)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows; None, and so its text, where there is a formula or no picture can be made."""
        # An expression is better read as its LaTeX, which notebooks show where a thing has it.
        if hasattr(self, "_repr_latex_"):
            return None
        try:
            return open_door("drawing").for_notebook(self)
        except SlimgraphError:
            return None
