"""For a task's prepare.py: divides a source table into what the agent sees and what only the grader sees.

Invariant: the order and the ids of test rows say nothing about their targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


def write_split(frame: pd.DataFrame, target: str, test_share: float = 0.5) -> None:
    """From scripts/: divide at random, and write as `write_parts` does.

    frame: features and the column `target`, which is named `target` in what is written.
    """
    shuffled = frame.rename(columns={target: "target"}).iloc[np.random.default_rng(0).permutation(len(frame))]
    tested = int(len(shuffled) * test_share)
    _write(shuffled.iloc[tested:], shuffled.head(tested), ["target"])


def write_parts(train: pd.DataFrame, test: pd.DataFrame, targets: Sequence[str]) -> None:
    """From scripts/: write ../env/train.csv (id, features, targets), ../env/test.csv (without targets) and answers.csv.

    For tables that are divided already, as by time. The rows to predict are shuffled.
    """
    _write(train, test.iloc[np.random.default_rng(0).permutation(len(test))], targets)


def _write(train: pd.DataFrame, test: pd.DataFrame, targets: Sequence[str]) -> None:
    both = pd.concat([test, train])
    both.insert(0, "id", range(len(both)))
    test, train = both.head(len(test)), both.iloc[len(test) :]
    Path("../env").mkdir(exist_ok=True)
    train.to_csv("../env/train.csv", index=False)
    test.drop(columns=list(targets)).to_csv("../env/test.csv", index=False)
    test[["id", *targets]].to_csv("answers.csv", index=False)
