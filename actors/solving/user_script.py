"""A plain script of the user's as a task: its folder is copied, and its score is what it prints (`score`).

For training only a host-side grader counts; here the user watches. Invariants: the user's files are never written to;
the agent changes the script and the files that the user named, and no other; once a score has been found, later ones
are read from the same label.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from actors.solving import score
from actors.solving.settings import Settings, SolveError
from actors.solving.source import NOTEBOOK, Source
from envs.actions import MAX_PATH_PARTS, PATH_PART
from envs.changes import MAX_FILES
from envs.environment import Environment
from envs.experiments import SandboxRunner
from envs.records import Direction, Findings, Limits, Outcome, State, Task, Withheld
from envs.sandbox import Sandbox, install
from envs.sandbox.packages import OwnPackages
from envs.workspace import SnapshotStore

LEFT_OUT = (".*", "__pycache__", "venv", "node_modules", "solved")
MAX_BYTES = 2 << 30
LIMITS = Limits(seconds=600.0, memory_mb=4096, disk_mb=1024)
"""Of a run, unless told otherwise."""
SCORER = "_mlagent_score.py"
SCORING = """import shlex, subprocess, sys
words = shlex.split({command!r})
if words[0] in ("python", "python3"):
    words[0] = sys.executable
sys.exit(subprocess.run(words).returncode)
"""
"""Runs the score command in the sandbox, whose Python stands at a place of its own."""


@dataclass(frozen=True)
class UserScript:
    """What the user named, as a task."""

    task: Task
    sources: Mapping[str, Source]
    """Name in the task → the file, of the script, which is the first, and of the others that the agent may change."""
    folder: Path
    """The project's folder."""
    arguments: tuple[str, ...]
    score_command: str


def read(
    script: Path, settings: Settings, direction: Direction, arguments: Sequence[str], score_command: str, copy: Path
) -> UserScript:
    """The task of improving `script`, with its folder copied into `copy`.

    Raises:
        SolveError: the folder is too large to be copied, or a file cannot be used.
    """
    folder = _folder(script, settings)
    present = {str(path.relative_to(folder)): path for path in _present(folder)}
    inside = str(script.resolve().relative_to(folder))
    named = _named(settings.files, present, inside, folder)
    safe = _safe(inside, present)
    sources = {safe: Source.read(script), **{name: Source.read(present[name]) for name in named}}
    env = copy / "env"
    for name, path in present.items():
        if name != inside:
            target = env / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name, source in sources.items():
        (env / name).parent.mkdir(parents=True, exist_ok=True)
        (env / name).write_text(source.text, encoding="utf-8")
    for path in [env, *env.rglob("*")]:  # experiments run as another user
        path.chmod(0o755 if path.is_dir() else 0o644)
    task = Task(
        id=re.sub(r"[^\w.-]", "_", script.stem),
        problem=_problem(safe, settings, arguments, score_command, named),
        env_dir=env,
        private_dir=copy / "none",
        script=safe,
        read_only=frozenset(present) - {inside, *sources},
        metric=settings.metric or "score",
        direction=direction,
        split="held_out",
        limits=LIMITS,
        m_best=None,
    )
    return UserScript(task, sources, folder, tuple(arguments), score_command)


def _folder(script: Path, settings: Settings) -> Path:
    folder = Path(settings.folder).expanduser().resolve() if settings.folder else script.resolve().parent
    if not folder.is_dir():
        raise SolveError(f"folder={settings.folder}: there is no such folder")
    if not script.resolve().is_relative_to(folder):
        raise SolveError(f"folder={settings.folder}: {script} does not lie in it")
    return folder


def _present(folder: Path) -> list[Path]:
    """Its files, and those that links in it lead to; a link that leads back to where it lies leads nowhere."""
    files, size = [], 0
    above = {str(folder): (os.path.realpath(folder),)}
    for place, folders, names in os.walk(folder, followlinks=True):
        inner = {name: os.path.realpath(Path(place, name)) for name in folders if not _left_out(name)}
        folders[:] = [name for name, real in inner.items() if real not in above[place]]
        above |= {os.path.join(place, name): (*above[place], inner[name]) for name in folders}
        for path in (Path(place, name) for name in names if not _left_out(name)):
            if not path.is_file():
                continue
            files.append(path)
            size += path.stat().st_size
            if size > MAX_BYTES:
                raise SolveError(
                    f"{folder} holds more than {MAX_BYTES >> 20:,} MiB, and all of it would be copied for the sandbox: "
                    "move the script and the data that it reads to a folder of their own"
                )
    return sorted(files)


