"""Links in a task's folder lead to places in it, or in folders that MLAGENT_LINKS names.

Whoever made a task could show a policy by a link whatever its user may read, such as a key or another task's answers,
since what the folder holds is copied to where experiments see it. Large data of one's own lies behind a link as well:
that this is meant is said by a variable, which no task can set. A folder that it names is looked into as well, since
its links are followed when it is copied. Invariant: no file is opened here, and no folder that a task may not show.
"""

from __future__ import annotations

import os
from pathlib import Path

from envs.benchmarks.task_file import TaskError

VARIABLE = "MLAGENT_LINKS"


def require_own(root: Path, *parts: Path) -> None:
    """Refuse a link that leads out of a task's folder; parts: of it that are taken, by default all.

    Raises:
        TaskError: names the link, and says what to do.
    """
    own, checked = root.resolve(), set[Path]()
    named = [Path(one).expanduser().resolve() for one in os.environ.get(VARIABLE, "").split(":") if one]

    def visit(path: Path, above: frozenset[Path]) -> None:
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(folder) for folder in (own, *named)):
            raise TaskError(
                f"{path} leads to {target}, outside the task's folder, which a policy would see: take the link "
                f"away, or where it is meant, set {VARIABLE} to a folder that {target} is in"
            )
        if target in above:
            raise TaskError(f"{path} leads in a circle, to {target}: leave it out")
        if target not in checked and target.is_dir():
            with os.scandir(target) as entries:
                for entry in entries:
                    if entry.is_symlink() or entry.is_dir():
                        visit(Path(path, entry.name), above | {target})
            checked.add(target)

    try:
        for part in parts or (own,):
            visit(part, frozenset())
    except OSError as error:
        raise TaskError(f"the task's folder {root} cannot be read: {error}") from error
