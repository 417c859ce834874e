"""Verification in Harbor's form: tests/test.sh looks at the files that an action led to, and writes the reward.

It runs in a sandbox of its own, which has the tests at /tests and gets the files, at their place, once no process of
the action is left: the policy sees neither. Invariants: the reward is read from /logs/verifier/reward.json or
reward.txt, regular files of bounded size, without following a link; what the tests print is told to nobody, since it
says what they look for; what gives no reward is a `GradeError`. (Tests that run or import what the policy wrote run it
where the tests can be read and the reward be written, as in Harbor: such tasks are for policies that one trusts as
far.)
"""

from __future__ import annotations

import json
import math
import os
import shlex
import stat
from dataclasses import replace
from pathlib import Path

from envs.grading import GradeError
from envs.records import Task
from envs.sandbox import Sandbox
from envs.sandbox.base import LOGS, TESTS
from envs.sandbox.disk import wipe
from envs.sandbox.runner import SHELL

REWARD = "reward"
MAX_BYTES = 65536
STOPPED = {
    "timeout": "took too long", "out_of_memory": "ran out of memory", "disk_full": "wrote more than the task's disk_mb"
}  # fmt: skip


def score(task: Task, left: Path, sandbox: Sandbox, seed: int | None) -> float:
    """The reward that the task's tests give the files in `left`, a workspace, which is empty afterwards.

    sandbox: one that verifies.

    Raises:
        GradeError: they give none.
        OSError: the files cannot be moved.
    """
    verifier = task.verifier
    wipe(sandbox.logs)
    wipe(sandbox.workspace)
    _move(left, sandbox.workspace)
    limits = replace(task.limits, seconds=verifier.seconds)
    folders = " ".join(f"{LOGS}/{name}" for name in ("verifier", "agent", "artifacts"))
    commands = f"mkdir -p {folders} && cd {shlex.quote(verifier.workdir)} && exec bash {TESTS}/test.sh"
    ran = sandbox.run([SHELL, "-c", commands], limits, dict(verifier.env), seed)
    if reason := STOPPED.get(ran.status):
        raise GradeError(f"the tests of the task {reason}")
    return _reward(sandbox.logs)


def _move(source: Path, target: Path) -> None:
    """Move what is in one workspace to another, and give it to that one's user."""
    owner = os.stat(target)
    for entry in list(os.scandir(source)):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)  # to move a folder takes write permission on it
        os.rename(entry.path, place)
        if os.getuid() == 0:
            os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                for _, folders, files, descriptor in os.fwalk(place):
                    for name in (*folders, *files):
                        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)


def _reward(logs: Path) -> float:
    for name, read in (("reward.json", _of_json), ("reward.txt", float)):
        if (text := _read(logs, "verifier", name)) is None:
            continue
        try:
            found = float(read(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise GradeError(f"the tests of the task wrote no number to {name}") from error
        if not math.isfinite(found):
            raise GradeError(f"the tests of the task wrote {found} to {name}")
        return found
    raise GradeError("the tests of the task wrote no reward")


def _of_json(text: str) -> float:
    """Of several rewards the one of that name; one alone may have any."""
    found = json.loads(text)
    if not isinstance(found, dict):
        return found
    return found[REWARD] if REWARD in found or len(found) != 1 else next(iter(found.values()))


def _read(folder: Path, *names: str) -> str | None:
    """The text of a file that untrusted code may have written, or put a link in the way to; None if there is none."""
    held: list[int] = []
    try:
        held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))
        for name in names:
            held.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held[-1]))
        regular = stat.S_ISREG(os.fstat(held[-1]).st_mode)
        return os.read(held[-1], MAX_BYTES).decode(errors="replace") if regular else None
    except OSError:
        return None
    finally:
        for descriptor in held:
            os.close(descriptor)
