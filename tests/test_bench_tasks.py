"""Laws of slim.bench: samples are what the papers say, come from the seed alone, and the baseline is the true one."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slimgraph.data import DictDataset
from slimgraph.errors import DataError, DtypeError, MissingFileError, OptionError, ShapeError
from slimgraph.slim import bench

T = 21
DRAWN = {
    "add": lambda rng, n=50: bench.add(rng, T, n),
    "multiply": lambda rng, n=50: bench.multiply(rng, T, n),
    "xor": lambda rng, n=50: bench.xor(rng, T, n),
    "copying": lambda rng, n=50: bench.copying(rng, T, n),
    "ackley": lambda rng, n=50: bench.ackley(rng, n, 3),
}
each = pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)


@each
def test_one_seed_gives_one_task_and_the_global_generator_stays_where_it_is(make):
    before = torch.get_rng_state()
    one, two, other, drawn = make(3), make(3), make(4), make(torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.inputs, two.inputs) and torch.equal(one.targets, two.targets)
    assert torch.equal(one.inputs, drawn.inputs)
    assert not torch.equal(one.inputs, other.inputs)


@each
def test_a_generator_goes_on_where_it_was(make):
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(make(generator).inputs, make(generator).inputs)


@each
def test_the_baseline_is_the_loss_of_the_best_prediction_that_ignores_the_inputs(make):
    task = make(0, 20_000)
    targets = task.targets.double()
    if task.name == "copying":
        # At each step the logarithm of how often each symbol is asked for there.
        frequencies = F.one_hot(task.targets, task.outputs).double().mean(0)
        best = task.loss(frequencies.log().clamp(min=-1e3).expand(len(task), -1, -1), task.targets)
    else:
        mean = targets.mean()
        constant = torch.logit(mean) if task.name == "xor" else mean
        best = task.loss(constant.expand_as(targets), targets)
    assert best.item() == pytest.approx(task.baseline, rel=0.04)


@each
def test_a_task_is_a_data_set_of_x_and_target(make):
    task = make(0)
    data = task.dataset("val")
    assert isinstance(data, DictDataset) and data.name == "val" and len(data) == len(task) == 50
    assert torch.equal(data[7]["x"], task.inputs[7]) and torch.equal(data[7]["target"], task.targets[7])
    assert task.inputs.ndim == 3 and task.inputs.dtype == torch.float32
    prediction = torch.zeros(50, *task.targets.shape[1:], task.outputs) if task.outputs > 1 else torch.zeros(50, 1)
    assert task.loss(prediction, task.targets).ndim == 0


def test_the_published_baselines():
    assert bench.add(0, 200, 1).baseline == pytest.approx(0.167, abs=5e-4)
    assert bench.multiply(0, 200, 1).baseline == pytest.approx(0.0486, abs=5e-5)
    assert bench.xor(0, 200, 1).baseline == math.log(2)
    assert bench.copying(0, 200, 1).baseline == pytest.approx(0.0945, abs=5e-5)


@pytest.mark.parametrize("name", ["add", "multiply", "xor"])
def test_one_step_of_each_half_is_marked_and_the_target_is_of_the_marked_values(name):
    task = DRAWN[name](0, 400)
    values, marks = task.inputs.unbind(-1)
    where = marks.nonzero()
    assert marks.sum() == 800 and set(marks.flatten().tolist()) == {0.0, 1.0}
    places = where[:, 1].reshape(400, 2)
    # Every step of a half is marked now and then: 0 to 9, and 10 to 20.
    assert places[:, 0].unique().tolist() == list(range(10)) and places[:, 1].unique().tolist() == list(range(10, 21))
    pairs = values[where[:, 0], where[:, 1]].reshape(400, 2).tolist()
    expected = {"add": lambda a, b: a + b, "multiply": lambda a, b: a * b, "xor": lambda a, b: float(a != b)}[name]
    torch.testing.assert_close(task.targets, torch.tensor([[expected(a, b)] for a, b in pairs]))
    if name == "xor":
        assert values.unique().tolist() == [0.0, 1.0]
        assert all(((values[i, p] == 1) == (task.targets == 1)[:, 0]).float().mean() < 0.6
                   for i, p in ((torch.arange(400), places[:, 0]), (torch.arange(400), places[:, 1])))  # fmt: skip
    else:
        assert 0 <= values.min() < 0.01 and 0.99 < values.max() < 1


def test_sizes_and_seeds_may_come_from_numpy():
    assert torch.equal(bench.add(np.int64(3), np.int32(9), np.int64(4)).inputs, bench.add(3, 9, 4).inputs)


def test_two_steps_are_enough_for_two_marks():
    assert bench.add(0, 2, 5).inputs[..., 1].tolist() == [[1.0, 1.0]] * 5


def test_a_sequence_to_copy_is_symbols_silence_a_delimiter_and_the_symbols_again():
    steps, K, symbols = 7, 3, 4
    task = bench.copying(0, steps, 200, K=K, symbols=symbols)
    assert task.inputs.shape == (200, steps + 2 * K, symbols + 2) and task.outputs == symbols + 1
    assert torch.equal(task.inputs.sum(-1), torch.ones(200, steps + 2 * K))
    for heard, asked in zip(task.inputs.argmax(-1).tolist(), task.targets.tolist(), strict=True):
        said = heard[:K]
        assert heard == [*said, *[4] * (steps - 1), 5, *[4] * K]
        assert asked == [*[4] * (steps + K), *said]
    assert task.targets[:, -K:].unique().tolist() == list(range(symbols))


def test_a_perfect_copy_has_no_loss():
    task = bench.copying(0, 5, 10)
    assert task.loss(100 * F.one_hot(task.targets, task.outputs).float(), task.targets) < 1e-6


def test_ackley_is_the_published_function():
    task = bench.ackley(0, 300, 3)
    assert task.inputs.shape == (300, 3, 1) and -40 <= task.inputs.min() < -39 and 39 < task.inputs.max() < 40
    x = task.inputs[..., 0].double().numpy()
    a, b, c = 20, 0.2, 2 * np.pi
    y = -a * np.exp(-b * np.sqrt((x**2).sum(1) / 3)) - np.exp(np.cos(c * x).sum(1) / 3) + a + np.exp(1)
    np.testing.assert_allclose(task.targets[:, 0].numpy(), y, rtol=1e-4)


def test_pixels_come_in_one_order_for_all_images_and_every_set():
    images, labels = torch.arange(10 * 6).reshape(10, 2, 3), torch.arange(10) % 4
    read = bench.permuted_pixels(images, labels, perm=False)
    assert torch.equal(read.inputs[..., 0], images.reshape(10, 6).float()) and torch.equal(read.targets, labels)
    train, test = bench.permuted_pixels(images[:7], labels[:7], 5), bench.permuted_pixels(images[7:], labels[7:], 5)
    order = train.inputs[0, :, 0].long()
    assert sorted(order.tolist()) == list(range(6)) and order.tolist() != list(range(6))
    assert torch.equal(torch.cat([train.inputs, test.inputs]), read.inputs[:, order])
    assert not torch.equal(train.inputs, bench.permuted_pixels(images[:7], labels[:7], 6).inputs)


def test_arrays_of_bytes_become_numbers_up_to_1():
    task = bench.permuted_pixels(np.full((2, 2, 2), 51, dtype=np.uint8), np.array([0, 1], dtype=np.uint8), perm=False)
    torch.testing.assert_close(task.inputs, torch.full((2, 4, 1), 0.2))
    assert task.targets.dtype == torch.int64


def test_the_baseline_of_pixels_is_that_of_the_frequencies_of_the_labels():
    labels = torch.tensor([0, 0, 0, 2])
    task = bench.permuted_pixels(torch.rand(4, 2, 2), labels)
    logits = torch.tensor([0.75, 1e-30, 0.25]).log().expand(4, 3)
    assert task.outputs == 3 and task.baseline == pytest.approx(task.loss(logits, labels).item())


def write_idx(path, array, opened=open):
    with opened(path, "wb") as file:
        file.write(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    """Four IDX files, those of the labels compressed; the folder and what they hold."""
    held = {}
    for part, n in (("train", 5), ("t10k", 3)):
        held[part] = np.arange(n * 12).reshape(n, 3, 4), np.arange(n)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", held[part][0])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", held[part][1], gzip.open)
    return tmp_path, held


def test_the_files_of_mnist_are_read_as_they_are_published(mnist):
    folder, held = mnist
    for task, part in zip(bench.load_pmnist(folder, perm=False), held, strict=True):
        images, labels = held[part]
        torch.testing.assert_close(task.inputs, torch.tensor(images).reshape(len(labels), 12, 1) / 255)
        assert task.targets.tolist() == labels.tolist()
    train, test = bench.load_pmnist(str(folder), 3)
    order = (train.inputs[0, :, 0] * 255).round().long()
    assert sorted(order.tolist()) == list(range(12)) and order.tolist() != list(range(12))
    torch.testing.assert_close(test.inputs[0, :, 0] * 255, order.float())


def test_a_missing_file_is_told_with_the_names_that_are_needed(mnist):
    folder, _ = mnist
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MissingFileError, match=r"no file .*t10k-labels-idx1-ubyte, .*downloads nothing"):
        bench.load_pmnist(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", r"train-images-idx3-ubyte is no IDX file of bytes with 3 axes; it starts with 68 65 6c 6c"),
        (bytes([0, 0, 8, 3, 0]), "is no IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2) + b"1234567", r"announces \[2, 2, 2\] and holds 7 bytes"),
    ],
)
def test_a_broken_file_is_told(mnist, content, words):
    folder, _ = mnist
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=words):
        bench.load_pmnist(folder)


# A gzip header holds the time, and the names of tests must not.
BROKEN_GZIP = {
    "no gzip": b"no gzip",
    "cut": gzip.compress(bytes(100), mtime=0)[:-9],
    "no deflate": gzip.compress(b"", mtime=0)[:10] + b"x" * 9,
}


@pytest.mark.parametrize("content", BROKEN_GZIP.values(), ids=BROKEN_GZIP)
def test_a_broken_gzip_file_is_told(mnist, content):
    folder, _ = mnist
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is no gzip file, or not a whole one"):
        bench.load_pmnist(folder)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: bench.add(0, 1, 5), OptionError, "add needs a whole number T >= 2, got T=1"),
        (lambda: bench.xor(0, 5, 0), OptionError, "xor needs a whole number n_sequences >= 1, got n_sequences=0"),
        (lambda: bench.multiply(0, 5.0, 1), OptionError, r"multiply needs .* T >= 2, got T=5\.0"),
        (lambda: bench.copying(0, 0, 5), OptionError, "copying needs a whole number T >= 1, got T=0"),
        (lambda: bench.copying(0, 5, 5, K=0), OptionError, "copying needs a whole number K >= 1, got K=0"),
        (lambda: bench.copying(0, 5, 5, symbols=True), OptionError, "symbols >= 1, got symbols=True"),
        (lambda: bench.ackley(0, 5, 0), OptionError, "ackley needs a whole number dim >= 1, got dim=0"),
        (lambda: bench.add("0", 5, 5), OptionError, "add needs a whole number or a torch.Generator for rng, got '0'"),
        (lambda: bench.add(2**64, 5, 5), OptionError, f"add needs a seed .* got {2**64}"),
        (lambda: bench.permuted_pixels(torch.rand(1, 2, 2), [0], 2**70), OptionError, f"seed .* got {2**70}"),
        (lambda: bench.permuted_pixels(torch.rand(3, 4), [1, 2, 3]), ShapeError, r"got shape \(3, 4\)"),
        (lambda: bench.permuted_pixels(torch.rand(3, 2, 2), [1, 2]), ShapeError, r"3 images, got shape \(2,\)"),
        (lambda: bench.permuted_pixels(torch.rand(2, 2, 2), [1.0, 2]), DtypeError, "got torch.float32"),
        (lambda: bench.permuted_pixels(torch.rand(2, 2, 2), [1, -2]), DataError, "from 0 on, got -2"),
        (lambda: bench.permuted_pixels(torch.rand(2, 2, 2), [1, 2], -1), OptionError, "seed >= 0, got seed=-1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, error, words):
    with pytest.raises(error, match=words):
        wrong()
