"""The exceptions of slimgraph, and the hint that goes with a mistyped name.

Every error is a `SlimgraphError` and also the built-in exception that a torch user would catch::

    SlimgraphError
    ├── WiringError (ValueError)         nodes that cannot be put together
    │   ├── MissingKeyError (KeyError)   a node or a term reads a key that nobody gives
    │   ├── DuplicateNameError           two nodes, or two terms, of one name
    │   ├── OverwriteError               a key written twice where that was refused
    │   └── CycleError                   nodes that wait for each other outside a System
    ├── ShapeError (ValueError)          a tensor of the wrong rank or size
    ├── DtypeError (TypeError)           a tensor of the wrong dtype
    ├── OptionError (ValueError)         an option with a value that makes no sense
    │   └── UnknownOptionError (TypeError)  an option, or a name, that does not exist
    │       └── UnknownMapError (KeyError)  a key that `slim.maps` does not hold
    ├── ExpressionError (TypeError)      a symbolic expression used where it has no meaning
    ├── DataError (ValueError)           a file or a data set that cannot be used
    │   ├── MissingFileError (FileNotFoundError)  a file that is not there
    │   └── CheckpointError (RuntimeError)  a checkpoint that cannot be read, written or gone on from
    ├── UnsupportedError (NotImplementedError)  something that this class does not offer
    ├── NonFiniteError (ArithmeticError) a NaN or an infinity in a term while training
    └── DrawingError (RuntimeError)      a picture that cannot be made here

`Advice` (UserWarning) is no error: what is told once about a fit that goes on, and is probably not meant.

`did_you_mean` gives the end of the message, `StrictOptions` refuses options that a constructor does not have.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABCMeta
from collections.abc import Iterable
from typing import Any


class SlimgraphError(Exception):
    """The base of every error that slimgraph raises on purpose."""


class WiringError(SlimgraphError, ValueError):
    """Nodes that cannot be put together."""


class MissingKeyError(WiringError, KeyError):
    """A node or a term reads a key that neither the data nor another node gives."""

    # KeyError shows the repr of its argument, which hides a sentence behind quotes.
    __str__ = Exception.__str__


class DuplicateNameError(WiringError):
    """Two nodes, or two terms of a loss, have the same name."""


class OverwriteError(WiringError):
    """A key is written by two nodes and the problem was told to refuse that."""


class CycleError(WiringError):
    """Nodes outside a System wait for each other's outputs."""


class ShapeError(SlimgraphError, ValueError):
    """A tensor has the wrong rank or size."""


class DtypeError(SlimgraphError, TypeError):
    """A tensor has the wrong dtype."""


class OptionError(SlimgraphError, ValueError):
    """An option has a value that makes no sense."""


class UnknownOptionError(OptionError, TypeError):
    """An option, or a name to choose by, does not exist."""


class UnknownMapError(UnknownOptionError, KeyError):
    """A key that `slim.maps` does not hold."""

    __str__ = Exception.__str__


class ExpressionError(SlimgraphError, TypeError):
    """A symbolic expression is used where it has no meaning."""


class DataError(SlimgraphError, ValueError):
    """A file or a data set cannot be used."""


class MissingFileError(DataError, FileNotFoundError):
    """A file is not there."""


class CheckpointError(DataError, RuntimeError):
    """A checkpoint cannot be read, cannot be written, or belongs to another problem."""


class UnsupportedError(SlimgraphError, NotImplementedError):
    """A class does not offer what was asked of it."""


class NonFiniteError(SlimgraphError, ArithmeticError):
    """A term of the loss became NaN or infinite while training."""


class DrawingError(SlimgraphError, RuntimeError):
    """A picture cannot be made on this machine; `dot` is the text that Graphviz was to draw, if there is one."""

    dot: str | None = None


class Advice(UserWarning):
    """Something in a fit is probably not meant; it is told once, and the fit goes on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint that ends a message about a name that does not exist: the nearest known one, or nothing.

    >>> did_you_mean('orthogonl', ['orthogonal', 'linear'])
    " Did you mean 'orthogonal'?"
    >>> did_you_mean('X', ['x', 'u'])
    " Did you mean 'x'?"
    >>> did_you_mean('zzz', ['orthogonal', 'linear'])
    ''
    """
    found = nearest(name, known)
    return "" if found is None else f" Did you mean {found!r}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, or None when none is."""
    # Not get_close_matches: torch.compile, which tells of a missing key too, cannot follow its heap.
    # Upper or lower case counts only between names that are equally like.
    likeness = [(_ratio(str(k).lower(), str(name).lower()), _ratio(str(k), str(name)), str(k)) for k in known]
    best, _, found = max(likeness, default=(0.0, 0.0, ""))
    return found if best >= 0.5 else None


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


class StrictOptions(ABCMeta):
    """A metaclass: calling the class with an option that its constructor lacks names the nearest one it has.

    >>> class Map(metaclass=StrictOptions):
    ...     def __init__(self, size, sigma_min=0.1): ...
    >>> Map(3, sigma_mn=0.2)
    Traceback (most recent call last):
    slimgraph.errors.UnknownOptionError: Map has no option 'sigma_mn'. Did you mean 'sigma_min'? It takes...
    """

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if options:
            cls._refuse_unknown(options)
        return super().__call__(*args, **options)

    @property
    def __signature__(cls) -> inspect.Signature:
        # Otherwise help(), editors and notebooks would show that of __call__ above.
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:], return_annotation=cls)

    def _refuse_unknown(cls, options: Iterable[str]) -> None:
        parameters = inspect.signature(cls.__init__).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            return
        known = [name for name in parameters if name != "self"]
        for option in options:
            if option not in known:
                hint = did_you_mean(option, known)
                raise UnknownOptionError(f"{cls.__name__} has no option {option!r}.{hint} It takes {', '.join(known)}.")
