"""LitDataModule and its loader: the same samples in the same order on one device, on many, and after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slimgraph.data import DictDataset
from slimgraph.errors import DataError, OptionError, StrictOptions
from slimgraph.training.named import resolve

STAGES = ("train", "val", "test", "predict")


class ShardedBatches:
    """The batches of one rank: a permutation of all samples by `(seed, epoch)` alone, cut into global batches.

    A global batch holds `batch_size * world` samples, rank r takes every world-th of them from the r-th on. Nothing
    is padded: the ranks' shares of the last one differ by at most one sample, and each rank knows them all. A
    rank that would be left with none repeats one sample, which `share` counts as 0.

    >>> [ShardedBatches(7, 2, shuffle=False, rank=r, world=2).share(1) for r in (0, 1)]
    [(2, 3), (1, 3)]
    """

    def __init__(
        self, samples: int, batch_size: int | None, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ):
        self.samples, self.shuffle, self.seed, self.rank, self.world = samples, shuffle, seed, rank, world
        self.global_batch = samples if batch_size is None else batch_size * world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return -(-self.samples // self.global_batch)

    def share(self, batch_idx: int) -> tuple[int, int]:
        """How many samples of batch `batch_idx` this rank counts, and how many all ranks count together."""
        total = min(self.global_batch, self.samples - batch_idx % len(self) * self.global_batch)
        return (total - self.rank + self.world - 1) // self.world, total

    def __iter__(self) -> Iterator[Tensor]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.samples, generator=generator)
        else:
            order = torch.arange(self.samples)
        for whole in order.split(self.global_batch)[self.start :]:
            own = whole[self.rank :: self.world]
            yield own if len(own) else whole[:1]


class ShardedLoader:
    """Batches of a data set, shared out by `ShardedBatches`, that can be left and taken up again in mid-epoch.

    It is no DataLoader, but holds one: so Lightning leaves its order alone (its own sampler would pad and shuffle) and
    keeps its `state_dict` in checkpoints.
    """

    def __init__(self, dataset: Dataset, batches: ShardedBatches, epoch: Callable[[], int] = lambda: 0, **options: Any):
        self.dataset, self.batches, self.epoch = dataset, batches, epoch
        # The generator is the loader's own: a worker's seed drawn from torch's global one would change what follows.
        order: Any = batches
        self.loader = DataLoader(
            dataset, batch_sampler=order, generator=torch.Generator().manual_seed(batches.seed), **options
        )
        self._given = 0
        self._resume: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def share(self, batch_idx: int) -> tuple[int, int]:
        return self.batches.share(batch_idx)

    def __iter__(self) -> Iterator[Any]:
        # A generator starts at its first next(), and only then does the trainer know its epoch; what Lightning would
        # tell to set_epoch() is one too many after a resume at the end of an epoch with max_steps.
        self.batches.epoch = self.epoch()
        resume, self._resume = self._resume, None
        self._given = resume["batch"] if resume is not None and resume["epoch"] == self.batches.epoch else 0
        self.batches.start = self._given
        for batch in self.loader:
            self._given += 1
            yield batch

    # At the end of a run Lightning stops the workers of a loader's `_iterator`; left to the garbage collector, each
    # of them is waited for five seconds.
    @property
    def _iterator(self) -> Any:
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self.loader._iterator = iterator

    def _identity(self) -> dict[str, int]:
        return {key: int(getattr(self.batches, key)) for key in ("samples", "global_batch", "seed", "shuffle")}

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.batches.epoch, "batch": self._given, **self._identity()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        mine = self._identity()
        changed = [f"{key} was {state[key]} and is {mine[key]}" for key in mine if state[key] != mine[key]]
        if changed and state["batch"] < -(-state["samples"] // state["global_batch"]):
            raise DataError(
                f"the checkpoint was written in the middle of an epoch, after batch {state['batch']}, and the data have"
                f" changed: {', '.join(changed)}; resume with the same data, seed and batch size times devices"
            )
        self._resume = dict(state)


def share(
    loaders: Any, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0, world: int = 1
) -> tuple[int, int]:
    """How many samples of this batch this rank counts, and all `world` ranks together.

    `loaders` is what the Trainer holds: a loader, or a list or dict of several. Of any but a ShardedLoader the other
    ranks are taken to have as many samples as this one.

    >>> share(None, {"x": torch.zeros(3, 2)}, 0, world=2)
    (3, 6)
    """
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    loader = loaders[dataloader_idx] if isinstance(loaders, (list, tuple)) else loaders
    if isinstance(loader, ShardedLoader):
        return loader.share(batch_idx)
    values = batch.values() if isinstance(batch, Mapping) else ()
    counted = next((len(v) for v in values if isinstance(v, Tensor) and v.ndim), 1)
    return counted, counted * world


class LitDataModule(lightning.LightningDataModule, metaclass=StrictOptions):
    """The data of a fit, for a stock `lightning.Trainer`: each of train, val, test, predict a dict or a DictDataset.

    `batch_size` is per device, as everywhere in Lightning, None for all samples at once: one device with 64 takes the
    same steps as two with 32. Training samples are shuffled by `seed` and the epoch alone. Nothing has to be set on
    the Trainer (`use_distributed_sampler` has no effect here), and nothing is padded.

    `setup_function`, a function or "package.module:function", called with `setup_args` on each rank, returns a dict
    with these names or the tuple (train, val, test, batch_size) that neuromancer users write; what cannot be pickled
    or should not be sent to the ranks comes this way. `num_workers` and `pin_memory` go to torch's DataLoader.

    Raises DataError for a stage without data and for an empty set.

    >>> data = LitDataModule(train={"x": torch.rand(100, 2)}, val={"x": torch.rand(20, 2)}, batch_size=50)
    >>> len(data.loader("train")), len(data.loader("val"))
    (2, 1)
    """

    def __init__(
        self,
        train: Mapping | Dataset | None = None,
        val: Mapping | Dataset | None = None,
        test: Mapping | Dataset | None = None,
        predict: Mapping | Dataset | None = None,
        *,
        batch_size: int | None = 32,
        shuffle: bool = True,
        seed: int = 0,
        setup_function: Callable[..., Any] | str | None = None,
        setup_args: Mapping[str, Any] | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        super().__init__()
        if batch_size is not None and batch_size < 1:
            raise OptionError(f"LitDataModule needs batch_size >= 1, or None for all samples, got {batch_size}")
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.setup_function, self.setup_args = setup_function, dict(setup_args or {})
        self.loader_options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        self.loader_options["persistent_workers"] = num_workers > 0
        self.sets: dict[str, Dataset] = {}
        self._take(dict(zip(STAGES, (train, val, test, predict), strict=True)))

    def _take(self, sets: Mapping[str, Any]) -> None:
        for stage, data in sets.items():
            if stage not in STAGES:
                raise OptionError(f"the setup function gave {stage!r}; the names are {', '.join(STAGES)}")
            if data is None:
                continue
            self.sets[stage] = DictDataset(data, name=stage) if isinstance(data, Mapping) else data
            if not len(self.sets[stage]):  # pyright: ignore[reportArgumentType]
                raise DataError(f"LitDataModule: the {stage} set holds no sample")

    def setup(self, stage: str | None = None) -> None:
        """Calls the setup function, once per process."""
        if self.setup_function is not None:
            function = resolve(self.setup_function) if isinstance(self.setup_function, str) else self.setup_function
            made = function(**self.setup_args)
            self.setup_function = None
            if not isinstance(made, Mapping):
                train, val, test, self.batch_size = made
                made = {"train": train, "val": val, "test": test}
            self._take(made)
        # A fit without validation data is one without validation: Lightning finds its own method, which says so, where
        # an empty loader would make it warn. validate() without them is a mistake.
        vars(self).pop("val_dataloader", None)
        if stage == "fit" and "val" not in self.sets:
            self.val_dataloader = super().val_dataloader

    def loader(self, stage: str) -> ShardedLoader:
        """The batches of one stage, for this rank."""
        if stage not in self.sets:
            raise DataError(f"LitDataModule holds no {stage} data, only {list(self.sets)}; give {stage}=...")
        trainer: Any = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        # overfit_batches means the same few batches in every epoch.
        shuffle = stage == "train" and self.shuffle and not (trainer is not None and trainer.overfit_batches)
        data = self.sets[stage]
        samples = len(data)  # pyright: ignore[reportArgumentType]
        batches = ShardedBatches(samples, self.batch_size, shuffle=shuffle, seed=self.seed, rank=rank, world=world)
        epoch = (lambda: trainer.current_epoch) if trainer is not None else (lambda: 0)
        return ShardedLoader(data, batches, epoch, **self.loader_options)

    def train_dataloader(self) -> ShardedLoader:
        return self.loader("train")

    def val_dataloader(self) -> ShardedLoader:
        return self.loader("val")

    def test_dataloader(self) -> ShardedLoader:
        return self.loader("test")

    def predict_dataloader(self) -> ShardedLoader:
        return self.loader("predict")

    def __repr__(self) -> str:
        sets = ", ".join(f"{stage} {len(data)}" for stage, data in self.sets.items())  # pyright: ignore[reportArgumentType]
        return f"LitDataModule({sets or 'from a setup function'}; batch_size {self.batch_size}, seed {self.seed})"

    # Lightning's own asks every stage for its loader and fails on those that are not there.
    __str__ = __repr__
