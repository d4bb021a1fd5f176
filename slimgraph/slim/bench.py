"""Tasks that ask a recurrence for a long memory, made from a seed: nothing is downloaded.

`add`, `multiply`, `xor`, `copying`, `ackley` draw their samples; `permuted_pixels` reads images pixel by pixel and
`load_pmnist` does so with the files of MNIST. Each gives a `Task`, which knows the loss that the literature takes and
what a model without a memory reaches. `rng` is a seed or a `torch.Generator`; torch's global generator is neither read
nor moved.

Against neuromancer's slim.bench: tensors instead of numpy arrays; the two marks stand one in each half; the product is
of the marked values, not of all; Ackley's function has its published signs and constants.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from slimgraph.data import DictDataset
from slimgraph.errors import DataError, DtypeError, MissingFileError, OptionError, ShapeError

__all__ = ["Task", "ackley", "add", "copying", "load_pmnist", "multiply", "permuted_pixels", "xor"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over all samples and steps; logits: `(..., classes)`, targets: `(...)`, whole numbers."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Samples of a task; inputs: `(samples, T, features)`, targets: `(samples, ...)`.

    `loss(prediction, targets)` compares with a prediction of `outputs` features; `baseline` is the least loss of a
    prediction that does not look at the inputs.

    >>> task = add(0, 200, 1000)
    >>> task
    Task('add', 1000 samples: inputs (200, 2), targets (1); mse_loss, baseline 0.1667)
    >>> task.dataset("val")
    DictDataset('val', 1000 samples: x (200, 2), target (1))
    """

    name: str
    inputs: Tensor
    targets: Tensor
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    baseline: float

    def dataset(self, name: str = "train") -> DictDataset:
        """The samples under the keys `x` and `target`."""
        return DictDataset({"x": self.inputs, "target": self.targets}, name=name)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{word} ({', '.join(map(str, value.shape[1:]))})"
            for word, value in (("inputs", self.inputs), ("targets", self.targets))
        )
        loss = getattr(self.loss, "__name__", self.loss)
        return f"Task({self.name!r}, {len(self)} samples: {shapes}; {loss}, baseline {self.baseline:.4g})"


def add(rng: int | torch.Generator, T: int, n_sequences: int) -> Task:
    """The adding problem: the sum of two marked numbers.

    inputs: `(n_sequences, T, 2)`, numbers uniform in [0, 1) and marks, 1 at one step of each half and 0 elsewhere;
    targets: `(n_sequences, 1)`. Baseline: always 1, a mean squared error of 1/6 = 0.167.
    Source: Hochreiter and Schmidhuber 1997, section 5.4, as in Arjovsky et al. 2016, arXiv:1511.06464.
    """
    inputs, first, second = _marked("add", rng, T, n_sequences)
    return Task("add", inputs, first + second, 1, F.mse_loss, 1 / 6)


def multiply(rng: int | torch.Generator, T: int, n_sequences: int) -> Task:
    """The product of two marked numbers; inputs and marks as in `add`.

    targets: `(n_sequences, 1)`. Baseline: always 1/4, a mean squared error of 1/9 - 1/16 = 0.0486.
    Source: Hochreiter and Schmidhuber 1997, section 5.5.
    """
    inputs, first, second = _marked("multiply", rng, T, n_sequences)
    return Task("multiply", inputs, first * second, 1, F.mse_loss, 7 / 144)


def xor(rng: int | torch.Generator, T: int, n_sequences: int) -> Task:
    """The exclusive or of two marked bits, which no sum of the two tells; marks as in `add`.

    inputs: `(n_sequences, T, 2)`, bits and marks; targets: `(n_sequences, 1)`, 0.0 or 1.0. Baseline: even odds, a
    binary cross-entropy of ln 2 = 0.693; the prediction is a logit.
    Source: Martens and Sutskever 2011, Learning recurrent neural networks with Hessian-free optimization.
    """
    inputs, first, second = _marked("xor", rng, T, n_sequences, bits=True)
    return Task("xor", inputs, (first - second).abs(), 1, F.binary_cross_entropy_with_logits, math.log(2))


