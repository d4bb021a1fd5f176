"""A recurrence over all steps of a series: step by step, with its backward written out, or by torch's own kernels.

A series is a matrix `(rows, features)`, step after step, and `Steps` says how many rows each step has: sequences of one
length and packed ones are the same thing here. Three ways give the same numbers and the same gradients:

- `stepwise`: plain operations, for any step; it is what compilers, `torch.func` and second derivatives see;
- `run_simple`: `h' = f(driven + h W)` with the backward written out for the usual f: the gradient of W is one product
  over all steps, and nothing is allocated in the loop;
- `run_fused`: torch's kernels (cuDNN's on a GPU, oneDNN's on a CPU), fed with the maps' matrices.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimgraph.slim.linear.functions import is_traced, under_autocast

State = tuple[Tensor, ...]
Nonlin = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Steps:
    """How many rows each step of a series has; `batch_sizes` is that of a packed one, whose sequences end early.

    >>> Steps([2, 2, 1], torch.tensor([2, 2, 1])).turned(torch.tensor([0, 10, 1, 11, 2])).tolist()
    [2, 11, 1, 10, 0]
    """

    sizes: list[int]
    batch_sizes: Tensor | None = None

    def unflat(self, x: Tensor) -> Tensor:
        """The rows of a series of one length as `(time, batch, ...)`."""
        return x.unflatten(0, (len(self.sizes), self.sizes[0]))

    def last(self, x: Tensor) -> Tensor:
        """The row of each sequence's last step."""
        return x[-self.sizes[-1] :] if self.batch_sizes is None else x[self._places[0].to(x.device)]

    def turned(self, x: Tensor) -> Tensor:
        """Each sequence from its last step to its first."""
        if self.batch_sizes is None:
            return self.unflat(x).flip(0).flatten(0, 1)
        return x[self._places[1].to(x.device)]

    @functools.cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The row of each sequence's last step; for each row that of its sequence counted from the other end."""
        sizes: Any = self.batch_sizes
        first, sequences = sizes.cumsum(0) - sizes, torch.arange(self.sizes[0])
        lengths = (sizes[:, None] > sequences).sum(0)
        step = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        sequence = torch.arange(len(step)) - first[step]
        return first[lengths - 1] + sequences, first[lengths[sequence] - 1 - step] + sequence


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which autocast is off."""
    return torch.autocast(device.type, enabled=False) if under_autocast(device) else nullcontext()


def stepwise(step: Callable[..., State], driven: Tensor, state: State, steps: Steps) -> tuple[Tensor, State]:
    """`state = step(drive, *state)` for the rows of each step: the states' first part, and the last state."""
    states, ended = [], []
    for drive, size in zip(driven.split(steps.sizes), steps.sizes, strict=True):
        # Of an exported program len() would fix the batch size.
        if size < state[0].shape[0]:
            ended.append(tuple(s[size:] for s in state))
            state = tuple(s[:size] for s in state)
        state = step(drive, *state)
        states.append(state[0])
    if ended:
        # Those that end first stand last.
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return torch.cat(states), state


# ---- h' = f(driven + h W) -------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A function with its slope: `f(x, out=y)`, `back(gradient of y, kept, grad_input=...)`, kept being y or else x."""

    f: Callable[..., Any]
    back: Callable[..., Any]
    keeps_result: bool


def _relu(x: Tensor, out: Tensor) -> None:
    torch.clamp_min(x, 0, out=out)


