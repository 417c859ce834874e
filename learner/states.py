"""The state pool p_expert(s): the states that step-wise RL draws from.

Invariants: draw number i depends only on the pool, the seed and i, so a resumed run draws what the interrupted
one would have; every task is drawn equally often, whatever its number of states.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from envs.records import State


class StatePoolError(ValueError):
    """A state pool that cannot be read or drawn from; the message names the file."""


class StatePool:
    """Distinct states of each task, drawn with the tasks in balance."""

    def __init__(self, states: Iterable[State], seed: int):
        self.states = list({(s.task_id, s.snapshot, s.history): s for s in states}.values())
        if not self.states:
            raise StatePoolError("the state pool is empty: the expert left no state (see experts.trajectories)")
        self._seed = seed
        self._by_task: dict[str, list[State]] = collections.defaultdict(list)
        for state in self.states:
            self._by_task[state.task_id].append(state)

    def draw(self, index: int) -> State:
        """The state of draw `index` (0, 1, …): every round visits each task once, in a random order."""
        tasks = sorted(self._by_task)
        turn, place = divmod(index, len(tasks))
        random.Random(f"{self._seed}/{turn}").shuffle(tasks)
        return random.Random(f"{self._seed}/{index}/state").choice(self._by_task[tasks[place]])

    def kinds(self) -> dict[str, int]:
        """How many states of each kind the pool holds."""
        return dict(collections.Counter(state.kind for state in self.states))

    def save(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        partial.write_bytes(msgspec.json.encode(self.states))
        partial.replace(file)

    @classmethod
    def load(cls, file: Path, seed: int, tasks: Sequence[str]) -> StatePool:
        """Read a saved pool.

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
        return cls(states, seed)
