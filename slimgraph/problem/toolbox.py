"""What one does with a problem besides running it: take a part, compile, report, check, predict, save, load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from slimgraph.problem.check import check
from slimgraph.problem.dry_run import DryRun
from slimgraph.problem.groups import parameter_groups
from slimgraph.problem.predict import evaluation, predict
from slimgraph.problem.saved import load, save
from slimgraph.problem.subgraph import Subgraph
from slimgraph.report import TOLERANCE, Report, Tally


class Toolbox(nn.Module):
    """The tools of a `Problem`, each in a file of its own."""

    run_order: Any
    input_keys: Any
    loss: Any

    def reg_errors(self) -> dict[str, Tensor]:
        """What each map's own reg_error adds to reg_loss, before `reg_weight`, by the name of its node."""
        raise NotImplementedError

    def subgraph(self, outputs: Sequence[str | Any]) -> Subgraph:
        """The nodes that the keys `outputs` need, without the loss, as a module with the same parameters.

        Raises MissingKeyError for a key that no node gives.

        >>> from slimgraph import Node, PenaltyLoss, Problem, variable
        >>> nodes = [Node(nn.Linear(2, 1), ["p"], ["u"], name="policy"), Node(torch.abs, ["u"], ["cost"], name="cost")]
        >>> Problem(nodes, PenaltyLoss([variable("cost").minimize()])).subgraph(outputs=["u"])
        Subgraph: (p) -> (u)
          policy: (p) -> (u)
        """
        return Subgraph(self.run_order, outputs)

    def compile(self, *, fullgraph: bool = True, **options: Any) -> None:
        """Calls go through `torch.compile` from now on: nodes, constraints and loss as one graph, or an error.

        In place, as `torch.nn.Module.compile`: the names of the parameters stay, copies and pickles are not compiled.
        `options` are those of `torch.compile`, such as `backend`, `mode` and `dynamic`.
        """
        super().compile(fullgraph=fullgraph, **options)

    def report(self, data: dict[str, Tensor], tolerance: float = TOLERANCE) -> Report:
        """How well each constraint is kept over `data`, with the objectives and each map's reg_error.

        A constraint counts as satisfied where its violation is at most `tolerance`, in the units of its two sides. The
        problem is run as in evaluation, without dropout.
        """
        data = {key: value for key, value in data.items() if key != "name"}
        with evaluation(self), torch.no_grad():
            output = self(data)
        tally = Tally(self.loss)
        tally.add(output, {key: data[key] for key in self.input_keys if key in data})
        return tally.report(self.reg_errors(), tolerance)

    def check(self, data: Any, *, allow_unused: bool = False) -> DryRun:
        """A dry run before training: every key with its giver, shape and dtype, or an error that says what is wrong.

        `data` is a batch, a DictDataset, another data set, a list of dicts, a DataLoader, or a LitDataModule; all
        samples are looked at for NaN and infinities, the first batch is run. It is run in training mode on a copy with
        fake tensors, which have shapes but no numbers, or on a few real samples where a node needs numbers; nothing is
        changed.

        Raises, with the names and what both sides are: MissingKeyError; OverwriteError for a value that is lost unread;
        DataError for NaN, unequal or empty batches, mixed devices; DtypeError for mixed precision and for what is no
        tensor; ShapeError for `(B,)` against `(B, 1)`; WiringError for a loss or a term that nothing trainable moves,
        and for parameters that no term reaches, unless `allow_unused`; and whatever a node or a term raises.

        >>> from slimgraph import Node, PenaltyLoss, Problem, variable
        >>> problem = Problem([Node(nn.Linear(3, 1), ["x"], ["y"])], PenaltyLoss([variable("y").minimize()]))
        >>> problem.check({"x": torch.zeros(8, 3)}).notes
        ['4 parameters, all reached by the loss.']
        >>> problem.check({"level": torch.zeros(8, 3)})
        Traceback (most recent call last):
        slimgraph.errors.MissingKeyError: node 'node_1' reads 'x', the data holds ['level'] and the nodes give ['y'].
        """
        return check(self, data, allow_unused=allow_unused)

    def parameter_groups(
        self, *, maps_lr: float | None = None, variables_lr: float | None = None
    ) -> list[dict[str, Any]]:
        """The trainable parameters in groups for an optimiser of torch: each once, frozen ones left out.

        `maps_lr` is the learning rate of structured maps, their biases included, wherever they stand; of the free
        `slim.Linear` it is that of the rest, the optimiser's own. `variables_lr` is that of the trainable variables
        in the loss. Raises OptionError for a rate that nothing would have.

        >>> from slimgraph import Node, PenaltyLoss, Problem, slim, variable
        >>> net = nn.Sequential(slim.OrthogonalLinear(2, 2), slim.Linear(2, 1))
        >>> problem = Problem([Node(net, ["x"], ["y"])], PenaltyLoss([variable("y").minimize()]))
        >>> optimizer = torch.optim.Adam(problem.parameter_groups(maps_lr=1e-2), lr=1e-3)
        >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
        [('rest', 0.001), ('maps', 0.01)]
        """
        return parameter_groups(self, maps_lr=maps_lr, variables_lr=variables_lr)

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        """`data` with the outputs of all nodes, in physical units, without gradients and as in evaluation.

        Where the problem has a `normalizer`, the nodes read normalised data and what they write is put back; give a key
        that the data do not hold the statistics of another by `shared={"prediction": "measured"}`. What only terms
        read may be missing.

        >>> from slimgraph import Node, PenaltyLoss, Problem, variable
        >>> from slimgraph.data import Normalizer
        >>> nodes = [Node(lambda x: x + 1, ["x"], ["y"])]
        >>> scale = Normalizer.fit({"x": torch.tensor([[0.0], [20.0]])}, shared={"y": "x"})
        >>> problem = Problem(nodes, PenaltyLoss([variable("y").minimize()]), normalizer=scale)
        >>> problem.predict({"x": torch.tensor([[5.0]])})
        {'x': tensor([[5.]]), 'y': tensor([[15.]])}
        """
        return predict(self, data)

    def save(self, path: str | Path) -> None:
        """Every parameter and buffer, multipliers and the normalizer's statistics among them, in one file.

        The file loads under `weights_only=True`, and is whole or as it was before. Raises DataError without a folder.

        >>> import tempfile
        >>> from slimgraph import Node, PenaltyLoss, Problem, variable
        >>> def make():
        ...     return Problem([Node(nn.Linear(3, 1), ["x"], ["y"])], PenaltyLoss([variable("y").minimize()]))
        >>> problem, path = make(), Path(tempfile.mkdtemp(), "model.pt")
        >>> problem.save(path)
        >>> x = {"x": torch.ones(2, 3)}
        >>> bool((make().load(path)(x)["loss"] == problem(x)["loss"]).all())
        True
        """
        save(self, path)

    def load(self, path: str | Path) -> Self:
        """The numbers that `save` wrote, into a problem built by the same code, on its own device; gives the problem.

        Raises MissingFileError, or DataError for a file that is cut short and for another structure, with the first
        node, term or number that differs; then the problem stays as it was.
        """
        load(self, path)
        return self
