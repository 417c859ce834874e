"""What a person sees of `actors/solve.py`.

Invariants: text of the agent or of a script is shown as it is, never as markup or terminal codes; lines are whole,
however wide the terminal is: it wraps them, and nothing is cut.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from actors.policy.endpoint import Reply
from actors.solving.results import DIFF, Results
from actors.solving.solver import Answer, Solution
from actors.solving.source import difference
from envs.matching import TAB
from envs.printable import escaped
from envs.records import StepResult, Task

QUESTION = "run it? yes, no, quit, or a hint for another proposal: "
COLOURS = {"+": "green", "-": "red", "@": "cyan"}


class View:
    """Of one task."""

    def __init__(self, console: Console, results: Results, task: Task, start: Mapping[str, str], approve: bool):
        """start: the files before all actions, path → text."""
        self._console, self._results, self._task, self._start, self._approve = console, results, task, start, approve
        self._found: Solution | None = None

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style), soft_wrap=True)

    def asked(self, prompt: str, reply: Reply) -> None:
        """Show a prompt and its answer, whole."""
        for title, text in (
            (f"prompt, {reply.prompt_tokens} tokens", prompt),
            (f"answer, {reply.response_tokens} tokens", reply.text),
        ):
            self._console.rule(title, style="dim")
            self.say(escaped(text.expandtabs(TAB)), "dim")

    def ask(self, text: str, now: Mapping[str, str], then: Mapping[str, str] | None, needless: bool) -> Answer:
        """Show a proposal; with `approve`, ask whether to run it.

        text: of the action; now: the files before it; then: those that it writes, None where it writes none; needless:
        it is not run anyway, and nobody is asked.

        Raises:
            KeyboardInterrupt: Ctrl-C, which ends all.
        """
        self._console.rule(style="dim")
        if then is None:
            self.say(escaped(text.strip().expandtabs(TAB)))
        else:
            thought = next((line for line in text.splitlines() if line.startswith("Thought:")), "")
            self.say(escaped(thought), "bold")
            for name, after in then.items():
                for line in difference(now.get(name, ""), after, name).splitlines():
                    self.say(
                        escaped(line.expandtabs(TAB)),
                        "bold" if line.startswith(("---", "+++")) else COLOURS.get(line[:1], ""),
                    )
        if needless or not self._approve:
            return Answer(run=True)
        try:
            said = self._answer()
        except EOFError:
            self.say("")
            return Answer(run=False, stop=True)
        match said.lower():
            case "y" | "yes":
                return Answer(run=True)
            case "q" | "quit":
                return Answer(run=False, stop=True)
            case "" | "n" | "no":
                self.say("not run; another proposal comes", "dim")
                return Answer(run=False)
        return Answer(run=False, hint=said)

    def _answer(self) -> str:
        """asyncio's handler of Ctrl-C would wait for the line that is being read."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if asyncio.current_task().cancelling():  # Ctrl-C came just before
                raise KeyboardInterrupt
            return self._console.input(Text(QUESTION, "bold")).strip()
        finally:
            signal.signal(signal.SIGINT, before)

    def tell(self, result: StepResult, found: Solution) -> None:
        """Show what came of an action, and write the files."""
        self._found = found
        score = result.score_after
        if score is not None:
            said = f"{self._task.metric} = {score:.5g}"
        else:
            not_run = result.observation.startswith("not run")
            said = result.observation if not_run else f"{result.outcome}: {result.observation}"
        before = found.start if result.score_before is None else result.score_before
        gained = self._task.direction.sign * (score - before) if score is not None else 0
        self.say(said, "green" if gained > 0 else "yellow" if score is not None else "red")
        self.say(f"best {found.score:.5g}, at the start {found.start:.5g}", "dim")
        self._results.write(found, self._start)

    def end(self, interrupted: bool = False) -> None:
        """Say what was reached, where it is, and how to see it all."""
        found, results = self._found, self._results
        if not found:
            self.say("nothing was tried")
            return
        self._console.rule(style="dim")
        start, best = f"{found.start:.5g}", f"{found.score:.5g}"
        how = ", interrupted" if interrupted else ""
        self.say(f"{self._task.metric}: {start} → {best} in {len(found.tried)} actions{how}", "bold")
        if tested := on_test(self._task, found):
            self.say(tested, "bold")
            results.add(tested)
        changed = results.changed(found, self._start)
        if changed:
            self.say(f"best script: {results.best}")
            self.say(f"its changes: {results.folder / DIFF}")
            if results.take_over:
                self.say(f"take it over: {results.take_over}")
        else:
            self.say("nothing better than your script was found")
        self.say(f"see all that was tried: less {shlex.quote(str(results.log))}")


def on_test(task: Task, found: Solution) -> str | None:
    """The final figure: the same two scripts on the part of the answers that nothing was chosen by; None where the task
    has no such part."""
    if not task.parts or task.m_init_test is None:
        return None
    best = found.withheld.test if found.withheld else task.m_init_test
    said = f"on test, which had no part in the choice: {task.metric} {task.m_init_test:.5g} → {best:.5g}"
    whole = found.withheld and found.withheld.whole
    return said if whole is None else f"{said} ({whole:.5g} on all answers, as the leaderboard has it)"