def _marked(
    name: str, rng: int | torch.Generator, T: int, n_sequences: int, bits: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Values and two marks side by side, `(n_sequences, T, 2)`, and the two marked values, each `(n_sequences, 1)`."""
    _check_sizes(name, T=(T, 2), n_sequences=(n_sequences, 1))
    generator = _generator(name, rng)
    values = torch.rand(n_sequences, T, generator=generator)
    values = values.round() if bits else values
    places = [
        torch.randint(low, high, (n_sequences, 1), generator=generator) for low, high in ((0, T // 2), (T // 2, T))
    ]
    marks = torch.zeros_like(values).scatter_(1, torch.cat(places, dim=1), 1.0)
    first, second = (values.gather(1, place) for place in places)
    return torch.stack([values, marks], dim=-1), first, second


def copying(rng: int | torch.Generator, T: int, n_sequences: int, *, K: int = 10, symbols: int = 8) -> Task:
    """Copying memory: say K symbols again, after T steps of silence.

    A sequence is K of the `symbols`, T - 1 blanks, the delimiter and K blanks; asked for are T + K blanks and then the
    K symbols. inputs: `(n_sequences, T + 2 K, symbols + 2)`, one-hot, the blank before the delimiter; targets:
    `(n_sequences, T + 2 K)`, whole numbers, the blank being `symbols`. Baseline: blanks, then even odds, a
    cross-entropy of K ln(symbols) / (T + 2 K), 0.0945 for T = 200.
    Source: Hochreiter and Schmidhuber 1997, as in Arjovsky et al. 2016, arXiv:1511.06464.
    """
    _check_sizes("copying", T=(T, 1), n_sequences=(n_sequences, 1), K=(K, 1), symbols=(symbols, 1))
    said = torch.randint(symbols, (n_sequences, K), generator=_generator("copying", rng))
    heard = torch.full((n_sequences, T + 2 * K), symbols)
    targets = heard.clone()
    heard[:, :K] = targets[:, -K:] = said
    heard[:, K + T - 1] = symbols + 1
    inputs = F.one_hot(heard, symbols + 2).to(torch.get_default_dtype())
    return Task("copying", inputs, targets, symbols + 1, cross_entropy, K * math.log(symbols) / (T + 2 * K))


def ackley(rng: int | torch.Generator, nsamples: int, dim: int = 2) -> Task:
    """Ackley's function of a point whose coordinates come one by one.

    f(x) = 20 + e - 20 exp(-0.2 sqrt(mean(x^2))) - exp(mean(cos(2 pi x))), x uniform in [-40, 40). inputs:
    `(nsamples, dim, 1)`, targets: `(nsamples, 1)`. Baseline: the mean of these samples, whose squared error is their
    variance.
    Source: Ackley 1987, A connectionist machine for genetic hillclimbing.
    """
    _check_sizes("ackley", nsamples=(nsamples, 1), dim=(dim, 1))
    x = 80 * torch.rand(nsamples, dim, generator=_generator("ackley", rng)) - 40
    far, waves = x.square().mean(1, keepdim=True).sqrt(), torch.cos(2 * torch.pi * x).mean(1, keepdim=True)
    y = 20 + math.e - 20 * torch.exp(-0.2 * far) - torch.exp(waves)
    return Task("ackley", x.unsqueeze(-1), y, 1, F.mse_loss, y.var(correction=0).item())


def permuted_pixels(images: Any, labels: Any, seed: int = 0, *, perm: bool = True) -> Task:
    """The class of an image that is read pixel by pixel, in an order drawn once for all images.

    `images` `(samples, height, width)` and `labels` `(samples,)` are tensors or arrays; bytes are divided by 255, other
    numbers stay. `perm=False` keeps the rows' order. One seed gives training and test images one order. inputs:
    `(samples, height * width, 1)`, targets: `(samples,)`. Baseline: the frequencies of the labels, a cross-entropy of
    ln 10 = 2.303 for ten even classes.
    Source: Le et al. 2015, arXiv:1504.00941.

    >>> permuted_pixels(torch.rand(6, 8, 8), torch.arange(6))
    Task('permuted pixels', 6 samples: inputs (64, 1), targets (); cross_entropy, baseline 1.792)
    """
    _check_sizes("permuted_pixels", seed=(seed, 0))
    pixels = torch.as_tensor(images)
    if pixels.ndim != 3 or not pixels.numel():
        raise ShapeError(f"permuted_pixels needs images (samples, height, width), got shape {tuple(pixels.shape)}")
    targets = torch.as_tensor(labels)
    if targets.shape != pixels.shape[:1]:
        raise ShapeError(
            f"permuted_pixels needs one label for each of the {len(pixels)} images, got shape {tuple(targets.shape)}"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise DtypeError(f"permuted_pixels needs labels that are whole numbers, got {targets.dtype}")
    if targets.min() < 0:
        raise DataError(f"permuted_pixels needs labels that count the classes from 0 on, got {targets.min()}")
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.to(torch.get_default_dtype())
    pixels, targets = pixels.flatten(1), targets.long()
    if perm:
        pixels = pixels[:, torch.randperm(pixels.shape[1], generator=_generator("permuted_pixels", seed))]
    counts = targets.bincount()
    baseline = torch.special.entr(counts / len(targets)).sum().item()
    name = "permuted pixels" if perm else "pixels"
    return Task(name, pixels.unsqueeze(-1), targets, len(counts), cross_entropy, baseline)


def load_pmnist(path: str | Path, seed: int = 0, *, perm: bool = True) -> tuple[Task, Task]:
    """The 60000 training and 10000 test digits of MNIST as `permuted_pixels`, in one order, from the files in `path`.

    They are the four IDX files as published, train-images-idx3-ubyte and its kin, as they are or with .gz. Raises
    MissingFileError for one that is not there, DataError for one that is no such file.
    """
    folder = Path(path)
    train, test = (
        (_read_idx(folder, f"{part}-images-idx3-ubyte"), _read_idx(folder, f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )
    return permuted_pixels(*train, seed, perm=perm), permuted_pixels(*test, seed, perm=perm)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """The bytes of an IDX file: two zeros, 8 for bytes, the number of axes, each size in 4 bytes, the data."""
    file = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if file is None:
        raise MissingFileError(
            f"no file {folder / name}, nor {name}.gz; load_pmnist needs MNIST's train-images-idx3-ubyte,"
            " train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte there, and downloads nothing"
        )
    try:
        content = (gzip.decompress if file.suffix == ".gz" else bytes)(file.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file} is no gzip file, or not a whole one: {error}") from error
    axes = int(name[name.index("idx") + 3])
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(f"{file} is no IDX file of bytes with {axes} axes; it starts with {content[:4].hex(' ')}")
    sizes = np.frombuffer(content, ">u4", axes, 4).astype(int).tolist()
    if len(content) - start != math.prod(sizes):
        raise DataError(f"{file} announces {sizes} and holds {len(content) - start} bytes of data; get it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy()


def _generator(name: str, rng: int | torch.Generator) -> torch.Generator:
    if isinstance(rng, torch.Generator):
        return rng
    if not _is_whole(rng):
        raise OptionError(f"{name} needs a whole number or a torch.Generator for rng, got {rng!r}")
    if not -(2**63) <= rng < 2**64:
        raise OptionError(f"{name} needs a seed from -2^63 to 2^64 - 1, which is what torch takes, got {rng}")
    return torch.Generator().manual_seed(int(rng))


def _check_sizes(name: str, **sizes: tuple[Any, int]) -> None:
    """Each size comes with its least value."""
    for word, (size, least) in sizes.items():
        if not _is_whole(size) or size < least:
            raise OptionError(f"{name} needs a whole number {word} >= {least}, got {word}={size!r}")


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
