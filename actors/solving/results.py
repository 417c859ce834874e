"""The files that `actors/solve.py` leaves: the best script, its diff, and a log of all that was tried.

Invariants: all are up to date after every action; text of the agent or of a script is escaped and fenced, so that it is
neither markup nor terminal codes; what the user wrote is put back in its own form (`source`).
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from actors.solving.solver import Solution, Tried, idea
from actors.solving.source import NOTEBOOK, Source, difference
from envs.matching import TAB
from envs.printable import escaped
from envs.records import Task

LOG, DIFF, BEST, ENGINE_LOG = "log.md", "changes.diff", "best", "engine.log"
FENCE = "`" * 6


class Results:
    """Of one task, in one folder."""

    def __init__(self, folder: Path, task: Task, sources: Mapping[str, Source], project: Path):
        """sources: name in the task → the user's own file, below the folder `project`; those of a task have none."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._task, self._sources, self._project = folder, task, sources, project

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def best(self) -> Path:
        """The best script."""
        return self.folder / BEST / self.own_name(self._task.script)

    def own_name(self, name: str) -> Path:
        """Of a file of the task, as the user has it."""
        if name in self._sources:
            return self._sources[name].file.resolve().relative_to(self._project)
        return Path(name)

    @property
    def take_over(self) -> str:
        """The command that puts the best version in the place of the user's; empty where that is a task."""
        best, project = shlex.quote(str(self.folder / BEST)), shlex.quote(str(self._project))
        return f"cp -r {best}/. {project}" if self._sources else ""

    def changed(self, found: Solution, start: Mapping[str, str]) -> list[str]:
        """Names of the files that the best version has otherwise than the user."""
        return [name for name, text in found.files.items() if text != start.get(name)]

    def write(self, found: Solution, start: Mapping[str, str]) -> None:
        """start: the files before all actions, path → text."""
        shutil.rmtree(self.folder / BEST, ignore_errors=True)  # a file may be changed no more
        for name in {self._task.script, *self.changed(found, start)}:
            file, text = self.folder / BEST / self.own_name(name), found.files[name]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self._sources[name].put_back(text) if name in self._sources else text.encode())
        (self.folder / DIFF).write_text(
            "".join(difference(start.get(name, ""), text, self._shown(name)) for name, text in found.files.items())
        )
        self.log.write_text(log(self._task, found))

    def add(self, line: str) -> None:
        """To the log."""
        with self.log.open("a") as file:
            file.write(f"\n{line}\n")

    def _shown(self, name: str) -> str:
        own = str(self.own_name(name))
        return f"{own} (its code cells)" if own.endswith(NOTEBOOK) else own


def log(task: Task, found: Solution) -> str:
    """What was tried and what it gained, as Markdown: a table, then each change with what came of it."""
    lines = [
        f"# {task.id}: {task.metric} {found.start:.5g} → {found.score:.5g} ({task.direction})",
        "",
        f"| # | tried | outcome | {task.metric} | gain | seconds |",
        "|--:|---|---|--:|--:|--:|",
    ]
    for number, tried in enumerate(found.tried, 1):
        result, score, gain = tried.result, "", ""
        if result.score_after is not None:
            score = f"{result.score_after:.5g}"
            gain = f"{task.direction.sign * (result.score_after - result.score_before):+.4g}"
        outcome = "not run" if result.observation.startswith("not run") else result.outcome
        shown = escaped(idea(tried)).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {number} | {shown} | {outcome} | {score} | {gain} | {result.durations.execute:.1f} |")
    return "\n".join(lines) + "\n" + "".join(map(_attempt, range(1, len(found.tried) + 1), found.tried))


def _attempt(number: int, tried: Tried) -> str:
    """One action whole: its diff, or its text where it changes no file, and what was observed."""
    diffs = "".join(difference(tried.before.get(name, ""), text, name) for name, text in tried.changed.items())
    said = [(f"{FENCE}diff", diffs)] if diffs else [(FENCE, tried.text)]
    said.append((FENCE, tried.result.observation))
    blocks = "".join(f"{fence}\n{escaped(text.strip(chr(10)).expandtabs(TAB))}\n{FENCE}\n\n" for fence, text in said)
    return f"\n## {number}. {escaped(idea(tried))}\n\n{blocks}".rstrip("\n") + "\n"
