"""Fidelity: a task on a seeded sub-sample of its rows, so that experiments are short while little is known.

The order of rows is kept, so that series stay series. Invariants: pure but for the files it writes; the same file,
share and seed give the same rows; test rows and answers are never touched, so scores at all fidelities are comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 20250523
FEWEST = 30
"""Rows that are kept, if there are as many, whatever the share."""


def subsample(file: Path, share: float) -> None:
    """Keep `share` of the rows of a .csv, .jsonl or .npz file (of an .npz: of all its arrays, the same ones).

    Raises:
        ValueError: another kind of file, or arrays of unequal length.
    """
    kinds: dict[str, Callable[[Path, float], None]] = {".csv": _csv, ".jsonl": _jsonl, ".npz": _npz}
    if file.suffix not in kinds:
        raise ValueError(f"rows of a {file.suffix or 'nameless'} file cannot be sub-sampled: use {', '.join(kinds)}")
    kinds[file.suffix](file, share)


def _kept(rows: int, share: float) -> np.ndarray:
    """Sorted indices of the rows that stay."""
    wanted = min(rows, max(FEWEST, math.ceil(share * rows)))
    return np.sort(np.random.default_rng(SEED).choice(rows, wanted, replace=False))


def _csv(file: Path, share: float) -> None:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)  # as text, so that no value is written differently
    table.iloc[_kept(len(table), share)].to_csv(file, index=False)


def _jsonl(file: Path, share: float) -> None:
    with file.open(encoding="utf-8", newline="\n") as opened:
        lines = opened.readlines()  # at line feeds only: a text may hold what splitlines() takes for an end of line
    file.write_text("".join(lines[row] for row in _kept(len(lines), share)), encoding="utf-8")


def _npz(file: Path, share: float) -> None:
    with np.load(file) as archive:
        arrays = dict(archive)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the arrays of {file.name} have different lengths: {lengths}")
    rows = _kept(next(iter(lengths.values())), share)
    np.savez_compressed(file, **{name: array[rows] for name, array in arrays.items()})
