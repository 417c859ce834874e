"""The processes of the learner: one DeepSpeed rank each, which are called together.

Invariant: every wait for a rank ends, at the latest after `learner.deadline`, with an error that names it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import RayError, RayTaskError

from actors.runtime.placement import Anywhere
from actors.runtime.remote import KEPT_MEMORY, place
from envs.errors import UserError
from learner.config.schema import Config
from learner.ranks.rank import LearnerRank

RANK_ENVIRONMENT = {
    **KEPT_MEMORY,  # a quarter of a step is faulting in pages otherwise
    # A row hardly ever has the length of another, and for each length a CPU makes programs of 0.6 MB and more for its
    # matrix products: kept by the thousand, as torch (ideep) and oneDNN do, they are gigabytes, and no faster.
    "LRU_CACHE_CAPACITY": "64",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    # Threads that spin at barriers take the cores that engine and experiments need.
    "OMP_WAIT_POLICY": "passive",
}
STARTING = ("start", "join")
"""Calls that would hang again: they wait for what is not there, such as a free GPU."""
DEATH_SECONDS = 10.0
"""A rank's death may be known that much later than the failure of the others that it causes."""


class LearnerError(UserError):
    """The learner cannot go on; the message names the rank and what it was doing."""


class RankDied(LearnerError):
    """The process of a rank has ended: all ranks can be started again."""


def reserve(cfg: Config) -> Anywhere:
    """Places for all ranks of a learner; Ray must be initialised."""
    learner = cfg.learner
    if learner.ranks == 1 and learner.transfer != "nccl":  # with nobody to be near to
        return Anywhere(learner.node)
    return place(cfg.run.mode).together(learner.ranks, learner.cpus, learner.gpus, learner.node)


class RankGroup:
    """All ranks of a learner."""

    def __init__(self, cfg: Config, model_dir: Path, places: Anywhere | None = None) -> None:
        """places: reserved for the ranks, also when they are started again; by default they have new ones each time."""
        self.cfg, self.model_dir, self._given = cfg, model_dir, places
        self._places: Anywhere | None = None
        self.members: list[Any] = []
        """Handles of the processes, in rank order."""
        self._place = place(cfg.run.mode)

    def __len__(self) -> int:
        return len(self.members)

    def start(self) -> None:
        """Start `learner.ranks` processes and load the model in each; Ray must be initialised."""
        learner = self.cfg.learner
        on_cpu = {"DS_ACCELERATOR": "cpu"} if learner.gpus == 0 else {}
        options = {
            "num_cpus": learner.cpus, "num_gpus": learner.gpus,
            "runtime_env": {"env_vars": RANK_ENVIRONMENT | on_cpu},
        }  # fmt: skip
        places = self._places = self._given or reserve(self.cfg)
        self.members = [
            self._place.spawn(LearnerRank, options | places.options(rank), self.cfg, self.model_dir, rank)
            for rank in range(learner.ranks)
        ]
        try:
            [(host, port)] = self._answers("start", [self.members[0].address.remote()])
            self.everyone("join", host, port, learner.deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all ranks."""
        for rank in self.members:
            self._place.kill(rank)
        self.members = []
        if self._places and not self._given:
            self._places.close()
        self._places = None

    def everyone(self, method: str, *args: Any) -> list[Any]:
        """Call `method` on all ranks at once with the same arguments; their answers in rank order.

        Raises:
            LearnerError: a rank fails; the others then wait for it in a collective.
        """
        return self._answers(method, [getattr(rank, method).remote(*args) for rank in self.members])

    def each(self, method: str, shards: Sequence[Any], *args: Any) -> list[Any]:
        """As `everyone`, but each rank gets its own shard as first argument."""
        calls = zip(self.members, shards, strict=True)
        return self._answers(method, [getattr(rank, method).remote(shard, *args) for rank, shard in calls])

    def with_others(self, what: str, seconds: float, method: str, *args: Any) -> list[Any]:
        """As `everyone`, for a collective in which others than the ranks take part: whoever fails in it or does not
        come leaves the ranks waiting, and then they can only be started again.

        Raises:
            RankDied: it failed, or did not end in `seconds` (actors.deadline).
        """
        calls = [getattr(rank, method).remote(*args) for rank in self.members]
        if self._place.wait(calls, num_returns=len(calls), timeout=seconds + DEATH_SECONDS)[1]:
            raise RankDied(f"{what} did not end in {seconds:g} s (actors.deadline)")
        try:
            return self._answers(method, calls)
        except LearnerError as error:
            raise RankDied(str(error)) from error

    def _answers(self, method: str, calls: list[Any]) -> list[Any]:
        pending, end = list(calls), time.monotonic() + self.cfg.learner.deadline
        while pending:
            done, pending = self._place.wait(pending, timeout=max(0.0, end - time.monotonic()))
            if not done:
                late = ", ".join(str(calls.index(call)) for call in pending)
                kind = LearnerError if method in STARTING else RankDied  # where one hangs, new ones may not
                raise kind(
                    f"learner rank {late} did not answer {method} in {self.cfg.learner.deadline:g} s (learner.deadline)"
                )
            try:
                self._place.get(done[0])
            except RayTaskError as error:
                if pending:  # a collective fails where another rank has died, whose death is the reason
                    self._raise_death(method, calls, pending)
                raise LearnerError(f"learner rank {calls.index(done[0])} failed in {method}: {error.cause}") from error
            except RayError:
                self._raise_death(method, calls, done)
        return self._place.get(calls)

    def _raise_death(self, method: str, calls: list[Any], suspects: list[Any]) -> None:
        """RankDied if the process of one of the suspects has ended, or does within `DEATH_SECONDS`."""
        for call in self._place.wait(suspects, num_returns=len(suspects), timeout=DEATH_SECONDS)[0]:
            try:
                self._place.get(call)
            except RayTaskError:
                continue
            except RayError as error:
                reason = str(error).splitlines()[0]
                raise RankDied(f"learner rank {calls.index(call)} died in {method}: {reason}") from error
