"""Recurrences on structured maps against torch's own, against each other and against themselves on longer series."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.measure import Work, peak_memory, row
from slimgraph import slim


def forward_and_backward(rnn: nn.Module, steps: int, batch: int, n: int) -> Work:
    x, g = torch.randn(steps, batch, n), torch.randn(steps, batch, n)
    return lambda: rnn(x)[0].backward(g)


def ours(n: int, hidden_map: str, nonlin=torch.tanh) -> slim.RNN:
    return slim.RNN(n, n, cell_args={"hidden_map": hidden_map, "nonlin": nonlin})


def against(
    name: str, at_most: float, one: Callable[[int], nn.Module], other: Callable[[int], nn.Module], size=(100, 64, 64)
) -> None:
    """A row for two recurrences of `n` features on the same series; size: steps, batch, n."""
    steps, batch, n = size
    named, baseline = name.split(" / ")

    @row(f"{named}, T={steps} batch={batch} n={n} / {baseline}", at_most)
    def _() -> tuple[Work, Work]:
        return forward_and_backward(one(n), *size), forward_and_backward(other(n), *size)


def torchs(n: int) -> nn.RNN:
    return nn.RNN(n, n, bias=False)


for hidden_map, at_most in (("orthogonal", 1.0), ("spectral", 1.1)):
    against(f"RNN tanh, {hidden_map} hidden map / torch.nn.RNN", at_most, lambda n, m=hidden_map: ours(n, m), torchs)
against(
    "RNN tanh, orthogonal hidden map / torch.nn.RNN", 1.05, lambda n: ours(n, "orthogonal"), torchs, (784, 128, 170)
)

# A butterfly is for sizes at which nobody builds W.
for key in {cls: key for key, cls in reversed(slim.maps.items()) if key != "butterfly"}.values():
    against(
        f"RNN gelu, {key} hidden map / RNN tanh, orthogonal",
        1.8,
        lambda n, key=key: ours(n, key, torch.nn.functional.gelu),
        lambda n: ours(n, "orthogonal"),
    )

for name in ("GRU", "LSTM"):
    for key, at_most in (("linear", 1.5), ("orthogonal", 1.8)):
        against(
            f"{name}, {key} hidden maps / torch.nn.{name}",
            at_most,
            lambda n, name=name, key=key: getattr(slim, name)(n, n, cell_args={"hidden_map": key}),
            lambda n, name=name: getattr(nn, name)(n, n, bias=False),
        )


def longer(what: str, made: Callable[[], nn.Module]) -> None:
    """Rows for the time and the memory of four times as many steps."""

    def works() -> tuple[Work, Work]:
        return forward_and_backward(made(), 4000, 64, 64), forward_and_backward(made(), 1000, 64, 64)

    row(f"{what} T=4000 / T=1000", 4.3)(works)
    row(f"{what} T=4000 / T=1000, peak memory", 4.3, peak_memory)(works)


longer("RNN tanh, orthogonal hidden map", lambda: ours(64, "orthogonal"))


@row("RNN tanh, orthogonal hidden map, T=1000 batch=64 n=64 / torch.nn.RNN, peak memory", 1.1, peak_memory)
def _() -> tuple[Work, Work]:
    return forward_and_backward(ours(64, "orthogonal"), 1000, 64, 64), forward_and_backward(torchs(64), 1000, 64, 64)
