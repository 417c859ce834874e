"""For a task's prepare.py: divides a source table into what the agent sees and what only the grader sees.

Invariant: the order and the ids of test rows say nothing about their targets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def write_split(frame: pd.DataFrame, target: str, test_share: float = 0.5) -> None:
    """From scripts/: write ../env/train.csv (id, features, target), ../env/test.csv (without target) and answers.csv.

    frame: features and the column `target`, which is named `target` in what is written.
    """
    shuffled = frame.rename(columns={target: "target"}).iloc[np.random.default_rng(0).permutation(len(frame))]
    shuffled.insert(0, "id", range(len(shuffled)))
    test = shuffled.head(int(len(shuffled) * test_share))
    Path("../env").mkdir(exist_ok=True)
    shuffled.iloc[len(test) :].to_csv("../env/train.csv", index=False)
    test.drop(columns="target").to_csv("../env/test.csv", index=False)
    test[["id", "target"]].to_csv("answers.csv", index=False)
