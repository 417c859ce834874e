"""The process that runs graders: `python -m envs.grader`, started and asked by `envs.grader_process`.

It loads pandas and scikit-learn once, and becomes another process for each task by a fork. Such a worker grades one
submission after another, both parts of it (`envs.parts`); the host lets it go after one on which a grader fails.
Invariants: a grading has a deadline, a limit on memory and a working folder of its own; the grader sees a private copy
of the submission, and only if the table is no larger than a grader can be asked to read; a worker that ends without a
reply died of its task or of its submission, which is for the host to tell.
"""

from __future__ import annotations

import collections
import csv
import gc
import hashlib
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import sklearn.metrics  # noqa: F401 (what most graders import)

from envs.audit_submission import of_submission
from envs.grading import MAX_BYTES, SUBMISSION, GradeError, parsed_once, read_submission
from envs.parts import TEST, VALIDATION, Division, Rows, Unknown, opened, read

MAX_COLUMNS = 2000
"""pandas takes seconds for 20,000 columns of one name, and a minute for 400,000 of different ones."""
MAX_ROWS = 10_000_000
MAX_CELL = 1 << 20
"""Characters."""
MAX_WRITTEN = 256 << 20
"""Bytes of a file that a grader may write in its working folder."""
MAX_REASON = 2000
LEAVING_SECONDS = 10.0
"""A host that ends deletes the folder of this process first, and closes its socket last."""
MESSAGE_BYTES = 65536

Grader = Callable[[str], float]


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    try:
        preload()
    except OSError:
        if gone(control, LEAVING_SECONDS):  # and our folder before it
            return
        raise
    control.send(b"{}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors = received(control)
        if not message:  # the host has gone
            return
        if os.fork() == 0:
            try:
                control.close()
                work(json.loads(message), socket.socket(fileno=descriptors[0]))
            finally:
                os._exit(1)
        os.close(descriptors[0])


def received(control: socket.socket) -> tuple[bytes, list[int]]:
    """The host's next message with its descriptors; an empty one where the host has gone, however it went."""
    try:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
    except ConnectionError:
        return b"", []
    return message, descriptors


def preload() -> None:
    """What pandas sets up at its first use is set up before a fork."""
    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame({"id": [1, 2], "x": [0.5, 1.5], "y": ["a", "b"]})
        table.to_csv(Path(folder) / SUBMISSION, index=False)
        read_submission(folder, table, ["x", "y"])


def work(task: dict[str, Any], control: socket.socket) -> None:
    """Load a task's graders and grade the submissions that the host sends, until it goes away."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a grader may start processes of its own
    sys.path[:] = task["path"]
    limit(task["memory_mb"])
    threading.Thread(target=end_with_host, args=(control,), daemon=True).start()
    deadline(task["seconds"])
    try:
        graders = {name: load(Path(file)) for name, file in task["graders"].items()}
        division = Division(Path(task["parts"])) if task["parts"] else None
    except BaseException as error:
        control.send(told(failed=f"{type(error).__name__}: {error}"))
        return
    signal.alarm(0)
    control.send(b"{}")
    while True:
        message, descriptors = received(control)
        if not message:
            return
        control.send(b"{}")
        deadline(task["seconds"])
        with open(descriptors[0], "rb") as submission:
            content = submission.read(MAX_BYTES)
        request = json.loads(message)
        folder, shown = Path(request["folder"]), Path(request["shown"])
        answer = grade(graders, division, content, folder, task["seconds"])
        if "scores" in answer:
            deadline(task["seconds"])
            answer["findings"] = of_submission(folder / SUBMISSION, shown)
        signal.alarm(0)
        control.send(told(**answer))


def deadline(seconds: int) -> None:
    """End this process in so many seconds, whatever a grader made of the alarm."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def end_with_host(control: socket.socket) -> None:
    """End this process when the host lets it go or has ended, whatever its grader does and made of the alarm."""
    gone(control, None)
    os._exit(1)


def gone(control: socket.socket, seconds: float | None) -> bool:
    """Whether the host lets this process go, or ends, within so many seconds; None: whenever that is."""
    watched = select.poll()
    watched.register(control, 0)  # of the other side's end a poll always tells
    return bool(watched.poll(None if seconds is None else 1000 * seconds))


def load(file: Path) -> Grader:
    name = f"mlagent_eval_{hashlib.sha256(bytes(file)).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module.get_score


def grade(
    graders: Mapping[str, Grader], division: Division | None, content: bytes, folder: Path, seconds: int
) -> dict[str, Any]:
    """What the graders make of a submission: their `scores`, why it was `refused`, or how a grader `failed`.

    graders: by what they see, a part or everything; each has `seconds`.
    """
    scores = {}
    try:
        os.chdir(folder)
        (folder / SUBMISSION).write_bytes(content)
        with opened(folder / SUBMISSION) as file:
            if division:
                division.cut(rows(file), folder, SUBMISSION)
            else:
                collections.deque(rows(file), maxlen=0)
        with parsed_once(folder):
            for name, get_score in graders.items():
                seen = folder / name if name in (VALIDATION, TEST) else folder
                deadline(seconds)
                os.chdir(seen)
                scores[name] = float(get_score(str(seen)))
        return {"scores": scores}
    except (GradeError, Unknown) as reason:
        return {"refused": str(reason)}
    except BaseException as error:  # a SystemExit among them
        return {"failed": f"{type(error).__name__}: {error}"}


def rows(file: TextIO) -> Iterator[Rows]:
    """The rows of a table as a stream, which costs no more than its bytes do.

    Raises:
        GradeError: it has more columns or rows, or a larger cell, than a grader is asked to read.
    """
    csv.field_size_limit(MAX_CELL)
    before = 0
    try:
        for cells, texts in read(file):
            if max(map(len, cells)) > MAX_COLUMNS:
                number, most = next((i, len(row)) for i, row in enumerate(cells, before + 1) if len(row) > MAX_COLUMNS)
                raise GradeError(f"row {number} has {most:,} columns; at most {MAX_COLUMNS:,} are read")
            before += len(cells)
            if before > MAX_ROWS:
                raise GradeError(f"there are more than {MAX_ROWS:,} rows")
            yield cells, texts
    except csv.Error as error:
        raise GradeError(f"not a CSV table ({error})") from error


def limit(memory_mb: int) -> None:
    """Keep this process to what it has now and `memory_mb` more, and to small files."""
    with open("/proc/self/statm") as statm:
        data = int(statm.read().split()[5]) * resource.getpagesize()
    most = data + (memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def told(**answer: Any) -> bytes:
    """The answer as a message, which is of bounded size."""
    return json.dumps(
        {key: value[:MAX_REASON] if isinstance(value, str) else value for key, value in answer.items()}
    ).encode()


if __name__ == "__main__":
    main()
