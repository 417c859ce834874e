from sklearn.metrics import root_mean_squared_error

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return root_mean_squared_error(answers["target"], submission["prediction"])
