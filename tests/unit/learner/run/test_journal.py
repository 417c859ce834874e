"""A step's figures, and a journal that a crash or a restart does not spoil."""

import dataclasses
import json
import math
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from envs.records import Durations, Fault, Finding, Origin, Outcome, StepInfo, Transition
from learner.run.journal import Journal, commit, read, step_metrics
from tests.unit.fake_run import report_of


def transition(outcome: Outcome, reward: float, spans=((5, 0, 4),), task_id: str = "wine", **info) -> Transition:
    known = {"durations": Durations(queue=1, restore=2, execute=3, grade=4), "generate_seconds": 5}
    return Transition(
        id="g/0",
        group_id="g",
        state_id="s",
        task_id=task_id,
        prompt_ids=np.zeros(3, np.int32),
        response_ids=np.zeros(4, np.int32),
        behaviour_logprobs=np.zeros(4, np.float32),
        version_spans=spans,
        outcome=outcome,
        reward=reward,
        info=StepInfo(**(known | info)),
    )


def test_infrastructure_failures_are_counted_but_enter_no_mean():
    groups = [
        [transition(Outcome.EDITED, 0.9), transition(Outcome.INVALID, 0.0, task_id="iris")],
        [transition(Outcome.INFRA_FAILURE, 1.0, spans=((0, 0, 4),)), transition(Outcome.TIMEOUT, 0.5)],
    ]
    row = step_metrics(groups, version=5, report=report_of({"loss": 0.1}), seconds=8.0, waited=(0.0, 0.0), now=9.0)
    assert row["reward_mean"] == pytest.approx(1.4 / 3) and row["valid_rate"] == pytest.approx(1 / 3)
    assert row["task_rewards"] == {"iris": 0.0, "wine": 0.7}
    assert row["transitions"] == 4 and sum(row["outcomes"].values()) == 4
    assert row["outcomes"]["infra_failure"] == row["outcomes"]["edited"] == 1
    assert (row["response_tokens"], row["batch_tokens"]) == (16, 16 + 2 * 3)  # a group's prompt counts once
    assert row["staleness_max"] == 0 and row["tokens_per_s"] == 2.0 and row["loss"] == 0.1
    parts = ("queue", "restore", "execute", "grade", "generate")
    assert [row[f"{part}_seconds"] for part in parts] == [1, 2, 3, 4, 5]


def test_truncated_responses_are_a_share_of_all_whether_or_not_they_are_masked():
    cut = transition(Outcome.TRUNCATED, 0.0)
    members = [cut, dataclasses.replace(cut, excluded=True), *[transition(Outcome.EDITED, 1.0)] * 2]
    row = step_metrics([members], 5, report_of(), seconds=8.0, waited=(0.0, 0.0), now=9.0)
    assert row["truncated_rate"] == 0.5 and row["outcomes"]["truncated"] == 2
    assert row["valid_rate"] == row["reward_mean"] == pytest.approx(2 / 3)


def test_invalid_actions_are_counted_by_what_is_wrong_with_them():
    members = [transition(Outcome.INVALID, 0, fault=fault) for fault in ("no_match", "no_match", "empty")]
    row = step_metrics([members], 5, report_of(), seconds=8.0, waited=(0.0, 0.0), now=9.0)
    assert {name: count for name, count in row["faults"].items() if count} == {"no_match": 2, "empty": 1}
    assert set(row["faults"]) == set(Fault)


def test_findings_are_counted_by_name_and_what_has_any_once():
    found = (("copied", "y is age"), ("perfect", "1.0"))
    members = [transition(Outcome.EDITED, 1, findings=one) for one in (found, found[:1], ())]
    row = step_metrics([members], 5, report_of(), seconds=8.0, waited=(0.0, 0.0), now=9.0)
    assert row["suspicious"] == 2 and {n: c for n, c in row["findings"].items() if c} == {"copied": 2, "perfect": 1}
    assert set(row["findings"]) == set(Finding)


def test_only_experiments_that_ran_have_cost_time():
    ran, cached, simulated = (transition(Outcome.EDITED, 1, origin=origin) for origin in Origin)
    row = step_metrics([[ran, ran, cached, simulated]], 5, report_of(), seconds=8.0, waited=(0.0, 0.0), now=9.0)
    assert (row["experiment_seconds"], row["experiments_cached"]) == (6.0, 1)


def test_the_wait_for_a_batch_is_told_with_what_it_was_for():
    groups = [[transition(Outcome.EDITED, 1, finished=100.0)]]
    row = step_metrics(groups, 5, report_of(), seconds=8.0, waited=(97.0, 101.0), now=101.0)
    assert (row["wait_seconds"], sum(row["waited_for"].values())) == (4.0, 4.0)
    assert row["waited_for"]["grade"] == 3.0 and row["waited_for"]["other"] == 1.0


