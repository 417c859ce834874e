from sklearn.metrics import log_loss

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return log_loss(answers["target"], submission["prediction"].clip(1e-12, 1 - 1e-12))
