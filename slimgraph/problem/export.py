"""Writing a module over dictionaries of tensors as one file that needs no slimgraph: torch.export and ONNX."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slimgraph.errors import (
    MissingFileError,
    MissingKeyError,
    OptionError,
    ShapeError,
    SlimgraphError,
    UnknownOptionError,
    did_you_mean,
)
from slimgraph.node import Node, describe
from slimgraph.node.node import owner_of
from slimgraph.slim.linear import Linear, LinearBase


def densify(module: Any) -> Any:
    """A frozen copy of `module` in evaluation mode whose structured maps are free ones with their matrix and bias."""
    module = copy.deepcopy(module).eval()
    dense: dict[LinearBase, Linear] = {}
    for parent in [part for part in module.modules() if not isinstance(part, LinearBase)]:
        for name, child in parent.named_children():
            if isinstance(child, LinearBase) and type(child) is not Linear:
                # A map that stands in two places is one map there too.
                dense[child] = dense.get(child) or _dense(child)
                setattr(parent, name, dense[child])
    for node in [part for part in module.modules() if isinstance(part, Node)]:
        _call_dense(node, dense)
    return module.requires_grad_(False)


def _call_dense(node: Node, dense: dict[LinearBase, Linear]) -> None:
    """Lets a node that calls a map by its method, or through a partial, call the dense map instead."""
    structured = owner_of(node.callable)
    if structured in dense:
        called = _rebound(node.callable, structured, dense[structured])
        # Another method of the map asks for its structure, and keeps it.
        node.owner = structured if called is None else dense[structured]
        node.callable = node.callable if called is None else called


def _rebound(callable: Any, structured: LinearBase, linear: Linear) -> Any:
    """`callable` with `linear` in the place of `structured`; None where it calls another method than `forward`."""
    if isinstance(callable, functools.partial):
        inner = _rebound(callable.func, structured, linear)
        return inner and functools.partial(inner, *callable.args, **callable.keywords)
    if callable is structured:
        return linear
    name = getattr(callable, "__name__", "")
    return getattr(linear, name) if name in ("forward", "__call__") else None


def _dense(structured: LinearBase) -> Linear:
    linear = structured.to_linear()
    with torch.device("meta"):
        made = Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    made.weight, made.bias = linear.weight, linear.bias
    return made.eval()


def export(subgraph: Any, path: str | Path, data: dict[str, Tensor]) -> Path:
    """`Subgraph.export`."""
    path = Path(path)
    if path.suffix not in WRITERS:
        known = list(WRITERS)
        raise UnknownOptionError(
            f"an export ends in one of {known}; got {path.suffix!r} ({path}).{did_you_mean(path.suffix, known)}"
        )
    if not path.parent.is_dir():
        raise MissingFileError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into; make it first")
    example = _example(subgraph, data)
    dense = densify(subgraph)
    with torch.no_grad():
        # What is wrong with the example is told in slimgraph's words, before a tracer sees it.
        dense(example)
    # What is written beside the path and then moved there is whole, or not there.
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            WRITERS[path.suffix](dense, file, example)
        os.replace(part, path)
    except Exception as error:
        sizes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in example.items())
        error.add_note(f"in the export of {subgraph.label} to {path} with the example {sizes}, its batch of any size")
        raise
    finally:
        part.unlink(missing_ok=True)
    return path


def _example(subgraph: Any, data: Any) -> dict[str, Tensor]:
    """Of `data` what `subgraph` reads, with a batch of at least two samples."""
    who = f"the export of {subgraph.label}"
    if not isinstance(data, dict):
        raise OptionError(f"{who} needs a batch, a dict of tensors, as an example; got {describe(data)}")
    if missing := [key for key in subgraph.input_keys if key not in data]:
        hint = did_you_mean(missing[0], data)
        raise MissingKeyError(
            f"{who} needs an example of {missing[0]!r}, the data hold {sorted(map(str, data))}.{hint}"
        )
    optional = subgraph.optional_keys
    also = [k for k, v in data.items() if isinstance(v, Tensor)] if optional is None else optional
    example = {key: data[key] for key in [*subgraph.input_keys, *also] if key in data}
    if not example:
        raise OptionError(f"{who} reads nothing from the data, so a file of it would have no input; call it instead")
    for key, value in example.items():
        if not isinstance(value, Tensor) or value.ndim == 0:
            got = "a single number" if isinstance(value, Tensor) else describe(value)
            raise OptionError(f"{who} needs {key!r} as a tensor whose first axis is the batch; got {got}")
    sizes = {key: len(value) for key, value in example.items()}
    if len(set(sizes.values())) > 1:
        raise ShapeError(f"{who} needs one batch size for all keys, got {sizes}; expand what all samples share")
    if 1 in sizes.values():
        # Of a single sample a tracer takes the 1 for a constant.
        example = {key: torch.cat([value, value]) for key, value in example.items()}
    return {key: value.detach() for key, value in example.items()}


def _any_batch(example: dict[str, Tensor]) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1)
    return {"data": {key: {0: batch} for key in example}}


def onnx_outputs(keys: list[str], inputs: Collection[str]) -> list[str]:
    """The names of the outputs in an ONNX file, which are its keys; of a state, which is an input too, `x_out`.

    >>> onnx_outputs(["x", "u"], ["x", "r"])
    ['x_out', 'u']
    """
    names: list[str] = []
    for key in keys:
        name = key
        # An ONNX file has one name for one tensor.
        while name in inputs or name in names or (name != key and name in keys):
            name += "_out"
        names.append(name)
    return names


def _write_pt2(dense: nn.Module, file: Any, example: dict[str, Tensor]) -> None:
    program = torch.export.export(dense, (example,), dynamic_shapes=_any_batch(example))
    torch.export.save(program, file)


def _write_onnx(dense: Any, file: Any, example: dict[str, Tensor]) -> None:
    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise SlimgraphError(
                f"an .onnx file needs the package {package!r}, which is not installed; pip install 'slimgraph[onnx]', "
                "or export to .pt2, which needs torch alone"
            )
    program: Any = torch.onnx.export(
        dense,
        kwargs={"data": example},
        input_names=list(example),
        output_names=onnx_outputs(dense.output_keys, example),
        dynamic_shapes=_any_batch(example),
        dynamo=True,
        verbose=False,
    )
    file.write(program.model_proto.SerializeToString())


WRITERS: dict[str, Callable[[Any, Any, dict[str, Tensor]], None]] = {".pt2": _write_pt2, ".onnx": _write_onnx}
