"""Files of columns and of arrays: CSV, NPZ and MAT, as tensors under their names; `write_whole`, `whole_file`."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from slimgraph.data.dataset import as_tensor
from slimgraph.errors import DataError, MissingFileError, did_you_mean


def read_csv(
    path: str | Path, columns: Sequence[str] | None = None, *, dtype: torch.dtype | None = None, delimiter: str = ","
) -> dict[str, Tensor]:
    """The columns of a file with a header line, each as a tensor `(rows,)`; all named columns by default.

    Columns that were not asked for may hold anything, and so may columns without a name and blank lines. Raises
    DataError with the path for a file that is not there, with the nearest name for a wrong column, with the column,
    the row (as in the tensor, from 0) and the line for a cell that is empty, no number, NaN or infinite.
    """
    path = existing_file(path)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter=delimiter)
        first = next((row for row in lines if any(cell.strip() for cell in row)), [])
        header = [name.strip() for name in first]
        # A row of a file may span lines inside quotes, so the number of the line is the reader's, not the row's.
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    named = [name for name in header if name]
    if not rows:
        raise DataError(f"{path} holds no row below its header" if named else f"{path} is empty")
    columns = named if columns is None else [columns] if isinstance(columns, str) else columns
    result = {}
    for column in columns:
        if named.count(column) > 1:
            raise DataError(f"{path} has {named.count(column)} columns called {column!r}; rename all but one")
        if column not in named:
            raise DataError(f"{path} has no column {column!r}, it has {named}.{did_you_mean(column, named)}")
        at = header.index(column)
        cells = [_number(row[at] if at < len(row) else "", path, column, r, line) for r, (line, row) in enumerate(rows)]
        result[column] = torch.tensor(cells, dtype=dtype or torch.get_default_dtype())
    return result


def _number(cell: str, path: Path, column: str, row: int, line: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = None
    if value is None or not np.isfinite(value):
        what = "an empty cell" if not cell.strip() else f"{cell!r}, which is no finite number,"
        raise DataError(f"{path}: column {column!r} holds {what} in row {row} (line {line})")
    return value


def read_npz(path: str | Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arrays of a NumPy archive as tensors; raises DataError as `read_csv` does."""
    with np.load(existing_file(path), allow_pickle=False) as archive:
        return _selected(archive, list(archive.files), keys, path)


def read_mat(path: str | Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arrays of a MATLAB file (up to version 7) as tensors; needs scipy; raises DataError as `read_csv` does."""
    from scipy.io import loadmat

    content = loadmat(existing_file(path))
    return _selected(content, [key for key in content if not key.startswith("__")], keys, path)


def _selected(content: Any, there: list[str], keys: Sequence[str] | None, path: str | Path) -> dict[str, Tensor]:
    for key in keys or ():
        if key not in there:
            raise DataError(f"{path} holds no {key!r}, it holds {there}.{did_you_mean(key, there)}")
    return {key: as_tensor(content[key], key, str(path)) for key in (there if keys is None else keys)}


def existing_file(path: str | Path) -> Path:
    """`path`, which is a file. Raises MissingFileError with the nearest name beside it."""
    path = Path(path)
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder, not a file")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise MissingFileError(f"no file {path}.{did_you_mean(path.name, beside)}")
    return path


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write into, whose content then is that of `path`, at once or, after an error, not at all."""
    path = Path(path)
    # Beside the target, so that putting it in place is one step, and a program that dies leaves the old file whole.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".slimgraph-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp lets the owner alone read; other files are as the user's umask says.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_whole(path: str | Path, content: Any) -> None:
    """torch.save, so that `path` is whole or as it was before. Raises OSError, as a full disc does."""
    try:
        with whole_file(path) as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch hides what the disc said behind what its own writer counted.
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
