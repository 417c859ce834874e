from pathlib import Path

import pandas as pd

from envs.grading import read_submission
from envs.metrics import map_at_k


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv", dtype={"target": str})
    submission = read_submission(submission_folder, answers, ["prediction"])
    given = submission["prediction"].astype(str).str.split()
    return map_at_k(answers["target"].str.split(), given, 10)
