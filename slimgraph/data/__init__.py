"""Data: sets of samples under string keys, windows of a series, normalisers, and files of columns.

A batch is a dict of tensors whose first axis counts samples; a series is `(batch, time, features)`.
"""

from __future__ import annotations

from slimgraph.data.dataset import DictDataset
from slimgraph.data.files import read_csv, read_mat, read_npz
from slimgraph.data.series import Normalizer, windows

__all__ = ["DictDataset", "Normalizer", "read_csv", "read_mat", "read_npz", "windows"]
