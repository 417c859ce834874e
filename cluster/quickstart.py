"""`make train`: says what it will do, submits a training run through the Ray Jobs API, shows it to its end, and stops
what it started.

The cluster is that of RAY_ADDRESS, or a head started here for this run. Ctrl-C stops the job, waits until its actors,
engines and containers have ended, and then stops the head. The exit code is the job's.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import devices
from cluster.announcement import announced
from cluster.head import Head, HeadError
from envs.errors import FAILURES
from learner.config.load import ConfigError, load
from learner.config.midway import again
from learner.config.usage import HELP, KEYS
from learner.run.progress import follow

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from cluster.job import Job

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120
TRUE = ("true", "yes", "y", "on", "1")
"""As OmegaConf reads them."""
USAGE = f"""usage: make train [DEVICE=cpu|gpu] [ARGS="key=value ..."]

Says what it will do, starts Ray here (or uses that of RAY_ADDRESS), submits learner/main.py as a job, shows it to its
end and stops what it started. Without config=NAME|PATH it takes the quickstart's settings.

  make train                                               SmolLM2-135M on four small tasks, tried on two more
  make train ARGS="rl.steps=20 reward.version=v2"
  make train ARGS="run.resume=true"                        goes on with the run named quickstart
  make train ARGS="run.resume=true run.name=NAME"

{KEYS}"""
KNOWN_CODES = (0, 1, 2, 130)
"""Of `learner/main.py`, which says why."""


def main(arguments: list[str]) -> int:
    """Exit code: the job's; 1 where the cluster fails, 2 where the configuration is refused."""
    if HELP & set(arguments):
        print(USAGE)
        return 0
    here = not os.environ.get("RAY_ADDRESS")
    try:
        arguments = with_settings(arguments)
        cfg = load(arguments if here else [*arguments, "run.resume=false"])  # the cluster's folders are not seen here
        if here and not cfg.run.resume:  # it has what this added
            added, notice = devices.settings(arguments, cfg)
            arguments = [*arguments, *added]
            print(notice, end="\n" if notice else "", flush=True)
            cfg = load(arguments)
        for line in announced(cfg, here) if here or not resumes(arguments) else [f"going on with {cfg.run.name}"]:
            print(line, flush=True)
        if here:
            from learner.run import beforehand  # pandas and more, kept out of --help

            beforehand.require(cfg, here)
    except ConfigError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        return 130
    runs = Path(cfg.run.dir).resolve()  # the job runs elsewhere
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(ending, signal.default_int_handler)
    from cluster.job import Job

    try:
        with cluster() as (client, runtime_env):
            command = [*columns(), "python", "learner/main.py", *arguments, f"run.dir={runs}"]
            job = Job(client, entrypoint(command, in_place="working_dir" not in runtime_env), runtime_env)
            code = attend(job, runs / cfg.run.name)
    except FAILURES as error:
        return fail(error, 1)
    except KeyboardInterrupt:
        return 130
    if code == 0:
        show_results(runs / cfg.run.name)
    elif code not in KNOWN_CODES:  # it could say nothing itself
        print(f"error: the run was killed (exit code {code}), as when the machine's memory is used up", file=sys.stderr)
        print(
            f"to go on from its last checkpoint: make train ARGS={shlex.quote(again(cfg))}", file=sys.stderr, flush=True
        )
    return code


def with_settings(arguments: list[str]) -> list[str]:
    """The arguments with the quickstart's settings, or only its name where a run goes on with what it recorded.

    Raises:
        ConfigError: they cannot be used.
    """
    if any(argument.startswith("config=") for argument in arguments):
        return arguments
    return ["run.name=quickstart" if resumes(arguments) else "config=quickstart", *arguments]


def resumes(arguments: Sequence[str]) -> bool:
    asked = [argument.partition("=")[2].lower() for argument in arguments if argument.startswith("run.resume=")]
    return bool(asked) and asked[-1] in TRUE


@contextlib.contextmanager
def cluster() -> Iterator[tuple[JobSubmissionClient, dict[str, Any]]]:
    """The cluster to use, and the runtime environment that jobs need there."""
    if os.environ.get("RAY_ADDRESS"):
        from ray.job_submission import JobSubmissionClient

        yield JobSubmissionClient(), {"working_dir": str(ROOT)}  # without what .gitignore and .rayignore name
        return
    print("starting Ray on this machine …", flush=True)
    with Head() as head:
        client = connect(head)
        print(f"dashboard {head.dashboard} (its token: cat {head.token_file})", flush=True)
        yield client, {}


def connect(head: Head) -> JobSubmissionClient:
    """A client of the head, as soon as its Jobs API answers.

    Raises:
        HeadError: it ended, or does not answer in time.
    """
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + START_SECONDS
    while True:
        head.check()
        try:
            return JobSubmissionClient(head.dashboard, headers=head.headers)
        except ConnectionError as error:
            if time.monotonic() > deadline:
                raise HeadError(f"the Ray head at {head.dashboard} does not answer: {error}") from error
            time.sleep(0.5)


def entrypoint(command: Sequence[str], in_place: bool) -> str:
    """The shell line of a job: with this environment's Python wherever that is installed, else with the cluster's."""
    here = f"cd {shlex.quote(str(ROOT))} && " if in_place else ""
    path = f'{shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    return f"{here}export PATH={path} && exec {shlex.join(command)}"


def columns() -> list[str]:
    """What tells a command the width of this terminal, in which its log is shown; nothing where this is none."""
    return ["env", f"COLUMNS={shutil.get_terminal_size().columns}"] if sys.stdout.isatty() else []


def attend(job: Job, run_dir: Path) -> int:
    """Show the job to its end and return its exit code; Ctrl-C stops it, a second one stops waiting for that."""
    try:
        follow(run_dir, job.log_ended, job)
        return job.exit_code()  # the log may have ended before the job
    except KeyboardInterrupt:
        print("stopping the run: its actors, engines and containers end first …", flush=True)
        job.stop()
        follow(run_dir, job.log_ended, job)
    return job.exit_code()


def show_results(run_dir: Path) -> None:
    """Where the report and the newest model are, where this machine can see them."""
    models = sorted(run_dir.glob("checkpoints/step_*/hf"), key=lambda path: path.stat().st_mtime)
    for name, path in (("report", run_dir / "report.html"), ("model", models[-1] if models else None)):
        if path and path.exists():
            print(f"{name:8}{path}")


def fail(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
