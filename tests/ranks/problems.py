"""Small problems in float64 and the fits that tests run in one process, on two ranks, and resumed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from slimgraph import AugmentedLagrangeLoss, BarrierLoss, Node, PenaltyLoss, Problem, slim, variable
from slimgraph.training import LitDataModule, LitProblem

LOSSES: dict[str, Any] = {"penalty": PenaltyLoss, "barrier": BarrierLoss, "augmented": AugmentedLagrangeLoss}

# name -> what fit() is called with; batch is the number of samples that all ranks take together in a step.
CASES: dict[str, dict[str, Any]] = {
    "even": {"n": 40, "batch": 20},
    "one left over": {"n": 41, "batch": 20},
    "fewer than a batch": {"n": 7, "batch": 20},
    "barrier": {"n": 39, "batch": 10, "loss": "barrier"},
    "augmented": {"n": 23, "batch": 8, "loss": "augmented"},
    "per sample": {"n": 23, "batch": 8, "loss": "augmented", "per_sample": True},
    "recurrence": {"n": 23, "batch": 8, "net": "recurrence"},
    "gates": {"n": 23, "batch": 8, "net": "gates", "loss": "augmented"},
    "line search": {"n": 23, "batch": 24, "loss": "augmented", "optimizer": "LBFGS", "steps": 6},
    "compiled": {"n": 20, "batch": 10, "val": False, "compiled": True},
}

# name -> what make() is called with where the collectives of each step are counted.
COUNTED: dict[str, dict[str, Any]] = {
    "penalty": {},
    "augmented, gates": {"loss": "augmented", "net": "gates"},
}


def data(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return {"x": x, "t": x.sum(-1, keepdim=True).sin(), "index": torch.arange(n)}


class Recurrence(nn.Module):
    """An RNN on an orthogonal map that reads the entries of x one by one, three times; its end may pass gates twice."""

    def __init__(self, gated: bool):
        super().__init__()
        self.rnn = slim.RNN(1, 4, cell_args={"hidden_map": "orthogonal"})
        gates = slim.L0Linear(4, 4, lamda=0.01, weight_decay=0.1)
        self.head = nn.Sequential(gates, nn.Tanh(), gates, nn.Linear(4, 1)) if gated else nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x.repeat(1, 3).T.unsqueeze(-1))[0][-1])


def make_net(net: str, dropout: float) -> nn.Module:
    torch.manual_seed(0)
    if net != "orthogonal":
        return Recurrence(gated=net == "gates")
    body = slim.maps["orthogonal"](2, 2)
    return nn.Sequential(body, nn.Linear(2, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 1))


def make(
    loss: str = "penalty", dropout: float = 0.0, n: int = 0, per_sample: bool = False, net: str = "orthogonal"
) -> Problem:
    """A net on an orthogonal map, or another one, fitted to t, with y <= -0.3, which the data break."""
    y, t = variable("y"), variable("t")
    options: dict[str, Any] = {}
    if loss == "augmented":
        options = {"inner_loop": 2, "mu_init": 0.5}
        options |= {"per_sample": True, "train_data": range(n)} if per_sample else {}
    ceiling = y <= -0.3
    ceiling.name = "ceiling"
    terms = LOSSES[loss]([((y - t) ** 2).minimize(name="fit")], [ceiling], **options)
    return Problem([Node(make_net(net, dropout), ["x"], ["y"], name="net")], terms).double()


def derived() -> Problem:
    """A problem with a derivative in its loss: y' = cos(x)."""
    torch.manual_seed(0)
    net = Node(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), ["x"], ["y"], name="net")
    x, y = variable("x"), variable("y")
    return Problem([net], PenaltyLoss([((y.grad(x) - torch.cos(x)) ** 2).minimize(name="residual")]))


def twin_house(*, devices: int = 1, strategy: str = "auto", steps: int = 5, **options: Any) -> tuple[LitProblem, Any]:
    """The first steps of the main example in float64, a batch of 34 windows of a day for all devices together."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import house_data
    import twin_house as example

    torch.manual_seed(0)
    series, scale = house_data.load()
    problem = example.make_problem("pf", scale.mean_0.item(), scale.std_0.item()).double()
    train = house_data.samples(series, house_data.TRAIN, 48)
    train = {key: value.double() for key, value in train.items()}
    lit = LitProblem(problem, "AdamW", 3e-3, optimizer_args={"weight_decay": 0.03})
    sets = LitDataModule(train, batch_size=34 // devices)
    resume = options.pop("ckpt_path", None)
    run = trainer(max_steps=steps, max_epochs=-1, devices=devices, strategy=strategy, gradient_clip_val=1.0, **options)
    run.fit(lit, sets, ckpt_path=resume)
    return lit, run


def trainer(**options: Any) -> lightning.Trainer:
    """A quiet Trainer on the CPU that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    warnings.filterwarnings("ignore", ".*does not have many workers.*|.*LeafSpec.*|.*exists and is not empty.*")
    return lightning.Trainer(accelerator="cpu", **{**quiet, "enable_model_summary": False, "devices": 1, **options})


def fit(
    *,
    n: int = 37,
    batch: int = 5,
    devices: int = 1,
    strategy: str = "auto",
    steps: int = 20,
    epochs: int = -1,
    resume: Path | str | None = None,
    save: Path | str | None = None,
    every: dict[str, Any] | None = None,
    val: bool = True,
    optimizer: str = "SGD",
    workers: int = 0,
    compiled: bool = False,
    **options: Any,
) -> tuple[LitProblem, lightning.Trainer]:
    """One fit of make(**options); `batch` is divided among the devices, checkpoints are put into the folder `save`."""
    per_sample = options.get("per_sample", False)
    problem = make(**options, **({"n": n} if per_sample else {}))
    if compiled:
        # Gradients by way of AOTAutograd as with inductor, whose C++ would take a quarter of a minute.
        problem.compile(backend="aot_eager")
    schedule = {"scheduler": "StepLR", "scheduler_args": {"step_size": 2, "gamma": 0.5}}
    search = {"line_search_fn": "strong_wolfe", "max_iter": 5} if optimizer == "LBFGS" else {}
    lit = LitProblem(problem, optimizer, 0.05, **schedule, optimizer_args=search)
    sets = LitDataModule(data(n), data(7, seed=1) if val else None, batch_size=batch // devices, num_workers=workers)
    extra: dict[str, Any] = {}
    if save is not None:
        keep = ModelCheckpoint(save, filename="{epoch}-{step}", save_top_k=-1, **(every or {}))
        extra = {"enable_checkpointing": True, "callbacks": [keep]}
    run = trainer(max_steps=steps, max_epochs=epochs, devices=devices, strategy=strategy, **extra)
    # A resumed process starts with other random numbers than the one that it goes on from, a rank with its own.
    torch.manual_seed((1 if resume is None else 2) + 10 * run.global_rank)
    run.fit(lit, sets, ckpt_path=resume)
    return lit, run


def state(lit: LitProblem, run: lightning.Trainer) -> dict[str, torch.Tensor]:
    """Parameters, multipliers and metrics of a finished fit, as plain tensors."""
    buffers = {key: value.detach().clone() for key, value in lit.state_dict().items()}
    return buffers | {f"metric {key}": value.detach().double() for key, value in run.callback_metrics.items()}
