"""The table of maps that the laws run over, and small utilities that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from slimgraph import slim

SIZES = [(1, 1), (2, 2), (3, 3), (8, 8), (65, 65), (3, 5), (5, 3), (1, 4), (4, 1), (8, 65), (65, 8)]
SMALL = [(1, 1), (3, 3), (8, 8), (3, 5), (5, 3)]

# Options under which a map has to keep the laws too, beside its defaults.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "pf": [{"sigma_min": 0.0, "sigma_max": 0.5}, {"sigma_min": 0.7, "sigma_max": 0.7}],
    "damp_skew_symmetric": [{"sigma_min": -1.0, "sigma_max": 2.0}],
    "orthogonal": [{"n_reflectors": 1}, {"det": 1}, {"det": -1}],
    "spectral": [{"n_U_reflectors": 1}, {"n_V_reflectors": 1, "sigma_min": 0.0, "sigma_max": 3.0}],
    "symmetric_spectral": [{"n_reflectors": 1}, {"sigma_min": -3.0, "sigma_max": 0.0}],
    "softSVD": [{"sigma_min": 0.5, "sigma_max": 0.6}],
    "schur": [{"l2": 0.0}],
    "gershgorin": [{"real": False}, {"sigma_min": -2.0, "sigma_max": -0.5}, {"sigma_min": -1.0, "real": False}],
    "hurwitz": [{"alpha": 3.0}, {"alpha": -0.5}],
    "schur_stable": [{"radius": 0.01}, {"radius": 3.0}],
    "stable_split": [{"sigma_min": 0.0, "sigma_max": 5.0}, {"sigma_min": 0.7, "sigma_max": 0.7}],
    "l0": [{"weight_decay": 0.0, "droprate_init": 0.2, "temperature": 0.1, "lamda": 0.0}, {"temperature": 5.0}],
    "lasso": [{"gamma": 0.0}],
    "doubly_stochastic": [{"n_iters": 1}],
    "learnSVD": [{"sigma_min": 0.0, "sigma_max": 3.0}],
    "symmetric_SVD": [{"sigma_min": 0.5, "sigma_max": 0.6}],
    "bounded_Lp_norm": [{"p": p} for p in (1, float("inf"), "fro", "nuc")] + [{"sigma_min": 2.0, "sigma_max": 3.0}],
    "Power_bound": [{"max_p": 0.3, "pwr_iters": 1}],
    "trivial_nullspace": [{"rank": 1, "epsilon": 2.0}],
    "low_rank": [{"rank": 1}],
    "butterfly": [
        {"tied_weight": False, "increasing_stride": False},
        {"complex": True},
        {"complex": True, "tied_weight": False, "increasing_stride": False, "ortho_init": True},
    ],
    "monarch": [{"nblocks": 1}],
}

# The maps whose promise is kept by driving reg_error to zero, not by construction.
KEPT_BY_REG_ERROR = {"softSVD", "learnSVD", "symmetric_SVD", "bounded_Lp_norm", "Power_bound"}

# The maps that draw W anew in training; laws that compare two matrices take them in evaluation.
RANDOM_IN_TRAINING = {"l0"}

# The maps whose gradient is meant to differ from the slope where a parameter is negative.
FOR_POSITIVE_PARAMETERS = {"lasso"}
# The maps of which the norm or the spectral radius of free weights is bounded: reg_error is 0 wherever that holds.
FREE_WEIGHTS = {"bounded_Lp_norm", "Power_bound"}

# Nearly every large matrix is, to the few digits of half precision, a member of these.
NEARLY_EVERYTHING_IN_HALF = {"schur"}

# A bias would break the promise, and is refused.
WITHOUT_BIAS = {"trivial_nullspace"}

# The maps whose from_dense documents another choice than the nearest matrix.
NOT_NEAREST = {"Power_bound"}

# Parameters that cannot move W at some sizes: a distribution over one place, and bounds that leave no room.
WITHOUT_FREEDOM = {
    "rstochastic": lambda case, name: case.outsize == 1 and name == "weight",
    "lstochastic": lambda case, name: case.insize == 1 and name == "weight",
    "pf": lambda case, name: (
        (case.outsize == 1 and name == "weight") or (name == "scaling" and case.options.get("sigma_min") == 0.7)
    ),
    "gershgorin": lambda case, name: case.outsize == 2 and name == "weight",
    # A rotation in the plane commutes with every other, and a scale with every 1 x 1 matrix.
    "schur": lambda case, name: case.outsize == 2 and name == "U",
    "hurwitz": lambda case, name: case.outsize == 1 and name == "stretch",
    "schur_stable": lambda case, name: case.outsize == 1 and name == "stretch",
    "stable_split": lambda case, name: (
        (case.outsize == 1 and name != "p") or (case.options.get("sigma_min") == 0.7 and name in ("p", "weight_C"))
    ),
    "doubly_stochastic": lambda case, name: case.insize == 1 and name == "weight",
}

# Maps that reach every matrix of some sizes, where there is nothing to refuse.
REACHES_EVERYTHING = {
    "butterfly": lambda case: case.options.get("complex", False) and case.insize <= 4,
    "monarch": lambda case: case.options.get("nblocks") == 1,
}


@dataclass(frozen=True)
class Case:
    """One way to build one registered map."""

    key: str
    insize: int
    outsize: int
    bias: bool = False
    dtype: torch.dtype = torch.float64
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, seed: int = 0) -> slim.LinearBase:
        torch.manual_seed(seed)
        made = slim.maps[self.key](self.insize, self.outsize, bias=self.bias, **self.options)
        return made.to(self.dtype).train(self.key not in RANDOM_IN_TRAINING)

    def elsewhere(self, size: float = 0.3) -> slim.LinearBase:
        """A map moved at random to where its gradient is meant to be the slope."""
        m = perturb(self.make(), size)
        if self.key in FOR_POSITIVE_PARAMETERS:
            m.load_state_dict({name: value.abs() for name, value in m.state_dict().items()})
        return m

    def input(self, *leading: int) -> torch.Tensor:
        return torch.randn(*leading, self.insize, dtype=self.dtype)

    def is_free(self, name: str) -> bool:
        """Whether the parameter `name` can move W at this size."""
        return not WITHOUT_FREEDOM.get(self.key, lambda *_: False)(self, name)

    def reaches_everything(self) -> bool:
        """Whether every matrix of this size is a member."""
        return REACHES_EVERYTHING.get(self.key, lambda _: False)(self)

    def __str__(self) -> str:
        words = [self.key, f"{self.insize}x{self.outsize}", *(f"{k}={v}" for k, v in self.options.items())]
        return "-".join(words + ["bias"] * self.bias + ["float32"] * (self.dtype == torch.float32))


def keys() -> list[str]:
    """One key for each registered class, aliases left out."""
    seen: dict[type, str] = {}
    for key, cls in slim.maps.items():
        seen.setdefault(cls, key)
    return list(seen.values())


def legal(key: str, insize: int, outsize: int) -> bool:
    cls = slim.maps[key]
    odd = insize % 2 or outsize % 2
    refused = (
        cls in slim.square_maps and insize != outsize,
        cls in slim.tall_maps and insize > outsize,
        cls in slim.even_maps and odd,
    )
    return not any(refused)


def fitted(key: str, sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sizes at which a law tests `key`: those that are legal, each rounded up to even where the map needs that."""
    if slim.maps[key] in slim.even_maps:
        sizes = [(insize + insize % 2, outsize + outsize % 2) for insize, outsize in sizes]
    return [size for size in dict.fromkeys(sizes) if legal(key, *size)]


