"""What a problem or a system is made of, part by part, as short texts that two of them can be compared by."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from slimgraph import wiring
from slimgraph.drawing.difference.described import described, function_text
from slimgraph.slim import LinearBase
from slimgraph.slim.linear.svd import SVDLinearLearnBounds
from slimgraph.symbolic.text import expression_text
from slimgraph.symbolic.walk import in_order, replace
from slimgraph.system import System

Facts = dict[str, str]

SYSTEM_OPTIONS = (
    *("nsteps", "nstep_key", "keep", "mask_key", "checkpoint_every", "truncate_every"),
    # Of SystemPreview.
    *("preview_keys_map", "preview_length", "pad_mode", "pad_constant"),
)
# What a module is in the middle of, or called; no part of what it does.
PASSING = ("training", "name", "history")


@dataclass(frozen=True)
class Part:
    """One thing that may be added, removed or changed.

    `text` is what it says in one line, `place` its id in the graph, None where it has no node of its own. What has no
    name is numbered by its place, and found again by what it says.
    """

    kind: str
    name: str
    facts: Facts
    text: str = ""
    place: str | None = None
    named: bool = True


def parts_of(x: Any, values: bool = False) -> list[Part]:
    """Everything in a Problem or a System, or in a Node, in declared order; `values`: those of the weights too."""
    nodes = list(getattr(x, "nodes", [x]))
    inner = f"{x.name or 'system'}/" if isinstance(x, System) else ""
    found = _system_parts(x, x.name or "system") if isinstance(x, System) else []
    found += _node_parts(nodes, inner, "" if inner else "node:", values, getattr(x, "run_order", ()))
    loss = getattr(x, "loss", None)
    reads, writes = x.input_keys, _writers(x, nodes)
    found += [Part("key read", key, {}, place=f"data:{key}") for key in reads]
    # Of a key that is written again the last value counts.
    facts = {key: {"written by": ", ".join(names)} if len(names) > 1 else {} for key, names in writes.items()}
    found += [Part("key written", key, facts[key], place=f"result:{key}") for key in writes]
    if loss is not None:
        for number, (name, term) in enumerate(zip(loss.names(), loss.terms, strict=True)):
            facts = _term_facts(term, values)
            found.append(Part(term.kind, name, facts, str(term), f"term:{number}", term.name is not None))
        options = {name: described(value) or type(value).__name__ for name, value in loss.options.items()}
        found.append(Part("loss", "", {"type": type(loss).__name__, **options}, place="loss"))
        options = {"reg_weight": f"{x.reg_weight:g}", "grad_inference": str(x.grad_inference)}
        normalizer: Any = x.normalizer
        if normalizer is not None:
            options |= dict(module_facts("normalizer", normalizer, values))
        found.append(Part("problem", "", options))
    return found


def _system_parts(system: Any, name: str) -> list[Part]:
    facts = {word: described(getattr(system, word)) for word in SYSTEM_OPTIONS if hasattr(system, word)}
    facts["init_func"] = "None" if system.init_func is None else function_text(system.init_func)
    return [Part("system", name, {"type": type(system).__name__, **{k: v for k, v in facts.items() if v}})]


def _node_parts(nodes: list[Any], path: str, prefix: str, values: bool, ran: Sequence[Any] = ()) -> list[Part]:
    found = []
    places = {id(node): place for place, node in enumerate(ran or nodes)}
    writers: dict[str, list[int]] = {}
    for node in nodes:
        for key in node.output_keys:
            writers.setdefault(key, []).append(places[id(node)])
    for name, node in zip(wiring.names(nodes), nodes, strict=True):
        if isinstance(node, System):
            found += _system_parts(node, f"{path}{name}")
            found += _node_parts(list(node.nodes), f"{path}{name}/", "", values)
            continue
        facts = {"keys": getattr(node, "signature", f"({', '.join(node.input_keys)}) -> {node.output_keys}")}
        call = getattr(node, "callable", node)
        facts |= _calls(call, values) | _order_facts(node, places[id(node)], writers, looped=not prefix)
        owner: Any = getattr(node, "owner", None)
        facts |= dict(module_facts("owner", owner, values)) if owner is not None else {}
        facts["trained"] = _trained(node)
        found.append(Part("node", f"{path}{name}", facts, facts["keys"], f"{prefix}{path}{name}"))
    return found


def _writers(x: Any, nodes: list[Any]) -> dict[str, list[str]]:
    """For each key that is written the names of the nodes that write it, in the order in which they run."""
    found: dict[str, list[str]] = {key: [] for node in nodes for key in node.output_keys}
    names = getattr(x, "labels", None) or wiring.names(nodes)
    for name, node in zip(names, getattr(x, "run_order", nodes), strict=True):
        for key in node.output_keys:
            found[key].append(name)
    return found


def _order_facts(node: Any, place: int, writers: dict[str, list[int]], looped: bool) -> Facts:
    """Which value the node that runs at `place` reads of a key of which there is more than one."""
    facts = {}
    for key in node.input_keys:
        places = writers.get(key, ())
        before = sum(other < place for other in places)
        if looped and places and not before:
            facts[f"reads {key}"] = "of the step before"
        elif len(places) > 1:
            facts[f"reads {key}"] = f"after {before} of {len(places)} that write it"
    return facts


def _calls(called: Any, values: bool) -> Facts:
    if isinstance(called, nn.Module):
        return dict(module_facts("calls", called, values))
    return {"calls": function_text(called)}


def _term_facts(term: Any, values: bool) -> Facts:
    if term.kind == "constraint":
        left, right = map(expression_text, (term.left, term.right))
        facts = {"left": left, "comparison": term.comparator.sign, "right": right, "norm": str(term.comparator.norm)}
    else:
        metric = getattr(term, "loss", term.metric)
        facts = {"type": type(term).__name__, "expression": expression_text(term.var), "metric": function_text(metric)}
    facts["weight"] = f"{float(term.weight):g}"
    # What a text shows by its shape or its name alone.
    tensors: list[Tensor] = []
    functions: list[Any] = []
    for expression in in_order(term.expressions):
        replace(expression.value, Tensor, tensors.append)
        if expression.operation is not None:
            replace((expression.operation.args, expression.operation.kwargs), Tensor, tensors.append)
            functions.append(expression.operation.function)
    constants = [tensor for tensor in tensors if not tensor.requires_grad and tensor.numel() > 3]
    facts |= {f"constant {n}": _tensor_text(tensor, True) for n, tensor in enumerate(constants, 1)}
    for number, function in enumerate(functions, 1):
        if isinstance(function, nn.Module):
            module: Any = function
            facts |= dict(module_facts(f"function {number}", module, values))
        elif hasattr(function, "__code__") and not function.__module__.startswith("torch"):
            facts[f"function {number}"] = function_text(function)
    return facts


# Modules


def module_facts(path: str, module: nn.Module, values: bool) -> Iterator[tuple[str, str]]:
    """Each module by its path with its class and options, then its own weights and plain attributes, then its children.

    What a module says of itself comes before what stands in it: a reader who knows of another class asks no further.
    """
    # These bounds are trained: they are values.
    extra = LinearBase.extra_repr(module) if isinstance(module, SVDLinearLearnBounds) else module.extra_repr()
    attributes = {name: described(value) for name, value in vars(module).items() if not name.startswith("_")}
    if isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        attributes = {}
    yield path, f"{type(module).__name__}({re.sub(r' at 0x[0-9a-f]+', '', extra)})"
    for name, text in attributes.items():
        if text and name not in PASSING:
            yield f"{path}.{name}", text
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None:
            yield f"{path}.{name}", _tensor_text(tensor, values)
    for name, child in module.named_children():
        yield from module_facts(f"{path}.{name}", child, values)


def _tensor_text(tensor: Tensor, values: bool) -> str:
    if is_lazy(tensor):
        return "not yet made"
    text = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if not values:
        return text
    # A checksum tells any change, the first numbers tell a reader which one it is.
    numbers = tensor.detach().cpu()
    first = ", ".join(f"{number:.6g}" for number in numbers.flatten()[:3].tolist())
    if numbers.dtype == torch.bfloat16:
        numbers = numbers.float()
    return f"{text} [{first}{', ...' * (numbers.numel() > 3)}] #{zlib.crc32(numbers.numpy().tobytes()):08x}"


def _trained(node: Any) -> str:
    floating = {name: p.requires_grad for name, p in node.named_parameters() if p.is_floating_point()}
    frozen = [name.removeprefix("callable.") for name, trained in floating.items() if not trained]
    if not floating or not frozen:
        return "all" if floating else "nothing"
    return "nothing" if len(frozen) == len(floating) else f"all but {', '.join(frozen)}"
