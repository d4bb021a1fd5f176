"""What examples/long_memory.py shows: the learning curves beside the task's baseline, and a table of results."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import lightning
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table


class Curve(lightning.Callback):
    """The training loss after each step, and the validation loss where there is one."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train.append(outputs["loss"].item())

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.val.append((len(self.train), trainer.callback_metrics["val_loss"].item()))


def plot(path, title, baseline, curves):
    """`curves` by name against the optimiser's steps, with the loss of a prediction blind to the inputs; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for place, (name, curve) in enumerate(curves.items()):
        axis.plot(range(1, len(curve.train) + 1), curve.train, color=f"C{place}", lw=0.8, alpha=0.5, label=name)
        if curve.val:
            axis.plot(*zip(*curve.val, strict=True), "o-", color=f"C{place}", ms=3, label=f"{name}, validation")
    axis.axhline(baseline, color="black", ls="--", lw=1, label=f"baseline {baseline:.4g}")
    axis.set(yscale="log", xlabel="optimiser's steps", ylabel="loss", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


@torch.no_grad()
def result(problem, task):
    """The loss on all samples of a task and, where classes are asked for, the share of samples right at every step."""
    output = problem(task.dataset("test").datadict)
    right = "-"
    if task.outputs > 1 and output["loss"].isfinite():
        right = f"{(output['y'].argmax(-1) == task.targets).reshape(len(task), -1).all(1).float().mean():.2%}"
    parameters = sum(p.numel() for p in problem.parameters())
    return {"parameters": parameters, "test loss": f"{output['loss']:.5f}", "right": right}


def show(title, baseline, rows):
    """One row a fit, as columns by name, and the baseline under them, on standard output."""
    table = Table(title=title, caption=f"baseline {baseline:.4g}: no look at the inputs", title_justify="left")
    for word in rows[0]:
        table.add_column(word, justify="left" if word == "hidden map" else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
