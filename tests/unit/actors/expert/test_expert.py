"""The built-in expert writes actions that apply, on fresh, edited and broken scripts."""

import ast
import builtins
import random
from dataclasses import replace
from pathlib import Path

import pytest

from actors.expert import edits, estimators, ideas, operators
from actors.expert.builtin import MAX_CHARACTERS, BuiltinExpert, propose
from actors.expert.script import Script
from envs import research_actions
from envs.actions import Action, Edit, FinalAnswer, Inspect, InvalidAction, Undo, parse
from envs.benchmarks.loader import BUILTIN, about, builtin_tasks
from envs.changes import apply
from envs.records import Limits, State, Step, Task


def task_of(name: str) -> Task:
    stated = about(name)
    return Task(
        name, "", BUILTIN / name / "env", Path("scripts"), "train.py", frozenset(), stated.metric, stated.direction,
        stated.split, Limits(), stated.best,
    )  # fmt: skip


def script_of(name: str) -> str:
    return (BUILTIN / name / "env" / "train.py").read_text()


def start(script: str, score: float | None = 0.5) -> State:
    """A state in which the script was edited before."""
    return State("s", "t", "0", (Step("Action: Edit", ""),), score, 0.5, undo=(("0", 0.5),))


def names_are_known(script: str) -> bool:
    """Whether every name that the script reads is one that it imports or assigns."""
    nodes = list(ast.walk(ast.parse(script)))
    known = {(a.asname or a.name) for n in nodes if isinstance(n, ast.ImportFrom | ast.Import) for a in n.names}
    known |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known |= {n.arg for n in nodes if isinstance(n, ast.arg)} | set(dir(builtins))
    return {n.id for n in nodes if isinstance(n, ast.Name)} <= known


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in builtin_tasks() if ".fit(" in script_of(name)])
def test_chains_of_edits_apply_and_differ(name):
    task, seen = task_of(name), set()
    for seed in range(20):
        rng, script, state = random.Random(seed), script_of(name), State("s", name, "0", score=0.5, reference=0.5)
        for step in range(4):
            text = propose(task, state, {"train.py": script}, rng, mistakes=0)
            assert len(text) <= MAX_CHARACTERS
            action = parse(text, task)
            if isinstance(action, Edit):
                script = apply(action, {"train.py": script}, task)["train.py"]
                assert names_are_known(script) and "submission.csv" in script
                seen |= {text} if step == 0 else set()
            state = start(script)
    assert len(seen) >= 13  # of 20 first actions


def test_kinds_of_models_fit_the_task():
    for name, wrong in (("diabetes", "Classifier"), ("digits", "Regressor"), ("wine", "SVC(")):
        for seed in range(30):
            text = propose(task_of(name), start(""), {"train.py": script_of(name)}, random.Random(seed), 0)
            assert wrong not in text.partition("=======")[2]


def test_the_same_generator_gives_the_same_action():
    def one() -> str:
        return propose(task_of("wine"), start(""), {"train.py": script_of("wine")}, random.Random(7), 0.5)

    assert one() == one()


@pytest.mark.parametrize("name", ["diabetes", "weather", "titanic"])
def test_mistakes_leave_states_that_it_repairs(name):
    task, script, repaired = task_of(name), script_of(name), 0
    for seed in range(100):
        rng, state = random.Random(seed), State("s", "t", "0", score=0.5)
        mistaken = propose(task, state, {"train.py": script}, rng, 1.0)
        try:
            broken = apply(parse(mistaken, task), {"train.py": script}, task)
        except InvalidAction:
            continue
        action = parse(propose(task, start("", score=None), broken, rng, 0, working=script), task)
        if action == Undo():
            continue
        fixed = apply(action, broken, task)["train.py"]
        assert names_are_known(fixed) and "sklearn.models" not in fixed and "strength=2" not in fixed
        assert fixed != script, "it takes an edit back by Undo"
        repaired += 1
    assert repaired > 5


@pytest.mark.parametrize(("name", "better", "worse"), [("digits", 0.6, 0.4), ("diabetes", 0.4, 0.6)])
def test_only_what_made_the_score_worse_is_taken_back(name, better, worse):
    task = task_of(name)

    def undone(score: float) -> int:
        state, files = start("", score), {"train.py": script_of(name)}
        return sum(parse(propose(task, state, files, random.Random(n), 0), task) == Undo() for n in range(40))

    assert undone(better) == undone(0.5) == 0 < undone(worse) < 20


