"""check: a problem run once without numbers, before training, to find what is wrong with it or its data."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeCopyMode, FakeTensorMode

from slimgraph import wiring
from slimgraph.errors import DataError, OverwriteError, SlimgraphError, WiringError
from slimgraph.problem.dry_run import DryRun, KeyRow
from slimgraph.problem.reach import parameters_of, refuse_unreached, trained_outside
from slimgraph.problem.refusals import BroadcastWatch, Watched, refuse_mixed_term
from slimgraph.problem.samples import first_batch, samples_of
from slimgraph.problem.untouched import buffers_kept, random_state_kept
from slimgraph.report import cut
from slimgraph.system import System

# How many real samples are run where fake tensors, which have shapes but no numbers, cannot be.
REAL = 8


def check(problem: Any, data: Any, *, allow_unused: bool = False) -> DryRun:
    """What `Problem.check` does."""
    outside = trained_outside(problem)
    modules = [thing for thing in outside if isinstance(thing, nn.Module)]
    with random_state_kept(), buffers_kept(modules), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = first_batch(data)
        wiring.check_keys(problem.run_order, batch, problem.loss.terms, problem.labels)
        samples = samples_of(batch, problem.input_keys)
        untrained = _untrained(outside, problem)
        notes = [*untrained, *_unread_and_overwritten(problem, batch)]
        _refuse_devices(problem, batch)
        with torch.inference_mode(False), torch.enable_grad():
            rows, parameters, how = _run_noted(problem, batch, samples, allow_unused, untrained)
    return DryRun(rows, parameters, [*how, *notes])


# ---- before anything runs -------------------------------------------------------------------------------------------


def _untrained(outside: Mapping[nn.Module | nn.Parameter, str], problem: Any) -> list[str]:
    """Notes on what nodes call that an optimiser would not see."""
    own = set(problem.parameters())
    return [
        f"{who} calls a {type(thing).__name__} that is no part of it and is not trained; give the Node the module."
        for thing, who in outside.items()
        if not own.issuperset(thing.parameters() if isinstance(thing, nn.Module) else [thing])
    ]


def _unread_and_overwritten(problem: Any, batch: Mapping[str, Any]) -> list[str]:
    """Notes on keys that are written twice or never read. Raises OverwriteError for a value that is lost unread."""
    notes, owner, unread = [], dict.fromkeys(batch, "the data"), set(batch)
    for label, node in _labelled(problem):
        unread.difference_update(node.input_keys)
        if isinstance(node, System):
            # What the data hold of its outputs are their first entries.
            unread.difference_update((key for inner in node.nodes for key in inner.input_keys), node.written)
            unread.discard(node.nstep_key)
        for key in node.output_keys:
            if key in unread:
                raise OverwriteError(
                    f"key {key!r} of {owner[key]} is overwritten by {label} before anything reads it; give one of the "
                    "two another key"
                )
            if key in owner and not isinstance(node, System):
                notes.append(f"{label} overwrites {key!r} of {owner[key]}.")
            owner[key] = label
        unread.update(node.output_keys)
    read = {key for term in problem.loss.terms for key in term.keys} | {"index"}
    if idle := sorted(key for key in unread - read if owner[key] == "the data"):
        notes.append(f"Nothing reads {', '.join(map(repr, idle))} of the data.")
    return notes


def _labelled(problem: Any) -> list[tuple[str, Any]]:
    """The nodes in run order, each with what messages call it."""
    return [(f"node {label!r}", node) for label, node in zip(problem.labels, problem.run_order, strict=True)]


def _refuse_devices(problem: Any, batch: Mapping[str, Tensor]) -> None:
    """Everything that takes part stands on one device."""
    places = {f"{key!r} of the data": value for key, value in batch.items()}
    places |= {f"parameter {name!r}": value for name, value in parameters_of(problem).items()}
    first = next(iter(places), "")
    for name, value in places.items():
        if value.device != places[first].device:
            raise DataError(
                f"{first} is on {places[first].device}, {name} on {value.device}; move one of them by .to(...)"
            )


# ---- running --------------------------------------------------------------------------------------------------------


def _run_noted(
    problem: Any, batch: dict[str, Tensor], samples: int | None, allow_unused: bool, untrained: list[str]
) -> tuple[list[KeyRow], int, list[str]]:
    """The outcome; what is `untrained` may be just what an error about parameters misses."""
    try:
        return _run_either(problem, batch, samples, allow_unused)
    except WiringError as error:
        for note in untrained:
            error.add_note(note)
        raise


def _run_either(
    problem: Any, batch: dict[str, Tensor], samples: int | None, allow_unused: bool
) -> tuple[list[KeyRow], int, list[str]]:
    """The outcome on fake tensors, or on a few real samples where numbers are needed."""
    integers = [key for key in problem.input_keys if key in batch and _is_integer(batch[key])]
    if integers:
        # Fake tensors let integers pass where real ones do not, and know nothing of indices out of range.
        reason = f"{', '.join(map(repr, integers))} of the data holds integers, whose values count"
    else:
        try:
            return _run_on_fakes(problem, batch, samples, allow_unused)
        except SlimgraphError:
            raise
        except Exception as error:  # noqa: BLE001  # What fake tensors cannot do; if it is the user's, it comes again.
            reason = _without_numbers(error)
    # Outside the handler, so that what the real samples raise is the only exception.
    few = {key: value[:REAL] if value.ndim and len(value) == samples else value for key, value in batch.items()}
    few = {key: value.detach().clone() for key, value in few.items()}
    count = None if samples is None else min(samples, REAL)
    try:
        rows, parameters, notes = _run(_copy(problem), few, count, allow_unused)
    except Exception as error:
        if count != samples:
            error.add_note(f"check ran it on the first {count} of {samples} samples")
        raise
    return rows, parameters, [f"{reason}: {count} real samples were run.", *notes]


def _run_on_fakes(
    problem: Any, batch: dict[str, Tensor], samples: int | None, allow_unused: bool
) -> tuple[list[KeyRow], int, list[str]]:
    """The outcome on tensors that have shapes and dtypes, but no numbers."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        twin = _copy(problem)
    # What fails is told by the exception alone, not in torch's log too.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        with mode:
            return _run(twin, {key: mode.from_tensor(v) for key, v in batch.items()}, samples, allow_unused)
    finally:
        log.disabled = before


