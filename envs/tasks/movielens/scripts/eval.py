from envs.grading import read_answers, read_submission
from envs.metrics import map_at_k


def get_score(submission_folder):
    answers = read_answers(__file__, text=["target"])
    submission = read_submission(submission_folder, answers, ["prediction"])
    given = submission["prediction"].astype(str).str.split()
    return map_at_k(answers["target"].str.split(), given, 10)
