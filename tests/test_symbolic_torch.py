"""Every function that torch lets others override: on Variables, in every place that takes a tensor, it is torch's own.

A function is called with each of `TRIED` that it accepts; then again with Variables for every choice among its tensors,
and with its last arguments by keyword as far as it takes them so. Value, dtype and gradient are those of torch.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings

import pytest
import torch
from torch import Tensor
from torch.overrides import get_testing_overrides, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

from slimgraph import Variable, variable
from slimgraph.symbolic import Constraint

ROOMS = ("torch", "torch.functional", "torch.nn.functional", "torch.linalg", "torch.special", "torch.fft")
# Backends of other machines and what they run on; and what reads memory that nobody wrote.
NOT_PUBLIC = ("_", "miopen", "fbgemm", "cudnn", "mkldnn", "quantize", "fake_quant", "native_", "q_", "sym_", "sparse_")
NOT_PUBLIC += ("batch_norm_", "fused_", "empty", "rnn", "lstm", "gru", "choose_qparams", "hspmm", "dequantize")
# einsum's form with lists of numbers tells tensors by isinstance; the others are not always the same twice.
NOT_PUBLIC += ("lstsq", "lobpcg", "einsum")
# How many of `TRIED` are enough for one function.
ENOUGH = 4
# How many calls, with Variables in one choice of the places, are compared at least.
ENOUGH_COMPARED = dict(zip(ROOMS, (4000, 100, 1000, 250, 500, 120), strict=True))

generator = torch.Generator().manual_seed(0)


def numbers(*size: int) -> Tensor:
    # Within (0.1, 0.9), where logarithms, roots and inverse cosines are defined and smooth.
    return 0.1 + 0.8 * torch.rand(*size, generator=generator, dtype=torch.float64)


A, B, C = numbers(3, 3) + torch.eye(3, dtype=torch.float64) * 0.05, numbers(3, 3), numbers(3, 3)
SYMMETRIC = (A + A.T) / 4 + torch.eye(3, dtype=torch.float64)
v, w, u = numbers(3), numbers(3), numbers(3)
stack, image, kernel = numbers(2, 3, 3), numbers(1, 2, 4, 4), numbers(2, 2, 2, 2)
place, places = torch.tensor([2, 0, 1]), torch.tensor([[0, 1, 2], [2, 0, 1], [1, 1, 0]])
mask = A > B

TRIED = (
    *((A,), (v,), (SYMMETRIC,), (stack,), (image,), (place,), (mask,)),
    *((A, B), (v, w), (A, v), (stack, stack + 0.1), (SYMMETRIC, B), (image, kernel), (mask, mask.T), (place, place)),
    *((A, 0.5), (0.5, A), (A, 2), (2, A), (A, 0), (A, 1), (A, -1), (image, 2), (place, A), (A, place), (A, mask)),
    *((A, B, C), (v, A, w), (A, v, w), (v, w, u), (stack, stack, stack), (mask, A, B), (A, mask, B), (A, mask, 0.5)),
    *((A, B, 0.5), (A, 0.2, 0.8), (A, B, 1), (A, 0, 1), (A, (0, 1)), (A, (3,)), (A, [1, 2]), (image, (1, 1, 1, 1))),
    *((A, 0, places), (A, 0, place), (A, 0, place, B), (A, 1, 0, 2), (A, 0, places, B), (A, 0, place, 0.5)),
    *(([A, B],), ([A, B], 1), ([A, B, C],), ("ij,jk->ik", A, B), ((v, w), 0), (A, B, True), (A, True)),
)


def same(one, other) -> bool:
    ours, theirs = tree_leaves(one), tree_leaves(other)
    return len(ours) == len(theirs) and all(
        (a.dtype == b.dtype and a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True))
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else type(a) is type(b) and a == b
        for a, b in zip(ours, theirs, strict=True)
    )


def evaluated(function, args, kwargs):
    """What torch gives, twice the same, or None where it refuses, draws at random or changes its arguments."""
    runs = []
    try:
        for _ in range(2):
            copies = tree_map(lambda a: a.clone() if isinstance(a, Tensor) else a, (args, kwargs))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runs.append(function(*copies[0], **copies[1]))
            if not same(copies, (args, kwargs)):
                return None
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return None
    known = all(isinstance(leaf, Tensor | bool | int | float | torch.dtype) for leaf in tree_leaves(runs[0]))
    return runs[0] if known and tree_leaves(runs[0]) and same(*runs) else None


def is_option(parameter) -> bool:
    """Whether a parameter is a number or a switch, which no tensor, and so no Variable, can be."""
    named = parameter.name in ("size_average", "reduce", "norm_type", "p", "train", "out", "running_mean", "rtol")
    return named or isinstance(parameter.default, bool | int | float | str)


def calls_of(function, parameters):
    """Pairs of positional and keyword arguments that torch takes and that make sense."""
    names, taken = [parameter.name for parameter in parameters], 0
    for args in TRIED:
        given = list(zip(parameters, args, strict=False))
        if any(is_option(p) and isinstance(arg, Tensor) or p.name == "inplace" for p, arg in given):
            continue
        if taken == ENOUGH or (value := evaluated(function, args, {})) is None:
            continue
        taken += 1
        yield args, {}
        for count in range(len(args)) if len(names) >= len(args) else ():
            by_name = dict(zip(names[count:], args[count:], strict=False))
            again = evaluated(function, args[:count], by_name)
            if again is not None and same(again, value):
                yield args[:count], by_name


@functools.cache
def overridable() -> dict:
    """The functions that take at least one of `TRIED`, each with its calls."""
    found, state = {}, torch.get_rng_state()
    for function, dummy in get_testing_overrides().items():
        room, _, name = (resolve_name(function) or "").rpartition(".")
        public = room in ROOMS and not name.startswith(NOT_PUBLIC) and not name.endswith("_")
        if public and (calls := list(calls_of(function, list(inspect.signature(dummy).parameters.values())))):
            found[f"{room}.{name}"] = function, calls
    torch.set_rng_state(state)
    return found


def test_enough_functions_are_compared():
    assert len(overridable()) >= 150


def value_and_gradients(call, tensors):
    """The value, and the gradient of the sum of all that is differentiable in it."""
    torch.manual_seed(0)
    value = call()
    floating = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not (floating and tensors):
        return value, ()
    total = sum(leaf.abs().sum() for leaf in floating)
    return value, torch.autograd.grad(total, tensors, allow_unused=True)


# One test a room: which calls torch takes is found by calling, and the names of tests must not depend on it.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("room", ROOMS)
def test_functions_of_variables_are_the_functions_of_their_values(room):
    outcomes: list[bool] = []
    for name, (function, calls) in overridable().items():
        for args, kwargs in calls if name.rpartition(".")[0] == room else ():
            outcomes += compare_everywhere(name, function, args, kwargs)
    assert sum(outcomes) >= ENOUGH_COMPARED[room]
    # What is passed over, where torch has no derivative, stays the exception.
    assert outcomes.count(False) <= 0.15 * len(outcomes)


def compare_everywhere(name, function, args, kwargs):
    """With Variables in every choice of the places where tensors stand: for each, whether torch let it be compared."""
    count = sum(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
    for chosen in itertools.product([True, False], repeat=count):
        try:
            if any(chosen):
                yield compare(function, args, kwargs, chosen)
        except Exception as error:
            error.add_note(f"{name} of {args} {kwargs}, Variables at {chosen}")
            raise


def compare(function, args, kwargs, chosen):
    turns = iter(chosen)
    data, leaves = {}, []

    def leaf_of(thing):
        if not isinstance(thing, Tensor):
            return thing
        copy = thing.clone().requires_grad_(thing.is_floating_point())
        if next(turns):
            data[f"x{len(data)}"] = copy
            leaves.append(copy)
        return copy

    eager_args, eager_kwargs = tree_map(leaf_of, (args, kwargs))
    symbols = {id(tensor): variable(key) for key, tensor in data.items()}
    symbolic_args, symbolic_kwargs = tree_map(lambda a: symbols.get(id(a), a), (eager_args, eager_kwargs))
    trained = [leaf for leaf in leaves if leaf.requires_grad]
    try:
        eager, theirs = value_and_gradients(lambda: function(*eager_args, **eager_kwargs), trained)
    except (RuntimeError, NotImplementedError):
        # torch itself has no derivative for this place.
        return False
    made = function(*symbolic_args, **symbolic_kwargs)
    assert isinstance(made, Variable | Constraint)
    symbolic, ours = value_and_gradients(lambda: made(data), trained)
    assert same(symbolic, eager)
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine is None) == (its is None)
        assert mine is None or same(mine, its)
    return True
