"""How runs end that cannot go on: in one line and what to do, with what they left where it is said to be."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfMemoryError, RayTaskError

from envs.errors import FAILURES, UserError
from learner import main
from learner.config.defaults import defaults
from learner.run import ending
from learner.run.folder import Run


class LearnerError(UserError):
    """Stands for any of ours."""


@pytest.fixture
def run(tmp_path):
    cfg = defaults()
    cfg.run.dir, cfg.run.name = str(tmp_path), "mine"
    with Run(cfg) as run:
        yield run


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OutOfMemoryError("task was killed\nTop 10 memory users:\n1 2 3"), "the memory of its node was used up: close"),
        (ActorDiedError(), "Ray lost a part of the run: The actor died"),
        (ObjectStoreFullError("full\nof it"), "start Ray with more --object-store-memory (full)"),
        (MemoryError(), "the driver is out of memory: close other programs"),
    ],
)
def test_what_ends_a_run_from_outside_is_one_line(run, error, says):
    with pytest.raises(FAILURES) as ended, ending.told(run):
        raise error
    assert says in str(ended.value) and "\n" not in str(ended.value)
    assert ended.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [LearnerError("rank 0 failed"), OSError(28, "No space left", "/x"), ValueError("a defect")]
)
def test_our_own_errors_and_defects_stay_what_they_are(run, error):
    with pytest.raises(type(error)) as ended, ending.told(run):
        raise error
    assert ended.value is error


def test_what_a_task_of_ray_raised_is_told_by_its_cause(run, capsys):
    failed = RayTaskError("step", "Traceback …", LearnerError("rank 0 failed")).as_instanceof_cause()
    with pytest.raises(UserError) as ended, ending.told(run):
        raise failed
    assert main.fail(ended.value, 1) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: rank 0 failed"


def test_the_command_that_goes_on_is_said_where_there_is_something_to_go_on_from(run, capsys):
    def said() -> list[str]:
        with pytest.raises(LearnerError) as ended, ending.told(run), ending.kept_logs(run.logs):
            raise LearnerError("rank 0 failed")
        main.fail(ended.value, 1)
        return capsys.readouterr().err.splitlines()

    assert said() == ["error: rank 0 failed", f"logs: {run.dir / 'logs/1'}"]
    (run.dir / "checkpoints" / "finetuning").mkdir(parents=True)
    resumed = f"run.resume=true run.name=mine run.dir={run.dir.parent}"
    assert said()[2] == f"to go on from checkpoints/finetuning: {resumed} (make train ARGS='{resumed}')"
    (run.dir / "checkpoints" / "step_5").mkdir()
    assert said()[2].startswith("to go on from checkpoints/step_5: ")
    assert "LearnerError: rank 0 failed" in (run.logs / "traceback.txt").read_text()


def test_an_interrupt_passes_and_is_told_what_goes_on(run):
    def told() -> str:
        with pytest.raises(KeyboardInterrupt) as ended, ending.told(run), ending.kept_logs(run.logs):
            raise KeyboardInterrupt
        return ended.value.__notes__[-1].removeprefix(f"run.resume=true run.name=mine run.dir={run.dir.parent} ")

    assert told() == "goes on with what it has"
    (run.dir / "checkpoints" / "finetuning").mkdir(parents=True)
    assert told() == "goes on from its last checkpoint"
    assert not (run.logs / "traceback.txt").exists()
