"""FitProgress: one bar for a whole fit, where Lightning's own starts anew in every epoch."""

from __future__ import annotations

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from slimgraph.errors import StrictOptions

_METRICS = TextColumn("{task.fields[metrics]}", markup=False)


class FitProgress(ProgressBar, metaclass=StrictOptions):
    """A bar over the epochs of a fit, with the time left and the last `metrics`; it takes the place of Lightning's own.

    `label` stands before the bar. It is drawn on standard error by the first rank; where that is no terminal, only
    the last state is written, as one line.

    >>> FitProgress("house").label
    'house'
    """

    def __init__(self, label: str = "fit", metrics: tuple[str, ...] = ("train_loss", "val_loss")):
        super().__init__()
        self.label, self.metrics = label, metrics
        self._bar: Progress | None = None
        self._enabled = True

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        # Lightning calls this on every rank but the first.
        self._enabled = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not self._enabled:
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            _METRICS,
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        self._bar.add_task(self.label, total=total, completed=trainer.current_epoch, metrics="")
        self._bar.start()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Not at the end of the epoch before: a module logs what it has to say of an epoch after its callbacks.
        self._show(trainer, trainer.current_epoch)

    def _show(self, trainer: lightning.Trainer, epochs: int) -> None:
        if self._bar is not None:
            shown = (f"{name} {float(trainer.callback_metrics[name]):.4g}" for name in self._logged(trainer))
            self._bar.update(self._bar.task_ids[0], completed=epochs, metrics="  ".join(shown))

    def _logged(self, trainer: lightning.Trainer) -> list[str]:
        return [name for name in self.metrics if name in trainer.callback_metrics]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._show(trainer, trainer.current_epoch)
        self._stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
