from sklearn.metrics import cohen_kappa_score

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return cohen_kappa_score(answers["target"], submission["prediction"].round().astype(int), weights="quadratic")
