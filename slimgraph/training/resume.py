"""Resumable: the checkpoint hooks of LitProblem. A fit goes on exactly, and a load that fails changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.precision import DoublePrecision
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor

from slimgraph.errors import CheckpointError, DataError, OptionError
from slimgraph.problem import Problem
from slimgraph.problem.saved import refuse_other_dtypes, refuse_other_shapes, refuse_other_structure, structure
from slimgraph.training.checkpoint import (
    CheckpointFiles,
    add_section,
    group_sizes,
    refuse_other_groups,
    refuse_to_resume,
    refuse_unwritable,
    reopen_epoch,
    section_of,
)
from slimgraph.training.epoch_rows import EpochRows
from slimgraph.training.state import Means, random_state


class Resumable(lightning.LightningModule):
    """What LitProblem writes into a checkpoint, and how it goes on from one."""

    problem: Any
    _means: dict[str, Means]
    _epoch_rows: EpochRows
    _resume: dict[str, Any] | None
    # What the nodes and terms of a checkpoint are, between Lightning's two steps of loading it.
    _stored: Mapping[str, Any] | None = None
    # How many parameters each group of its optimiser holds.
    _stored_groups: list[int] | None = None

    def setup(self, stage: str) -> None:
        strategy = self.trainer.strategy
        # Lightning's own files alone: a plugin is the user's.
        if type(strategy.checkpoint_io) is TorchCheckpointIO:
            strategy.checkpoint_io = CheckpointFiles()
        if stage == "fit":
            # What an earlier fit, the learning-rate finder or a load that failed has left is no part of this one.
            self._resume, self._means["train"], self._epoch_rows = None, Means(), EpochRows()
        for callback in self.trainer.checkpoint_callbacks if stage == "fit" and self.trainer.is_global_zero else ():
            # The first checkpoint may be hours away.
            if folder := getattr(callback, "dirpath", None):
                refuse_unwritable(folder)

    # ------------------------------------------------------------------ writing

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        mine = {
            "random": random_state(),
            "means": self._means["train"].state(),
            "outer": self._epoch_rows.state(),
        }
        ranks: list[Any] = [mine]
        if self.trainer.world_size > 1:
            # Lightning calls this hook on every rank and writes what rank 0 holds.
            ranks = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        add_section(checkpoint, self.problem, ranks)
        reopen_epoch(checkpoint, self.trainer.num_training_batches)

    # ------------------------------------------------------------------ reading

    def step_plateaus(self) -> None:
        """Steps ReduceLROnPlateau in the epoch that a resumed fit goes on in, where Lightning leaves it out."""
        loop = self.trainer.fit_loop
        if loop.restarting and loop.epoch_loop._num_ready_batches_reached():
            loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)

    def group_sizes(self) -> list[int] | None:
        """How many parameters each group of the fit's optimiser will hold; None where that is not known before."""
        return None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        section = section_of(checkpoint)
        fitting = self._trainer is not None and self.trainer.state.fn == "fit"
        if fitting:
            refuse_to_resume(checkpoint, self.hparams)
        self._take_precision(checkpoint["state_dict"])
        if section is None:
            return
        self._stored = section["structure"]
        if fitting:
            self._stored_groups = group_sizes(checkpoint["optimizer_states"])
            self._go_on(section["ranks"])

    def _go_on(self, ranks: list[Any]) -> None:
        rank, world = self.global_rank, self.trainer.world_size
        # With another number of ranks the randomness goes on elsewhere; the epoch's samples are all still there.
        self._resume = ranks[rank % len(ranks)]
        self._means["train"] = Means.from_ranks([each["means"] for each in ranks], rank, world)
        self._epoch_rows = EpochRows.from_ranks([each["outer"] for each in ranks], rank, world)

    def _take_precision(self, saved: Mapping[str, Tensor]) -> None:
        """Lightning makes a module double, as precision="64-true" asks, only after it has loaded the numbers."""
        if self._trainer is not None:
            if isinstance(self.trainer.precision_plugin, DoublePrecision):
                self.double()
            return
        # A checkpoint that is loaded alone comes in the precision that it was trained in.
        there, here = _float_dtypes(saved), _float_dtypes(self.state_dict())
        if len(there) == len(here) == 1:
            self.to(*there)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """torch's own, but whole or not at all: on an error the numbers are as they were, and it says what differs."""
        stored, self._stored = self._stored, None
        theirs, self._stored_groups = self._stored_groups, None
        before = copy.deepcopy(dict(self.state_dict()))
        try:
            if strict:
                self._refuse_other_structure(stored)
            refuse_other_dtypes("the checkpoint", state_dict, before, widened=True)
            ours = None if theirs is None else self.group_sizes()
            loaded = self._load_whole(state_dict, before, strict, assign)
            if ours not in (None, theirs):
                # Only now, since of another problem load_state_dict says more; Lightning would see it too late.
                super().load_state_dict(before)
                refuse_other_groups(theirs, ours)
            return loaded
        except DataError as error:
            # What on_load_checkpoint took for going on is no part of another fit.
            self._resume, self._means["train"], self._epoch_rows = None, Means(), EpochRows()
            raise CheckpointError(str(error)) from None

    def _load_whole(self, state: Mapping[str, Any], before: Mapping[str, Any], strict: bool, assign: bool) -> Any:
        try:
            return super().load_state_dict(state, strict, assign)
        except (RuntimeError, ValueError) as error:
            super().load_state_dict(before)
            refuse_other_shapes("the checkpoint", state, before, str(error))

    def _refuse_other_structure(self, stored: Mapping[str, Any] | None) -> None:
        if stored is None or not isinstance(self.problem, Problem):
            return
        ours = structure(self.problem)
        for kind in ("node", "term"):
            refuse_other_structure("the checkpoint", kind, stored[f"{kind}s"], ours[f"{kind}s"])

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The LitProblem of a checkpoint; options given here take the place of the stored ones.

        A problem that was given as "package.module:function" is made again by that function; one that was given as
        an object is passed here, `problem=problem`, built by the same code. Raises MissingFileError, CheckpointError
        for a file that cannot be read or whose numbers do not fit, OptionError where the problem is missing.
        """
        if isinstance(checkpoint_path, (str, Path)):
            content = CheckpointFiles().load_checkpoint(checkpoint_path, weights_only=weights_only)
            if section_of(content) is None and "problem" not in kwargs:
                raise OptionError(
                    f"no LitProblem wrote {checkpoint_path}, so that it does not say which problem its numbers belong"
                    " to; pass problem=..."
                )
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only=weights_only, **kwargs
        )


def _float_dtypes(state: Mapping[str, Any]) -> set[torch.dtype]:
    return {value.dtype for value in state.values() if isinstance(value, Tensor) and value.is_floating_point()}
