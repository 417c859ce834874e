"""What the driver tells Prometheus: the figures of each learner step, and where groups and actors are meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.runtime.metrics import Metrics

PHASES = ("queue", "generate", "restore", "execute", "grade", "wait", "train", "publish")
"""Of a step, as the journal has them in `<phase>_seconds`; up to `grade` they are means per transition."""
TRAINING = (
    "loss", "value_loss", "grad_norm", "entropy", "kl", "ratio_mean", "clip_fraction", "equal_share", "repeated_share",
    "tokens_per_s",
)  # fmt: skip
PLAIN = {
    "mlagent_step": "step", "mlagent_reward_mean": "reward_mean", "mlagent_valid_ratio": "valid_rate",
}  # fmt: skip
"""Metrics that are one figure of a row."""


class Watch:
    """Tells the figures of one run."""

    def __init__(self, run: str):
        self._metrics = Metrics(run)

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of the journal."""
        show = self._metrics.show
        for name, figure in PLAIN.items():
            show(name, row.get(figure))
        if row.get("logprob_gap_on_current"):  # of older tokens it is what was learned since, too
            show("mlagent_logprob_gap_nats", row.get("logprob_gap_mean"))
        if point := row.get("held_out"):
            show("mlagent_held_out_reward", point["reward"])
        for task, reward in row["task_rewards"].items():
            show("mlagent_task_reward", reward, task=task)
        for outcome, count in row["outcomes"].items():
            self._metrics.count("mlagent_transitions", count, outcome=outcome)
        for finding, count in {"any": row["suspicious"], **row["findings"]}.items():
            show("mlagent_suspicious_ratio", count / row["transitions"], finding=finding)
        for name, figure in (("mlagent_staleness_versions", "staleness"), ("mlagent_age_seconds", "age_seconds")):
            for of in ("mean", "max"):
                show(name, row.get(f"{figure}_{of}"), of=of)
        for figure in TRAINING:
            show("mlagent_training", row.get(figure), figure=figure)
        for phase in PHASES:
            show("mlagent_phase_seconds", row.get(f"{phase}_seconds"), phase=phase)
        show("mlagent_phase_seconds", row["seconds"], phase="step")
        self._metrics.count("mlagent_published_bytes", row["publish_mb"] * 1e6)
        self.stream({name.removeprefix("stream_"): value for name, value in row.items() if name.startswith("stream_")})

    def stream(self, account: Mapping[str, float]) -> None:
        """The account of the stream (`learner.stream.stream.Account`)."""
        for state in ("trained", "ready", "in_flight", "again"):
            self._metrics.show("mlagent_stream_groups", account[state], state=state)

    def actors(self, activity: Mapping[str, int]) -> None:
        """What `ActorPool.activity` says."""
        for state, figure in (("serving", "actors_alive"), ("wanted", "actors_total")):
            self._metrics.show("mlagent_actors", activity[figure], state=state)
