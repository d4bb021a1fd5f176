"""What a checkpoint of LitProblem holds besides Lightning's own entries, which formats are read, and its files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from slimgraph.data.files import existing_file, write_whole
from slimgraph.errors import CheckpointError
from slimgraph.problem import Problem
from slimgraph.problem.saved import UNREADABLE, structure, version
from slimgraph.report import cut

SECTION = "slimgraph"
FORMAT = 2
# The least version of slimgraph that reads this format.
NEEDS = "0.1.0"
# What is held of each rank.
PARTS = {"random", "means", "outer"}


def add_section(checkpoint: dict[str, Any], problem: Any, ranks: list[Any]) -> None:
    """Puts in what a resumed fit needs: each rank's state, what the problem is, and who can read that."""
    checkpoint[SECTION] = {
        "format": FORMAT,
        "slimgraph": version(),
        "needs": NEEDS,
        "structure": structure(problem) if isinstance(problem, Problem) else None,
        "ranks": ranks,
    }


# ---- formats


def _to_2(checkpoint: dict[str, Any]) -> None:
    """Format 1 says neither which version wrote it nor what the problem is."""
    checkpoint[SECTION] |= {"format": 2, "slimgraph": "0.1.0", "needs": "0.1.0", "structure": None}


# Format -> the function that makes a checkpoint of the next format of it, in place.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {1: _to_2}


