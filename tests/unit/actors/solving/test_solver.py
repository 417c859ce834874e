"""The loop that improves a script, with experiments that are read off the script's text."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from rich.console import Console

from actors.policy.endpoint import Reply
from actors.solving.results import Results
from actors.solving.solver import Answer, solve
from actors.solving.view import View
from envs.environment import Environment
from envs.records import Direction, Durations, Experiment, Limits, Outcome, Task
from envs.workspace import SnapshotStore

SCRIPT = "import os\nx = 1  # the score\nprint(x)\n"


class ReadOff:
    """A runner in the place of a sandbox: a script's score is its x."""

    name, running = "none", 0

    def __init__(self) -> None:
        self.ran: list[str] = []

    def run(self, task: Task, files) -> Experiment:
        self.ran.append(files[task.script])
        found = re.search(r"^x = (\d+)", files[task.script], re.MULTILINE)
        score = float(found[1]) if found else None
        outcome = Outcome.EDITED if found else Outcome.SCRIPT_ERROR
        return Experiment(outcome, score, "log", Durations())


def edit(old: str, new: str, thought: str = "try") -> str:
    return f"Thought: {thought}\nAction: Edit\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


class Work:
    """One session with scripted proposals."""

    def __init__(self, folder: Path, answers: list[str], width: int = 80):
        (folder / "env").mkdir()
        (folder / "env" / "fit.py").write_text(SCRIPT)
        self.task = Task(
            "fit", "Improve x.", folder / "env", folder, "fit.py", frozenset(), "x", Direction.MAXIMIZE, "held_out",
            Limits(), None, m_init=1.0,
        )  # fmt: skip
        self.runner, self.answers, self.told = ReadOff(), answers, []
        self.environment = Environment({"fit": self.task}, self.runner, SnapshotStore(f"memory://{folder}"))
        self.console = Console(width=width, record=True, quiet=False, file=(folder / "screen").open("w"))
        self.out = folder / "out"
        start = {"fit.py": SCRIPT}
        self.view = View(self.console, Results(self.out, self.task, {}, folder / "env"), self.task, start, False)
        self.refuse: list[str] = []

    async def propose(self, task, state, seed) -> Reply:
        self.told.append((task.problem, state))
        return Reply(self.answers.pop(0))

    def ask(self, text, now, then, needless) -> Answer:
        self.view.ask(text, now, then, needless)
        return Answer(run=not any(word in text for word in self.refuse))

    def solve(self, steps: int, **how):
        found = asyncio.run(solve(self.environment, "fit", self.propose, steps, 0, self.ask, self.view.tell, **how))
        self.view.end()
        return found

    @property
    def screen(self) -> str:
        return self.console.export_text()


@pytest.mark.parametrize(
    "needless",
    [edit("print(x)", "# a comment\nprint(x)"), edit("import os", "import os\nimport os\nimport sys")],
    ids=["a comment", "imports"],
)
def test_an_edit_that_changes_nothing_is_not_run(tmp_path, needless):
    work = Work(tmp_path, [needless, edit("x = 1  # the score", "x = 2")])
    found = work.solve(2)
    assert len(work.runner.ran) == 1 and found.score == 2
    assert "changes nothing" in work.told[1][1].history[-1].observation


def test_what_was_tried_is_not_run_again_and_the_agent_is_told_what_came_of_it(tmp_path):
    work = Work(tmp_path, [edit("x = 1  # the score", "x = 2"), edit("x = 2", "x = 1"), edit("x = 2", "x = 3")])
    found = work.solve(3)
    assert [re.search(r"x = \d", text)[0] for text in work.runner.ran] == ["x = 2", "x = 3"]
    assert found.score == 3 and "was tried before (x = 1)" in work.told[2][1].history[-1].observation
    log = (work.out / "log.md").read_text()
    assert "| 2 | try | not run |" in log and "-x = 2\n+x = 3" in log
    assert [path.name for path in (work.out / "best").iterdir()] == ["fit.py"]
    assert (work.out / "best" / "fit.py").read_text() == SCRIPT.replace("x = 1  # the score", "x = 3")
    assert "-x = 1  # the score\n+x = 3\n" in (work.out / "changes.diff").read_text()


def test_ideas_that_the_prompt_shows_no_more_are_told_with_the_problem(tmp_path):
    answers = [
        edit("x = 1  # the score", "x = 2", "idea 2"),
        *(edit(f"x = {n}", f"x = {n + 1}", f"idea {n + 1}") for n in range(2, 6)),
    ]
    work = Work(tmp_path, answers)
    work.solve(5)
    problem = work.told[-1][0]
    assert "Tried before" in problem and "- idea 2: x 2" in problem and "idea 3" not in problem


@pytest.mark.parametrize(("history", "told"), [(0, ["idea 2", "idea 3"]), (1, ["idea 2"]), (15, [])])
def test_a_prompt_that_shows_more_leaves_less_to_the_problem(tmp_path, history, told):
    starts = ("x = 1  # the score", "x = 2", "x = 3")
    answers = [edit(start, f"x = {n}", f"idea {n}") for n, start in enumerate(starts, 2)]
    work = Work(tmp_path, answers)
    work.solve(3, history=history)
    assert re.findall(r"- (idea \d)", work.told[-1][0]) == told


def test_what_was_written_without_a_run_was_not_tried(tmp_path):
    written = edit("x = 1  # the score", "x = 2").replace("Action: Edit\n", "Action: Edit\nRun: no\n")
    work = Work(tmp_path, [written, "Action: Undo\n", edit("x = 1  # the score", "x = 2")])
    assert work.solve(3).score == 2 and len(work.runner.ran) == 1


def test_a_text_without_a_thought_is_logged_as_what_it_was(tmp_path):
    work = Work(tmp_path, ["gibberish | <b>\nand more"])
    work.solve(1)
    assert "| 1 | invalid | invalid |" in (work.out / "log.md").read_text()


def test_what_the_user_refuses_is_not_run_and_the_agent_is_told(tmp_path):
    work = Work(tmp_path, [edit("x = 1  # the score", "x = 7"), edit("x = 1  # the score", "x = 2")])
    work.refuse = ["x = 7"]
    found = work.solve(1)
    assert len(work.runner.ran) == 1 and found.score == 2
    assert "the user refused it" in work.told[1][1].history[-1].observation


def test_lines_wider_than_the_terminal_are_whole_and_control_characters_are_shown(tmp_path):
    long = "x = 2  # " + "wide " * 40 + "END \x1b[31m[bold]"
    work = Work(tmp_path, [edit("x = 1  # the score", long)], width=40)
    work.solve(1)
    screen = (tmp_path / "screen").read_text()
    assert f"+{long}".replace("\x1b", "\\x1b") in screen and "\x1b[31m[bold]" not in screen


def test_what_was_refused_does_not_run_however_often(tmp_path):
    work = Work(tmp_path, [edit("x = 1  # the score", "x = 2")] * 1002)

    def ask(text, now, then, needless) -> Answer:
        return Answer(run=False, stop=not work.answers)

    asyncio.run(solve(work.environment, "fit", work.propose, 1, 0, ask, work.view.tell))
    assert work.runner.ran == [] and not work.answers