def _is_integer(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)


def _without_numbers(error: Exception) -> str:
    """Who cannot run on fake tensors, and why."""
    where = next((note.split(", ")[0] for note in getattr(error, "__notes__", [])), "the loss")
    reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if isinstance(error, DataDependentOutputException):
        reason = "it asks for the value of a tensor"
    return f"{where.removeprefix('in ')} needs numbers ({cut(reason, 80)})"


def _copy(problem: Any) -> Any:
    """The problem, to be run as in training and thrown away."""
    try:
        return copy.deepcopy(problem).train()
    except Exception as error:
        error.add_note("check runs a copy of the problem, which copy.deepcopy could not make")
        raise


def _run(
    twin: Any, batch: dict[str, Tensor], samples: int | None, allow_unused: bool
) -> tuple[list[KeyRow], int, list[str]]:
    """Every key of one forward pass of `twin`, how many numbers are trained, and notes."""
    rows = [KeyRow.of(key, "the data", value, samples) for key, value in batch.items()]
    nodes = _labelled(twin)
    parameters = parameters_of(twin)
    watched = {node: Watched(node, label, samples) for label, node in nodes}
    for place, node in enumerate(twin.nodes):
        twin.nodes[place] = watched[node]
    data = twin.step(batch)
    for label, node in nodes:
        rows += [KeyRow.of(key, label, value, samples) for key, value in watched[node].given.items()]
    named = list(zip(twin.loss.names(), twin.loss.terms, strict=True))
    for name, term in named:
        refuse_mixed_term(name, term, data)
    output = twin.losses(data)
    for name, term in named:
        who = f"{term.kind} {name!r}, {term},"
        with BroadcastWatch(who, {key: data[key] for key in term.keys}, samples):
            term(data)
        rows.append(KeyRow.of(name, f"{term.kind}: {term}", output[name], samples))
    rows.append(KeyRow.of("loss", "terms and reg_loss", output["loss"], samples))
    notes = refuse_unreached(twin, parameters, output, allow_unused)
    return rows, sum(p.numel() for p in parameters.values() if p.requires_grad), notes
