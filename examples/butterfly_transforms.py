"""Fast transforms found again by training: a butterfly learns the matrix of the DFT, the Hadamard transform, the DCT.

A butterfly with tied weights has n - 1 blocks of 2 x 2; Adam and then L-BFGS fit them to the n x n orthonormal matrix
A, loss = |W - A|^2 / n. The rows of A stand in the order in which a fast algorithm reads its input: that of the DFT and
the DCT by the bits of the place read backwards, the DCT's after the even places come first and the odd ones follow from
the last to the first. The DFT is the complex product, the DCT the real part of one.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from butterfly_plots import draw
from rich.console import Console
from rich.progress import track
from rich.table import Table

from slimgraph import slim

ADAM_STEPS, LBFGS_STEPS = 200, 800


def exact(name, n):
    """The orthonormal matrix of a transform for row vectors, its rows in the order of the fast algorithm."""
    k = torch.arange(n, dtype=torch.float64)
    bits = n.bit_length() - 1
    backwards = torch.tensor([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)])
    if name == "DFT":
        return torch.exp(-2j * math.pi * torch.outer(k, k) / n)[backwards] / math.sqrt(n)
    if name == "DCT":
        A = math.sqrt(2 / n) * torch.cos(math.pi * torch.outer(k + 0.5, k) / n)
        A[:, 0] /= math.sqrt(2)
        return torch.cat([A[0::2], A[1::2].flip(0)])[backwards]
    A = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(bits):
        A = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), A)
    return A / math.sqrt(n)


def learn(name, n, seed=0, steps=(ADAM_STEPS, LBFGS_STEPS), **options):
    """A butterfly fitted to a transform, its matrix, the exact one, and the RMSE over all entries after each step."""
    torch.manual_seed(seed)
    A, errors = exact(name, n), []
    m = slim.ButterflyLinear(n, n, complex=name != "Hadamard", **{"ortho_init": True, **options}).double()

    def matrix():
        return m.complex_W() if name == "DFT" else m.effective_W()

    def loss():
        optimizer.zero_grad()
        value = (matrix() - A).abs().square().sum() / n
        value.backward()
        errors.append(math.sqrt(value.item() / n))
        return value

    optimizer = torch.optim.Adam(m.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps[0])
    for _ in range(steps[0]):
        optimizer.step(loss)
        schedule.step()
    optimizer = torch.optim.LBFGS(
        m.parameters(), max_iter=steps[1], history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-16
    )
    optimizer.step(loss)
    with torch.no_grad():
        return m, matrix(), A, [*errors, (matrix() - A).abs().square().mean().sqrt().item()]


def main():
    """Learn every transform at every size, tell the errors, draw the largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, choices=[4, 8, 16, 32, 64, 128], default=[8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--untied", action="store_true", help="n/2 blocks for each factor")
    parser.add_argument("--quick", action="store_true", help="size 8 alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [8] if args.quick else sorted(args.sizes)
    table = Table("transform", "size", "parameters", "entries", "steps", "RMSE", title="learnt transforms")
    runs, todo = [], [(name, n) for name in ("DFT", "Hadamard", "DCT") for n in sizes]
    for name, n in track(todo, "learning", console=Console(stderr=True)):
        m, W, A, errors = learn(name, n, args.seed, tied_weight=not args.untied)
        table.add_row(name, str(n), str(m.twiddle.numel()), str(n * n), str(len(errors)), f"{errors[-1]:.1e}")
        runs += [(name, m, W, A, errors)] if n == sizes[-1] else []
    args.out.mkdir(parents=True, exist_ok=True)
    picture = args.out.resolve() / "butterfly_transforms.png"
    draw(picture, runs)
    Console().print(table)
    print("picture:", picture)


if __name__ == "__main__":
    main()