def test_a_script_that_fails_is_read_now_and_then_and_one_that_is_worse_never():
    task, files = task_of("digits"), {"train.py": script_of("digits")}
    expert = BuiltinExpert(0.0, lambda text: True)

    def read(score: float | None) -> int:
        state = start("", score)
        drawn = [
            expert.propose(task, state, files, files["train.py"], (), random.Random(n)).text for n in range(99)
        ]  # fmt: skip
        return sum(isinstance(parse(text, task), Inspect) for text in drawn)

    assert 0 < read(None) < 15 and read(0.4) == 0


@pytest.mark.parametrize(("name", "scores", "better"), [("digits", (0.5, 0.6, 0.7), 0.7), ("diabetes", (9, 8, 7), 7)])
def test_a_long_trajectory_ends_with_a_final_answer_at_the_best(name, scores, better):
    unchanged, middle, best = scores
    task, files = replace(task_of(name), m_init=unchanged), {"train.py": script_of(name)}

    def last(score: float | None, steps: int = 3, done: int = 2) -> Action:
        history = (Step("Action: Edit", ""),) * done
        state = State("s", name, "0", history, score, score, undo=(("0", unchanged), ("1", middle)), best=best)
        expert = BuiltinExpert(0.0, lambda text: True, steps)
        return parse(expert.propose(task, state, files, files["train.py"], (), random.Random(1)).text, task)

    assert last(better) == FinalAnswer()
    others = [last(middle), last(None), last(better, steps=4), last(better, steps=2, done=1)]
    assert FinalAnswer() not in others
    research = replace(task, actions="mlagentbench")
    request = research_actions.parse(edits.final_answer(research, "it is done"))
    assert research_actions.resolve(request, files, research, None) == FinalAnswer()


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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in builtin_tasks() if name != "movielens"])  # it fits no model
def test_every_task_has_a_hundred_ideas_that_change_its_script_and_fit_it(name):
    task, text = task_of(name), script_of(name)
    found, script = ideas.candidates(task, 100), Script(text, task)
    assert len({(idea.text, idea.seed) for idea in found}) == len(found) >= 100
    for idea in found:
        made = operators.change(idea, script, random.Random(0))
        assert made and made.text != text and names_are_known(made.text), idea
        parts = [part for part in estimators.MODELS if part.name == idea.option]
        assert all(script.data.suits(part) for part in parts)


def test_the_pool_holds_the_ideas_that_differ_most():
    vectors = ideas.tfidf(["a forest", "a forest of trees", "ridge regression", "a forest of more trees"])
    assert 2 in ideas.farthest(vectors, 2, seed=0)
    found = ideas.candidates(task_of("titanic"), 100)
    chosen = ideas.pool(found, 10, ideas.tfidf, seed=1)
    assert len({idea.operator for idea in chosen}) >= 4
    assert chosen == ideas.pool(found, 10, ideas.tfidf, seed=1)
    assert chosen != ideas.pool(found, 10, ideas.tfidf, seed=2)
    assert all(1 <= len(ideas.seeds(chosen, random.Random(n))) <= 3 for n in range(20))


def test_a_trajectory_tries_the_ideas_it_was_given_in_turn():
    task, script = task_of("diabetes"), script_of("diabetes")
    given = [
        idea
        for idea in ideas.candidates(task, 100)
        if (idea.operator, idea.option) in (("model", "Ridge"), ("prediction", "clipped"))
    ]
    texts = []
    for number in range(2):
        state = replace(start(script), history=(Step("", ""),) * number)
        texts.append(propose(task, state, {"train.py": script}, random.Random(0), 0, given))
    assert "Ridge(" in texts[0] and ".clip(" in texts[1]


def test_it_writes_the_actions_of_mlagentbench():
    task, script = replace(task_of("wine"), actions="mlagentbench"), script_of("wine")
    for mistakes in (0, 1):
        text = propose(task, start(""), {"train.py": script}, random.Random(3), mistakes, fits=lambda _: True)
        try:
            action = research_actions.parse(text)
            done = research_actions.resolve(action, {"train.py": script}, task, None)
        except InvalidAction:
            assert mistakes
            continue
        assert done.path == "train.py" and done.content != script
