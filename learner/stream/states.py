"""The state pool p_expert(s): the states that step-wise RL draws from.

Invariants: draw number i depends only on the seed, i, the pool and what was learned of it so far, so a run resumed
from what `Experience` holds draws what the interrupted one would have; the expert's states stay, and of those that the
policy reached no task has more than a bound.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from envs.errors import UserError
from envs.records import Reached, State, Told, Transition
from learner.algorithm.algorithms import varied
from learner.stream.values import Known, Values

FLOOR = 0.1
"""Weight of a state whose rewards no longer vary, against 1 of the state where they vary most: none is given up."""
MEMORY = 0.5
"""Share of the old estimate that stays when a state's rewards are seen again."""
OWN_SHARE = 0.5
"""`balanced`: share of a task's draws that are of states which the policy reached, once there are any."""
REMEMBERED = 200
"""Different things tried from a state that are remembered, the newest."""
OWN_STATES = 50
"""Most of a task, unless told otherwise."""


class StatePoolError(UserError):
    """A state pool that cannot be read or drawn from; the message names the file."""


@dataclass
class Experience:
    """What training added to a pool."""

    spread: dict[str, float] = field(default_factory=dict)
    """By id of a state of the pool: moving average of the standard deviation of its groups' rewards."""
    added: list[State] = field(default_factory=list)
    """States of the pool that the policy reached, the oldest first."""
    values: dict[str, list[Known]] = field(default_factory=dict)
    """By task: what is earned from scripts on (`Values`)."""
    tried: dict[str, list[str]] = field(default_factory=dict)
    """By id of a state of the pool: what was tried from it and trained on (`Transition.tried`), the oldest first."""


