"""What examples/long_memory.py fits: the samples of each task, and the recipe that it is fitted by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from slimgraph.slim import bench


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule; encoder and decoder are ReLU layers of that width, 0 for none."""

    hidden: int
    steps: int
    batch_size: int = 64
    lr: float = 1e-2
    encoder: int = 0
    decoder: int = 0
    dropout: float = 0.0


# docs/long-memory.md says what each was chosen on.
RECIPES = {
    "add": Recipe(hidden=128, steps=1200, encoder=16),
    "copying": Recipe(hidden=128, steps=800),
    "digits": Recipe(hidden=96, steps=3000, batch_size=128, lr=3e-3, decoder=128, dropout=0.1),
}
COPIES = 10


def make(name, seed=0, permuted=False, quick=False):
    """The recipe of a task, and its training, validation (None for the digits) and test samples."""
    recipe, T = RECIPES[name], 200
    if quick:
        recipe, T = replace(recipe, hidden=16, steps=10), 20
    if name == "digits":
        return recipe, *digits(permuted, COPIES if not quick else 1)
    generate = getattr(bench, name)
    n = recipe.batch_size * (50 if not quick else 2)
    # Of one generator, so that no two sets begin with the same samples.
    generator = torch.Generator().manual_seed(seed)
    return recipe, *(generate(generator, T, size) for size in (n, n // 4, 1000 if not quick else 20))


def digits(permuted=False, copies=COPIES):
    """scikit-learn's 8 x 8 digits, 1347 to train and 450 to test; each of the former `copies` times, moved a little."""
    # The other tasks do without scikit-learn.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(images.reshape(-1, 8, 8) / 16, labels, random_state=0)
    train = torch.as_tensor(train, dtype=torch.float32)
    train = torch.cat([train, *(moved(train, seed) for seed in range(1, copies))])
    train_labels = torch.as_tensor(train_labels).repeat(copies)
    train, test = (bench.permuted_pixels(*pair, perm=permuted) for pair in ((train, train_labels), (test, test_labels)))
    return train, None, test


def moved(images, seed):
    """Each image turned by up to 10 degrees, sheared and scaled by up to a tenth, shifted by up to 0.6 pixels."""
    generator = torch.Generator().manual_seed(seed)
    angle, width, height, shear, right, down = (
        spread * (2 * torch.rand(len(images), generator=generator) - 1) for spread in (0.17, 0.1, 0.1, 0.1, 0.15, 0.15)
    )
    first = torch.stack([(1 + width) * angle.cos(), shear - angle.sin(), right], dim=1)
    second = torch.stack([angle.sin(), (1 + height) * angle.cos(), down], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), [len(images), 1, 8, 8], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]