def section_of(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """slimgraph's section, brought to the present format in place; None where there is none.

    Raises CheckpointError for a format that is not read here, with the version that reads it.
    """
    section = checkpoint.get(SECTION)
    if section is None:
        return None
    number = section.get("format") if isinstance(section, dict) else None
    ranks = section.get("ranks") if isinstance(section, dict) else None
    whole = isinstance(ranks, list) and ranks and all(isinstance(r, dict) and r.keys() >= PARTS for r in ranks)
    if not isinstance(number, int) or not whole:
        raise CheckpointError(f"the checkpoint's entry {SECTION!r} is not LitProblem's: {cut(repr(section), 80)}")
    if number != FORMAT and number not in MIGRATIONS:
        raise CheckpointError(
            f"the checkpoint has format {number}, written by slimgraph {section.get('slimgraph', '?')}; this is"
            f" slimgraph {version()}, which reads formats {min(MIGRATIONS)} to {FORMAT}. Install slimgraph"
            f" {section.get('needs', '?')}{' or later' if number > FORMAT else ''} to read it"
        )
    while (number := checkpoint[SECTION]["format"]) < FORMAT:
        MIGRATIONS[number](checkpoint)
    return checkpoint[SECTION]


def refuse_to_resume(checkpoint: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a fit cannot go on from this checkpoint; `options` are those of the LitProblem."""
    if checkpoint.get(SECTION) is None:
        raise CheckpointError(
            "a fit cannot go on from a checkpoint that no LitProblem wrote: this one holds"
            f" {cut(', '.join(checkpoint['state_dict']), 80)}. Where these are the problem's own numbers,"
            " LitProblem.load_from_checkpoint(path, problem=...) takes them for a new fit"
        )
    if "optimizer_states" not in checkpoint:
        raise CheckpointError(
            "the checkpoint holds the weights alone, as by ModelCheckpoint(save_weights_only=True), and a fit cannot go"
            " on from it; LitProblem.load_from_checkpoint(path) takes the weights for a new fit"
        )
    saved = checkpoint.get("hyper_parameters", {})
    for what in ("optimizer", "scheduler"):
        there, here = saved.get(what), options.get(what)
        if isinstance(there, str) and isinstance(here, str) and there.split(".")[-1] != here.split(".")[-1]:
            raise CheckpointError(
                f"the checkpoint's {what} is {there!r}, that of this LitProblem {here!r}; go on with the same, or take"
                " the weights alone by LitProblem.load_from_checkpoint"
            )


def group_sizes(states: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """How many parameters each group of the optimiser holds, by the states of all optimisers; None for several."""
    return [len(group["params"]) for group in states[0]["param_groups"]] if len(states) == 1 else None


def refuse_other_groups(there: list[int] | None, here: list[int] | None) -> None:
    """Raises CheckpointError: the optimiser's numbers belong to other parameters."""
    raise CheckpointError(
        f"the groups of the checkpoint's optimizer hold {there} parameters, those of this LitProblem {here}; give the"
        " same maps_lr and variables_lr and freeze the same parameters, or take the weights alone by"
        " LitProblem.load_from_checkpoint"
    )


def reopen_epoch(checkpoint: dict[str, Any], batches: float) -> None:
    """Counts the last epoch, of so many `batches`, as one that a resumed fit can go on in or after.

    Where a fit has ended Lightning counts the epoch as completed: one that max_steps broke off would be left for the
    next, and after a whole one an epoch without batches would be run.
    """
    loop = checkpoint["loops"]["fit_loop"]
    epoch, batch = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if not epoch["current"]["processed"] == epoch["current"]["ready"] > 0:
        return
    whole = batch["is_last_batch"] or batch["current"]["ready"] >= batches
    for count in (epoch["total"], epoch["current"]):
        count["completed"] = count["ready"] - 1
        if not whole:
            count["processed"] = count["ready"] - 1
    checkpoint["epoch"] = epoch["current"]["completed"]


# ---- files


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's own files, written beside their place and then put there at once; errors in one sentence.

    Raises CheckpointError for a file that cannot be read or written, MissingFileError for one that is not there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            if storage_options is not None or not _is_local(path):
                super().save_checkpoint(checkpoint, path, storage_options)
                return
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Lightning's way goes through the system's folder for temporary files; from another disc its last step is
            # a copy over the old checkpoint, which a full disc or a SIGKILL leaves cut short.
            write_whole(path, checkpoint)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint {path} could not be written: {error.strerror or error}; those written before are as"
                " they were"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        if _is_local(path):
            existing_file(path)
        try:
            content = super().load_checkpoint(path, map_location, weights_only)
        except UNREADABLE as error:
            raise CheckpointError(_unreadable(path, error)) from error
        named = content if isinstance(content, dict) else {}
        if "pytorch-lightning_version" not in named or not isinstance(named.get("state_dict"), dict):
            raise CheckpointError(f"no lightning.Trainer wrote {path}: {_held(content)}")
        return content


def refuse_unwritable(folder: str | Path) -> None:
    """Raises CheckpointError for a folder that is not there and cannot be made, or cannot be written to."""
    if not _is_local(folder):
        return
    path = Path(folder)
    there = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), path)
    if not there.is_dir():
        raise CheckpointError(f"no checkpoint could be written into {folder}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CheckpointError(f"no checkpoint could be written into {folder}: {there} may not be written to")


def _is_local(path: Any) -> bool:
    return isinstance(path, (str, Path)) and "://" not in str(path)


def _unreadable(path: Any, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    # torch looks for the end of a file that was cut short before its beginning.
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return f"the checkpoint {path} cannot be read: {error.strerror or reason}"
    if "Unsupported global" in str(error):
        # torch says which class in a later line of a long text.
        named = str(error).split("Unsupported global: GLOBAL ")[-1].split()[0]
        return (
            f"the checkpoint {path} holds an object of {named}, which weights_only=True refuses; a callback or a module"
            " of yours put it there. Where you trust the file, pass weights_only=False"
        )
    if reason.startswith("Weights only load failed"):
        # The rest is advice on files that torch could read.
        reason = "torch cannot read it"
    return f"the checkpoint {path} was cut short, or is none ({cut(reason, 80)}); take an older one"


def _held(content: Any) -> str:
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    if isinstance(content.get(SECTION), str):
        return "problem.save did; problem.load(path) reads it"
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return f"it holds tensors alone, {cut(', '.join(map(str, content)), 80)}; load_state_dict takes such"
    return f"it holds a dict with {sorted(map(str, content))[:5]}"
