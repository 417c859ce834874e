from pathlib import Path

import pandas as pd
from sklearn.metrics import accuracy_score

from envs.grading import read_submission


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    submission = read_submission(submission_folder, answers, ["prediction"])
    return accuracy_score(answers["target"], submission["prediction"])