def cases(
    sizes: list[tuple[int, int]],
    biases: tuple[bool, ...] = (False, True),
    dtypes: tuple[torch.dtype, ...] = (torch.float64,),
    options: bool | list[tuple[int, int]] = True,
) -> pytest.MarkDecorator:
    """Parametrises a law over the registry: `case` at every legal size, with and without bias, in every dtype.

    `options`: whether the sets of `OPTIONS` are under the law too, at the same sizes or at those given here.
    """

    every = [
        Case(key, *size, bias, dtype, chosen)
        for key in keys()
        for chosen in [{}, *(OPTIONS.get(key, []) if options else [])]
        for size in fitted(key, options if chosen and isinstance(options, list) else sizes)
        for bias in ((False,) if key in WITHOUT_BIAS else biases)
        for dtype in dtypes
    ]
    return pytest.mark.parametrize("case", every, ids=str)


def close(a: torch.Tensor, b: torch.Tensor, tol: float | None = None) -> bool:
    """Whether two tensors of one shape and dtype agree, by default to some hundred roundings."""
    tol = 1000 * torch.finfo(a.dtype).eps if tol is None else tol
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=tol, atol=tol)


def perturb(module: torch.nn.Module, size: float = 0.3) -> torch.nn.Module:
    """Every parameter moved by random numbers, in place."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


@torch.no_grad()
def copy_weights(ours: Any, theirs: torch.nn.RNNBase) -> None:
    """The free maps of a recurrence into torch's own of the same layers and directions."""
    names = [f"l{i}{way}" for i in range(ours.num_layers) for way in ("", "_reverse")[: ours.directions]]
    for name, cell in zip(names, ours.cells, strict=True):
        for side, made in zip(("ih", "hh"), cell.maps(), strict=True):
            getattr(theirs, f"weight_{side}_{name}").copy_(torch.cat([m.weight for m in made]))
            if theirs.bias:
                getattr(theirs, f"bias_{side}_{name}").copy_(torch.cat([m.bias for m in made]))


def assert_forward_is_the_product(m: slim.LinearBase) -> torch.Tensor:
    """`forward` of a map with a bias is x W + bias, in value and gradients; gives the x, `(2, 5, insize)`."""
    x = torch.randn(2, 5, m.in_features, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 5, m.out_features, dtype=torch.float64)
    y, expected = m(x), x @ m.effective_W() + m.bias
    assert y.is_contiguous() and close(y, expected)
    wanted = (x, *m.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(y, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        assert close(ours, theirs)
    return x


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Inside, the system breaks off every file that grows above `size` bytes, as a full disc does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
