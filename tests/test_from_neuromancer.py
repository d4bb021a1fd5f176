"""docs/from-neuromancer.md: its imports and numbers; three problems of neuromancer's users, declared and solved."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import lightning
import pytest
import torch

from slimgraph import (
    RNN,
    AugmentedLagrangeLoss,
    BarrierLoss,
    Constraint,
    DictDataset,
    Loss,
    MovingHorizon,
    Node,
    Objective,
    PenaltyLoss,
    Problem,
    RNNCell,
    System,
    SystemPreview,
    blocks,
    integrators,
    slim,
    variable,
)
from slimgraph.errors import SlimgraphError
from slimgraph.symbolic import gradient, jacobian
from slimgraph.training import LitDataModule, LitProblem

PAGE = (Path(__file__).parent.parent / "docs" / "from-neuromancer.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
IMPORTS = re.findall(r"^\| `neuromancer.*\| `(from .*? import .*?)` \|$", PAGE, re.MULTILINE)
NUMBERS = re.findall(r"^\| `(.*?)` \| (.*?) \| (.*?) \| .* \|$", PAGE.split("## Numbers that differ")[1], re.MULTILINE)


@pytest.mark.parametrize("line", IMPORTS)
def test_every_import_of_the_page_works(line: str):
    exec(line, {})


def test_the_page_names_an_import_for_every_public_name():
    names = set(re.findall(r"\w+", " ".join(IMPORTS)))
    for room in ("slimgraph", "slimgraph.blocks", "slimgraph.integrators"):
        offered = set(importlib.import_module(room).__all__)
        assert offered - {"Block", "Integrator", "__version__", "explain_infeasibility"} <= names


MAP = "insize outsize bias"
NETWORK = f"{MAP} linear_map nonlin hsizes linargs"
STEP = "block interp_u h"
SIGNATURES = {
    Node: "callable input_keys output_keys name",
    System: "nodes name nstep_key init_func nsteps",
    SystemPreview: "nodes preview_keys_map preview_length pad_mode pad_constant name nstep_key init_func nsteps",
    MovingHorizon: "module ndelay history",
    Constraint: "left right comparator weight name",
    Objective: "var metric weight name",
    Loss: "input_keys loss weight name",
    PenaltyLoss: "objectives constraints",
    BarrierLoss: "objectives constraints barrier upper_bound shift alpha",
    AugmentedLagrangeLoss: "objectives constraints train_data inner_loop sigma mu_max mu_init eta",
    Problem: "nodes loss grad_inference check_overwrite",
    DictDataset: "datadict name",
    RNNCell: "input_size hidden_size bias nonlin hidden_map input_map input_args hidden_args",
    RNN: "input_size hidden_size num_layers cell_args",
    gradient: "y x grad_outputs create_graph",
    jacobian: "y x",
    slim.L0Linear: f"{MAP} weight_decay droprate_init temperature lamda",
    slim.ButterflyLinear: f"{MAP} complex tied_weight increasing_stride ortho_init",
    slim.LassoLinear: f"{MAP} gamma",
    slim.PerronFrobeniusLinear: f"{MAP} sigma_min sigma_max",
    slim.SchurDecompositionLinear: f"{MAP} l2",
    slim.SpectralLinear: f"{MAP} n_U_reflectors n_V_reflectors sigma_min sigma_max",
    slim.SymmetricSpectralLinear: f"{MAP} n_reflectors sigma_min sigma_max",
    slim.GershgorinLinear: f"{MAP} sigma_min sigma_max real",
    slim.BoundedNormLinear: f"{MAP} sigma_min sigma_max p",
    slim.TrivialNullSpaceLinear: f"{MAP} rank epsilon",
    slim.PowerBoundLinear: "insize outsize max_p pwr_iters bias",
    blocks.Linear: NETWORK,
    blocks.MLP: NETWORK,
    blocks.InputConvexNN: NETWORK,
    blocks.RNN: NETWORK,
    blocks.MLP_bounds: f"{NETWORK} min max method",
    blocks.ResMLP: f"{NETWORK} skip",
    blocks.PosDef: "g max eps d",
    **dict.fromkeys((integrators.Euler, integrators.RK2, integrators.RK4, integrators.LeapFrog), STEP),
    integrators.DiffEqIntegrator: f"{STEP} method",
}


@pytest.mark.parametrize("made", SIGNATURES, ids=lambda made: f"{made.__module__}.{made.__qualname__}")
def test_arguments_stand_where_users_of_neuromancer_put_them(made):
    parameters = inspect.signature(getattr(made, "__init__", made) if isinstance(made, type) else made).parameters
    positional = [name for name, p in parameters.items() if p.kind == p.POSITIONAL_OR_KEYWORD and name != "self"]
    assert positional == SIGNATURES[made].split()


@pytest.mark.parametrize(
    ("call", "default"),
    [
        (integrators.RK4, {"h": 1.0}),
        (integrators.DiffEqIntegrator, {"h": 0.001}),
        (BarrierLoss, {"barrier": "log10", "upper_bound": 1.0, "shift": 1.0, "alpha": 0.5}),
        (AugmentedLagrangeLoss, {"inner_loop": 10, "sigma": 2.0, "mu_max": 1000.0, "mu_init": 0.001, "eta": 1.0}),
        (blocks.PosDef, {"max": None, "eps": 0.01, "d": 1.0}),
        (slim.PerronFrobeniusLinear, {"sigma_min": 0.8, "sigma_max": 1.0}),
    ],
)
def test_defaults_that_set_a_scale_are_neuromancers(call, default):
    parameters = inspect.signature(call.__init__).parameters
    assert {name: parameters[name].default for name in default} == default


def shown(line: str, names: dict) -> str:
    """The value of a line of the page as the page shows it; of an error its class."""
    try:
        value = eval(line, names)
    except SlimgraphError as error:
        return type(error).__name__
    if not isinstance(value, torch.Tensor):
        return str(value)
    numbers = [f"{round(number, 4) + 0:.4g}" for number in value.flatten().tolist()]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"


@pytest.fixture(scope="module")
def prelude() -> dict:
    names: dict = {}
    exec(BLOCKS[1], names)
    return names


@pytest.mark.parametrize(("line", "theirs", "ours"), NUMBERS, ids=[line for line, _, _ in NUMBERS])
def test_every_number_of_ours_on_the_page_is_ours(prelude, line, theirs, ours):
    if "DiffEq" in line:
        pytest.importorskip("torchdiffeq")
    assert shown(line, prelude) == ours != theirs


# ---- three problems that neuromancer's users solve


def fitted(problem: Problem, data: dict, epochs: int, lr: float, **options) -> Problem:
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = LitProblem(problem, "Adam", lr, "CosineAnnealingLR", scheduler_args={"T_max": epochs})
    trainer.fit(module, LitDataModule(train=data, batch_size=None, **options))
    return problem.eval()


def test_a_policy_learns_the_constrained_optimum_for_every_parameter():
    # min (x - a)^2 + (y - b)^2 with x + y <= 1: the projection of (a, b) onto the half plane.
    lightning.seed_everything(0, verbose=False)
    x, y, a, b = (variable(key) for key in "xyab")
    net = blocks.MLP(2, 2, linear_map=slim.maps["linear"], nonlin=torch.nn.ReLU, hsizes=[30, 30])
    policy = Node(Halves(net), ["a", "b"], ["x", "y"], name="policy")
    goal = ((x - a) ** 2 + (y - b) ** 2).minimize(name="distance")
    problem = Problem([policy], PenaltyLoss([goal], [10.0 * (x + y <= 1.0)]))
    fitted(problem, {"a": torch.rand(400, 1) * 2, "b": torch.rand(400, 1) * 2}, epochs=250, lr=1e-2)
    p = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) * 2
    out = problem({"a": p[:, :1], "b": p[:, 1:]})
    exact = p - torch.relu(p.sum(1, keepdim=True) - 1) / 2
    assert (torch.cat([out["x"], out["y"]], -1) - exact).abs().mean() < 0.02
    assert torch.relu(out["x"] + out["y"] - 1).max() < 0.08


class Halves(torch.nn.Module):
    """A network of two outputs as two."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, a, b):
        return self.net(a, b).split(1, dim=-1)


