"""A job is handed to a cluster that is only just ready, and refused by one that will not have it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from cluster import job
from cluster.job import Job, JobError

NOT_YET = "Request failed with status code 500: No available agent to submit job, please try again later.."


class Head:
    """In the place of Ray's client: answers with these one after another, an exception by raising it."""

    def __init__(self, *answers: object):
        self._answers: Iterator[object] = iter(answers)

    def submit_job(self, **_: object) -> object:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_job_info(self, _: str) -> object:
        return self.submit_job()


@pytest.fixture(autouse=True)
def hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of waiting is one on the clock alone; nobody reads a log."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(job, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(Job, "_read", lambda self: None)


def test_a_head_whose_node_is_not_ready_yet_is_asked_again():
    assert Job(Head(*[RuntimeError(NOT_YET)] * 20, "raysubmit_1"), "true", {}).id == "raysubmit_1"


@pytest.mark.parametrize("said", [NOT_YET, "Request failed with status code 500: no such working_dir"])
def test_one_that_refuses_is_quoted(said):
    answers = [RuntimeError(said)] * (100 if said == NOT_YET else 1)
    with pytest.raises(JobError, match="the cluster refuses the job: .*status code 500"):
        Job(Head(*answers), "true", {})


def test_a_network_that_is_gone_for_a_moment_is_no_end():
    gone = [ConnectionError("no route"), RuntimeError("status code 502")] * 10
    running, done = (SimpleNamespace(status=status) for status in (JobStatus.RUNNING, JobStatus.SUCCEEDED))
    assert Job(Head("raysubmit_1", *gone, running, *gone, done), "true", {}).exit_code() == 0


def test_a_cluster_that_stays_away_is_said_with_the_job_that_may_go_on():
    with pytest.raises(JobError, match=r"so does the run \(ray job logs raysubmit_1\): no route"):
        Job(Head("raysubmit_1", *[ConnectionError("no route")] * 99), "true", {}).exit_code()
