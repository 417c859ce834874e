"""What every command of the learner does once nothing is refused: join the cluster, measure the baselines."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from actors.pool import ActorPool
from envs.benchmarks.loader import TaskError
from envs.errors import UserError
from envs.records import Task
from learner.config.schema import Config


def measure(tasks: Mapping[str, Task], actors: ActorPool) -> dict[str, Task]:
    """The tasks with m_init as the sandbox in use gives it; the actors are told.

    Raises:
        TaskError: an unchanged script fails; the message carries the end of its log.
    """
    measured = {}
    for task_id, result in actors.first("baselines").items():
        if result.score_after is None:
            raise TaskError(
                f"task {task_id}: its unchanged script ended as {result.outcome}; `python -m envs check` on it "
                f"shows whether it is mended. End of its log:\n{result.log_tail}"
            )
        tested = result.withheld and result.withheld.on_test
        measured[task_id] = dataclasses.replace(tasks[task_id], m_init=result.score_after, m_init_test=tested)
    actors.set_baselines({task_id: task.m_init for task_id, task in measured.items()})
    return measured


def places(about: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where experiments run, a line for each machine; about: what `ActorPool.exploring` or `started` tells."""
    actors = Counter((of["sandbox"], of["host"]) for of in about.values())
    for (sandbox, host), count in sorted(actors.items()):
        yield f"experiments of {count} {'actor' if count == 1 else 'actors'} run in the {sandbox} sandbox on {host}"


LATE = "timed out during startup"
"""Ray gives itself half a minute to start, too little where a machine is busy; it is asked once more."""


class ClusterError(UserError):
    """A Ray cluster that cannot be joined or started; the message says which and why."""


def connect(cfg: Config) -> None:
    """Join the cluster of RAY_ADDRESS (set inside a Ray job), or start one on this machine.

    Raises:
        ClusterError: that cannot be done.
    """
    _interruptible()
    if cfg.run.mode == "ray":
        address = os.environ.get("RAY_ADDRESS", "local")
        # Else Ray prints a traceback for each call of an actor or rank that was lost; who replaces it says so in a line
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        try:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except Exception as error:
                if address != "local" or LATE not in str(error):
                    raise
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises many kinds, bare ones among them
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            what = f"RAY_ADDRESS={address} cannot be joined; leave it out to start Ray on this machine"
            if address == "local":
                what = "Ray does not start on this machine (its logs are in /tmp/ray)"
            raise ClusterError(f"{what}: {reason}") from error
        _interruptible()  # Ray has handlers of its own


def _interruptible() -> None:
    """`ray job stop` and a terminal that is closed end a run as Ctrl-C does; nohup goes on keeping the latter away."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
