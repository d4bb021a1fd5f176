"""Problem: nodes, a loss and the maps' own reg_error, as one module from a batch to its losses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimgraph import wiring
from slimgraph.doors import Drawable
from slimgraph.errors import DuplicateNameError, OptionError, StrictOptions
from slimgraph.losses import PenaltyLoss
from slimgraph.node import describe, node_list
from slimgraph.node.as_graph import Held
from slimgraph.node.holder import NodeHolder
from slimgraph.node.keys import check_tensors
from slimgraph.problem import picture
from slimgraph.problem.nested import Nested, refuse_hidden_derivatives, refuse_inside
from slimgraph.problem.precision import in_single
from slimgraph.problem.toolbox import Toolbox
from slimgraph.slim import reg_error_terms
from slimgraph.symbolic.plan import require_grad
from slimgraph.system import MovingHorizon


class Problem(Nested, Toolbox, NodeHolder, Drawable, metaclass=StrictOptions):
    """`nodes` run over a batch, then `loss`; loss = objective_loss + penalty_loss + reg_loss.

    The nodes may stand in any order: each runs after the writers of what it reads. Those that touch a key which is
    overwritten keep their declared order; `check_overwrite=True` warns of that and `"error"` refuses it. reg_loss is
    `reg_weight` times the sum of `reg_error()` over the maps in the nodes, each once. `grad_inference` keeps
    gradients in evaluation; it is set where a term is derived. `normalizer`, a `slimgraph.data.Normalizer`, is kept,
    moved and saved with the problem, for `predict` alone: in training the data are normalised before.

    Calling it gives a new dict with every key, `loss`, `objective_loss`, `penalty_loss`, `reg_loss` and each term by
    its name; if the batch has a `name` entry, the keys come back as `{name}_{key}`. The batch is not written to.

    Raises CycleError, DuplicateNameError or OverwriteError when it is made; MissingKeyError at the first batch that
    lacks a key, before any node runs.

    >>> from slimgraph import Node, variable
    >>> net = Node(nn.Linear(1, 1), ["x"], ["y"], name="net")
    >>> y, t = variable("y"), variable("t")
    >>> problem = Problem([net], PenaltyLoss([((y - t) ** 2).minimize(name="fit")], [y >= 0]))
    >>> sorted(problem({"x": torch.ones(2, 1), "t": torch.ones(2, 1)}))[-6:]
    ['objective_loss', 'penalty_loss', 'reg_loss', 't', 'x', 'y']
    >>> print(problem)
    Problem
      reads   x, t
      writes  y
      net: (x) -> (y)
      PenaltyLoss()
        fit: mean((y - t)^2)
        constraint_1: y >= 0
    """

    def __init__(
        self,
        nodes: Sequence[Any],
        loss: PenaltyLoss,
        grad_inference: bool = False,
        check_overwrite: bool | Literal["error"] = False,
        *,
        reg_weight: float = 1.0,
        normalizer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        nodes = node_list(nodes, "a Problem")
        if not isinstance(loss, PenaltyLoss):
            raise OptionError(f"a Problem needs a loss such as PenaltyLoss; got {type(loss).__name__}: {loss!r}")
        self.nodes = nn.ModuleList(nodes)
        self.loss = loss
        if not (isinstance(reg_weight, int | float) and math.isfinite(reg_weight) and reg_weight >= 0):
            raise OptionError(f"reg_weight is a finite number >= 0; got {reg_weight!r}")
        self.reg_weight = reg_weight
        self.normalizer = normalizer
        self._grad_inference = grad_inference
        self._run_order = wiring.order(nodes, check_overwrite=check_overwrite)
        self._results = {*loss.output_keys}
        read = [key for part in (*nodes, *loss.terms) for key in part.input_keys]
        written = [key for node in nodes for key in node.output_keys]
        self._refuse_shadowing([*read, *written])
        if "name" in written:
            raise DuplicateNameError("the key 'name' of a batch holds the name of its data set; no node can write it")
        refuse_hidden_derivatives(self.run_order, loss.plan.derivatives)
        # Outside a System each batch stands for itself.
        self._horizons = [module for module in self.nodes.modules() if isinstance(module, MovingHorizon)]
        # Every module with a reg_error, by the name of its node and its place in it.
        self.regularised = self._reg_error_terms()
        # The batches that were checked already, by their keys.
        self._checked: set[frozenset[str]] = set()

    def _refuse_shadowing(self, keys: Iterable[str]) -> None:
        """A result must not stand where a key's tensor is."""
        for key in keys:
            if key in self._results:
                raise DuplicateNameError(f"{key!r} is a key and a result of the loss; rename one:\n{self.loss!r}")

    def _reg_error_terms(self) -> list[tuple[str, Any]]:
        """Every module with a reg_error, once, by the name of its node and its place in it."""
        found: dict[Any, str] = {}
        for name, node in zip(wiring.names(self.nodes), self.nodes, strict=True):
            for path, module in reg_error_terms(node):
                inner = [part for part in path.split(".") if part != "callable"]
                found.setdefault(module, ".".join([name, *inner]))
        return [(name, module) for module, name in found.items()]

    @property
    def run_order(self) -> list[Any]:
        """The nodes in the order in which they run."""
        declared = list(self.nodes)
        return [declared[place] for place in self._run_order]

    @property
    def labels(self) -> list[str]:
        """The names of the nodes, by their declared places, in the order in which they run."""
        names = wiring.names(self.nodes)
        return [names[place] for place in self._run_order]

    @property
    def grad_inference(self) -> bool:
        """Whether evaluation keeps gradients: as asked for, and always where a term is derived."""
        return self._grad_inference or self.loss.plan.derives

    @grad_inference.setter
    def grad_inference(self, keep: bool) -> None:
        self._grad_inference = keep

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        if not torch.is_grad_enabled() and self.grad_inference:
            with torch.inference_mode(False), torch.enable_grad():
                # An inference tensor cannot take part in a derivative; its copy can.
                copies = {key: v.clone() for key, v in batch.items() if isinstance(v, Tensor) and v.is_inference()}
                return self._forward({**batch, **copies})
        return self._forward(batch)

    def _forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        data = self.step(batch)
        data |= self.losses(data)
        name = data.pop("name", None)
        return data if name is None else {f"{name}_{key}": value for key, value in data.items()}

    def losses(self, data: dict[str, Any]) -> dict[str, Tensor]:
        """What the loss gives for data that hold the outputs of all nodes, with `reg_loss`; float32 under autocast."""
        data, single = in_single(data, self.loss.plan.derived_keys)
        with single:
            output = self.loss(data)
            if not self.regularised:
                return output | {"reg_loss": output["loss"].new_zeros(())}
            errors = [torch.as_tensor(module.reg_error()).sum() for _, module in self.regularised]
            output["reg_loss"] = self.reg_weight * sum(errors[1:], errors[0])
            output["loss"] = output["loss"] + output["reg_loss"]
            return output

    def step(
        self, batch: dict[str, Any], *, held: frozenset[str] = frozenset(), only_nodes: bool = False
    ) -> dict[str, Any]:
        """The batch with the outputs of all nodes, without the loss; keys in `held` keep what the batch has.

        With `only_nodes` the batch need not hold what the terms read.
        """
        if not isinstance(batch, dict):
            raise OptionError(f"a Problem takes a dict of tensors; got {describe(batch)}")
        if only_nodes:
            wiring.check_keys(self.run_order, batch, (), self.labels)
        else:
            self._check_batch(batch)
        data = dict(batch)
        if derived := self.loss.plan.derived_keys:
            self._refuse_compiled_nodes()
            data = require_grad(data, derived)
        for horizon in self._horizons:
            horizon.reset()
        if not derived and not held:
            return self._run_nodes(data)
        kept = {key: batch[key] for key in held}
        running = [node for node in self.run_order if not kept.keys() >= {*node.output_keys}]
        refuse_inside(running, held, "a step cannot hold")
        for node in running:
            data |= require_grad(node.run(data), derived)
            data |= kept
        return data

    def _check_batch(self, batch: dict[str, Any]) -> None:
        """Raises for a batch that cannot be run; each set of keys is looked at once."""
        keys = frozenset(batch)
        # A compiler runs this while it traces, and would trace again for a set that grew.
        compiling = torch.compiler.is_compiling()
        if keys in self._checked and not compiling:
            return
        self._refuse_shadowing(keys)
        wiring.check_keys(self.run_order, batch, self.loss.terms, self.labels)
        for node in self.nodes:
            check_tensors(node, batch)
        if not compiling:
            self._checked.add(keys)

    def _refuse_compiled_nodes(self) -> None:
        """torch.compile can follow a derivative through an expression, not back through a node."""
        if not torch.compiler.is_compiling():
            return
        for key in self.loss.plan.keys_read_by_derivatives:
            for name, node in zip(wiring.names(self.nodes), self.nodes, strict=True):
                if key in node.output_keys:
                    raise OptionError(
                        f"torch.compile cannot derive by way of node {name!r}, which writes {key!r}; write "
                        f"variable([inputs], function) instead of variable({key!r}), or do not compile"
                    )

    def reg_errors(self) -> dict[str, Tensor]:
        """What each map's own reg_error adds to reg_loss, before `reg_weight`, by the name of its node."""
        with torch.no_grad():
            return {name: torch.as_tensor(module.reg_error()).sum() for name, module in self.regularised}

    @property
    def terms(self) -> list[str]:
        """The names of the 0-dim outputs: the loss, its parts and every term."""
        return ["loss", "objective_loss", "penalty_loss", "reg_loss", *self.loss.names()]

    # ---- the nodes --------------------------------------------------------------------------------------------------

    @property
    def input_keys(self) -> list[str]:
        """What a batch must hold: the keys that nodes or terms read before any node writes them."""
        reads = wiring.read_first(self.run_order)
        written = set(wiring.writers(self.run_order))
        terms = [key for term in self.loss.terms for key in term.keys if key not in written]
        return list(dict.fromkeys([*reads, *terms]))

    def __repr__(self) -> str:
        nodes = [line for node in self.run_order for line in repr(node).splitlines()]
        written = ", ".join(dict.fromkeys(key for node in self.run_order for key in node.output_keys))
        lines = [f"reads   {', '.join(self.input_keys)}", f"writes  {written}", *nodes, *repr(self.loss).splitlines()]
        return "\n".join(["Problem", *(f"  {line}" for line in lines)])

    def held(self) -> Held:
        """Its nodes, wired by their keys, for the component graph."""
        return Held(self.run_order, self.labels, self.output_keys, "Problem")

    def as_graph(self) -> Any:
        """The component graph of its nodes, down to the weights, in one `GraphHolder`; the loss is no part of it."""
        return self.held().keyed({}).graph

    def to_networkx(self) -> Any:
        """Data, nodes, terms, loss and the flow of reg_error, as a networkx MultiDiGraph."""
        return picture.to_networkx(self)
