"""Choice: the nodes and boxes of a diagram that names, types or functions choose."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from slimgraph.drawing.form import View
from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean

OTHERS = ("data", "objective", "constraint", "violated", "reg_error", "loss", "more")


def node_names(place: Any, attributes: dict[str, Any]) -> list[str]:
    """What a node may be called by: the first line of its label, and its name by its place where it has no own."""
    label = str(attributes.get("label", place)).partition("\n")[0]
    return [label, str(place).rpartition("/")[2].removeprefix("node:")]


def is_part(attributes: dict[str, Any]) -> bool:
    """Whether a node computes: it is no data, and no term of a loss."""
    # The drawing of a difference says before a kind what changed, as in `added_data`.
    return not str(attributes.get("kind")).endswith(OTHERS)


class Choice:
    """What the option `word` chooses by `items`: names, types, functions, one or several of them, or True for all.

    A name is that of a node or of a box; with a `*` in it, it is a pattern for nodes. A type chooses what is of it, and
    the nodes that call such a thing. A function is asked with each node, System or module; what it answers is True, or
    the title of a box for all nodes with the same answer.
    """

    def __init__(self, word: str, items: Any) -> None:
        self.word, self.all = word, items is True
        if items is None or isinstance(items, bool):
            items = ()
        single = isinstance(items, str | type) or callable(items)
        listed = [items] if single else list(items) if isinstance(items, Iterable) else [items]
        self.names = [item for item in listed if isinstance(item, str)]
        self.types = tuple(item for item in listed if isinstance(item, type))
        self.functions = [item for item in listed if callable(item) and not isinstance(item, type)]
        if odd := [item for item in listed if not (isinstance(item, str) or callable(item))]:
            raise OptionError(f"{word} takes names, types or a function; got {type(odd[0]).__name__}: {odd[0]!r}")

    def __bool__(self) -> bool:
        return bool(self.all or self.names or self.types or self.functions)

    def holds(self, names: Iterable[str], part: Any) -> bool:
        """Whether the thing of these names, with `part` behind it, is chosen by itself."""
        if self.all or any(name in self.names for name in names):
            return True
        if self.types and any(isinstance(one, self.types) for one in _faces(part)):
            return True
        return part is not None and any(function(part) is True for function in self.functions)

    def title(self, names: Iterable[str], part: Any) -> str | None:
        """The title of the box that takes this node together with others, if one does."""
        for pattern in self.names:
            if "*" in pattern and any(fnmatchcase(name, pattern.replace("[", "[[]")) for name in names):
                return pattern
        answers = (function(part) for function in self.functions if part is not None)
        return next((answer for answer in answers if isinstance(answer, str)), None)

    def check(self, form: View) -> None:
        """Raises UnknownOptionError, with the nearest name, for what chooses nothing in `form`."""
        known: dict[str, None] = {}
        parts = [about.get("part") for about in form.graph["boxes"].values()]
        for place, attributes in form.nodes(data=True):
            known.update(dict.fromkeys(attributes["cluster"]))
            if is_part(attributes):
                known.update(dict.fromkeys(node_names(place, attributes)[:1]))
                parts.append(attributes.get("part"))
        titles = [about["title"] for about in form.graph["boxes"].values() if "title" in about]
        places = [node_names(place, attributes)[1] for place, attributes in form.nodes(data=True)]
        for name in self.names:
            if name not in known and name not in titles and name not in places and self._is_odd(name, known):
                raise UnknownOptionError(
                    f"{self.word} names {name!r}, which is not in the picture; there are {_few(known)}."
                    f"{did_you_mean(name, known)}"
                )
        for kind in self.types:
            if not any(isinstance(one, kind) for part in parts for one in _faces(part)):
                there = dict.fromkeys(type(one).__name__ for part in parts for one in _faces(part))
                raise UnknownOptionError(
                    f"{self.word} names the type {kind.__name__}, of which nothing in the picture is; there are "
                    f"{_few(there)}.{did_you_mean(kind.__name__, there)}"
                )

    @staticmethod
    def _is_odd(name: str, known: Iterable[str]) -> bool:
        return "*" not in name or not any(fnmatchcase(one, name.replace("[", "[[]")) for one in known)


def _faces(part: Any) -> list[Any]:
    """The thing behind a node, and what it calls."""
    inner = [getattr(part, word, None) for word in ("callable", "computational_module")]
    return [one for one in (part, *inner) if one is not None]


def _few(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    more = f", ... {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(map(repr, listed[:most])) or "none") + more
