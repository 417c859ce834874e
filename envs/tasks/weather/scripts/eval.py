from pathlib import Path

import pandas as pd

from envs.grading import read_submission
from envs.metrics import mcrmse

TARGETS = ["temp_next", "humid_next", "wind_next"]


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    submission = read_submission(submission_folder, answers, TARGETS)
    return mcrmse(answers[TARGETS], submission[TARGETS])