def test_a_state_space_model_is_identified_through_its_roll_out():
    # An oscillator with an input, dx/dt = A x + B u, learnt through RK4 steps from measured states alone.
    lightning.seed_everything(0, verbose=False)
    A, B, h, steps = torch.tensor([[0.0, 1.0], [-2.0, -0.5]]), torch.tensor([[0.0], [1.0]]), 0.1, 8
    discrete = torch.linalg.matrix_exp(torch.cat([torch.cat([A, B], 1), torch.zeros(1, 3)]) * h)
    start, u = torch.randn(100, 2), torch.randn(100, steps, 1)
    states = [start]
    for k in range(steps):
        states.append(torch.cat([states[-1], u[:, k]], -1) @ discrete[:2].T)
    f = blocks.Linear(3, 2, bias=False)
    plant = System([Node(integrators.RK4(f, h=h), ["x", "u"], ["x"], name="plant")], nstep_key="u")
    x, measured = variable("x"), variable("measured")
    one_step = ((x[:, 1:2] - measured[:, 1:2]) ** 2).minimize(weight=1.0, name="one_step")
    all_steps = ((x - measured) ** 2).minimize(weight=5.0, name="all_steps")
    problem = Problem([plant], PenaltyLoss([one_step, all_steps], []))
    data = {"x": start[:, None], "u": u, "measured": torch.stack(states, 1)}
    assert problem(data)["all_steps"] > 1
    fitted(problem, data, epochs=150, lr=0.15)
    assert (f.linear.effective_W().T - torch.cat([A, B], 1)).abs().max() < 1e-2


def test_a_predictive_policy_steers_a_double_integrator_within_its_bounds():
    lightning.seed_everything(0, verbose=False)
    A, B = torch.tensor([[1.2, 1.0], [0.0, 1.0]]), torch.tensor([[1.0], [0.5]])
    net = blocks.MLP_bounds(2, 1, nonlin=torch.nn.GELU, hsizes=[20, 20], min=-1.0, max=1.0)
    policy = Node(net, ["x"], ["u"], name="policy")
    plant = Node(lambda x, u: x @ A.T + u @ B.T, ["x", "u"], ["x"], name="plant")
    loop = System([policy, plant], nsteps=5)
    x, u = variable("x"), variable("u")
    terms = [(5.0 * x**2).minimize(name="regulate"), (0.2 * u**2).minimize(name="effort")]
    bounds = [10.0 * (x[:, 1:] >= -10.0), 10.0 * (x[:, 1:] <= 10.0), 10.0 * ((x[:, [-1]] <= 0.1) ^ 2)]
    problem = Problem([loop], PenaltyLoss(terms, bounds))
    fitted(problem, {"x": 2 * torch.rand(300, 1, 2) - 1}, epochs=100, lr=0.02)
    loop.nsteps = 40
    corners = torch.tensor([[[a, b]] for a in (-1.0, 1.0) for b in (-0.5, 0.5)])
    out = loop({"x": corners})
    assert out["x"][:, -1].abs().max() < 0.05 and out["u"].abs().max() <= 1
    # Without control the plant runs away.
    assert (corners[:, 0] @ torch.linalg.matrix_power(A.T, 40)).abs().max() > 1000
