from sklearn.metrics import accuracy_score

from envs.grading import read_answers, read_submission


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, ["prediction"])
    return accuracy_score(answers["target"], submission["prediction"])
