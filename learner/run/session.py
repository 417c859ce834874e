"""The driver's side of the stream: it asks for batches, and looks after the actors while they fill.

Invariant: every question to the stream ends within `actors.deadline`, with an error that names it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import GetTimeoutError

from actors.pool import ActorError, ActorPool
from actors.runtime.remote import DEATHS, place
from envs.records import Transition
from learner.algorithm.algorithms import named
from learner.config.schema import Config
from learner.run.progress import Progress
from learner.run.watch import Watch
from learner.stream.packed import StreamError, unpack
from learner.stream.scaling import Scaler
from learner.stream.states import StatePool, what_was_seen
from learner.stream.stream import Account, Cursor, Stream, states_of


class Session:
    """The actors' loops and the stream that they fill, from where a cursor is to the last learner step."""

    def __init__(
        self, cfg: Config, pool: StatePool, cursor: Cursor, actors: ActorPool, progress: Progress, watch: Watch
    ) -> None:
        """Raises StreamError where the cursor is not of this pool."""
        states_of(cursor, pool)  # else it would be the stream that ends, for whatever reason
        self._cfg, self._actors, self._progress, self._watch = cfg, actors, progress, watch
        self.waited = 0.0, 0.0
        """Unix times between which the learner waited for the last batch."""
        self._began = 0.0
        rl, run, self._place = cfg.rl, cfg.run, place(cfg.run.mode)
        options = {"name": f"{run.name}/stream", "num_cpus": 0, "max_concurrency": 1000, **self._place.here()}
        batch = rl.steps, rl.states, rl.actions, rl.max_staleness
        refill = 0 if named(rl.algorithm).value_head else rl.refill * rl.states  # groups teach, however alike they are
        self._stream = self._place.spawn(Stream, options, pool, run.seed, *batch, cursor, refill, rl.discount)
        self._scaler = Scaler(cfg, actors, progress.say)
        actors.collect(self._stream)

    def batch(self, meanwhile: Callable[[], None]) -> list[list[Transition]]:
        """The groups of the next learner step, which begins here.

        meanwhile: called at once, and then every second until they are there.

        Raises:
            ActorError: too many actors failed, or none does anything.
            StreamError: a group cannot be finished, or the stream has ended.
        """
        self._began, asked_at = time.monotonic(), time.time()
        self._progress.doing("waits for groups")
        groups = self._with_future(unpack(self._filled(meanwhile)))
        self.waited = asked_at, asked_at + time.monotonic() - self._began
        return groups

    def _with_future(self, groups: list[list[Transition]]) -> list[list[Transition]]:
        """The groups with what is earned from the reached states on, of the present experience of the pool."""
        if not (discount := self._cfg.rl.discount):
            return groups
        values = iter(self._ask("values", [(t.task_id, t.reached) for group in groups for t in group]))
        return [[dataclasses.replace(t, future=discount * next(values)) for t in group] for group in groups]

    def advance(self, groups: list[list[Transition]], saved: bool) -> Cursor:
        """The step on these groups is done, and all actors serve its weights; returns where a restart would go on.

        saved: the cursor is for a checkpoint.

        Raises:
            StreamError: the stream has ended.
        """
        return self._ask("advance", *what_was_seen(groups), saved)

    def cursor(self) -> Cursor:
        """As of `advance`, for a checkpoint that is not due; raises as that."""
        return self._ask("cursor")

    def account(self) -> tuple[float, Account]:
        """Seconds since the step began, and where all groups are; the number of actors follows from both."""
        seconds, account = time.monotonic() - self._began, self._ask("account")
        self._scaler.step(self.waited[1] - self.waited[0], seconds, account)
        return seconds, account

    def close(self) -> None:
        """End the actors' loops."""
        self._ask("close")
        self._scaler.close()
        self._actors.finish()

    def _filled(self, meanwhile: Callable[[], None]) -> list[bytes]:
        deadline = self._cfg.actors.deadline
        batch = self._stream.batch.remote()
        meanwhile()
        self._look_after_actors()
        while not self._place.wait([batch], timeout=1.0)[0]:
            meanwhile()
            self._look_after_actors()
            account = dataclasses.asdict(self._ask("account"))
            self._progress.update(**{f"stream_{name}": value for name, value in account.items()})
            self._watch.stream(account)
            if self._actors.idle_seconds > deadline:
                raise ActorError(
                    f"no batch is complete, and no actor has done anything for {deadline:.0f} s (actors.deadline)"
                )
        return self._answer(batch)

    def _look_after_actors(self) -> None:
        self._actors.check()
        self._scaler.look()
        activity = self._actors.activity()
        self._progress.update(**activity)
        self._watch.actors(activity)

    def _ask(self, method: str, *args: Any) -> Any:
        return self._answer(getattr(self._stream, method).remote(*args))

    def _answer(self, call: Any) -> Any:
        seconds = self._cfg.actors.deadline
        try:
            return self._place.get(call, timeout=seconds)
        except GetTimeoutError as error:
            raise StreamError(f"the stream did not answer in {seconds:.0f} s (actors.deadline)") from error
        except DEATHS as error:
            raise StreamError(
                f"the stream has ended ({str(error).splitlines()[0]}): run.resume=true goes on from the last checkpoint"
            ) from error
