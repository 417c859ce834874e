"""A run folder as a real run leaves it, written through the run's own modules, for the tests of its views."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from envs.records import MILESTONES, Direction, Durations, Limits, Origin, Outcome, StepInfo, Task, Transition
from learner.algorithm.step_report import StepReport, Update
from learner.config.load import load
from learner.evaluation.evaluation import Evaluation
from learner.run import task_figures, transitions
from learner.run.journal import Journal, step_metrics
from learner.run.progress import Progress

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
PROMPT = """<|im_start|>system
You improve a machine-learning script. Answer with a thought and one action.<|im_end|>
<|im_start|>user
Task {task}: make the {metric} better than {start}.

train.py:
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
x_train, y_train = train.drop(columns="target"), train["target"]
model = DecisionTreeClassifier(max_depth=2)
model.fit(x_train, y_train)
pd.DataFrame({{"id": test["id"], "target": model.predict(test)}}).to_csv("submission.csv", index=False)
<|im_end|>
<|im_start|>assistant
"""
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


@functools.cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE that knows the words of the prompts and actions, and any other text by bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    made.train_from_iterator([PROMPT, EDIT], trainer)
    return made


@functools.cache
def encode(text: str) -> np.ndarray:
    return np.array(tokenizer().encode(text).ids, np.int32)


def prompt(task_id: str) -> str:
    task = TASKS[task_id]
    return PROMPT.format(task=task_id, metric=task.metric, start=task.m_init)


FOUND = (("copied", "'target' is the column 'proline' of test.csv"), ("perfect", "accuracy 0.867 → 1"))
INFO = {field.name for field in dataclasses.fields(StepInfo)}
UPDATE = [field.name for field in dataclasses.fields(Update)]


def transition(rng: random.Random, name: str, task_id: str, version: int, skill: float, **changes) -> Transition:
    """One transition; the higher `skill` (0 … 1), the more often its action is a successful edit."""
    weights = {**WEIGHTS, Outcome.EDITED: 2 + 20 * skill}
    outcome = rng.choices(list(weights), list(weights.values()))[0]
    edited = outcome is Outcome.EDITED
    failed = outcome in (Outcome.INVALID, Outcome.SCRIPT_ERROR)
    reward = min(1.0, 0.4 + 0.5 * skill + rng.gauss(0, 0.1)) if edited else 0.0 if failed else 0.5
    text = "use a forest" if outcome is Outcome.INVALID else EDIT.format(iterations=rng.randint(20, 400))
    text = changes.get("text", text)
    tokens, cut = len(encode(text)), len(encode(text)) // 3
    spans = ((version - 1, 0, cut), (version, cut, tokens)) if rng.random() < 0.4 else ((version, 0, tokens),)
    log = ERROR if outcome is Outcome.SCRIPT_ERROR else "fitted in 0.31 s\nwrote submission.csv (45 rows)"
    start = TASKS[task_id].m_init
    info = StepInfo(
        actor_id=f"actor-{rng.randrange(2)}",
        text=text,
        action="invalid" if outcome is Outcome.INVALID else "edit",
        score_before=start,
        best_before=start,
        score_after=start * (1 + rng.gauss(0.05, 0.04) * TASKS[task_id].direction.sign) if edited else None,
        log_tail=log,
        durations=Durations(rng.random(), 0.02, 0.4 + rng.random(), 0.01),
        peak_mb=90 + 40 * rng.random(),
        milestones=MILESTONES[:4] if edited else MILESTONES[:1] if outcome is Outcome.SCRIPT_ERROR else (),
        fault="no_action" if outcome is Outcome.INVALID else "",
        findings=FOUND if edited and name.endswith("/3") else (),
        origin=Origin.CACHE if rng.random() < 0.1 else Origin.RUN,
        reward_parts={"gain": reward - 0.5, "score": float(reward)},
        generate_seconds=2 + rng.random(),
        finished=19.5,
    )
    values = {
        "id": name,
        "group_id": name.rsplit("/", 1)[0],
        "state_id": f"{task_id}-7",
        "task_id": task_id,
        "prompt_ids": encode(prompt(task_id)),
        "response_ids": encode(text),
        "behaviour_logprobs": np.zeros(tokens, np.float32),
        "version_spans": spans,
        "outcome": outcome,
        "reward": float(reward),
        "info": dataclasses.replace(info, **{key: changes.pop(key) for key in INFO & changes.keys()}),
    }
    return Transition(**(values | changes))


def report_of(update: Mapping[str, float] | None = None, **values: Any) -> StepReport:
    """Of a learner step; update: some of its figures, the others are 0; None: no step was taken."""
    whole = (
        Update(**(dict.fromkeys(UPDATE, 0.0) | {"logprob_gap_on_current": True} | update))
        if update is not None
        else None
    )
    kept = {"equal_groups": 0, "masked": 0, "learning_rate": 1e-5, "train_tokens": 100, "train_seconds": 26.0}
    kept |= {"train_tokens_per_s": 400.0, "advantages": {}, "ratios": {}, "losses": {}, "worst_tokens": ()}
    return StepReport(update=whole, **(kept | values))


def learned(rng: random.Random, groups: Sequence[Sequence[Transition]]) -> dict[str, dict[str, float]]:
    """Advantages, ratios and losses as a learner gives them, but for infrastructure failures."""
    ids = [t.id for group in groups for t in group if t.outcome is not Outcome.INFRA_FAILURE]
    advantages, ratios = ({name: rng.gauss(mean, spread) for name in ids} for mean, spread in [(0, 1), (1, 0.02)])
    losses = {name: -advantages[name] * ratios[name] / len(ids) for name in ids}
    return {"advantages": advantages, "ratios": ratios, "losses": losses}


def make(run_dir: Path, steps: int = 10, actions: int = 16, seed: int = 0, settings: Sequence[str] = ()) -> Path:
    """Write a whole run of `steps` learner steps with 4 groups of `actions` each; settings: as of a command line."""
    rng = random.Random(seed)
    run_dir.mkdir(parents=True)
    OmegaConf.save(load(settings), run_dir / "config.yaml")
    task_figures.write(run_dir, TASKS.values())
    held_in = [task_id for task_id, task in TASKS.items() if task.split == "held_in"]

    def attempts(skill: float) -> list[Transition]:
        return [transition(rng, f"{task_id}/{i}", task_id, 0, skill) for task_id in TASKS for i in range(16)]

    with Progress(run_dir) as view, Journal(run_dir) as journal:
        view.ready()
        journal.describe({name: {"sandbox": "docker", "host": "node-1"} for name in ("actor-0", "actor-1")})
        evaluation = Evaluation(run_dir, TASKS)
        for stage, skill in {"base": 0.02, "sft": 0.35}.items():
            view.stage(f"evaluate {stage}", 1)
            evaluation.add(stage, attempts(skill))
        loss = [2.5, 1.4, 0.9]
        told = [json.dumps({"step": i, "total": len(loss), "loss": value}) for i, value in enumerate(loss, 1)]
        (run_dir / "finetune.jsonl").write_text("\n".join(told) + "\n")
        (run_dir / "finetune.json").write_text(json.dumps({"loss_before": 2.6, "loss_after": 1.0}))
        view.stage("reinforce", steps)
        for step in range(1, steps + 1):
            skill = 0.3 + 0.5 * step / steps
            groups = [
                [transition(rng, f"g{step}-{task_id}/{k}", task_id, step, skill) for k in range(actions)]
                for task_id in held_in
            ]
            each = learned(rng, groups)
            update = {"logprob_gap_mean": 0.003 + 0.002 * rng.random(), "loss": 0.01}
            report = report_of(update | {"entropy": 0.8 - 0.02 * step, "grad_norm": 1 + rng.random()}, **each)
            transitions.write(run_dir, step, groups, report)
            seconds, wait = 40 + 10 * rng.random(), 8 * rng.random()
            row = step_metrics(groups, step, report, seconds, (20.0 - wait, 20.0), now=20.0)
            row |= {"step": step, "publish_seconds": 0.4}
            journal.append(row)
            view.advance(**row)
        evaluation.add("rl", attempts(0.85))
    tokens = run_dir / f"checkpoints/step_{steps}/hf/tokenizer.json"
    tokens.parent.mkdir(parents=True)
    tokenizer().save(str(tokens))
    return run_dir
