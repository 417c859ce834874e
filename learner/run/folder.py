"""A run's folder: who owns it, what it was started with, and the checkpoints a restart continues from.

Invariants: a new run never overwrites an old one (the old folder is moved aside); one process owns a run at a time;
what each start was given and said is kept in `logs/1`, `logs/2`, …, and one that does not come to run changes nothing
of what the next goes on with; a checkpoint is complete or absent (it is written beside its place and renamed), and none
is deleted for one that is not there yet; what failed to be written leaves no trace; of a run that is done only the last
checkpoint can be gone on from.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
from omegaconf import OmegaConf

from envs.errors import UserError
from learner.config.load import RECORD, ConfigError
from learner.config.midway import differences
from learner.config.schema import Config
from learner.run.status import LOCK
from learner.stream.stream import Cursor

PARTIAL = ".partial-"
"""How the name of a folder begins that is not complete."""
CURSOR = "cursor.msgpack"
"""File of a checkpoint: where the stream goes on."""
REWARD = "reward.json"
"""File of a checkpoint: the mean reward of the steps that led to it."""
LEARNER = "state/about.json"
"""File of a checkpoint that the learner writes."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""How a disk says that it has no more room, for anybody or for this user."""
LOGS = "logs"
"""Folder of a run with one for each of its starts."""


class RunError(ConfigError):
    """A run folder that cannot be used; the message names it and what to do."""


class Lost(UserError):
    """A checkpoint that was not written to its end; those before it are kept."""


class NoRoom(Lost):
    """A checkpoint that does not fit on its disk; those before it are kept."""


