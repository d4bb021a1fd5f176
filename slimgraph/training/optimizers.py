"""Recipe: the optimiser and the scheduler of a fit, as they were asked for, and made when the fit begins."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from slimgraph.errors import OptionError, UnknownOptionError, did_you_mean
from slimgraph.problem.groups import parameter_groups
from slimgraph.training.named import AN_OBJECT, class_named

DEFAULT_LR = 1e-3


@dataclass
class Recipe:
    """An optimiser and a scheduler, each as a name, a class, a factory or an instance, with their options.

    Raises OptionError for options that would have no effect, and what `LitProblem` raises for mistyped ones.
    """

    optimizer: Any
    scheduler: Any
    optimizer_args: dict[str, Any]
    scheduler_args: dict[str, Any]
    rates: dict[str, float | None]
    interval: str
    monitor: str

    def __post_init__(self) -> None:
        # A mistyped name or option is told when LitProblem is made, not after the data were loaded.
        if self.interval not in ("epoch", "step"):
            raise OptionError(f"LitProblem needs scheduler_interval 'epoch' or 'step', got {self.interval!r}")
        if self.optimizer is None:
            raise OptionError("LitProblem needs an optimizer: a name in torch.optim, a class, a factory or an instance")
        if self.optimizer != AN_OBJECT and not isinstance(self.optimizer, Optimizer):
            factory(self.optimizer, torch.optim, Optimizer, self.optimizer_args)
        if self.scheduler is None:
            self._refuse({"scheduler_args": self.scheduler_args}, "no scheduler")
        elif isinstance(self.scheduler, LRScheduler):
            given = f"the {type(self.scheduler).__name__} is an instance, which carries its own options"
            self._refuse({"scheduler_args": self.scheduler_args}, given)
        elif self.scheduler != AN_OBJECT:
            factory(self.scheduler, lr_scheduler, LRScheduler, self.scheduler_args)

    def refuse_idle(self, lr: float | None) -> None:
        """Raises OptionError for what the optimiser would not heed."""
        if lr is not None and "lr" in self.optimizer_args:
            self._refuse({"lr": lr}, "optimizer_args has another")
        if isinstance(self.optimizer, Optimizer):
            given = f"the {type(self.optimizer).__name__} is an instance, which carries its own options"
            self._refuse({"lr": lr, "optimizer_args": self.optimizer_args, **self.rates}, given)

    @staticmethod
    def _refuse(options: Mapping[str, Any], given: str) -> None:
        for name, value in options.items():
            if value not in (None, {}):
                raise OptionError(f"LitProblem: {name}={value!r} would have no effect: {given}; leave it out")

    def group_sizes(self, problem: nn.Module, lr: float | None) -> list[int]:
        """How many parameters each group of the optimiser holds."""
        self._refuse_objects()
        return [len(group["params"]) for group in self._optimizer(problem, lr).param_groups]

    def _refuse_objects(self) -> None:
        for what, option in (("optimiser", "optimizer"), ("scheduler", "scheduler")):
            if getattr(self, option) == AN_OBJECT:
                raise OptionError(f"this checkpoint's {what} was an object, which it cannot hold; pass {option}=...")

    def made(self, problem: nn.Module, lr: float | None) -> Any:
        """What Lightning asks `configure_optimizers` for."""
        self._refuse_objects()
        optimizer = self._optimizer(problem, lr)
        if self.scheduler is None:
            return optimizer
        scheduler = self._scheduler(optimizer)
        config = {"scheduler": scheduler, "interval": self.interval, "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _optimizer(self, problem: nn.Module, lr: float | None) -> Optimizer:
        trained = {p for p in problem.parameters() if p.requires_grad}
        if not trained:
            raise OptionError(
                "LitProblem: the problem has no trainable parameter; unfreeze a node, or give it a module instead of a"
                " function around one"
            )
        if isinstance(self.optimizer, Optimizer):
            return self._instance(self.optimizer, trained, lr)
        make = factory(self.optimizer, torch.optim, Optimizer, self.optimizer_args)
        options = self.optimizer_args
        takes_lr = "lr" in inspect.signature(make).parameters
        # functools.partial(SGD, lr=0.1) has said what it wants; only an explicit lr overrides it.
        if takes_lr and (lr is not None or "lr" not in getattr(make, "keywords", {})):
            options = {"lr": DEFAULT_LR if lr is None else lr, **options}
        if all(rate is None for rate in self.rates.values()):
            return make([p for p in problem.parameters() if p.requires_grad], **options)
        if make is torch.optim.LBFGS:
            raise OptionError("LBFGS has one learning rate for all parameters; leave out maps_lr and variables_lr")
        return make(parameter_groups(problem, **self.rates), **options)

    @staticmethod
    def _instance(optimizer: Optimizer, trained: set[nn.Parameter], lr: float | None) -> Optimizer:
        if trained.isdisjoint(p for group in optimizer.param_groups for p in group["params"]):
            raise OptionError(
                f"the {type(optimizer).__name__} moves no parameter of the problem; it was made for another one, or"
                " before this one was copied. Make it from problem.parameters()"
            )
        if lr is not None:
            # No one but the learning-rate finder gives one beside an instance.
            for group in optimizer.param_groups:
                group["lr"] = lr
        return optimizer

    def _scheduler(self, optimizer: Optimizer) -> Any:
        if not isinstance(self.scheduler, LRScheduler):
            make = factory(self.scheduler, lr_scheduler, LRScheduler, self.scheduler_args)
            try:
                inspect.signature(make).bind(optimizer, **self.scheduler_args)
            except TypeError as error:
                name = getattr(make, "__name__", make)
                raise OptionError(f"LitProblem: scheduler {name}: {error}; give it in scheduler_args") from error
            return make(optimizer, **self.scheduler_args)
        if self.scheduler.optimizer is not optimizer:
            raise OptionError(
                f"the {type(self.scheduler).__name__} belongs to another optimiser; give LitProblem its optimiser too,"
                " as an instance, or the scheduler as a name or a factory"
            )
        return self.scheduler


def factory(thing: Any, home: ModuleType, base: type, options: Mapping[str, Any]) -> Callable[..., Any]:
    """The factory that `thing` names or is, having checked that it takes `options`.

    >>> factory("SGD", torch.optim, Optimizer, {"momentum": 0.9}).__name__
    'SGD'
    """
    found = class_named(thing, home, base) if isinstance(thing, str) else thing
    if not callable(found):
        raise OptionError(f"{found!r} is no {base.__name__}: give a name, a class, a factory or an instance")
    known = inspect.signature(found).parameters
    for option in options:
        if option not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise UnknownOptionError(
                f"{getattr(found, '__name__', found)} has no option {option!r}.{did_you_mean(option, known)}"
                f" It takes {', '.join(known)}."
            )
    return found


def same_on_all_ranks(loss: Tensor, trainer: Any) -> Tensor:
    """`loss` with the mean of all ranks for its value, and its own gradient, where the optimiser looks at the value.

    LBFGS does: ranks that saw values of their own would step differently, and wait for each other for ever. For any
    other optimiser it is `loss` itself, and nothing is sent.
    """
    if not any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
        return loss
    own = loss.detach()
    return loss + (trainer.strategy.reduce(own.clone(), reduce_op="mean") - own)
