"""What a person sees of `actors/solve.py`, and the files that are left: the best script and a log.

Invariants: text of the agent or of a script is shown as it is, never as markup or terminal codes; both files are up to
date after every action.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from actors.solving.solver import Answer, Solution
from envs.printable import escaped
from envs.records import StepResult, Task

LOG = "log.md"
QUESTION = "run it? yes, no, quit, or a hint for another proposal: "


class View:
    """Of one task."""

    def __init__(self, console: Console, folder: Path, task: Task, approve: bool):
        """folder: where the files go."""
        self._console, self._folder, self._task, self._approve = console, folder, task, approve

    @property
    def best_file(self) -> Path:
        return self._folder / f"best_{Path(self._task.script).name}"

    def ask(self, text: str, now: str, then: str | None) -> Answer:
        """Show a proposal; with `approve`, ask whether to run it.

        text: of the action; now, then: the script before and after it (None: it stays).
        """
        self._console.rule(style="dim")
        if then is None:
            self._console.print(Text(escaped(text.strip())))
        else:
            thought = next((line for line in text.splitlines() if line.startswith("Thought:")), "")
            self._console.print(Text(escaped(thought), "bold"))
            lines = difflib.unified_diff(now.splitlines(), then.splitlines(), "now", "proposed", n=2, lineterm="")
            self._console.print(Syntax(escaped("\n".join(lines)), "diff", background_color="default"))
        if not self._approve:
            return Answer(run=True)
        try:
            said = self._console.input(Text(QUESTION, "bold")).strip()
        except EOFError:
            return Answer(run=False, stop=True)
        match said.lower():
            case "y" | "yes":
                return Answer(run=True)
            case "q" | "quit":
                return Answer(run=False, stop=True)
            case "" | "n" | "no":
                return Answer(run=False)
        return Answer(run=False, hint=said)

    def tell(self, result: StepResult, found: Solution) -> None:
        """Show what came of an action, and write both files."""
        score = result.score_after
        said = f"{self._task.metric} = {score:.5g}" if score is not None else f"{result.outcome}: {result.observation}"
        gained = self._task.direction.sign * (score - (result.score_before or found.start)) if score is not None else 0
        self._console.print(Text(said, "green" if gained > 0 else "yellow" if score is not None else "red"))
        self._console.print(Text(f"best {found.score:.5g}, at the start {found.start:.5g}", "dim"))
        self.best_file.write_text(found.script)
        (self._folder / LOG).write_text(log(self._task, found))

    def end(self, found: Solution) -> None:
        """Say what was reached and where it is."""
        if not found.tried:
            self._console.print(Text("nothing was tried"))
            return
        self._console.rule(style="dim")
        start, best = f"{found.start:.5g}", f"{found.score:.5g}"
        self._console.print(Text(f"{self._task.metric}: {start} → {best} in {len(found.tried)} actions", "bold"))
        if tested := on_test(self._task, found):
            self._console.print(Text(tested, "bold"))
            with (self._folder / LOG).open("a") as file:
                file.write(f"\n{tested}\n")
        self._console.print(Text(f"{self.best_file} is the best script, {self._folder / LOG} what was tried"))


def on_test(task: Task, found: Solution) -> str | None:
    """The final figure: the same two scripts on the part of the answers that nothing was chosen by; None where the task
    has no such part."""
    if not task.parts or task.m_init_test is None:
        return None
    best = found.withheld.test if found.withheld else task.m_init_test
    said = f"on test, which had no part in the choice: {task.metric} {task.m_init_test:.5g} → {best:.5g}"
    whole = found.withheld and found.withheld.whole
    return said if whole is None else f"{said} ({whole:.5g} on all answers, as the leaderboard has it)"


def log(task: Task, found: Solution) -> str:
    """What was tried and what it gained, as Markdown."""
    lines = [
        f"# {task.id}: {task.metric} {found.start:.5g} → {found.score:.5g} ({task.direction})",
        "",
        f"| # | tried | outcome | {task.metric} | gain | seconds |",
        "|--:|---|---|--:|--:|--:|",
    ]
    for number, (text, result) in enumerate(found.tried, 1):
        thought = next((line.removeprefix("Thought:") for line in text.splitlines() if line.startswith("Thought:")), "")
        shown = escaped(thought.strip()[:120]).replace("|", "\\|").replace("<", "&lt;") or result.action
        score, gain = "", ""
        if result.score_after is not None:
            score = f"{result.score_after:.5g}"
            gain = f"{task.direction.sign * (result.score_after - result.score_before):+.4g}"
        lines.append(
            f"| {number} | {shown} | {result.outcome} | {score} | {gain} | {result.durations.execute:.1f} |"
        )  # fmt: skip
    return "\n".join(lines) + "\n"
