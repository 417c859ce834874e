"""The attempts of evaluations on disk: `<run>/attempts/<stage>…/<task>`, a file as soon as a task was evaluated.

Invariants: a file is complete or absent; attempts of other weights or other settings (seeds, number, temperature,
reward, …) are in a folder of another name, so that what is read is what would be made again; those of weights that a
resumed run trains anew are deleted, since they come out otherwise.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from envs.records import Transition
from learner.config.schema import Config
from learner.stream.packed import StreamError, unpack

FOLDER = "attempts"


class Attempts:
    """Those of one stage of a run, which an interrupted evaluation goes on from."""

    def __init__(self, cfg: Config, run_dir: Path, stage: str, version: int):
        """version: of the weights that are evaluated."""
        settings = repr((cfg.evaluation, cfg.reward, cfg.model, cfg.editor, cfg.rl.temperature))
        digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
        self._folder = Path(run_dir) / FOLDER / f"{stage}-{version}-{digest}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, task_id: str, attempts: Sequence[Transition]) -> None:
        file = self._file(task_id)
        partial = file.with_name(f".partial-{file.name}")
        partial.write_bytes(pickle.dumps(list(attempts), protocol=5))
        partial.replace(file)

    def of(self, task_id: str) -> list[Transition] | None:
        """The task's attempts; None where they have to be made, as where their file is damaged."""
        file = self._file(task_id)
        try:
            return unpack([file.read_bytes()])[0] if file.exists() else None
        except (StreamError, pickle.UnpicklingError, EOFError):
            return None

    def _file(self, task_id: str) -> Path:
        return self._folder / urllib.parse.quote(task_id, safe="@")


def forget_after(run_dir: Path, version: int) -> None:
    """Delete those of weights after `version`: the run continues from a checkpoint with these."""
    for folder in (Path(run_dir) / FOLDER).glob("*-*-*"):
        number = folder.name.rsplit("-", 2)[1]
        if number.isdecimal() and int(number) > version:  # not a copy that somebody made beside one
            shutil.rmtree(folder, ignore_errors=True)  # on NFS a file that somebody reads stays as long as that