def _left_out(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def _named(globs: Sequence[str], present: Mapping[str, Path], script: str, folder: Path) -> list[str]:
    """The files besides the script that the agent may change."""
    named: list[str] = []
    for glob in globs:
        pattern = os.path.normpath(glob)
        found = [name for name in present if PurePosixPath(name).match(pattern) and name != script]
        if not found and pattern != script:
            raise SolveError(f"files={glob}: there is no such file beside the script")
        named += [name for name in found if name not in named]
    if len(named) >= MAX_FILES:
        raise SolveError(f"files names {len(named)} files: an agent can change {MAX_FILES - 1} beside the script")
    for name in named:
        if not _writable(name) or name.endswith(NOTEBOOK):
            raise SolveError(f"files: an agent cannot write {name}, for want of a plain name of a text file")
        if not (real := present[name].resolve()).is_relative_to(folder):  # what is found is put back below it
            raise SolveError(
                f"files: a link leads from {name} to {real}, outside {folder}, where nothing is changed: leave it out "
                "of files, or put a copy in the link's place"
            )
    return named


def _writable(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) <= MAX_PATH_PARTS and all(PATH_PART.fullmatch(part) for part in parts)


def _safe(name: str, present: Mapping[str, Path]) -> str:
    """The name under which the agent sees the script: one that actions can write, of a Python file."""
    path = PurePosixPath(name)
    stem = re.sub(r"[^A-Za-z0-9_.-]|^[.-]", "_", path.stem)[:50]
    safe = str(path.with_name(f"{stem}.py"))
    while safe in present and safe != name:
        stem = f"{stem}_"
        safe = str(path.with_name(f"{stem}.py"))
    if not _writable(safe):
        raise SolveError(f"{name}: an agent cannot write folders of such names, or so many: give a folder nearer to it")
    return safe


def _problem(
    script: str, settings: Settings, arguments: Sequence[str], score_command: str, named: Sequence[str]
) -> str:
    metric = settings.metric or "score"
    told = f"of what `{score_command}` finds after {script} has run" if score_command else f"that {script} prints"
    lines = [settings.about or f"Improve the {metric} {told}."]
    if not settings.about and not score_command:
        lines[0] += " Keep the line that prints it."
    if arguments:
        lines.append(f"It is run with the arguments: {' '.join(arguments)}")
    if named:
        lines.append(f"These may be changed as well (File: NAME; Inspect shows them): {', '.join(named)}")
    found = install(settings.requirements) if settings.requirements else OwnPackages(settings.packages)
    can = ", ".join(found.names)
    return "\n".join([*lines, f"It can import {can} and the standard library."])


class ScriptEnvironment(Environment):
    """Of one user's script: every state has the other files that the agent may change."""

    def __init__(self, script: UserScript, runner: SandboxRunner, observation: int):
        """observation: characters that are kept of what a run prints."""
        super().__init__(
            {script.task.id: script.task}, runner, SnapshotStore("memory://solve"), observation=observation
        )
        self._others = {name: source.text for name, source in script.sources.items() if name != script.task.script}

    def initial_state(self, task_id: str) -> State:
        state = super().initial_state(task_id)
        return replace(state, snapshot=self._snapshots.put(self._others)) if self._others else state


class ScriptRunner(SandboxRunner):
    """Runs the user's script, and finds its score in what it, or the score command, prints."""

    found: score.Found | None = None
    """The first score."""
    unclear = ""
    """Why the last script that ran to its end had none."""

    def of(self, script: UserScript) -> ScriptRunner:
        """This runner, for that script."""
        self._script = script
        return self

    def command(self, task: Task) -> list[str]:
        return [task.script, *(self._script.arguments if task.script == self._script.task.script else ())]

    def graded(
        self, task: Task, files: Mapping[str, str], sandbox: Sandbox, log: str
    ) -> tuple[Outcome, float | None, Withheld | None, Findings, str]:
        try:
            found = self._scored(sandbox, task) if self._script.score_command else self._find(log)
        except score.Unclear as reason:
            self.unclear = str(reason)
            return Outcome.SCRIPT_ERROR, None, None, (), f"{log}\n{reason}"
        self.found = self.found or found
        return Outcome.EDITED, found.value, None, (), log

    def _find(self, output: str) -> score.Found:
        return score.find(output, self._script.task.metric, self.found.label if self.found else None)

    def _scored(self, sandbox: Sandbox, task: Task) -> score.Found:
        """What the score command says of what the script left. Raises Unclear, SandboxFailure."""
        file = sandbox.workspace / SCORER
        if file.is_dir() and not file.is_symlink():
            raise score.Unclear(f"it made a folder {SCORER}, which is the name of the score command's script")
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "w") as opened:
            opened.write(SCORING.format(command=self._script.score_command))
        result = sandbox.run([SCORER], task.limits, seed=self.seed)
        if result.status != "ok":
            raise score.Unclear(f"the score command ended as {result.status}: {result.output[-400:].strip()}")
        try:
            return score.only_number(result.output)
        except score.Unclear as reason:
            if not self._script.task.metric or "no finite number" in str(reason):
                raise score.Unclear(f"the score command: {reason}") from reason
        try:
            return self._find(result.output)
        except score.Unclear as reason:
            raise score.Unclear(f"the score command: {reason}") from reason


ADVICE = (
    (
        r"ModuleNotFoundError: No module named '([\w]+)",
        "if {0} is a package, give packages=[base,{0}], or list it in requirements=FILE",
    ),
    (r"FileNotFoundError", "a script sees its own folder and what lies below: folder=PROJECT shows more"),
    (r"URLError|ConnectionError|failure in name resolution", "a sandbox has no network: put data beside the script"),
    (r"error: the following arguments are required|unrecognized arguments", "what it is to get stands after `--`"),
    (r"EOFError: EOF when reading", "nobody can answer a script here: let it take arguments, which stand after `--`"),
)  # fmt: skip
"""What a failure of an unchanged script may come of, and what to do."""


def advice(log: str) -> str:
    """What to do about the failure of a script that runs elsewhere; empty where that is not known."""
    for pattern, told in ADVICE:
        if found := re.search(pattern, log):
            return f"\n({told.format(*found.groups())})"
    return ""