class Run:
    """`<run.dir>/<run.name>`, locked for this process."""

    def __init__(self, cfg: Config):
        self.cfg = cfg
        self.dir = Path(cfg.run.dir).resolve() / cfg.run.name
        self.logs = self.dir / LOGS
        """What this start was given and said."""
        self.changes: list[str] = []
        """What a resumed run has otherwise than it recorded, a line each."""
        self._judged_otherwise = False
        """Whether its checkpoints have rewards of another kind than those that will come."""
        self._lock: IO[str] | None = None

    def __enter__(self) -> Run:
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            self._lock = self._own()
        except OSError as error:
            raise RunError(f"run.dir={self.cfg.run.dir} cannot be written: {error}: choose another") from error
        record = self.dir / RECORD
        if self.cfg.run.resume:
            self._require_readable()
            changes = list(differences(OmegaConf.load(record), self.cfg))
            self._judged_otherwise = any(
                name == "evaluation.every" and bool(then) != bool(now) for name, then, now in changes
            )
            self.changes = [f"{name} is {now} from here on; it was {then}" for name, then, now in changes]
        elif record.exists():
            started = time.strftime("%Y%m%d-%H%M%S", time.localtime(record.stat().st_mtime))
            aside = self.dir.with_name(f"{self.dir.name}.{started}")
            self.dir.rename(aside)
            print(f"an earlier run {self.dir.name} was moved to {aside}", flush=True)
            self.dir.mkdir()
            self._lock = self._own()
        starts = [int(path.name) for path in (self.dir / LOGS).glob("*") if path.name.isdigit()]
        self.logs = self.dir / LOGS / str(max(starts, default=0) + 1)
        self.logs.mkdir(parents=True)
        self._save(self.logs / RECORD)
        if not self.cfg.run.resume:
            self.ready()
        return self

    def ready(self) -> None:
        """A restart goes on with this configuration from now on."""
        if self._judged_otherwise:
            for checkpoint in self.checkpoints:
                _reward(checkpoint, None)
            (self.dir / "checkpoints" / "best").unlink(missing_ok=True)
        self._save(self.dir / RECORD)

    def _save(self, file: Path) -> None:
        cfg = copy.deepcopy(self.cfg)
        OmegaConf.set_readonly(cfg, False)
        cfg.run.resume = False  # it is what a command asks for, not how the run is
        partial = file.with_suffix(".partial")
        OmegaConf.save(cfg, partial)
        partial.replace(file)

    def __exit__(self, *_: Any) -> None:
        self._forget_partial()
        self._lock.close()

    def _own(self) -> IO[str]:
        lock = (self.dir / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"{self.dir} is in use by another process: wait for it or choose another run.name"
            ) from error
        except OSError as error:
            raise RunError(
                f"run.dir={self.cfg.run.dir} cannot be used: its file system locks no files ({error.strerror}), by "
                "which two runs of one name are told; choose another, or mount it with locks (flock, of Lustre)"
            ) from error
        return lock

    def _require_readable(self) -> None:
        """Refuse a checkpoint of an earlier version, and one that a machine which went away has left in part."""
        for last in self.checkpoints[-1:]:
            if not (last / LEARNER).exists():
                raise RunError(
                    f"{last} has no {LEARNER}: it was cleaned, or is of an earlier version; it cannot be resumed. "
                    f"model.path={last / 'hf'} with another run.name begins with its weights"
                )
            try:
                _cursor(last)
            except (OSError, msgspec.DecodeError) as error:
                raise RunError(
                    f"{last / CURSOR} cannot be read ({error}): move {last.name} elsewhere, and the run goes on from "
                    "the checkpoint before it, or begins again"
                ) from error

    @property
    def pool_file(self) -> Path:
        """The states that RL draws from."""
        return self.dir / "states.json"

    @property
    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = [path for path in (self.dir / "checkpoints").glob("step_*") if path.name[5:].isdecimal()]
        return sorted(found, key=lambda path: int(path.name[5:]))  # not a copy that somebody made beside one

    def saving(
        self, cursor: Cursor, learner: Any, reward: float | None = None, beside: bool = False
    ) -> Generator[None, None, Path]:
        """Write `checkpoints/step_N`: learner state, Hugging Face folder and stream cursor.

        reward: mean of the learner steps since the checkpoint before, by which `judge` chooses; beside: yields as long
        as the learner writes, and training may go on in between. At the end the checkpoint is there, and its folder is
        returned.

        Raises:
            NoRoom: the disk has less room than the last checkpoint takes, now or when a write fails.
            Lost: beside training, a rank died.
        """
        final = self.dir / "checkpoints" / f"step_{cursor.step}"
        partial = final.with_name(f"{PARTIAL}{final.name}")
        self._forget_partial()
        self._require_room(partial)
        try:
            partial.mkdir(parents=True)
            (partial / CURSOR).write_bytes(msgspec.msgpack.encode(cursor))
            _reward(partial, reward)
            if beside:
                if not (yield from learner.saving(partial)):
                    raise Lost("a learner rank died while it was written")
            else:
                learner.save(partial)
            shutil.rmtree(final, ignore_errors=True)
            os.replace(partial, final)
        except Exception as error:
            self._require_room(partial)  # others write to the disk too
            if any(os.strerror(code) in str(error) for code in FULL):  # and what did not fit may be gone again
                raise NoRoom(str(error)) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        learner.restart_from(final)
        return final

    def _forget_partial(self) -> None:
        """Delete what a process that was ended had begun to write."""
        for partial in (self.dir / "checkpoints").glob(f"{PARTIAL}step_*"):
            shutil.rmtree(partial, ignore_errors=True)

    def _require_room(self, partial: Path) -> None:
        """partial: what is written of the new checkpoint."""
        for last in self.checkpoints[-1:]:
            needed, room = _size(last), shutil.disk_usage(last).free + _size(partial)
            if room < needed:
                raise NoRoom(f"{last.parent} has {room >> 20} MiB of room, a checkpoint takes {needed >> 20} MiB")

    def judge(self, rewards: Mapping[int, float], forget: bool = False) -> None:
        """Choose the best checkpoint, to which the link `checkpoints/best` leads.

        rewards: of checkpoints, by their step, those that are known by now; of others nothing is kept; forget: delete
        what is too old, but the best.
        """
        for checkpoint in self.checkpoints:
            if (reward := rewards.get(int(checkpoint.name[5:]))) is not None:
                _reward(checkpoint, reward)
        best = self._best()
        for old in self.checkpoints[: -self.cfg.checkpoint.keep] if forget else []:
            if old != best:
                gone = old.with_name(f"{PARTIAL}{old.name}")
                os.replace(old, gone)  # one that is deleted in part is none
                shutil.rmtree(gone, ignore_errors=True)  # on NFS a file that somebody reads stays as long as that

    def _best(self) -> Path | None:
        """The checkpoint with the highest reward, the newest of equals; the link is made to lead to it."""
        rewards = {path: json.loads((path / REWARD).read_text()) for path in self.checkpoints}
        known = [(reward, number, path) for number, (path, reward) in enumerate(rewards.items()) if reward is not None]
        if not known:
            return None
        best = max(known)[2]
        link = best.with_name(f"{PARTIAL}best")
        link.unlink(missing_ok=True)
        link.symlink_to(best.name)
        os.replace(link, best.with_name("best"))
        return best

    def done(self) -> int:
        """Of a run that has come to its end: delete what only a restart from before its last checkpoint would need, and
        return the bytes of it. Models stay, and what more `rl.steps` would go on from."""
        states = [folder for old in self.checkpoints[:-1] if (folder := (old / LEARNER).parent).is_dir()]
        freed = sum(map(_size, states))
        for folder in states:
            shutil.rmtree(folder, ignore_errors=True)
        return freed

    def restore(self, checkpoint: Path, learner: Any) -> Cursor:
        """Load the learner's state from a checkpoint and return where the stream goes on."""
        learner.load(checkpoint)
        return _cursor(checkpoint)


def _cursor(checkpoint: Path) -> Cursor:
    return msgspec.msgpack.decode((checkpoint / CURSOR).read_bytes(), type=Cursor)


def _reward(checkpoint: Path, reward: float | None) -> None:
    """Keep it, where it is not kept: a disk may be full, and half a file would keep the run from going on."""
    file, text = checkpoint / REWARD, json.dumps(reward)
    if not file.exists() or file.read_text() != text:
        partial = file.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(file)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
