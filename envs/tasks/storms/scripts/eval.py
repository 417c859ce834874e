from pathlib import Path

import pandas as pd
from sklearn.metrics import cohen_kappa_score

from envs.grading import read_submission


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    submission = read_submission(submission_folder, answers, ["prediction"])
    return cohen_kappa_score(answers["target"], submission["prediction"].round().astype(int), weights="quadratic")
