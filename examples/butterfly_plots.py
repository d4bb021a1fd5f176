"""What examples/butterfly_transforms.py shows: the exact and the learnt matrices, and the error while training."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt


def draw(path, runs):
    """A row for each run (name, map, W, A, errors): exact and learnt matrix, their difference, the training."""
    figure, axes = plt.subplots(len(runs), 4, figsize=(14, 3.3 * len(runs)), layout="constrained", squeeze=False)
    for (name, _, W, A, errors), row in zip(runs, axes, strict=True):
        part, bound = ", real part" if A.is_complex() else "", A.abs().max()
        for axis, matrix, word in zip(row, (A, W), ("exact", "learnt"), strict=False):
            image = axis.imshow(matrix.real, cmap="RdBu", vmin=-bound, vmax=bound)
            axis.set_title(f"{name} of size {len(A)}, {word}{part}")
            figure.colorbar(image, ax=axis)
        figure.colorbar(row[2].imshow((W - A).abs().clamp(min=1e-12).log10()), ax=row[2])
        row[2].set_title("log10 of the error of each entry")
        row[3].semilogy(errors)
        row[3].set(title="RMSE over all entries", xlabel="evaluations of the loss")
    figure.savefig(path, dpi=110)
    plt.close(figure)
