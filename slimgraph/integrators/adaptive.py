"""`DiffEqIntegrator`: the solvers of torchdiffeq, with steps as small as the tolerance needs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from slimgraph.errors import OptionError, SlimgraphError
from slimgraph.integrators.base import Integrator, Interpolation, RightSide
from slimgraph.slim.linear.functions import check_number


class DiffEqIntegrator(Integrator):
    """The state a time `h` later by a solver of torchdiffeq; x: `(..., features)`, other options as in `Integrator`.

    `method` is one of torchdiffeq's: dopri5, dopri8, bosh3, fehlberg2, adaptive_heun choose their steps so that the
    error of each is below `rtol` times the state plus `atol` (dopri8 then interpolates the end more coarsely);
    euler, midpoint, rk4 and others take steps of `h`, or of `options={"step_size": ...}`. `options` go to the solver.

    With `adjoint=True` the gradient comes from an equation that is solved backwards in time, and memory does not grow
    with the number of steps; it is exact up to the tolerance, while `False` differentiates the steps that were taken.

    Raises `SlimgraphError` where torchdiffeq is not installed or its solver gives up, `OptionError` for a method or an
    option that it does not have, and for `adjoint=True` where the right side reads a tensor to be trained that is
    neither input nor parameter.

    >>> step = DiffEqIntegrator(lambda x: -x, h=1.0)
    >>> step(torch.tensor([[1.0]]))
    tensor([[0.3679]])

    Source: Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018.
    """

    def __init__(
        self,
        block: RightSide,
        interp_u: Interpolation | None = None,
        h: float = 0.001,
        method: str = "dopri5",
        *,
        rtol: float = 1e-6,
        atol: float = 1e-8,
        adjoint: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        super().__init__(block, interp_u, h)
        self.method = method
        self.rtol, self.atol = check_number(self, "rtol", rtol, 0.0), check_number(self, "atol", atol, 0.0)
        self.adjoint, self.options = adjoint, dict(options or {})
        solver = _torchdiffeq()
        try:
            # A wrong method fails here, where it was written, and not in the first batch.
            with warnings.catch_warnings():
                warnings.filterwarnings("error", ".*Unexpected arguments")
                solver.odeint(torch.mul, torch.zeros(1), torch.tensor([0.0, 1.0]), method=method, options=self.options)
        except (ValueError, UserWarning) as error:
            what = f"method={method!r}, options={options}" if options else f"method={method!r}"
            raise OptionError(f"DiffEqIntegrator cannot use {what}: {error}") from error

    def integrate(self, x: Tensor, *args: Any) -> Tensor:
        def slope(time: Tensor, state: Tensor) -> Tensor:
            return self.slope(time, state, args)

        # The solvers count time in real numbers, for complex states too.
        times = torch.tensor([0.0, self.h], dtype=x.real.dtype, device=x.device)
        settings = {"rtol": self.rtol, "atol": self.atol, "method": self.method, "options": self.options}
        if not self.adjoint:
            return self._solved(_torchdiffeq().odeint, slope, x, times, settings)
        # The adjoint differentiates what it is told of; anything else would silently be without a gradient.
        known = (*self.parameters(), *(arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad))
        if torch.is_grad_enabled():
            self._refuse_hidden(times[0], x, args)
        return self._solved(_torchdiffeq().odeint_adjoint, slope, x, times, {**settings, "adjoint_params": known})

    def _solved(self, solve: Callable[..., Tensor], slope: Any, x: Tensor, times: Tensor, settings: Any) -> Tensor:
        try:
            return solve(slope, x, times, **settings)[-1]
        except AssertionError as error:
            # So the solvers say that they give up; another assertion is the right side's own.
            if not any(words in str(error) for words in ("underflow in dt", "max_num_steps", "non-finite values")):
                raise
            raise SlimgraphError(
                f"DiffEqIntegrator gives up on {self._title} within h={self.h:g} at rtol={self.rtol:g} and "
                f"atol={self.atol:g}: {error}. Its slope is not finite there, or too steep: look at the states, or "
                "take a smaller h or larger tolerances"
            ) from error

    def _refuse_hidden(self, start: Tensor, x: Tensor, args: Sequence[Any]) -> None:
        """Raises OptionError where the right side reads a tensor to be trained that is no parameter of ours."""
        cut = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
        known = set(self.parameters())
        found, seen = [self.slope(start, x.detach(), cut).grad_fn], set()
        while found:
            step: Any = found.pop()
            if step is None or step in seen:
                continue
            seen.add(step)
            leaf = getattr(step, "variable", None)
            if leaf is not None and leaf not in known:
                raise OptionError(
                    f"DiffEqIntegrator with adjoint=True finds no gradient for a tensor of shape {tuple(leaf.shape)} "
                    f"that {self._title} reads from elsewhere; make it a parameter of an nn.Module that is the block, "
                    "give it as an input, or take adjoint=False"
                )
            found += [before for before, _ in step.next_functions]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method}" + ", adjoint=True" * self.adjoint


def _torchdiffeq() -> Any:
    try:
        return import_module("torchdiffeq")
    except ModuleNotFoundError as error:
        raise SlimgraphError(
            'DiffEqIntegrator needs the package torchdiffeq, which is not installed; pip install "slimgraph[ode]"'
        ) from error
