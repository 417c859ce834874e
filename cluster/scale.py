"""Change the number of actors of a running job: `python -m cluster.scale JOB --actors N` (or `--auto`).

JOB is the name of the run, or the id of its Ray job where several runs have that name. The cluster is that of
RAY_ADDRESS, or the one on this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.job_submission import JobSubmissionClient
from ray.util import list_named_actors

from envs.errors import UserError

SECONDS = 30.0


class ScaleError(UserError):
    """The job cannot be found or changed; the message says why and what to do."""


def join(address: str) -> None:
    """Raises ScaleError where no cluster is there."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises many kinds
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ScaleError(
            f"RAY_ADDRESS={address}: no cluster is joined there (HOST:6379, as a rule): {reason}"
        ) from error


def find(job: str) -> Any:
    """The `Control` of a run.

    Raises:
        ScaleError: there is none of that name, or several.
    """
    from learner.stream.scaling import CONTROL  # heavy, and `--help` does not need it

    named = [one for one in list_named_actors(all_namespaces=True) if one["name"].rpartition("/")[2] == CONTROL]
    controls = [one for one in named if one["name"] == f"{job}/{CONTROL}"]
    if not controls:
        controls = [one for one in named if one["namespace"] == namespace_of(job)]
    if len(controls) > 1:
        raise ScaleError(f"several runs are called {job}: give the id of the Ray job instead (`ray job list`)")
    if not controls:
        running = ", ".join(one["name"].rpartition("/")[0] for one in named) or "none"
        raise ScaleError(f"no run {job} is in its RL stage on this cluster; there: {running}")
    return ray.get_actor(controls[0]["name"], namespace=controls[0]["namespace"])


def namespace_of(job_id: str) -> str | None:
    """The namespace of a submitted job's actors; None where there is no such job."""
    from ray.util.state import list_actors

    try:
        driver = JobSubmissionClient(ray.get_runtime_context().gcs_address).get_job_info(job_id).driver_info
    except (RuntimeError, ConnectionError):
        return None
    filters = [("job_id", "=", driver.id), ("class_name", "=", "Control")] if driver else None
    controls = list_actors(filters=filters, detail=True) if filters else []
    return controls[0].ray_namespace if controls else None


def scale(job: str, count: int | None) -> int:
    """Have the job keep `count` actors, or as many as are needed; returns how many serve now.

    Raises:
        ScaleError: it cannot be found, does not answer, or refuses the number.
    """
    try:
        return ray.get(find(job).scale.remote(count), timeout=SECONDS)
    except RayTaskError as error:
        raise ScaleError(str(error.cause)) from error
    except RayError as error:
        raise ScaleError(f"run {job} does not answer: {error}") from error


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("job", help="name of the run, or id of its Ray job")
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--actors", type=int, metavar="N", help="as many from now on, whatever the demand")
    wanted.add_argument("--auto", action="store_true", help="as many as are needed, within actors.min and actors.max")
    args = parser.parse_args(arguments)
    try:
        join(os.environ.get("RAY_ADDRESS", "auto"))
        serving = scale(args.job, args.actors)
    except ScaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    wish = "as many as are needed" if args.auto else f"{args.actors} actors"
    print(f"{args.job}: asked for {wish}; {serving} serve now")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
