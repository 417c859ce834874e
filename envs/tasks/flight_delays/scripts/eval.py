from pathlib import Path

import numpy as np
import pandas as pd

from envs.grading import read_submission


def get_score(submission_folder):
    answers = pd.read_csv(Path(__file__).parent / "answers.csv")
    submission = read_submission(submission_folder, answers, ["prediction"])
    return float(np.corrcoef(answers["target"], submission["prediction"])[0, 1])
