from sklearn.metrics import log_loss

from envs.grading import read_answers, read_submission

CLASSES = ["0", "1", "2"]


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, CLASSES)
    shares = submission[CLASSES].to_numpy().clip(min=1e-12)
    shares /= shares.sum(axis=1, keepdims=True)  # a row that sums to more than 1 must not count as more
    return log_loss(answers["target"].to_numpy(), shares)
