from envs.grading import read_answers, read_submission
from envs.metrics import mcrmse

TARGETS = ["temp_next", "humid_next", "wind_next"]


def get_score(submission_folder):
    answers = read_answers(__file__)
    submission = read_submission(submission_folder, answers, TARGETS)
    return mcrmse(answers[TARGETS], submission[TARGETS])
