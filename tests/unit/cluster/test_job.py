"""A job is handed to a cluster that is only just ready, and refused by one that will not have it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cluster import job
from cluster.job import Job, JobError

NOT_YET = "Request failed with status code 500: No available agent to submit job, please try again later.."


class Head:
    """In the place of Ray's client: answers with these one after another, an exception by raising it."""

    def __init__(self, *answers: str | Exception):
        self._answers: Iterator[str | Exception] = iter(answers)

    def submit_job(self, **_: object) -> str:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


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
