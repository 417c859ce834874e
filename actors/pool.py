"""The driver's handle on all actors: start them, ask each or all of them, replace those that fail, and end them.

An actor runs experiments as soon as its sandboxes have started, and samples once its engine serves. Invariants: every
wait has a deadline and an error that names the actor waited for; an actor that died, hangs or lost its engine is
killed, its groups go back to the stream, and another takes its place, which serves the newest weights before it
samples or runs anything; after `close` no engine and no container is left, whatever state the actors were in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayTaskError

from actors.actor import Actor
from actors.explorer import Explorer
from actors.hosts import Hosts
from actors.policy.errors import PolicyDead
from actors.runtime.placement import Anywhere, beside, next_to, on_node
from actors.runtime.remote import DEATHS, place
from envs.errors import UserError
from envs.records import Task


class ActorError(UserError):
    """An actor that died or did not answer; the message names it and what it was asked."""


class ActorLost(ActorError):
    """An actor that another can stand in for."""


@dataclass
class Member:
    """One actor of the pool."""

    name: str
    handle: Any
    starting: Any | None
    """Pending until it can run experiments, and knows what the others do; None afterwards."""
    serving: Any | None
    """Pending until its engine serves; None afterwards."""
    about: dict[str, Any] = field(default_factory=dict)
    """What it says of itself: sandbox, host, node, pid, engine_seconds."""
    collecting: Any | None = None
    asked: Any | None = None
    """The sign of life that was asked for and has not come yet."""
    asked_at: float = 0.0
    status: dict[str, int] = field(default_factory=dict)
    beside: str | None = None
    """The node of learner ranks where it is to be, if it is."""


@dataclass(frozen=True)
class Receiver:
    """An actor that takes weights which are broadcast."""

    name: str
    handle: Any
    workers: int
    """Processes of its engine, one per GPU."""


class ActorPool:
    """`actors.count` Ray actors, each one vLLM engine with its own sandboxes; more or fewer after `resize`."""

    def __init__(
        self,
        cfg: Any,
        tasks: Sequence[Task],
        model_dir: str,
        run_dir: str,
        version: int,
        say: Callable[[str], None],
        full_weights: Callable[[], list[Any]],
        kind: type[Explorer] = Actor,
        resting: bool = False,
        near: Anywhere | None = None,
    ):
        """version: of the weights in `model_dir`; say: tells the user that an actor was replaced; full_weights: gives
        those published last, for actors that join; kind: `Explorer` for actors without a policy; resting: they start
        when they are woken first; near: places of learner ranks, beside which engines go as long as there is room."""
        self._cfg, self._deadline, self._say = cfg, cfg.actors.deadline, say
        self._place = place(cfg.run.mode)
        self._making, self._kind = (list(tasks), model_dir, run_dir, version), kind
        self._version, self._full_weights = version, full_weights
        self._m_init: dict[str, float] = {}
        self._members: dict[str, Member] = {}
        self._made = self._replaced = 0
        self._explores = False
        self._wanted = cfg.actors.count
        self._active = time.monotonic()
        self._stream: Any = None
        self._hosts = Hosts(cfg) if cfg.sandbox.hosts else None
        self._resting, self._near = resting, near
        self._fill()

    def _fill(self) -> None:
        """Start those that are missing; where all rest, they start when the others wake."""
        while not self._resting and len(self._members) < self._wanted:
            self._add()

    def _add(self) -> str:
        """Start one more; returns its name."""
        name = f"actor-{self._made}"
        self._made += 1
        options = {
            "name": f"{self._cfg.run.name}/{name}", "num_cpus": self._cfg.actors.cpus,
            "num_gpus": self._cfg.actors.gpus, "max_concurrency": 1000,
            **on_node(self._cfg.actors.node),
        }  # fmt: skip
        if node := self._beside_ranks():
            options |= next_to(node)
        tasks, model_dir, run_dir, version = self._making
        handle = self._place.spawn(self._kind, options, name, self._cfg, tasks, model_dir, run_dir, version)
        self._members[name] = Member(name, handle, handle.start.remote(), handle.serve.remote(), beside=node)
        return name

    def _beside_ranks(self) -> str | None:
        """The node of learner ranks that has room for one more engine, where it is to go there."""
        if not self._near or not (ranks := self._near.nodes):
            return None
        of_rank, of_actor = self._cfg.learner, self._cfg.actors
        theirs, share = ({"CPU": of.cpus, "GPU": of.gpus} for of in (of_rank, of_actor))
        taken = [member.beside for member in self._members.values() if member.beside]
        return beside(ray.nodes(), ranks, theirs, taken, share, of_actor.node)

    @property
    def _able(self) -> dict[str, Member]:
        """Those that can run experiments."""
        return {name: member for name, member in self._members.items() if member.starting is None}

    def exploring(self) -> dict[str, Any]:
        """Wait until every actor can run experiments, for which no engine has to serve yet; returns what each says of
        itself, by name."""
        about = self._get({name: member.starting for name, member in self._members.items()}, "start")
        for name, member in self._members.items():
            member.about, member.starting = about[name], None
        self._explores = True
        self._share()
        return about

    def started(self) -> dict[str, Any]:
        """Wait until every actor serves; returns what each says of itself, by name.

        One that is lost meanwhile is replaced, and its successor waited for only where it is the first to serve.
        """
        if not self._explores:
            self.exploring()
        self._active = time.monotonic()
        while late := [one for one in (self._able or self._members).values() if one.starting or one.serving]:
            if self.idle_seconds > self._deadline:
                names = ", ".join(member.name for member in late)
                raise ActorLost(f"{names} did not finish serve in {self._deadline:.0f} s (actors.deadline)")
            calls = [call for member in late for call in (member.starting, member.serving) if call]
            self._place.wait(calls, num_returns=len(calls), timeout=1.0)
            self.check()
        return {name: member.about for name, member in self._able.items()}

    def _share(self) -> None:
        """Share each node out between its actors' experiments."""
        nodes: dict[str, list[Member]] = {}
        for member in self._able.values():
            nodes.setdefault(member.about["node"], []).append(member)
        for there in nodes.values():
            for position, member in enumerate(there):
                member.handle.share.remote(len(there), position)

    def _get(self, refs: dict[str, Any], asked: str) -> dict[str, Any]:
        """Results by actor name, awaited together for at most the deadline."""
        late = self._place.wait(list(refs.values()), num_returns=len(refs), timeout=self._deadline)[1] if refs else []
        if missing := [name for name, ref in refs.items() if ref in late]:
            raise ActorLost(f"{', '.join(missing)} did not finish {asked} in {self._deadline:.0f} s (actors.deadline)")
        return {name: self._result(name, ref, asked) for name, ref in refs.items()}

    def _result(self, name: str, ref: Any, asked: str, seconds: float | None = None) -> Any:
        try:
            return self._place.get(ref, timeout=self._deadline if seconds is None else seconds)
        except GetTimeoutError as error:
            raise ActorLost(f"{name} did not finish {asked} in time (actors.deadline, actors.heartbeat)") from error
        except DEATHS as error:
            raise ActorLost(f"{name} died during {asked}: {str(error).splitlines()[0]}") from error
        except RayTaskError as error:
            if isinstance(error.cause, PolicyDead):
                raise ActorLost(str(error.cause)) from error
            raise

    def first(self, method: str, *args: Any) -> Any:
        """Call `method` on one actor."""
        ((_, result),) = self.spread(method, [args], each=1)
        return result

    def spread(self, method: str, calls: Sequence[tuple], each: int) -> Iterator[tuple[int, Any]]:
        """Share calls out over the actors, `each` at a time on one; yields (position, result) as each ends.

        The calls of an actor that is lost are made again on another.
        """
        return filter(None, self.spreading(method, calls, each, seconds=1.0))

    def spreading(
        self, method: str, calls: Sequence[tuple], each: int, seconds: float = 0.0
    ) -> Iterator[tuple[int, Any] | None]:
        """As `spread`, for calls beside others: it yields None, too, where none has ended in so many seconds."""
        todo = list(enumerate(calls))[::-1]
        running: dict[Any, tuple[int, tuple, str]] = {}
        self._active = time.monotonic()
        while todo or running:
            for name, member in self._able.items():
                while todo and sum(on == name for _, _, on in running.values()) < each:
                    index, args = todo.pop()
                    running[getattr(member.handle, method).remote(*args)] = (index, args, name)
            done = self._place.wait(list(running), timeout=seconds)[0] if running else self._place.sleep(seconds)
            self.check()
            if not done:
                if self.idle_seconds > self._deadline:
                    names = ", ".join(sorted({name for _, _, name in running.values()})) or "any actor"
                    raise ActorError(f"no {method} ended on {names} in {self._deadline:.0f} s (actors.deadline)")
                yield None
                continue
            self._active = time.monotonic()
            index, args, name = running.pop(done[0])
            try:
                result = self._result(name, done[0], method)
            except ActorLost as error:
                self._replace(name, str(error))
                todo.append((index, args))
                continue
            yield index, result

    def set_baselines(self, m_init: dict[str, float]) -> None:
        """Tell every actor, and those that come, the tasks' baselines; what is asked next may overtake it otherwise."""
        self._m_init = m_init
        calls = [member.handle.set_baselines.remote(m_init) for member in self._able.values()]
        if calls:
            self._place.wait(calls, num_returns=len(calls), timeout=self._deadline)  # `check` sees who does not answer

    def publish(self, version: int, buckets: list[Any]) -> float:
        """Has all actors that have started serve this version; one that fails is replaced.

        Where the buckets are lost, with the learner's rank that made them, all get others, in full. Returns the seconds
        that the slowest took to restore it from differences.
        """
        self._version = version
        seconds = self._all("receive", f"take weight version {version}", version, buckets)
        if None in seconds:
            return self.publish(version, self._full_weights())
        return max(seconds, default=0.0)

    def rest(self) -> None:
        """Have all engines give up the memory of their cards; one that does not is replaced when the others wake."""
        end = time.monotonic() + self._deadline
        while coming := [name for name, one in self._members.items() if one.starting or one.serving]:
            self.check()
            if time.monotonic() > end:
                raise ActorError(f"{', '.join(coming)} did not start in {self._deadline:.0f} s (actors.deadline)")
            self._place.sleep(0.1)
        self._resting = True
        self._all("rest", "give up its card")

    def wake(self) -> None:
        """Have all engines serve again, and those start that are missing."""
        self._resting, self._active = False, time.monotonic()
        self._all("wake", "take its card back")
        self._fill()

    def _all(self, method: str, what: str, *args: Any) -> list[Any]:
        """What all actors that have started answer, None where an argument is lost; one that fails is replaced."""
        answers = []
        started = {name: member for name, member in self._members.items() if member.about}
        pending = {name: getattr(member.handle, method).remote(*args) for name, member in started.items()}
        end = time.monotonic() + self._deadline
        while pending:
            self._place.wait(list(pending.values()), num_returns=len(pending), timeout=1.0)
            for name, ref in list(pending.items()):
                try:
                    answers.append(self._place.get(ref, timeout=0))
                except GetTimeoutError:
                    if time.monotonic() < end:
                        continue
                    self._replace(name, f"{name} did not {what} in {self._deadline:.0f} s")
                except (*DEATHS, RayTaskError) as error:
                    reason = error.cause if isinstance(error, RayTaskError) else "its process died"
                    if isinstance(reason, ObjectLostError):
                        answers.append(None)
                    else:
                        self._replace(name, f"{name} failed to {what}: {reason}")
                del pending[name]
            self.check()
            pending = {name: ref for name, ref in pending.items() if name in self._members}
        return answers

    def receivers(self) -> list[Receiver]:
        """Those that have started and give a sign of life now; the others are replaced."""
        started = {name: member for name, member in self._members.items() if member.about}
        calls = {name: member.handle.status.remote() for name, member in started.items()}
        self._place.wait(list(calls.values()), num_returns=len(calls), timeout=self._cfg.actors.heartbeat)
        for name, ref in calls.items():
            try:
                self._result(name, ref, "status", 0.0)
            except ActorLost as error:
                self._replace(name, str(error))
        workers = max(1, int(self._cfg.actors.gpus))
        return [Receiver(name, one.handle, workers) for name, one in started.items() if name in self._members]

    def collect(self, stream: Any) -> None:
        """Start every actor's endless loop: ask the stream for a group, sample it, run it, deliver it."""
        self._stream = stream
        for member in self._able.values():
            member.collecting = member.handle.collect.remote(stream)

    def resize(self, count: int) -> None:
        """Have `count` actors: new ones join when they serve; the youngest leave, their groups go to others.

        Raises:
            ActorError: `count` is not within `actors.min` and `actors.max`.
        """
        least, most = self.bounds
        if not least <= count <= most:
            raise ActorError(f"{count} actors: not within actors.min={least} and actors.max={most}")
        self._wanted = count
        self._fill()
        for name in list(self._members)[count:]:
            self._remove(name)
        self._share()

    @property
    def wanted(self) -> int:
        """Actors that serve, start, or wait for a place on the cluster."""
        return self._wanted

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most actors that there may be."""
        return self._cfg.actors.min, max(self._cfg.actors.max, self._cfg.actors.count)

    def check(self) -> None:
        """Let in actors that have started, and replace those that failed or give no sign of life.

        Called often while the driver waits for something.

        Raises:
            ActorError: more than `actors.replacements` were replaced.
        """
        for name, member in list(self._members.items()):
            try:
                self._let_in(member) if member.starting else self._look_at(member)
            except ActorLost as error:
                self._replace(name, str(error))

    def _let_in(self, member: Member) -> None:
        coming = [call for call in (member.starting, member.serving) if call]
        if len(self._place.wait(coming, num_returns=len(coming), timeout=0)[0]) < len(coming):
            return
        try:
            answer = self._result(member.name, member.starting, "start")
            served = self._result(member.name, member.serving, "serve") if member.serving else {}
        except RayTaskError as error:  # whatever the reason, the run goes on without it, and says so
            raise ActorLost(f"{member.name} did not start: {error.cause}") from error
        if isinstance(answer, dict):  # it has started, and now takes what the others know
            member.about, member.serving = answer | served, None
            buckets = self._full_weights() if self._version > self._making[-1] else []
            member.starting = member.handle.catch_up.remote(self._m_init, self._version, buckets)
        else:
            member.starting = None
            self._share()
            if self._stream:
                member.collecting = member.handle.collect.remote(self._stream)
            serves = "" if answer is None else f"serves weight version {answer} and "
            self._say(f"{member.name} {serves}joins")

    def _look_at(self, member: Member) -> None:
        if member.serving and self._place.wait([member.serving], timeout=0)[0]:
            member.about |= self._result(member.name, member.serving, "serve")
            member.serving = None
        if member.collecting and self._place.wait([member.collecting], timeout=0)[0]:
            self._result(member.name, member.collecting, "collect")
            member.collecting = None
        if member.asked is None:
            member.asked, member.asked_at = member.handle.status.remote(), time.monotonic()
        elif self._place.wait([member.asked], timeout=0)[0]:
            before, member.status = member.status, self._result(member.name, member.asked, "status")
            member.asked = None
            if member.status.get("lean", 0) != before.get("lean", 0):
                short = "is nearly used up: no idle sandboxes, and one experiment at a time"
                state = short if member.status["lean"] else "has room again"
                self._say(f"{member.name}: the memory of its node {state}")
            if member.status["experiments"] or member.status.get("tokens") != before.get("tokens"):
                self._active = time.monotonic()
        elif time.monotonic() - member.asked_at > self._cfg.actors.heartbeat:
            raise ActorLost(f"{member.name} gave no sign of life for {self._cfg.actors.heartbeat:g} s")

    def _replace(self, name: str, reason: str) -> None:
        if name not in self._members:
            return  # several of its calls failed
        self._replaced += 1
        if self._replaced > self._cfg.actors.replacements:
            raise ActorError(
                f"more than actors.replacements={self._cfg.actors.replacements} failed, the last: {reason}"
            )
        back = self._remove(name)
        successor = "the next that starts" if self._resting else self._add()
        self._active = time.monotonic()  # the successor has the whole deadline to start and to act
        self._say(f"{reason}; replaced by {successor}, {back} groups go to others")

    def _remove(self, name: str) -> int:
        """End an actor; returns how many groups it gave back."""
        member = self._members.pop(name)
        self._end([member], 5.0)
        return self._place.get(self._stream.leave.remote(name), timeout=self._deadline) if self._stream else 0

    @property
    def idle_seconds(self) -> float:
        """Since an actor was last seen to run an experiment or to have sampled a token, or was replaced."""
        return time.monotonic() - self._active

    def activity(self) -> dict[str, int]:
        """How many actors serve, and what they do together, by their last signs of life."""
        statuses = [member.status for member in self._able.values()]
        together = {name: sum(status.get(name, 0) for status in statuses) for name in ("experiments", "queued")}
        return {"actors_alive": len(statuses), "actors_total": self._wanted, **together}

    def finish(self) -> None:
        """Wait until every collecting loop has ended, after the stream was closed."""
        end = time.monotonic() + self._deadline
        self._stream = None
        while late := [member.name for member in self._members.values() if member.collecting]:
            self.check()
            if time.monotonic() > end:
                raise ActorError(f"{', '.join(late)} did not end in {self._deadline:.0f} s (actors.deadline)")
            self._place.sleep(0.1)

    def close(self) -> None:
        """End engines and sandboxes in order, then the processes."""
        self._end(list(self._members.values()), 30.0)
        self._members = {}
        if self._hosts:
            self._hosts.close()

    def _end(self, members: Sequence[Member], seconds: float) -> None:
        """Ask actors to end their engines and sandboxes, for at most `seconds`, then end their processes."""
        if not members:
            return
        closing = [member.handle.close.remote() for member in members]
        silent = self._place.wait(closing, num_returns=len(closing), timeout=seconds)[1]
        for member, asked in zip(members, closing, strict=True):
            if asked in silent and member.about:
                self._place.kill_process(member.about["node"], member.about["pid"])
            self._place.kill(member.handle)
