"""A problem's numbers as one file, and back into a problem that the same code builds."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from slimgraph import wiring
from slimgraph.data.files import existing_file, write_whole
from slimgraph.errors import DataError, did_you_mean
from slimgraph.node import describe
from slimgraph.report import cut

FORMAT = 1
# What a file of this format holds, each a dict.
PARTS = ("nodes", "terms", "normalizer", "state")
# What torch.load raises for a file that it did not write or that was cut short: a pickle makes anything of other bytes.
UNREADABLE = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OSError,
    pickle.UnpicklingError,
)


def save(problem: Any, path: str | Path) -> None:
    """What `Problem.save` does."""
    path = Path(path)
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent} to save {path.name} in")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it, as {path / 'model.pt'}")
    content = {
        "format": FORMAT,
        "slimgraph": version(),
        **structure(problem),
        "state": dict(problem.state_dict()),
    }
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error.strerror or error}; what stood there is as it was"
        ) from error


def load(problem: Any, path: str | Path) -> None:
    """What `Problem.load` does."""
    content = _read(existing_file(path))
    ours = structure(problem)
    for kind in ("node", "term"):
        refuse_other_structure(path, kind, content[f"{kind}s"], ours[f"{kind}s"])
    if content["normalizer"] and ours["normalizer"]:
        refuse_other_structure(path, "normalized key", content["normalizer"], ours["normalizer"])
    if content["normalizer"] and problem.normalizer is None:
        raise DataError(
            f"{path} holds a normalizer of {list(content['normalizer'])}, the problem has none; give it one of these "
            "keys first, as by problem.normalizer = Normalizer({key: features}, shared={...})"
        )
    state = content["state"]
    # Losses make buffers of their own while loading, so whether all fits is seen on a copy.
    twin = copy.deepcopy(problem)
    reason = ""
    try:
        twin.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = str(error)
    refuse_other_dtypes(path, state, problem.state_dict())
    if reason:
        refuse_other_shapes(path, state, problem.state_dict(), reason)
    problem.load_state_dict(state)


def structure(problem: Any) -> dict[str, dict[str, str]]:
    """The nodes with their keys, and the terms, by name; which statistics each normalised key has."""
    nodes = zip(wiring.names(problem.nodes), problem.nodes, strict=True)
    terms = zip(problem.loss.names(), problem.loss.terms, strict=True)
    return {
        "nodes": {name: f"({', '.join(node.input_keys)}) -> ({', '.join(node.output_keys)})" for name, node in nodes},
        "terms": {name: term.kind for name, term in terms},
        # Its buffers are numbered: without their keys those of one could be taken for those of another.
        "normalizer": dict(getattr(problem.normalizer, "described", {})),
    }


def _read(path: Path) -> dict[str, Any]:
    """The content of a file that `save` wrote."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = cut(next(iter(str(error).splitlines()), type(error).__name__), 80)
        raise DataError(f"{path} was cut short, or problem.save did not write it ({reason})") from None
    if not _is_ours(content):
        held = f"a dict with {sorted(map(str, content))[:5]}" if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} was not written by problem.save: it holds {held}")
    if content["format"] != FORMAT:
        raise DataError(
            f"{path} has format {content['format']} of slimgraph {content.get('slimgraph')}; this is slimgraph "
            f"{version()}, which reads format {FORMAT}"
        )
    return content


def _is_ours(content: Any) -> bool:
    """Whether `save` wrote it: other programs write a `format` too."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or "slimgraph" not in content:
        return False
    return content["format"] != FORMAT or all(isinstance(content.get(part), dict) for part in PARTS)


def version() -> str:
    """The version of slimgraph that runs."""
    # No room imports the front page, where the version stands; but whoever is here has opened it.
    return sys.modules["slimgraph"].__version__


def refuse_other_structure(where: str | Path, kind: str, saved: dict[str, str], ours: dict[str, str]) -> None:
    """The same nodes, or terms, with the same keys in the same order: the numbers are kept by place."""
    for name in [*saved, *ours]:
        if saved.get(name) != ours.get(name):
            there, here = (
                f"has {kind} {name!r}, {held[name]}" if name in held else f"has no {kind} {name!r}"
                for held in (saved, ours)
            )
            hint = "" if name in saved and name in ours else did_you_mean(name, [*(ours if name in saved else saved)])
            raise DataError(f"{where} {there}; the problem {here}.{hint}")
    if list(saved) != list(ours):
        raise DataError(f"{where} has the {kind}s in the order {list(saved)}, the problem in {list(ours)}")


def refuse_other_dtypes(where: str | Path, saved: Mapping, ours: Mapping, *, widened: bool = False) -> None:
    """Every number keeps its dtype, or where it may be `widened` loses nothing."""
    for name, value in saved.items():
        if not isinstance(value, Tensor) or name not in ours or value.dtype == ours[name].dtype:
            continue
        if not (widened and torch.promote_types(value.dtype, ours[name].dtype) == ours[name].dtype):
            raise DataError(
                f"{name!r} is {describe(value)} in {where}, {describe(ours[name])} in the problem; bring the problem "
                "to that dtype first, as by problem.double()"
            )


def refuse_other_shapes(where: str | Path, saved: Mapping, ours: Mapping, reason: str) -> NoReturn:
    """Every number has its place and shape; `reason` is torch's, that did not load them."""
    for name in [*saved, *ours]:
        there, here = (describe(held[name]) if name in held else "missing" for held in (saved, ours))
        # Buffers that a loss makes at its first batch may be missing on either side.
        if there != here and ("missing" not in (there, here) or f'"{name}"' in reason):
            raise DataError(f"{name!r} is {there} in {where}, {here} in the problem; build it by the same code")
    raise DataError(f"{where} does not fit the problem: {reason.splitlines()[-1].strip()}")
