from sklearn.metrics import roc_auc_score

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return roc_auc_score(answers["target"], submission["prediction"])
