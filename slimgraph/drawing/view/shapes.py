"""Shapes: a problem, or a part of one, run once on a copy, to write on each arrow what tensor flows there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.drawing.form import View
from slimgraph.errors import OptionError
from slimgraph.problem.reach import trained_outside
from slimgraph.problem.samples import first_batch
from slimgraph.problem.untouched import buffers_kept, random_state_kept
from slimgraph.symbolic import Variable

Look = tuple[tuple[int, ...], str]
"""Shape and dtype of a tensor."""


def write_shapes(form: View, x: Any, data: Any) -> None:
    """Writes `shape` and `dtype` on the edges of `form`, the graph of `x`, from one run over `data`.

    `x` runs on a copy, as in evaluation; nothing in it is changed, nor is any random generator. Within a System they
    are those of the series. Raises OptionError for a thing that takes no batch, and what a run of `x` raises.
    """
    if isinstance(data, str | Tensor) or not (hasattr(data, "__getitem__") or hasattr(data, "train_dataloader")):
        raise OptionError(f"shapes takes a batch, a dict of tensors, or a data set; got {type(data).__name__}")
    with random_state_kept():
        batch = dict(data) if isinstance(data, Mapping) else first_batch(data)
    given = {key: look for key, value in batch.items() if (look := _look(value)) is not None}
    if isinstance(x, Variable):
        _write_expression(form, batch)
        return
    if not hasattr(x, "keys") and not hasattr(x, "input_keys"):
        raise OptionError(
            f"shapes is a batch for a Problem, Subgraph, System, Node, term or Variable; {type(x).__name__} takes none"
        )
    found = _run(x, batch) if hasattr(x, "nodes") or hasattr(x, "run") else {}
    kinds = dict(form.nodes(data="kind"))
    for tail, _, key, about in form.edges(keys=True, data=True):
        own = about.get("own", key)
        if kinds[tail] == "data":
            look = given.get(form.nodes[tail]["label"])
        else:
            look = found.get(id(form.nodes[tail].get("part")), {}).get(own)
        if look is not None:
            about["shape"], about["dtype"] = look


def _look(value: Any) -> Look | None:
    return (tuple(value.shape), str(value.dtype).removeprefix("torch.")) if isinstance(value, Tensor) else None


def _run(x: Any, batch: Mapping[str, Any]) -> dict[int, dict[str, Look]]:
    """What each node gave, by the id of the node, each key with its look."""
    outside = [thing for thing in trained_outside(x) if isinstance(thing, nn.Module)]
    found: dict[int, dict[str, Look]] = {}
    with random_state_kept(), buffers_kept(outside), torch.inference_mode(False):
        memo: dict[int, Any] = {}
        twin = _copy(x, memo)
        originals = {id(twin): x, **{id(memo[id(m)]): m for m in x.modules() if id(m) in memo}}
        for module in twin.modules():
            if hasattr(module, "run") and hasattr(module, "output_keys"):
                _listen(module, originals, found)
        data = {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
        data.pop("name", None)
        with torch.set_grad_enabled(getattr(x, "grad_inference", False)):
            if hasattr(twin, "losses"):
                twin.step(data)
            else:
                twin.run(data)
    return found


def _copy(x: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(x, memo).eval()
    except Exception as error:
        error.add_note("shapes come from a run of a copy, which copy.deepcopy could not make")
        raise


def _listen(twin: Any, originals: dict[int, Any], found: dict[int, dict[str, Look]]) -> None:
    """From now on each run of `twin` is noted in `found`, under the id of its original."""
    run = twin.trace if hasattr(twin, "trace") else twin.run

    def noted(data: Mapping[str, Any], *more: Any, **options: Any) -> dict[str, Any]:
        result = run(data, *more, **options)
        looks = {key: look for key in twin.output_keys if (look := _look(result[key])) is not None}
        found[id(originals[id(twin)])] = looks
        if hasattr(twin, "trace"):
            for node in twin.nodes:
                found[id(originals[id(node)])] = {key: _look(result[key]) or ((), "") for key in node.output_keys}
        return {key: result[key] for key in twin.output_keys}

    # The class asks for `run` by the instance, so that this takes the place of the method in this copy alone.
    vars(twin)["run"] = noted


def _write_expression(form: View, batch: Mapping[str, Any]) -> None:
    """What each operation of an expression gives."""
    with random_state_kept(), torch.no_grad():
        values = {place: part(dict(batch)) for place, part in form.nodes(data="part") if isinstance(part, Variable)}
    for tail, _, about in form.edges(data=True):
        look = _look(values.get(tail))
        if look is not None:
            about["shape"], about["dtype"] = look
