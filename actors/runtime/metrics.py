"""What is seen of a run while it runs: figures through `ray.util.metrics`, which every Ray node exports to Prometheus.

Invariants: METRICS has every metric of the project, with the unit in its name; Prometheus knows `NAME` as `ray_NAME`;
telling a figure never fails and never waits; a gauge shows its last value for as long as its process lives, and no
longer. cluster/dashboards shows them and alerts on them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from envs.admission import Capacity
from envs.experiments import SandboxRunner
from envs.records import Commands, Experiment, Task
from envs.sandbox import SandboxFailure
from envs.workspace import Files

SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
"""Upper ends of the classes of durations; experiments take from a tenth of a second to an hour."""


@dataclass(frozen=True)
class Metric:
    """One figure."""

    kind: str
    """gauge, counter or histogram."""
    help: str
    tags: tuple[str, ...] = ()
    """Beside `run`."""


METRICS = {
    # the driver, once per learner step
    "mlagent_step": Metric("gauge", "Learner steps done."),
    "mlagent_reward_mean": Metric("gauge", "Mean reward of the last step's transitions."),
    "mlagent_task_reward": Metric("gauge", "The same by task.", ("task",)),
    "mlagent_valid_ratio": Metric("gauge", "Share of the last step's actions that were valid."),
    "mlagent_held_out_reward": Metric("gauge", "Mean reward on held-out tasks, when they were last tried."),
    "mlagent_transitions": Metric("counter", "Transitions trained on, by outcome.", ("outcome",)),
    "mlagent_suspicious_ratio": Metric("gauge", "Share of the last step's transitions with a finding.", ("finding",)),
    "mlagent_staleness_versions": Metric("gauge", "Weight versions between sampling and training.", ("of",)),
    "mlagent_age_seconds": Metric("gauge", "Seconds between a transition's end and its training.", ("of",)),
    "mlagent_logprob_gap_nats": Metric("gauge", "Mean |log-prob gap| of engine and learner, per token."),
    "mlagent_training": Metric("gauge", "The optimiser step: loss, entropy and others.", ("figure",)),
    "mlagent_phase_seconds": Metric("gauge", "Seconds of a phase in the last step.", ("phase",)),
    "mlagent_published_bytes": Metric("counter", "Bytes of weights sent to actors."),
    # the driver, while it waits as well
    "mlagent_stream_groups": Metric("gauge", "Groups that were started, by where they are.", ("state",)),
    "mlagent_actors": Metric("gauge", "Actors that serve, and that there should be.", ("state",)),
    # whoever runs experiments
    "mlagent_experiment_seconds": Metric("histogram", "Durations of experiments, by task.", ("by", "task")),
    "mlagent_experiments": Metric("counter", "Experiments that ended, by outcome.", ("by", "outcome")),
    "mlagent_experiments_running": Metric("gauge", "Experiments that run now.", ("by",)),
    "mlagent_sandboxes_idle": Metric("gauge", "Sandboxes that are started and wait.", ("by",)),
    # the engines, from vLLM
    "mlagent_engine_tokens": Metric("counter", "Tokens processed, by kind: prompt or generated.", ("by", "kind")),
    "mlagent_engine_requests": Metric("gauge", "Requests of the engine: running or waiting.", ("by", "state")),
    "mlagent_engine_cache_ratio": Metric("gauge", "Share of the KV cache in use.", ("by",)),
    "mlagent_engine_prefix_tokens": Metric("counter", "Prompt tokens looked up in the prefix cache.", ("by", "found")),
    "mlagent_engine_preemptions": Metric("counter", "Requests that lost their place in the KV cache.", ("by",)),
}


REPEAT_SECONDS = 5.0
"""Ray exports a gauge once for each time it is set, so that gauges are set again; it exports every ten seconds."""
_shown: dict[tuple[str, tuple[tuple[str, str], ...]], Callable[[], float]] = {}
"""How to get the present value of every gauge of this process."""


@functools.cache
def _repeat() -> None:
    """Start, once per process, the thread that sets the gauges again."""

    def repeat() -> None:
        while True:
            time.sleep(REPEAT_SECONDS)
            for (name, tags), value in list(_shown.items()):
                _made(name).set(value(), dict(tags))

    threading.Thread(target=repeat, name="gauges", daemon=True).start()


@functools.cache
def _made(name: str) -> Any:
    """Ray's object for a metric; one per process."""
    from ray.util import metrics

    metric = METRICS[name]
    tags = ("run", *metric.tags)
    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.help, boundaries=list(SECONDS), tag_keys=tags)
    return {"gauge": metrics.Gauge, "counter": metrics.Counter}[metric.kind](name, metric.help, tag_keys=tags)


