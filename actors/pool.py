"""The driver's handle on all actors: start them, ask each or all of them, and end them.

Invariants: every wait has a deadline and an error that names the actor waited for; after `close` no engine and no
container is left, whatever state the actors were in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from actors.actor import Actor
from envs.records import Task


class ActorError(RuntimeError):
    """An actor that died or did not answer; the message names it and what it was asked."""


class ActorPool:
    """`cfg.actors.count` Ray actors, each one vLLM engine with its own sandboxes."""

    def __init__(self, cfg: Any, tasks: Sequence[Task], model_dir: str, run_dir: str, version: int):
        self._deadline = cfg.actors.deadline
        create = ray.remote(Actor).options
        resources = {"num_cpus": cfg.actors.cpus, "num_gpus": cfg.actors.gpus, "max_concurrency": 1000}
        self._actors = {
            name: create(name=f"{cfg.run.name}/{name}", **resources).remote(
                name, cfg, list(tasks), model_dir, run_dir, version
            )
            for name in (f"actor-{i}" for i in range(cfg.actors.count))
        }
        self._starting = {name: actor.start.remote() for name, actor in self._actors.items()}
        self._collecting: dict[ray.ObjectRef, str] = {}

    def started(self) -> dict[str, Any]:
        """Wait until every actor serves, and share each node out between its actors' experiments.

        Returns what each actor says of itself, by name.
        """
        about = self._get(self._starting, "start")
        nodes: dict[str, list[str]] = {}
        for name, one in about.items():
            nodes.setdefault(one["host"], []).append(name)
        sharing = {
            name: self._actors[name].share.remote(len(there), position)
            for there in nodes.values()
            for position, name in enumerate(there)
        }
        self._get(sharing, "share")
        return about

    def _get(self, refs: dict[str, ray.ObjectRef], asked: str) -> dict[str, Any]:
        """Results by actor name, awaited together for at most the deadline."""
        late = ray.wait(list(refs.values()), num_returns=len(refs), timeout=self._deadline)[1]
        if missing := [name for name, ref in refs.items() if ref in late]:
            raise ActorError(f"{', '.join(missing)} did not finish {asked} in {self._deadline:.0f} s (actors.deadline)")
        return {name: self._result(name, ref, asked) for name, ref in refs.items()}

    def _result(self, name: str, ref: ray.ObjectRef, asked: str) -> Any:
        try:
            return ray.get(ref, timeout=self._deadline)
        except GetTimeoutError as error:
            raise ActorError(f"{name} did not finish {asked} in {self._deadline:.0f} s (actors.deadline)") from error
        except RayActorError as error:
            raise ActorError(f"{name} died during {asked}: {error}") from error

    def everyone(self, method: str, *args: Any) -> dict[str, Any]:
        """Call `method` on every actor at once; results by actor name."""
        return self._get({n: getattr(a, method).remote(*args) for n, a in self._actors.items()}, method)

    def first(self, method: str, *args: Any) -> Any:
        """Call `method` on one actor."""
        name, actor = next(iter(self._actors.items()))
        return self._result(name, getattr(actor, method).remote(*args), method)

    def spread(self, method: str, calls: Sequence[tuple], each: int) -> Iterator[tuple[int, Any]]:
        """Share calls out over the actors, `each` at a time on one; yields (position, result) as each ends."""
        todo = list(enumerate(calls))[::-1]
        running: dict[ray.ObjectRef, tuple[int, str]] = {}

        def start(name: str) -> None:
            if todo:
                index, args = todo.pop()
                running[getattr(self._actors[name], method).remote(*args)] = (index, name)

        for name in [*self._actors] * each:
            start(name)
        while running:
            done, _ = ray.wait(list(running), timeout=self._deadline)
            if not done:
                names = sorted({name for _, name in running.values()})
                raise ActorError(f"no {method} ended on {', '.join(names)} in {self._deadline:.0f} s (actors.deadline)")
            index, name = running.pop(done[0])
            result = self._result(name, done[0], method)
            start(name)
            yield index, result

    def collect(self, stream: Any) -> None:
        """Start every actor's endless loop: ask the stream for a group, sample it, run it, deliver it."""
        self._collecting = {actor.collect.remote(stream): name for name, actor in self._actors.items()}

    def check(self) -> None:
        """Raise the error of a collecting actor that has failed; called while waiting for its groups."""
        for ref in ray.wait(list(self._collecting), num_returns=len(self._collecting), timeout=0)[0]:
            self._result(self._collecting[ref], ref, "collect")

    def activity(self) -> dict[str, int]:
        """How many actors answer, and what they do together; an actor that is slow to answer is not counted."""
        asked = [actor.status.remote() for actor in self._actors.values()]
        answered = ray.get(ray.wait(asked, num_returns=len(asked), timeout=1.0)[0])
        experiments = sum(status["experiments"] for status in answered)
        return {"actors_alive": len(answered), "actors_total": len(asked), "experiments": experiments}

    def finish(self) -> None:
        """Wait until every collecting loop has ended, after the stream was closed."""
        self._get({name: ref for ref, name in self._collecting.items()}, "its last group")
        self._collecting = {}

    def close(self) -> None:
        """End engines and sandboxes in order, then the processes."""
        closing = [actor.close.remote() for actor in self._actors.values()]
        ray.wait(closing, num_returns=len(closing), timeout=30)
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors = {}
