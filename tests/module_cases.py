"""The modules that the laws of tests/test_modules_torch.py and the ranks of tests/ranks/modules.py run over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from slimgraph import slim
from slimgraph.modules import Linear, Module, Parameter, Rate, Residual, Sequential, SimulationParameter, State

SIZE_IN, SIZE_OUT = 3, 2


class Nested(Module):
    """A user's module: submodules of ours and of torch, a parameter, a state and a simulation parameter of its own."""

    def __init__(self) -> None:
        super().__init__((SIZE_IN, SIZE_OUT))
        self.first = Linear((SIZE_IN, 4), has_bias=True)
        self.plain = nn.Linear(4, 4)
        self.inner = Sequential(Linear((4, 4)), nn.Tanh())
        self.last = Linear((4, SIZE_OUT))
        self.gain = Parameter(shape=(SIZE_OUT,), init_func=torch.ones, family="gains")
        self.total = State(torch.zeros(SIZE_OUT), family="sums")
        self.scale = SimulationParameter(torch.tensor(0.5))

    def evolve(self, input_data, record=False):
        hidden, state, _ = self.first(input_data)
        output, _, recorded = self.last(self.inner(torch.tanh(self.plain(hidden)))[0])
        output = output * self.gain * self.scale
        return output, {"first": state, "total": self.total + output.sum(0)}, recorded


class Steps(Module):
    """Rate neurons over four steps of each sample: a matrix as it is would be one series, and not a batch."""

    def __init__(self, **options) -> None:
        super().__init__((SIZE_IN, SIZE_OUT))
        rates = Rate(4, tau=0.5, activation_func="tanh", dt=0.1, **options)
        self.net = Sequential(Linear((SIZE_IN, 4)), rates, Linear((4, SIZE_OUT)))

    def evolve(self, input_data, record=False):
        output, state, recorded = self.net(input_data.unsqueeze(-2).expand(-1, 4, -1), record)
        return output[:, -1], {"net": state}, recorded


# Each gives a new module of SIZE_IN features in and SIZE_OUT out; every parameter of it must reach the output.
CASES: dict[str, Callable[[], Module]] = {
    "Linear": lambda: Linear((SIZE_IN, SIZE_OUT)),
    "Linear with bias": lambda: Linear((SIZE_IN, SIZE_OUT), has_bias=True),
    "Linear on a map": lambda: Linear((SIZE_IN, SIZE_OUT), has_bias=True, weight_map="spectral"),
    "Sequential": lambda: Sequential(
        Linear((SIZE_IN, 4)), nn.Tanh(), slim.OrthogonalLinear(4, 4), nn.Linear(4, SIZE_OUT)
    ),
    "Residual": lambda: Sequential(Residual(Linear((SIZE_IN, SIZE_IN))), Linear((SIZE_IN, SIZE_OUT))),
    "from torch": lambda: Module.from_torch(nn.Linear(SIZE_IN, SIZE_OUT)),
    "nested": Nested,
    "Rate": Steps,
    "Rate with a loop": lambda: Steps(has_rec=True),
    "Rate on a map": lambda: Steps(weight_map="orthogonal"),
}


def make(name: str) -> Module:
    """The module of a case, the same each time."""
    torch.manual_seed(0)
    return CASES[name]()


def batch(n: int = 8) -> torch.Tensor:
    """A batch `(n, SIZE_IN)`, the same each time."""
    return torch.randn(n, SIZE_IN, generator=torch.Generator().manual_seed(1))


def loss(output: torch.Tensor) -> torch.Tensor:
    """A mean over samples, so that two ranks with half of them each find the same."""
    return ((output - 1) ** 2).sum(-1).mean()
