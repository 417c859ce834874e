"""A job of the Ray Jobs API: its log line by line, its end, and how to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from envs.errors import UserError

STOP_SECONDS = 30
"""What a stopped job has to end its actors, engines and containers before Ray kills it."""
POLL_SECONDS = 0.2
GONE_SECONDS = 30.0
"""For which a cluster may not answer."""
NO_AGENT, AGENT_SECONDS = "No available agent", 60.0
"""What a head says whose node is not yet ready to run a job, on a busy machine; and how long it may be so."""

logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of every file that it does not upload


class JobError(UserError):
    """The cluster took no job or lost it; the message says which."""


class Job:
    """A submitted job. Iterating over it gives the lines of its log until the log ends; once, and across interrupts."""

    def __init__(self, client: JobSubmissionClient, entrypoint: str, runtime_env: dict[str, Any]):
        """Submit.

        Raises:
            JobError: the cluster refuses the job.
        """
        self._client = client
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self.id = client.submit_job(entrypoint=entrypoint, runtime_env={**runtime_env, "env_vars": environment})
                break
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise JobError(f"the cluster refuses the job: {error}") from error
            time.sleep(1.0)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="job-log", daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines.get, None)

    def log_ended(self) -> bool:
        """Whether every line has been given out."""
        return self._lines.empty() and not self._reader.is_alive()

    def stop(self) -> None:
        """Ask the job to end; Ray kills it when it has not after STOP_SECONDS."""
        self._client.stop_job(self.id)

    def exit_code(self) -> int:
        """Wait for the end: 0 if it succeeded, 130 if it was stopped, otherwise its driver's own code.

        Raises:
            JobError: it did not run, or the cluster no longer answers.
        """
        while not (info := self._info()).status.is_terminal():
            time.sleep(POLL_SECONDS)
        if info.status == JobStatus.SUCCEEDED:
            return 0
        if info.status == JobStatus.STOPPED:
            return 130
        if info.driver_exit_code is None:
            raise JobError(f"job {self.id} did not run: {info.message}")
        return info.driver_exit_code

    def _info(self) -> JobDetails:
        deadline = time.monotonic() + GONE_SECONDS
        while True:
            try:
                return self._client.get_job_info(self.id)
            except (RuntimeError, OSError) as error:  # a network may be gone for a moment
                if time.monotonic() > deadline:
                    raise JobError(
                        f"the cluster no longer answers; where it goes on, so does the run (ray job logs {self.id}): "
                        f"{error}"
                    ) from error
            time.sleep(1.0)

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError, aiohttp.ClientError):  # how the job ended is asked for separately
            asyncio.run(self._tail())
        self._lines.put(None)

    async def _tail(self) -> None:
        rest = ""
        async for chunk in self._client.tail_job_logs(self.id):
            *whole, rest = (rest + chunk).split("\n")
            for line in whole:
                self._lines.put(line)
        if rest:
            self._lines.put(rest)
