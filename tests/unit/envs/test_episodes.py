"""Episodes of random actions, against a model of what a workspace is: files and scores as they were at each point."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.environment import Environment
from envs.records import Direction, Durations, Experiment, Limits, Outcome, State, Task
from envs.workspace import SnapshotStore
from reward import Terms, reward

SCRIPT = "value = 0\n"
TASK = Task(
    "toy", "", Path("missing"), Path("missing"), "train.py", frozenset({"train.csv"}), "accuracy", Direction.MAXIMIZE,
    "held_in", Limits(), 100.0, m_init=0.0,
)  # fmt: skip


class Scores:
    """In the place of the sandbox: the script's value is its score, and one that divides by five breaks it."""

    name, running = "scores", 0

    def run(self, task: Task, files: Mapping[str, str]) -> Experiment:
        value = int(files["train.py"].split("=")[1])
        if value % 5 == 0 and value:
            return Experiment(Outcome.SCRIPT_ERROR, None, "broken", Durations(), finished=False)
        return Experiment(Outcome.EDITED, float(value), "", Durations())

    def close(self) -> None:
        pass


@dataclass
class Model:
    """What the state must be."""

    files: dict[str, str]
    score: float | None
    reference: float
    before: list[tuple[dict[str, str], float | None]]
    best: float = 0.0


VALUE = st.integers(0, 11)
MOVE = st.one_of(
    st.tuples(st.just("write"), VALUE),
    st.tuples(st.just("edit"), VALUE),
    st.tuples(st.just("note"), VALUE),
    st.tuples(st.sampled_from(["undo", "undo", "execute", "inspect", "forbidden", "nonsense"]), VALUE),
)


def text(kind: str, value: int, files: dict[str, str]) -> str:
    return {
        "write": f"Action: Write\n```\nvalue = {value}\n```",
        "edit": f"Action: Edit\n<<<<<<< SEARCH\n{files['train.py']}=======\nvalue = {value}\n>>>>>>> REPLACE",
        "note": f"Action: Write\nFile: notes/{value % 3}.txt\n```\n{value}\n```",
        "undo": "Action: Undo",
        "execute": "Action: Execute",
        "inspect": "Action: Inspect",
        "forbidden": "Action: Write\nFile: train.csv\n```\n1\n```",
        "nonsense": "I would rather not.",
    }[kind]


def move(model: Model, kind: str, value: int) -> Outcome:
    """Change the model as the action must change the state; what must come of it."""
    if kind == "undo":
        if not model.before:
            return Outcome.INVALID
        model.files, model.score = model.before.pop()
        model.reference = model.reference if model.score is None else model.score
        return Outcome.NEUTRAL
    if kind in ("forbidden", "nonsense"):
        return Outcome.INVALID
    if kind == "inspect":
        return Outcome.NEUTRAL
    if kind != "execute":
        name, content = (
            ("train.py", f"value = {value}\n") if kind != "note" else (f"notes/{value % 3}.txt", f"{value}\n")
        )
        if model.files.get(name) == content:
            return Outcome.INVALID
        model.before.append((model.files, model.score))
        model.files = {**model.files, name: content}
    run = Scores().run(TASK, model.files)
    model.score, model.reference = run.score, model.reference if run.score is None else run.score
    model.best = max(model.best, model.reference)
    return Outcome.NEUTRAL if kind == "execute" and run.score is not None else run.outcome


@settings(deadline=None, max_examples=40)
@given(st.lists(MOVE, max_size=14), st.data())
def test_states_are_what_was_done_undo_gives_back_what_was_and_only_what_nobody_needs_is_collected(moves, data):
    with tempfile.TemporaryDirectory() as folder:
        task_dir = Path(folder) / "env"
        task_dir.mkdir()
        (task_dir / "train.py").write_text(SCRIPT)
        task = dataclasses.replace(TASK, env_dir=task_dir)
        store = SnapshotStore(Path(folder) / "snapshots")
        environment = Environment({"toy": task}, Scores(), store)
        state = environment.initial_state("toy")
        model = Model({"train.py": SCRIPT}, 0.0, 0.0, [])
        passed: list[tuple[State, dict[str, str]]] = [(state, model.files)]
        earned = 0.0
        for kind, value in moves:
            before, best = state, model.best
            expected = move(model, kind, value)
            result = environment.step(state, text(kind, value, environment.files(state)))
            state = result.state
            assert result.outcome is expected, (kind, value, result)
            assert environment.files(state) == model.files
            assert (state.score, state.reference) == (model.score, model.reference)
            assert kind == "undo" or result.score_before == before.reference
            assert (result.best_before, state.best) == (best, model.best)
            if result.outcome is Outcome.EDITED:
                earned += reward(result, task, Terms("v2", over="best")).value
            assert [score for _, score in state.undo] == [score for _, score in model.before]
            assert len(state.history) == len(before.history) + 1 and state.id != before.id
            passed.append((state, model.files))
        assert earned * 100 == pytest.approx(model.best), "what is paid adds up to the best score, whatever the way"
        kept = data.draw(st.sets(st.sampled_from(range(len(passed)))), "states kept")
        stored = set((Path(folder) / "snapshots").glob("*.json"))
        needed = {name for i in kept for name in (passed[i][0].snapshot, *(s for s, _ in passed[i][0].undo))}
        gone = SnapshotStore(Path(folder) / "snapshots").collect([passed[i][0] for i in kept], older_than=-1)
        assert {file.stem for file in (Path(folder) / "snapshots").glob("*.json")} == needed
        assert gone == len(stored) - len(needed)
        again = Environment({"toy": task}, Scores(), SnapshotStore(Path(folder) / "snapshots"))
        for i in kept:
            state, files = passed[i]
            assert again.files(state) == files
            while state.undo:  # as far back as it goes
                state = again.step(state, "Action: Undo").state
                again.files(state)
            assert again.files(state) == {"train.py": SCRIPT}
