"""The policy on held-out tasks while it is trained: every `evaluation.every` learner steps, with the same seeds.

Invariants: actors and learner go on meanwhile, but where the run could not be repeated to the bit then
(`rl.max_staleness=0`) or the engine has no card (`actors.colocate`); each point tells which weight versions sampled it;
one that was interrupted goes on with the next task.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pool import ActorPool
from actors.runtime.remote import place
from envs.records import Task, Transition
from learner.config.schema import Config
from learner.evaluation import evaluation
from learner.figures.text import SPLITS, number, percent
from learner.run.attempts import Attempts

POLL_SECONDS = 0.1
"""Between looks at an evaluation that is waited for."""
STAGE = "rl"
"""Of `evaluation.json`, to which the points lead."""


@dataclass(frozen=True)
class _Begun:
    """An evaluation that has not ended."""

    step: int
    left: list[str]
    """Tasks that are not evaluated yet, in the order of the calls."""
    done: dict[str, list[Transition]]
    kept: Attempts
    calls: Iterator[tuple[int, list[Transition]] | None]


class HeldOut:
    """The points of one run's curve."""

    def __init__(
        self, cfg: Config, tasks: Mapping[str, Task], actors: ActorPool, run_dir: Path, say: Callable[[str], None]
    ) -> None:
        self._cfg, self._actors, self._run_dir, self._say = cfg, actors, run_dir, say
        self._place = place(cfg.run.mode)
        held_out = {name: task for name, task in tasks.items() if task.split == "held_out"}
        self._tasks = held_out or dict(tasks)
        """Those that are trained on, where no other is named."""
        self._begun: _Begun | None = None
        self._rewards: dict[int, float] = {}
        """By learner step."""
        self.alone = cfg.rl.max_staleness == 0 or cfg.actors.colocate
        """Whether the learner waits for each evaluation, while no actor does anything else."""

    def due(self, step: int) -> bool:
        """Whether there is to be one after this learner step; after the last the stage `rl` is."""
        every = self._cfg.evaluation.every
        return bool(every) and 0 < step < self._cfg.rl.steps and step % every == 0

    def begin(self, step: int, version: int) -> None:
        """Ask the actors for the attempts; version: the newest of the weights that they serve.

        Where the last evaluation still goes on, this one is left out.
        """
        if self._begun:
            self._say(f"no evaluation after step {step}: that of step {self._begun.step} still goes on")
            return
        kept = Attempts(self._cfg, self._run_dir, "held-out", version)
        done = {name: attempts for name in self._tasks if (attempts := kept.of(name)) is not None}
        left, settings = [name for name in self._tasks if name not in done], self._cfg.evaluation
        calls = self._actors.spreading("evaluate", [(name, settings.attempts, settings.seed) for name in left], each=2)
        self._begun = _Begun(step, left, done, kept, calls)

    def look(self, wait: bool = False) -> dict[str, Any] | None:
        """The point of an evaluation that has ended since the last look; wait: until it has.

        Returns its step, mean reward with the bounds of its 95 % interval, valid_rate, distinct_valid, and the oldest
        and newest weight version that sampled it. Raises ActorError.
        """
        begun = self._begun
        if begun is None:
            return None
        for ended in begun.calls:
            if ended is not None:
                index, attempts = ended
                begun.done[begun.left[index]] = attempts
                begun.kept.keep(begun.left[index], attempts)
            elif wait:
                self._place.sleep(POLL_SECONDS)
            else:
                return None
        self._begun = None
        return self._point(begun)

    def heard(self, step: int, reward: float) -> None:
        """The mean reward of a point, or of a stage that belongs to the curve."""
        self._rewards[step] = reward

    @property
    def over(self) -> bool:
        """Whether so many points in a row were no better than the best that training is to end."""
        rewards = [self._rewards[step] for step in sorted(self._rewards)]
        since = len(rewards) - 1 - rewards.index(max(rewards)) if rewards else 0
        return 0 < self._cfg.evaluation.patience <= since

    def of_stage(self, results: Mapping[str, Any], stage: str) -> float | None:
        """The mean reward of the same tasks in a stage of `evaluation.json`; None where it was not evaluated."""
        figures = results["splits"].get(self._split, {}).get(stage)
        return figures and figures["mean_reward"]

    @property
    def _split(self) -> str:
        return next(iter(self._tasks.values())).split

    def _point(self, begun: _Begun) -> dict[str, Any]:
        attempts = list(itertools.chain.from_iterable(begun.done[name] for name in self._tasks))
        results = evaluation.summarise(self._tasks.values(), {STAGE: attempts})
        figures = results["splits"][self._split][STAGE]
        reward, (low, high) = figures["mean_reward"], figures["mean_reward_ci"] or (None, None)
        versions = [version for one in attempts for version, *_ in one.version_spans]
        interval = f" ({number(low)} to {number(high)})" if low is not None else ""
        self._say(
            f"{SPLITS[self._split]} tasks after step {begun.step}: reward {number(reward)}{interval}, "
            f"{percent(figures['valid_rate'])} valid"
        )
        return {
            "step": begun.step, "reward": reward, "reward_low": low, "reward_high": high,
            "valid_rate": figures["valid_rate"], "distinct_valid": figures["distinct_valid"],
            "version_low": min(versions, default=None), "version_high": max(versions, default=None),
        }  # fmt: skip