def test_staleness_is_that_of_the_oldest_token():
    fresh, mixed = transition(Outcome.EDITED, 1), transition(Outcome.EDITED, 1, spans=((3, 0, 2), (5, 2, 4)))
    row = step_metrics([[fresh, mixed]], version=5, report=report_of(), seconds=1, waited=(0.0, 0.0), now=9.0)
    assert (row["staleness_max"], row["staleness_mean"]) == (2, 1.0)
    assert row["staleness_histogram"] == {"0": 1, "2": 1}
    assert row["age_seconds_mean"] == row["age_seconds_max"] == 9.0


def test_a_step_of_nothing_but_infrastructure_failures_has_no_reward():
    row = step_metrics(
        [[transition(Outcome.INFRA_FAILURE, 0)]], version=5, report=report_of(), seconds=1, waited=(0.0, 0.0), now=9.0
    )
    assert row["reward_mean"] is None and row["valid_rate"] is None and row["staleness_max"] == 0
    assert row["logprob_gap_mean"] is None


def test_a_resumed_journal_tells_no_step_twice(tmp_path):
    with Journal(tmp_path) as journal:
        for step in (1, 2, 3):
            journal.append({"step": step, "reward_mean": step / 10, "outcomes": {"edited": step}})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # the crash
    with Journal(tmp_path) as journal:
        journal.truncate_after(2)
        journal.append({"step": 3, "reward_mean": 0.9, "outcomes": {"edited": 0}})
    assert [(row["step"], row["reward_mean"]) for row in read(tmp_path)] == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_tensorboard_forgets_the_steps_that_are_done_again(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append({"step": 3, "reward_mean": 0.3})
        journal.truncate_after(2)
    told = [event for file in (tmp_path / "tensorboard").iterdir() for event in events(file)]
    forgotten = [event.step for event in told if event.session_log.status == event_pb2.SessionLog.START]
    assert forgotten == [3], "from which step on a reader leaves out what it has read before"


def test_every_line_is_strict_json_and_a_line_is_on_disk_at_once(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append(
            {
                "step": 1,
                "loss": math.nan,
                "kl": -math.inf,
                "grad_norm": np.float32(0.5),
                "outcomes": {"edited": np.int64(3)},
            }
        )
        line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1,
        "loss": None,
        "kl": None,
        "grad_norm": 0.5,
        "outcomes": {"edited": 3},
    }


def test_tensorboard_holds_the_same_figures(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append({"step": 7, "reward_mean": 0.25, "valid_rate": None, "outcomes": {"edited": 3}})
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = {(v.tag, e.step): v.simple_value for e in events(file) for v in e.summary.value}
    assert found == {("reward_mean", 7): 0.25, ("outcomes/edited", 7): 3.0}


def test_where_a_disk_is_full_for_tensorboard_its_figures_are_lacking_and_nobody_waits(tmp_path, monkeypatch):
    """tensorboardX's own writer did for ever: its thread had ended, and its queue was full."""
    monkeypatch.setattr(record_writer, "open_file", lambda path: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    figures = {f"figure_{number}": 1.0 for number in range(1000)}  # more than a buffer holds
    with Journal(tmp_path) as journal:
        for step in (1, 2):
            journal.append({"step": step, **figures})
        monkeypatch.undo()  # somebody made room
        journal.append({"step": 3, **figures})
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert {event.step: len(event.summary.value) for event in events(file)} == {0: 0, 3: 1000}


def test_a_line_that_does_not_fit_is_one_error_and_trackers_are_told_that_the_run_has_ended(tmp_path):
    class Tracker:
        ended = False

        def log(self, figures, step):
            pass

        def close(self):
            self.ended = True
            raise ConnectionError("the service is down")

    tracker = Tracker()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as raised, Journal(tmp_path, [tracker]) as journal:
        journal.append({"step": 1})
    assert tracker.ended and not raised.value.__context__


def events(file):
    data = file.read_bytes()
    while data:  # TFRecord: length (8 bytes), its checksum (4), payload, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_commit_is_told_of_a_checkout_itself_and_says_whether_it_was_changed(tmp_path):
    def git(*arguments: str) -> str:
        who = "-c", "user.name=x", "-c", "user.email=x@x"
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    assert commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD").strip()
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{head}+"
    (tmp_path / "inner").mkdir()
    assert commit(tmp_path / "inner") is None, "a package that is installed within somebody's checkout is not of it"


def test_about_names_what_ran(tmp_path):
    with Journal(tmp_path) as journal:
        journal.describe({"actor-0": {"sandbox": "docker", "host": "n1"}})
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["version"] and about["command"] == shlex.join(sys.argv)
    assert about["actors"]["actor-0"]["sandbox"] == "docker" and "numpy" in about["versions"]