class Metrics:
    """Tells the figures of one run."""

    def __init__(self, run: str, **tags: str):
        """tags: of every figure told here that has them, such as by="actor-0"."""
        self._tags = {"run": run, **tags}

    def _all(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        known = {"run", *METRICS[name].tags}
        return {key: value for key, value in {**self._tags, **tags}.items() if key in known}

    def show(self, name: str, value: float | None, **tags: str) -> None:
        """The present value of a gauge; None is not shown."""
        if value is not None:
            kept = float(value)
            self.watch(name, lambda: kept, **tags)

    def watch(self, name: str, value: Callable[[], float], **tags: str) -> None:
        """A gauge whose value is asked for from now on, every REPEAT_SECONDS."""
        told = self._all(name, tags)
        place = name, tuple(sorted(told.items()))
        if place not in _shown:  # otherwise the thread tells it soon: an engine's figures change many times a second
            _made(name).set(float(value()), told)
        _shown[place] = value
        _repeat()

    def count(self, name: str, more: float = 1.0, **tags: str) -> None:
        """So many more on a counter."""
        if more > 0:  # Ray refuses to add nothing
            _made(name).inc(float(more), self._all(name, tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        """One more value in a histogram."""
        _made(name).observe(float(value), self._all(name, tags))


class MeteredRunner:
    """A `Runner` that tells how long experiments take, how many run, and how many sandboxes wait."""

    def __init__(self, runner: SandboxRunner, metrics: Metrics, idle: Callable[[], int]):
        """idle: how many sandboxes wait for an experiment."""
        self._runner, self._metrics = runner, metrics
        metrics.watch("mlagent_experiments_running", lambda: runner.running)
        metrics.watch("mlagent_sandboxes_idle", idle)
        self.name, self.image, self.seed = runner.name, runner.image, runner.seed

    @property
    def running(self) -> int:
        return self._runner.running

    def run(self, task: Task, files: Files) -> Experiment:
        *_, experiment = self.begin(task, files)
        return experiment

    def begin(self, task: Task, files: Files, *command: str, **turn: Any) -> Iterator[Any]:
        """As `SandboxRunner.begin`; commands are not told."""
        steps = self._runner.begin(task, files, *command, **turn)
        yield from steps if command else self._told(task, steps)

    def _told(self, task: Task, steps: Iterator[Any]) -> Iterator[Any]:
        outcome = "infra_failure"
        started = time.monotonic()
        try:
            yield next(steps)
            experiment = next(steps)
            outcome = str(experiment.outcome)
            self._metrics.observe("mlagent_experiment_seconds", experiment.durations.execute, task=task.id)
            yield experiment
        except SandboxFailure:
            self._metrics.observe("mlagent_experiment_seconds", time.monotonic() - started, task=task.id)
            raise
        finally:
            self._metrics.count("mlagent_experiments", outcome=outcome)

    def shell(self, task: Task, files: Files, command: str) -> Commands:
        return self._runner.shell(task, files, command)

    def resize(self, capacity: Capacity) -> None:
        self._runner.resize(capacity)

    def expect(self, tasks: Iterable[Task]) -> None:
        self._runner.expect(tasks)

    def close(self) -> None:
        self._runner.close()


def engine_logger(metrics: Metrics) -> Callable[..., Any]:
    """What vLLM calls with its figures, after every step of the engine (a factory of its stat loggers)."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class EngineLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0):
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            if scheduler_stats is not None:
                metrics.show("mlagent_engine_requests", scheduler_stats.num_running_reqs, state="running")
                metrics.show("mlagent_engine_requests", scheduler_stats.num_waiting_reqs, state="waiting")
                metrics.show("mlagent_engine_cache_ratio", scheduler_stats.kv_cache_usage)
                looked_up = scheduler_stats.prefix_cache_stats
                metrics.count("mlagent_engine_prefix_tokens", looked_up.hits, found="yes")
                metrics.count("mlagent_engine_prefix_tokens", looked_up.queries - looked_up.hits, found="no")
            if iteration_stats is not None:
                metrics.count("mlagent_engine_tokens", iteration_stats.num_generation_tokens, kind="generated")
                metrics.count("mlagent_engine_tokens", iteration_stats.num_prompt_tokens, kind="prompt")
                metrics.count("mlagent_engine_preemptions", iteration_stats.num_preempted_reqs)

        def log_engine_initialized(self) -> None:
            pass

    return EngineLogger
