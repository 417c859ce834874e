"""What an action of MLAgentBench does to a state that one of ours cannot: another script than the task's is run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from envs.environment import Environment
from envs.records import Direction, Durations, Experiment, Limits, Outcome, State, Task
from envs.workspace import SnapshotStore


class Scores:
    """In the place of the sandbox: a script that is a number has it as its score, one that raises does not end."""

    name, running = "scores", 0

    def run(self, task: Task, files: Mapping[str, str]) -> Experiment:
        try:
            return Experiment(Outcome.EDITED, float(files[task.script]), "", Durations())
        except ValueError:
            finished = not files[task.script].startswith("raise")
            return Experiment(Outcome.SCRIPT_ERROR, None, "no submission", Durations(), finished=finished)

    def close(self) -> None:
        pass


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    (tmp_path / "train.py").write_text("0.5")
    task = Task(
        "toy", "", tmp_path, tmp_path, "train.py", frozenset(), "accuracy", Direction.MAXIMIZE, "held_in", Limits(),
        1.0, m_init=0.5, actions="mlagentbench",
    )  # fmt: skip
    return Environment({"toy": task}, Scores(), SnapshotStore(tmp_path / "snapshots"))


def text(name: str, **arguments: str) -> str:
    return f"Action: {name}\nAction Input: {json.dumps(arguments)}"


def test_nothing_of_a_truncated_response_is_carried_out_and_the_next_prompt_says_so(environment):
    start = environment.initial_state("toy")
    whole = text("Write File", file_name="train.py", content="0.9")
    result = environment.step(start, f"{whole}\nand then", truncated=True)
    assert (result.outcome, result.action, result.score_after) == (Outcome.TRUNCATED, "truncated", None)
    assert result.state.snapshot == start.snapshot and result.state.score == 0.5
    assert "cut off" in result.state.history[-1].observation == result.observation


@pytest.mark.parametrize(
    ("content", "outcome", "score"),
    [
        ("0.9", Outcome.NEUTRAL, 0.9),
        ("print('columns')", Outcome.NEUTRAL, None),
        ("raise KeyError", Outcome.SCRIPT_ERROR, None),
    ],
)
def test_what_another_script_comes_to_says_nothing_about_the_tasks_own(environment, content, outcome, score):
    wrote = environment.step(environment.initial_state("toy"), text("Write File", file_name="look.py", content=content))
    result = environment.step(wrote.state, text("Execute Script", script_name="look.py"))
    assert (result.outcome, result.score_after) == (outcome, score)
    assert (result.state.score, result.state.reference) == (0.5, 0.5)
    after = environment.step(result.state, text("Write File", file_name="train.py", content="0.7"))
    assert (after.score_before, after.score_after) == (0.5, 0.7), "gains are measured from the task's own script"


def test_a_run_of_the_tasks_own_script_mends_a_score_that_was_lost(environment):
    lost: State = dataclasses.replace(environment.initial_state("toy"), score=None)
    result = environment.step(lost, text("Execute Script", script_name="train.py"))
    assert result.outcome is Outcome.NEUTRAL and result.state.score == 0.5


def test_the_best_on_the_way_is_known_of_states_that_earlier_versions_left(environment):
    start = environment.initial_state("toy")
    assert start.best == 0.5
    for content, best in (("0.9", 0.9), ("0.7", 0.9), ("raise KeyError", 0.9), ("0.95", 0.95)):
        earlier = dataclasses.replace(start, best=None)
        result = environment.step(earlier, text("Write File", file_name="train.py", content=content))
        assert (result.best_before, result.state.best) == (max(0.5, start.best), best)
        start = result.state


def native(environment: Environment) -> Environment:
    environment.tasks = {"toy": dataclasses.replace(environment.tasks["toy"], actions="native")}
    return environment


def test_what_is_written_without_a_run_is_worth_an_edit_once_it_is_run(environment):
    start = native(environment).initial_state("toy")
    wrote = environment.step(start, "Action: Write\nRun: no\n```\n0.9\n```")
    assert (wrote.action, wrote.outcome, wrote.score_after) == ("write", Outcome.NEUTRAL, None)
    assert (wrote.state.score, wrote.state.reference, wrote.state.unrun) == (None, 0.5, 1)
    assert environment.files(wrote.state)["train.py"] == "0.9\n" and "nothing run" in wrote.observation
    ran = environment.step(wrote.state, "Action: Execute")
    assert (ran.action, ran.outcome, ran.score_before, ran.score_after) == ("execute", Outcome.EDITED, 0.5, 0.9)
    assert (ran.state.score, ran.state.unrun) == (0.9, 0)
    again = environment.step(ran.state, "Action: Execute\nFile: train.py")
    assert again.outcome is Outcome.NEUTRAL
    undone = environment.step(environment.step(wrote.state, "Action: Undo").state, "Action: Execute")
    assert (undone.outcome, undone.state.score, undone.state.unrun) == (Outcome.NEUTRAL, 0.5, 0)


def test_another_script_is_run_and_the_tasks_own_stays_unrun(environment):
    start = native(environment).initial_state("toy")
    wrote = environment.step(start, "Action: Write\nRun: no\nFile: look.py\n```\n0.1\n```\nFile: b.py\n```\n\n```")
    assert wrote.observation.startswith("look.py, b.py written")
    ran = environment.step(wrote.state, "Action: Execute\nFile: look.py")
    assert (ran.outcome, ran.score_after, ran.state.score, ran.state.unrun) == (Outcome.NEUTRAL, 0.1, None, 1)
    missing = environment.step(start, "Action: Execute\nFile: look.py")
    assert missing.outcome is Outcome.INVALID and "no script look.py" in missing.observation


def test_the_end_of_what_a_successful_run_printed_is_observed(environment):
    def run(task: Task, files: Mapping[str, str]) -> Experiment:
        return Experiment(Outcome.EDITED, 0.7, "line\n" * 1000 + "fold 5: 0.7\x1b[2J\n", Durations())

    environment.runner.run = run
    seen = environment.step(native(environment).initial_state("toy"), "Action: Execute").observation
    assert seen.startswith("accuracy = 0.7\n…") and seen.endswith("fold 5: 0.7\\x1b[2J") and len(seen) < 650
    environment._kept = 20
    assert len(environment.step(environment.initial_state("toy"), "Action: Execute").observation) < 50
