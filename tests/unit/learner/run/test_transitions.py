"""What goes to Parquet comes back, whole, and each step once."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from envs.records import Durations, Outcome, StepInfo, Transition, Withheld
from learner.run import transitions
from tests.unit.fake_run import report_of


def transition(name: str, **parts: float) -> Transition:
    return Transition(
        id=name,
        group_id="g",
        state_id="s",
        task_id="wine",
        prompt_ids=np.array([1, 2, 3], np.int32),
        response_ids=np.array([7, 8], np.int32),
        behaviour_logprobs=np.array([-0.5, -1.5], np.float32),
        version_spans=((3, 0, 1), (4, 1, 2)),
        outcome=Outcome.EDITED,
        reward=0.7,
        info=StepInfo(
            actor_id="actor-0",
            text="Action: Edit",
            action="edit",
            score_before=0.5,
            best_before=0.75,
            log_tail="ü ✓",
            durations=Durations(1, 2, 3, 4),
            reward_parts=parts,
            generate_seconds=5.0,
            withheld=Withheld(0.25),
            findings=(("copied", "y is age"), ("perfect", "1.0")),
        ),
    )


def test_rows_come_back_with_step_and_the_learners_figures(tmp_path):
    groups = [[transition("a", score=0.7), transition("b")]]
    report = report_of(advantages={"a": -1.25}, ratios={"b": 1.5}, losses={"a": 0.25})
    transitions.write(tmp_path, 4, groups, report)
    a, b = transitions.read(tmp_path)
    assert (a["id"], a["step"], a["advantage"], b["advantage"]) == ("a", 4, -1.25, None)
    assert (a["ratio"], b["ratio"], a["loss"], b["loss"]) == (None, 1.5, 0.25, None)
    assert a["prompt_ids"] == [1, 2, 3] and a["behaviour_logprobs"] == [-0.5, -1.5]
    assert a["version_spans"] == [{"version": 3, "start": 0, "end": 1}, {"version": 4, "start": 1, "end": 2}]
    assert a["reward_parts"] == {"score": 0.7} and b["reward_parts"] == {}
    assert (a["outcome"], a["score_after"], a["log_tail"], a["actor_id"]) == ("edited", None, "ü ✓", "actor-0")
    assert (a["score_before"], a["best_before"]) == (0.5, 0.75)
    assert a["test_score"] == 0.25 and a["findings"] == {"copied": "y is age", "perfect": "1.0"}
    seconds = [a[f"{part}_seconds"] for part in ("queue", "restore", "execute", "grade", "generate")]
    assert seconds == [1, 2, 3, 4, 5]


def test_a_step_written_again_replaces_its_file_and_truncation_forgets_later_steps(tmp_path):
    for step in (2, 10, 9):
        transitions.write(tmp_path, step, [[transition(f"t{step}")]], report_of())
    transitions.write(tmp_path, 9, [[transition("again")]], report_of())
    assert [row["id"] for row in transitions.read(tmp_path, ["id"])] == ["t2", "again", "t10"]
    transitions.truncate_after(tmp_path, 9)
    assert [row["step"] for row in transitions.read(tmp_path, ["step"])] == [2, 9]


def test_a_failed_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    transitions.write(tmp_path, 1, [[transition("kept")]], report_of())

    def half(table, where, **_):
        where.write_bytes(b"PAR1half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="No space"):
        transitions.write(tmp_path, 1, [[transition("lost")]], report_of())
    assert [row["id"] for row in transitions.read(tmp_path)] == ["kept"]
