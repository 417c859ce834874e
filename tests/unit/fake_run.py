"""A run folder as a real run leaves it, written through the run's own modules, for the tests of its views."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from envs.records import Direction, Durations, Limits, Outcome, Task, Transition
from learner import transitions
from learner.config import Config
from learner.evaluation import Evaluation
from learner.journal import Journal, step_metrics
from learner.progress import Progress

EDIT = """Thought: a boosted model fits this table better than a stump
Action: Edit
<<<<<<< SEARCH
from sklearn.tree import DecisionTreeClassifier
model = DecisionTreeClassifier(max_depth=2)
model.fit(x_train, y_train)
=======
from sklearn.ensemble import HistGradientBoostingClassifier
model = HistGradientBoostingClassifier(max_iter={iterations})
model.fit(x_train, y_train)
>>>>>>> REPLACE"""
ERROR = "Traceback (most recent call last):\n  File \"train.py\", line 9\nNameError: name 'x' is not defined"
WEIGHTS = {
    Outcome.EDITED: 8,
    Outcome.NEUTRAL: 1,
    Outcome.INVALID: 3,
    Outcome.SCRIPT_ERROR: 2,
    Outcome.TIMEOUT: 0.4,
    Outcome.INFRA_FAILURE: 0.1,
}
TASKS = {
    name: Task(
        id=name,
        problem="",
        env_dir=Path(),
        private_dir=Path(),
        script="train.py",
        read_only=frozenset(),
        metric=metric,
        direction=direction,
        split=split,
        limits=Limits(),
        m_best=0.99,
        m_init=start,
    )
    for name, metric, direction, split, start in [
        ("iris", "accuracy", Direction.MAXIMIZE, "held_in", 0.867),
        ("wine", "log_loss", Direction.MINIMIZE, "held_in", 1.24),
        ("diabetes", "rmse", Direction.MINIMIZE, "held_in", 71.3),
        ("digits", "macro_f1", Direction.MAXIMIZE, "held_in", 0.412),
        ("breast_cancer", "roc_auc", Direction.MAXIMIZE, "held_out", 0.902),
        ("linnerud", "mae", Direction.MINIMIZE, "held_out", 8.9),
    ]
}


def transition(rng: random.Random, name: str, task_id: str, version: int, skill: float, **changes) -> Transition:
    """One transition; the higher `skill` (0 … 1), the more often its action is a successful edit."""
    weights = {**WEIGHTS, Outcome.EDITED: 2 + 20 * skill}
    outcome = rng.choices(list(weights), list(weights.values()))[0]
    edited = outcome is Outcome.EDITED
    failed = outcome in (Outcome.INVALID, Outcome.SCRIPT_ERROR)
    reward = min(1.0, 0.4 + 0.5 * skill + rng.gauss(0, 0.1)) if edited else 0.0 if failed else 0.5
    spans = ((version - 1, 0, 20), (version, 20, 40)) if rng.random() < 0.4 else ((version, 0, 40),)
    text = "use a forest" if outcome is Outcome.INVALID else EDIT.format(iterations=rng.randint(20, 400))
    log = ERROR if outcome is Outcome.SCRIPT_ERROR else "fitted in 0.31 s\nwrote submission.csv (45 rows)"
    start, tokens = TASKS[task_id].m_init, 40
    values = {
        "id": name,
        "group_id": name.rsplit("/", 1)[0],
        "state_id": f"{task_id}-7",
        "task_id": task_id,
        "actor_id": f"actor-{rng.randrange(2)}",
        "prompt_ids": np.zeros(300, np.int32),
        "response_ids": np.zeros(tokens, np.int32),
        "behaviour_logprobs": np.zeros(tokens, np.float32),
        "version_spans": spans,
        "text": text,
        "action": "invalid" if outcome is Outcome.INVALID else "edit",
        "outcome": outcome,
        "reward": float(reward),
        "reward_parts": {"gain": reward - 0.5, "score": float(reward)},
        "score_before": start,
        "score_after": start * (1 + rng.gauss(0.05, 0.04) * TASKS[task_id].direction.sign) if edited else None,
        "durations": Durations(rng.random(), 0.02, 0.4 + rng.random(), 0.01),
        "generate_seconds": 2 + rng.random(),
        "log_tail": log,
    }
    return Transition(**(values | changes))


def make(run_dir: Path, steps: int = 10, actions: int = 16, seed: int = 0) -> Path:
    """Write a whole run of `steps` learner steps with 4 groups of `actions` each."""
    rng = random.Random(seed)
    run_dir.mkdir(parents=True)
    OmegaConf.save(OmegaConf.structured(Config), run_dir / "config.yaml")
    held_in = [task_id for task_id, task in TASKS.items() if task.split == "held_in"]

    def attempts(skill: float) -> list[Transition]:
        return [transition(rng, f"{task_id}/{i}", task_id, 0, skill) for task_id in TASKS for i in range(16)]

    with Progress(run_dir) as view, Journal(run_dir) as journal:
        journal.describe({name: {"sandbox": "docker", "host": "node-1"} for name in ("actor-0", "actor-1")})
        evaluation = Evaluation(run_dir, TASKS)
        for stage, skill in {"base": 0.02, "sft": 0.35}.items():
            view.stage(f"evaluate {stage}", 1)
            evaluation.add(stage, attempts(skill))
        view.stage("reinforce", steps)
        for step in range(1, steps + 1):
            skill = 0.3 + 0.5 * step / steps
            groups = [
                [transition(rng, f"g{step}-{task_id}/{k}", task_id, step, skill) for k in range(actions)]
                for task_id in held_in
            ]
            transitions.write(run_dir, step, groups, {t.id: rng.gauss(0, 1) for group in groups for t in group})
            train = {"logprob_gap_mean": 0.003 + 0.002 * rng.random(), "loss": 0.01, "train_seconds": 26.0}
            train |= {"entropy": 0.8 - 0.02 * step, "grad_norm": 1 + rng.random()}
            row = step_metrics(groups, step, train, seconds=40 + 10 * rng.random(), now=20.0)
            row |= {"step": step, "wait_seconds": 8 * rng.random(), "publish_seconds": 0.4}
            journal.append(row)
            view.advance(**row)
        evaluation.add("rl", attempts(0.85))
    return run_dir
