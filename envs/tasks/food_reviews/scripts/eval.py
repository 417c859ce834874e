from pathlib import Path

import pandas as pd
from sklearn.metrics import log_loss

from envs.grading import read_submission


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    submission = read_submission(submission_folder, answers, ["prediction"])
    return log_loss(answers["target"], submission["prediction"].clip(1e-12, 1 - 1e-12))
