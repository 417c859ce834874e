"""The built-in expert writes actions that apply, on fresh, edited and broken scripts."""

import ast
import random
from pathlib import Path

import pytest

from actors.expert import MAX_CHARACTERS, propose
from envs.actions import Edit, InvalidAction, Undo, apply, parse
from envs.loader import BUILTIN, about, builtin_tasks
from envs.records import Limits, State, Step, Task


def task_of(name: str) -> Task:
    stated = about(name)
    return Task(
        name, "", Path("env"), Path("scripts"), "train.py", frozenset(), stated.metric, stated.direction, stated.split,
        Limits(), stated.best,
    )  # fmt: skip


def script_of(name: str) -> str:
    return (BUILTIN / name / "env" / "train.py").read_text()


def start(script: str, score: float | None = 0.5) -> State:
    """A state in which the script was edited before."""
    return State("s", "t", "0", (Step("Action: Edit", ""),), score, 0.5, undo=(("0", 0.5),))


def names_are_imported(script: str) -> bool:
    tree = ast.parse(script)
    known = {alias.asname or alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    used = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return used <= known


@pytest.mark.parametrize("name", [name for name in builtin_tasks() if ".fit(" in script_of(name)])
def test_chains_of_edits_apply_and_differ(name):
    task, seen = task_of(name), set()
    for seed in range(40):
        rng, script, state = random.Random(seed), script_of(name), State("s", name, "0", score=0.5, reference=0.5)
        for step in range(5):
            text = propose(task, state, {"train.py": script}, rng, mistakes=0)
            assert len(text) <= MAX_CHARACTERS
            action = parse(text, task)
            if isinstance(action, Edit):
                script = apply(action, {"train.py": script}, task)["train.py"]
                assert names_are_imported(script) and "submission.csv" in script
                seen |= {text} if step == 0 else set()
            state = start(script)
    assert len(seen) >= 30  # of 40 first actions


def test_kinds_of_models_fit_the_task():
    for name, wrong in (("diabetes", "Classifier"), ("digits", "Regressor"), ("wine", "SVC(")):
        for seed in range(60):
            text = propose(task_of(name), start(""), {"train.py": script_of(name)}, random.Random(seed), 0)
            assert wrong not in text.partition("=======")[2]


def test_the_same_generator_gives_the_same_action():
    def one() -> str:
        return propose(task_of("wine"), start(""), {"train.py": script_of("wine")}, random.Random(7), 0.5)

    assert one() == one()


def test_mistakes_leave_states_that_it_repairs():
    task, repaired = task_of("diabetes"), 0
    for seed in range(100):
        rng, script = random.Random(seed), script_of("diabetes")
        state = State("s", "t", "0", score=0.5)
        try:
            broken = apply(
                parse(propose(task, state, {"train.py": script}, rng, 1.0), task), {"train.py": script}, task
            )
        except InvalidAction:
            continue
        action = parse(propose(task, start("", score=None), broken, rng, 0), task)
        if action == Undo():
            continue
        fixed = apply(action, broken, task)["train.py"]
        assert names_are_imported(fixed) and "sklearn.models" not in fixed and "strength=2" not in fixed
        repaired += 1
    assert repaired > 20


def test_it_reads_scripts_of_another_form():
    script = (
        "from sklearn.svm import SVC as Machine\nimport numpy as np\n\n\ndef main():\n"
        "    clf = Machine(\n        C=2,\n    )\n    clf.fit(np.eye(2), [0, 1])\n"
    )
    for seed in range(40):
        action = parse(
            propose(task_of("digits"), start("", 0.6), {"train.py": script}, random.Random(seed), 0), task_of("digits")
        )
        new = apply(action, {"train.py": script}, task_of("digits"))["train.py"]
        compile(new, "train.py", "exec")
        assert new.startswith("from sklearn.svm import SVC as Machine\n") and "    clf = " in new


def test_a_script_without_a_model_is_not_edited():
    assert "Inspect" in propose(
        task_of("wine"), State("s", "t", "0", score=1.0), {"train.py": "print(1)"}, random.Random(0), 0
    )
    assert "Undo" in propose(task_of("wine"), start(""), {"train.py": "print(1)"}, random.Random(0), 0)