class StatePool:
    """Distinct states of each task and the rule by which they are drawn.

    `uniform`: every state equally often. `balanced`: every round visits each task once, in a random order, and half of
    the time a state that the policy reached. `progress`: by how much the rewards of a state's groups still vary, which
    is where a policy gradient has something to learn; a state not tried yet counts as the one that varies most.
    """

    def __init__(
        self,
        states: Iterable[State],
        seed: int,
        sampling: str = "balanced",
        experience: Experience | None = None,
        short: int = 0,
        most: int = OWN_STATES,
        spans: Mapping[str, float] | None = None,
    ):
        """short: as many first draws are of tasks at a fidelity below 1 (`NAME@0.1`), all later ones of the others; 0:
        all are of all tasks. most: of the states of a task that the policy reached, from the next `learn` on. spans: by
        task, the range of its scores (`Values`)."""
        self._experience = experience or Experience()
        every = [*states, *self._experience.added]
        self.states = list({(s.task_id, s.snapshot, s.history): s for s in every}.values())
        if not self.states:
            raise StatePoolError("the state pool is empty: the expert left no state (see experts.trajectories)")
        self._seed, self._sampling, self._short, self._most = seed, sampling, short, most
        self._values = Values(self._experience.values, spans or {})
        self._index()

    def _index(self) -> None:
        """What is looked up, from the states."""
        self._by_id = {state.id: state for state in self.states}
        added = {state.id for state in self._experience.added}
        self._given: dict[str, list[State]] = collections.defaultdict(list)
        self._own: dict[str, list[State]] = collections.defaultdict(list)
        for state in self.states:
            (self._own if state.id in added else self._given)[state.task_id].append(state)

    def draw(self, index: int) -> State:
        """The state of draw `index` (0, 1, …)."""
        rng, eligible = random.Random(f"{self._seed}/{index}/state"), self._eligible(index)
        if self._sampling == "uniform":
            return rng.choice(eligible)
        if self._sampling == "progress":
            return rng.choices(eligible, self._weights(eligible))[0]
        tasks = sorted({state.task_id for state in eligible})
        turn, place = divmod(index, len(tasks))
        random.Random(f"{self._seed}/{turn}").shuffle(tasks)
        given, own = self._given[tasks[place]], self._own[tasks[place]]
        return rng.choice(own if own and (not given or rng.random() < OWN_SHARE) else given)

    def _eligible(self, index: int) -> list[State]:
        if not self._short:
            return self.states
        return [s for s in self.states if ("@" in s.task_id) == (index < self._short)] or self.states

    def _weights(self, states: Sequence[State]) -> list[float]:
        spread = self._experience.spread
        largest = max(spread.values(), default=0.0) or 1.0
        return [FLOOR + (1 - FLOOR) * spread.get(state.id, largest) / largest for state in states]

    def learn(
        self,
        spreads: Mapping[str, float],
        found: Iterable[State] = (),
        earned: Mapping[str, float] | None = None,
        tried: Iterable[tuple[str, frozenset[str]]] = (),
    ) -> int:
        """Take in what a learner step saw: the deviation of rewards by state id, new good states, the mean reward and
        future by state id, and (state id, what was tried) of each group; returns how many groups tried nothing new.

        A script that the pool has joins it no more. Where a task has too many states that the policy reached, those
        whose rewards vary least leave, and of equals the oldest: one that was not tried yet counts as in `progress`.
        """
        repeated = sum(self._remember(*one) for one in tried)
        known = self._experience.spread
        for name in spreads.keys() & self._by_id.keys():
            known[name] = MEMORY * known[name] + (1 - MEMORY) * spreads[name] if name in known else spreads[name]
        for name, mean in (earned or {}).items():
            if tried := self.by_id(name):
                self._values.learn(tried.task_id, Reached(tried.snapshot, tried.score), mean)
        held = {(state.task_id, state.snapshot) for state in self.states}
        for state in found:
            if (key := (state.task_id, state.snapshot)) not in held:
                held.add(key)
                self.states.append(state)
                self._experience.added.append(state)
        self._index()
        gone = {state.id for own in self._own.values() for state in self._too_many(own)}
        if gone:
            self.states = [state for state in self.states if state.id not in gone]
            self._experience.added = [state for state in self._experience.added if state.id not in gone]
            for name in gone:
                known.pop(name, None)
                self._experience.tried.pop(name, None)
            self._index()
        return repeated

    def _remember(self, name: str, tried: frozenset[str]) -> bool:
        """Whether all that a group tried had been tried from its state before."""
        if name not in self._by_id:
            return False
        before = self._experience.tried.setdefault(name, [])
        repeated = tried <= set(before)
        before[:] = [*(one for one in before if one not in tried), *sorted(tried)][-REMEMBERED:]
        return repeated

    def teaches(self, state: State, told: Sequence[Told], discount: float) -> bool:
        """Whether a group that was tried from a state has something to learn from that is new: what its actions are
        worth, with what is earned from where they led on (`rl.discount`), differs, and not all of them were trained on
        from there before."""
        futures = self.values((state.task_id, one.reached) for one in told) if discount else [0.0] * len(told)
        worth = np.array([one.reward + discount * future for one, future in zip(told, futures, strict=True)])
        if not len(worth) or not varied(worth):
            return False
        return not {one.tried for one in told} <= set(self._experience.tried.get(state.id, ()))

    def _too_many(self, own: Sequence[State]) -> list[State]:
        weights = dict(zip((state.id for state in own), self._weights(own), strict=True))
        return sorted(own, key=lambda state: weights[state.id])[: max(0, len(own) - self._most)]

    def experience(self) -> Experience:
        """As it is now."""
        values = {task_id: list(known) for task_id, known in self._experience.values.items()}
        tried = {name: list(of) for name, of in self._experience.tried.items()}
        return Experience(dict(self._experience.spread), list(self._experience.added), values, tried)

    def values(self, reached: Iterable[tuple[str, Reached | None]]) -> list[float]:
        """What is earned from each on, which is of the task named beside it."""
        return [self._values.of(*one) for one in reached]

    def by_id(self, name: str) -> State | None:
        """None: it has left."""
        return self._by_id.get(name)

    def kinds(self) -> dict[str, int]:
        """How many states of each kind the pool holds."""
        return dict(collections.Counter(state.kind for state in self.states))

    def save(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(self.states))
        partial.replace(file)

    @classmethod
    def load(
        cls,
        file: Path,
        seed: int,
        tasks: Sequence[str],
        sampling: str = "balanced",
        experience: Experience | None = None,
        short: int = 0,
        most: int = OWN_STATES,
        spans: Mapping[str, float] | None = None,
    ) -> StatePool:
        """Read a saved pool; arguments as for a new one.

        Raises:
            StatePoolError: the file is missing, damaged, or holds a state of a task not in `tasks`.
        """
        try:
            states = msgspec.json.decode(file.read_bytes(), type=list[State])
        except (OSError, msgspec.DecodeError) as error:
            raise StatePoolError(
                f"state pool {file} cannot be read ({error}): delete it and start the run anew"
            ) from error
        if unknown := {state.task_id for state in states} - set(tasks):
            raise StatePoolError(
                f"state pool {file} has states of {sorted(unknown)}, which tasks.held_in does not name"
            )
        return cls(states, seed, sampling, experience, short, most, spans)


def what_was_seen(
    groups: Sequence[Sequence[Transition]],
) -> tuple[dict[str, float], list[State], dict[str, float], list[tuple[str, frozenset[str]]]]:
    """For `StatePool.learn`: by state id the deviation of what actions were worth, the good states that a learner step
    reached, by state id the mean of that worth, and what each group tried."""
    counted = [group for group in ([t for t in group if not t.masked] for group in groups) if group]
    worth = {group[0].state_id: [t.worth for t in group] for group in counted}
    spreads = {name: float(np.std(of)) for name, of in worth.items()}
    found = [t.successor for group in counted for t in group if t.successor]
    tried = [(group[0].state_id, frozenset(t.tried for t in group)) for group in counted]
    return spreads, found, {name: float(np.mean(of)) for name, of in worth.items()}, tried
