"""What commands of the policy make of a state: the files that it has afterwards, or why nothing of them stays.

Invariants: pure; the files of a command apply whole or not at all, as an edit's do; protected files, the script's being
there and the number of files are as for edits; `submission.csv` is written by the script alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envs.actions import MAX_FILE_BYTES, InvalidAction
from envs.changes import MAX_FILES, SUBMISSION, text_of
from envs.printable import escaped
from envs.records import Commands, Kept, Task

TOLD, MAX_NAME = 8, 80
"""Names that a message lists, and characters of each."""
UNDONE = "nothing of what these commands did is kept"


def laid(files: Mapping[str, str], task: Task) -> dict[str, str]:
    """What a workspace for commands has as files of its own, path → text: those that may be changed, as far as they are
    text of a size that can be edited; all else are links to the task's."""
    own = dict(files)
    for name in sorted(task.editable - set(files)):
        try:
            own[name] = text_of(name, files, task)
        except InvalidAction:
            continue
    return own


def applied(
    ran: Commands, files: Mapping[str, str], before: Mapping[str, str | Kept], task: Task
) -> dict[str, str | Kept]:
    """The files of the state after commands; equal to `before` where they changed none.

    files: that were laid for them; before: those of the state that are not as the task has them.

    Raises:
        InvalidAction: they changed what may not be changed, or left what no state can hold in the place of a file.
    """
    written = {name: text for name, text in ran.written.items() if name != SUBMISSION}
    if protected := [name for name in (*written, *ran.others) if name in task.read_only]:
        raise InvalidAction(f"{_listed(protected)} is read-only: {UNDONE}")
    if lost := [name for name in ran.others if name in files]:
        raise InvalidAction(f"{_listed(lost)} is no text any more, or over {MAX_FILE_BYTES} bytes: {UNDONE}")
    if task.script in ran.deleted:
        raise InvalidAction(f"{task.script} must be there: {UNDONE}")
    own = {*task.read_only, *task.editable, task.script}
    if clashing := [name for name in written if any(_clash(name, other) for other in own)]:
        raise InvalidAction(f"{_listed(clashing)} clashes with a file or folder of the task: {UNDONE}")
    texts = {name: file for name, file in before.items() if isinstance(file, str)}
    after = {**{name: text for name, text in texts.items() if name not in ran.deleted}, **written}
    if len(after) > MAX_FILES and len(after) > len(texts):
        raise InvalidAction(f"there would be {len(after)} files, and at most {MAX_FILES} are kept: {UNDONE}")
    kept = {name: file for name, file in before.items() if isinstance(file, Kept)}
    return {**(kept if ran.kept is None else dict(ran.kept)), **after}


def told(ran: Commands, task: Task) -> str:
    """What is said of the files, beside what the commands printed; empty where there is nothing to say."""
    written = [name for name in ran.written if name != SUBMISSION]
    returning = [name for name in ran.deleted if name in task.editable]
    deleted = [name for name in ran.deleted if name not in task.editable]
    others = [name for name in ran.others if name != SUBMISSION]
    said = [
        f"changed: {_listed(written)}" if written else "",
        f"deleted: {_listed(deleted)}" if deleted else "",
        f"there again, as the task has it: {_listed(returning)}" if returning else "",
        f"not kept, since only text of at most {MAX_FILE_BYTES} bytes is: {_listed(others)}" if others else "",
    ]
    return "\n".join(filter(None, said))


def _clash(name: str, other: str) -> bool:
    return name.startswith(f"{other}/") or other.startswith(f"{name}/")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(escaped(name)[:MAX_NAME] for name in names[:TOLD]) + more
