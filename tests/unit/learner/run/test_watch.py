"""What Prometheus is told: every metric by its rules, and a step's figures under their names."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from actors.runtime import metrics
from actors.runtime.metrics import METRICS, Metrics
from learner.run.watch import Watch

ROW = {
    "step": 3, "reward_mean": 0.5, "valid_rate": 1.0, "logprob_gap_mean": 9.0, "task_rewards": {"wine": 0.5},
    "outcomes": {"edited": 4, "invalid": 0}, "staleness_mean": 0.5, "staleness_max": 1, "age_seconds_mean": 2.0,
    "age_seconds_max": None, "loss": 0.1, "seconds": 9.0, "train_seconds": 4.0, "publish_mb": 2.0,
    "stream_started": 9, "stream_trained": 4, "stream_ready": 2, "stream_in_flight": 3, "stream_again": 0,
    "logprob_gap_on_current": False,
    "stream_actors_waited": 1.0, "transitions": 4, "suspicious": 1, "findings": {"copied": 1, "sample": 0},
}  # fmt: skip


@pytest.fixture
def told(monkeypatch) -> dict:
    """Values by metric and tags, `run` left out."""
    found: dict = defaultdict(list)

    class Recorded:
        def __init__(self, name: str):
            self._name = name

        def told(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == {"run", *METRICS[self._name].tags}
            found[self._name, *sorted(value for key, value in tags.items() if key != "run")].append(value)

        set = inc = observe = told

    monkeypatch.setattr(metrics, "_made", Recorded)
    monkeypatch.setattr(metrics, "_shown", {})
    monkeypatch.setattr(metrics, "_repeat", lambda: None)
    return found


def test_a_step_is_told_under_its_names(told):
    Watch("mine").step(ROW)
    assert told["mlagent_step",] == [3] and told["mlagent_task_reward", "wine"] == [0.5]
    assert told["mlagent_transitions", "edited"] == [4] and ("mlagent_transitions", "invalid") not in told
    shares = {finding: told["mlagent_suspicious_ratio", finding] for finding in ("any", "copied", "sample")}
    assert shares == {"any": [0.25], "copied": [0.25], "sample": [0.0]}
    assert told["mlagent_phase_seconds", "train"] == [4.0] and told["mlagent_phase_seconds", "step"] == [9.0]
    assert told["mlagent_published_bytes",] == [2e6] and told["mlagent_stream_groups", "in_flight"] == [3]
    assert ("mlagent_logprob_gap_nats",) not in told, "of tokens that nobody can judge"
    Watch("mine").step(ROW | {"logprob_gap_on_current": True, "logprob_gap_mean": 0.25})
    assert told["mlagent_logprob_gap_nats",] == [0.25]
    assert ("mlagent_age_seconds", "max") not in told
    assert ("mlagent_held_out_reward",) not in told
    Watch("mine").step(ROW | {"held_out": {"step": 2, "reward": 0.75}})
    assert told["mlagent_held_out_reward",] == [0.75]


def test_names_have_their_units_and_no_suffix_that_prometheus_adds():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"mlagent_[a-z_]+", name) and metric.help.endswith(".")
        assert not name.endswith(("_total", "_sum", "_count", "_bucket"))
        assert metric.kind in ("gauge", "counter", "histogram")


def test_a_gauge_that_is_watched_is_asked_for_its_value(told):
    values = iter([1, 2, 3])
    Metrics("mine", by="actor-0").watch("mlagent_sandboxes_idle", lambda: next(values))
    ((_, ask),) = metrics._shown.items()
    assert told["mlagent_sandboxes_idle", "actor-0"] == [1] and [ask(), ask()] == [2, 3]


def test_a_metric_that_is_not_listed_is_a_defect(told):
    with pytest.raises(KeyError):
        Metrics("mine").show("mlagent_other", 1.0)
