"""Exploration-enriched fine-tuning, its first half: what of the expert's trajectories is imitated, and what becomes the
state pool.

Invariant: no state is in the pool, and no action is imitated, whose prompt does not fit the policy.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping

from actors.pool import ActorPool
from envs.records import Task
from learner.algorithm.batching import Example
from learner.config.schema import Config
from learner.recipe import exploration, selection, warmstart
from learner.run.folder import Run
from learner.run.progress import Progress
from learner.stream.states import StatePool


def enrich(cfg: Config, tasks: Mapping[str, Task], actors: ActorPool, run: Run, progress: Progress) -> list[Example]:
    """Let the expert try ideas on the held-in tasks; keep the states; return the actions worth imitating.

    tasks: the held-in ones, with m_init. Raises ExplorationError, TrajectoryError.
    """
    experts = exploration.expert_actors(cfg, tasks, actors, run.dir, progress.say)
    trajectories = exploration.explore(cfg, tasks, experts, run.dir, progress)
    states = warmstart.states(trajectories, tasks)
    too_long = {state.id for state, fits in zip(states, actors.first("fits", states), strict=True) if not fits}
    if too_long:
        progress.say(f"{len(too_long)} of {len(states)} states are left out: too long for model.context")
    usable = [state for state in states if state.id not in too_long]
    if cfg.rl.episode_steps > 1:  # whole episodes begin where their task does
        usable = [state for state in usable if state.kind == "initial"]
    pool = StatePool(warmstart.balanced(usable, cfg.experts.states, cfg.run.seed), cfg.run.seed)
    pool.save(run.pool_file)
    progress.say(f"state pool: {pool.kinds()}")
    worth = [choice for choice in selection.worth_imitating(trajectories, tasks) if choice.state.id not in too_long]
    chosen = selection.select(worth, cfg.sft.best, cfg.sft.examples, cfg.sft.others, cfg.run.seed)
    encoded = [Example(*ids) for ids in actors.first("encode", [(choice.state, choice.text) for choice in chosen])]
    fitting = [len(example.response_ids) <= cfg.model.response for example in encoded]
    kinds = collections.Counter(choice.kind for choice in itertools.compress(chosen, fitting))
    told = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    progress.say(f"{sum(fitting)} expert actions are imitated ({told}), of {len(worth)} that are worth it")
    return list(itertools.compress(encoded, fitting))