def _relu_back(grad: Tensor, kept: Tensor, grad_input: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(grad, kept, 0, grad_input=grad_input)


_TANH = Written(torch.tanh, torch.ops.aten.tanh_backward.grad_input, True)
_RELU = Written(_relu, _relu_back, True)
_SIGMOID = Written(torch.sigmoid, torch.ops.aten.sigmoid_backward.grad_input, True)
_GELU = Written(F.gelu, torch.ops.aten.gelu_backward.grad_input, False)

_KNOWN: list[tuple[Any, Written]] = [
    *[(f, _TANH) for f in (torch.tanh, F.tanh, nn.Tanh)],
    *[(f, _RELU) for f in (torch.relu, F.relu, nn.ReLU)],
    *[(f, _SIGMOID) for f in (torch.sigmoid, F.sigmoid, nn.Sigmoid)],
    *[(f, _GELU) for f in (F.gelu, nn.GELU)],
]


def written(nonlin: Nonlin) -> Written | None:
    """The function with its slope, if that is written out; modules of torch's own stand for their function."""
    if getattr(nonlin, "approximate", "none") != "none":
        return None
    key = type(nonlin) if isinstance(nonlin, nn.Module) else nonlin
    return next((known for f, known in _KNOWN if f is key), None)


def run_simple(nonlin: Nonlin, driven: Tensor, hidden: Tensor, W: Tensor, steps: Steps) -> tuple[Tensor, State]:
    """`h' = nonlin(driven + h W)`; driven: `(rows, n)`, hidden: `(batch, n)`, W: `(n, n)`, all states: `(rows, n)`."""
    # Under autocast `driven` comes in half precision; the rest is cast once, here, instead of at every step.
    hidden, W = hidden.to(driven.dtype), W.to(driven.dtype)
    known = None if is_traced() else written(nonlin)
    if known is None:
        return _simple(nonlin, driven, hidden, W, steps)
    states: Any = _Simple.apply(driven, hidden, W, nonlin, known, steps)
    return states, (steps.last(states),)


def _simple(nonlin: Nonlin, driven: Tensor, hidden: Tensor, W: Tensor, steps: Steps) -> tuple[Tensor, State]:
    return stepwise(lambda drive, h: (nonlin(torch.addmm(drive, h, W)),), driven, (hidden,), steps)


class _Simple(torch.autograd.Function):
    """The states of `_simple`, one node of the graph instead of three a step."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, driven: Tensor, hidden: Tensor, W: Tensor, nonlin: Nonlin, known: Written, steps: Steps
    ) -> Tensor:
        states = torch.empty_like(driven, memory_format=torch.contiguous_format)
        kept = states if known.keeps_result else torch.empty_like(states)
        columns = (t.split(steps.sizes) for t in (driven, kept, states))
        for h, drive, x, state in zip(_before(hidden, states, steps), *columns, strict=True):
            torch.addmm(drive, h, W, out=x)
            known.f(x, out=state)
        ctx.save_for_backward(driven, hidden, W, states, kept)
        ctx.nonlin, ctx.known, ctx.steps = nonlin, known, steps
        return states

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        # A backward pass may be called under autocast, which would round the products once more.
        with without_autocast(grad.device):
            return *(_simple_again if torch.is_grad_enabled() else _simple_backward)(ctx, grad), None, None, None


def _before(hidden: Tensor, states: Tensor, steps: Steps) -> list[Tensor]:
    """The state that each step starts from."""
    starts = zip((hidden, *states.split(steps.sizes)[:-1]), steps.sizes, strict=True)
    return [h if len(h) == size else h[:size] for h, size in starts]


def _simple_backward(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """With a_t = driven_t + h_(t-1) W and da_t = f'(a_t) (dh_t + da_(t+1) W^T): dW = sum_t h_(t-1)^T da_t."""
    _, hidden, W, states, kept = ctx.saved_tensors
    steps, back = ctx.steps, ctx.known.back
    da, Wt = torch.empty_like(states), W.mT
    later: Any = None
    for here, given, x in zip(*(reversed(t.split(steps.sizes)) for t in (da, grad, kept)), strict=True):
        if later is not None and len(later) == len(here):
            torch.addmm(given, later, Wt, out=here)
        else:
            here.copy_(given)
            if later is not None:
                here[: len(later)].addmm_(later, Wt)
        back(here, x, grad_input=here)
        later = here
    dW = None
    # The identity has no W to train.
    if ctx.needs_input_grad[2]:
        n = steps.sizes[0]
        if steps.batch_sizes is None:
            dW = torch.addmm(hidden.mT @ da[:n], states[:-n].mT, da[n:])
        else:
            dW = torch.cat(_before(hidden, states, steps)).mT @ da
    return [da, later @ Wt, dW]


def _simple_again(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradient of this gradient is wanted: the plain operations have one."""
    driven, hidden, W, *_ = ctx.saved_tensors
    return _gradients(_simple(ctx.nonlin, driven, hidden, W, ctx.steps)[:1], (driven, hidden, W), (grad,), True)


def _gradients(
    results: Sequence[Tensor], tensors: Sequence[Tensor], grads: Sequence[Tensor | None], again: bool
) -> list[Tensor | None]:
    """The gradients of `tensors`, None for those that want none; `again` when these are to be differentiated too."""
    given = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
    wanted = [t for t in tensors if t.requires_grad]
    kept = again or torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore
    found = iter(
        torch.autograd.grad(
            [result for result, _ in given],
            wanted,
            [grad for _, grad in given],
            retain_graph=kept,
            create_graph=again,
            allow_unused=True,
        )
    )
    return [next(found) if t.requires_grad else None for t in tensors]


# ---- torch's kernels ------------------------------------------------------------------------------------------------


class Kernel(NamedTuple):
    """One of torch's recurrences, and its step `(drive, h W + b, *state) -> state` in plain operations."""

    run: Callable[..., Any]
    step: Callable[..., State]


def run_fused(kernel: Kernel, x: Tensor, state: State, weights: Sequence[Tensor], steps: Steps) -> tuple[Tensor, State]:
    """All steps of `x` `(rows, insize)` from `state`; the `weights` are W_in, W, and both biases or none.

    They are laid out as torch's: `(gates * n, insize)`, `(gates * n, n)`, `(gates * n,)` twice.
    """
    # Autocast leaves float64 alone.
    if under_autocast(x.device) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, *rest = (t.to(dtype) for t in (x, *state, *weights))
        state, weights = tuple(rest[: len(state)]), rest[len(state) :]
    with without_autocast(x.device):
        if is_traced():
            return _fused(kernel, x, state, weights, steps)
        states, *last = _Fused.apply(kernel, steps, len(state), x, *state, *weights)
        return states, tuple(last)


def _fused(kernel: Kernel, x: Tensor, state: State, weights: Sequence[Tensor], steps: Steps) -> tuple[Tensor, State]:
    W_in, W, b_in, b = weights if len(weights) == 4 else (*weights, None, None)
    return stepwise(
        lambda drive, *s: kernel.step(drive, F.linear(s[0], W, b), *s), F.linear(x, W_in, b_in), state, steps
    )


def _by_kernel(
    kernel: Kernel, x: Tensor, state: State, weights: Sequence[Tensor], steps: Steps, trained: bool
) -> tuple[Tensor, ...]:
    starts = [s.unsqueeze(0).contiguous() for s in state]
    start = starts if len(starts) > 1 else starts[0]
    options = [w.contiguous() for w in weights], len(weights) == 4, 1, 0.0, trained, False
    with warnings.catch_warnings():
        # cuDNN wants the weights in one piece of memory; those of a map are new at every call.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        if steps.batch_sizes is None:
            states, *last = kernel.run(steps.unflat(x), start, *options, False)
            states = states.flatten(0, 1)
        else:
            states, *last = kernel.run(x, steps.batch_sizes, start, *options)
    return states, *(s.squeeze(0) for s in last)


class _Fused(torch.autograd.Function):
    """`_by_kernel`, of which second derivatives exist: the kernels themselves have none."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, steps: Steps, n: int, *tensors: Tensor) -> State:  # pyright: ignore
        wanted = ctx.needs_input_grad[3:]
        inner = [t.detach().requires_grad_(want) for t, want in zip(tensors, wanted, strict=True)]
        with torch.set_grad_enabled(any(wanted)):
            results = _by_kernel(kernel, inner[0], tuple(inner[1 : n + 1]), inner[n + 1 :], steps, any(wanted))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.inner, ctx.results = (kernel, steps, n), inner, results
        return tuple(result.detach() for result in results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore
        tensors = ctx.saved_tensors
        with without_autocast(tensors[0].device):
            if not torch.is_grad_enabled():
                return None, None, None, *_gradients(ctx.results, ctx.inner, grads, False)
            kernel, steps, n = ctx.plan
            states, last = _fused(kernel, tensors[0], tensors[1 : n + 1], tensors[n + 1 :], steps)
            return None, None, None, *_gradients((states, *last), tensors, grads, True)
