from sklearn.metrics import mean_absolute_error

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])  # checked, in the order of the answers
    return mean_absolute_error(answers["target"], submission["prediction"])
