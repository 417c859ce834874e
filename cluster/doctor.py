"""Proves a run before it costs anything: `python -m cluster.doctor [--json] [key=value …]`, as for learner/main.py.

One line per check, with what to do where one fails; with `--json` one JSON object on standard output. The cluster is
that of RAY_ADDRESS (where that is a Jobs API the doctor is submitted as a job), or one that is started on this machine
for as long as it takes. Nothing of what is started, written or trained stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from learner.config.load import ConfigError, load
from learner.config.schema import Config
from learner.config.usage import KEYS, answered

if TYPE_CHECKING:
    from learner.run.preflight import Finding

USAGE = f"""usage: python -m cluster.doctor [--json] [config=NAME|PATH] [key=value ...]

Tries what a run with these arguments needs: packages, resources, memory, folders, sandboxes, the model; then an engine,
an experiment, weights and log-probs for a moment. One line per check, with what to do where one fails; --json prints
one object. The cluster is that of RAY_ADDRESS, or one that is started here for as long as it takes; nothing stays.
Exit code: 0 all is well, 1 a check failed, 2 the configuration is refused, 130 interrupted.

  python -m cluster.doctor config=quickstart

{KEYS}
"""


def main(arguments: list[str]) -> int:
    """Exit code: 0 all is well, 1 a check failed, 2 the configuration is refused, 130 interrupted."""
    if (code := answered(arguments, USAGE)) is not None:
        return code
    try:
        cfg = load([argument for argument in arguments if argument != "--json"])
    except ConfigError as error:
        return fail(error, 2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `ray job stop` sends
    try:
        if os.environ.get("RAY_ADDRESS", "").startswith("http"):
            return submit(arguments, cfg)
        return diagnose(cfg, "--json" in arguments)
    except KeyboardInterrupt:
        return 130


def diagnose(cfg: Config, as_json: bool) -> int:
    """Make all checks and show them; the exit code."""
    from cluster.checks.examination import examine
    from learner.run.preflight import Verdict

    began = last = time.monotonic()
    findings = []
    with contextlib.ExitStack() as stack:
        if as_json:  # what libraries print must not get between the lines of the object
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        for finding in stack.enter_context(contextlib.closing(examine(cfg))):
            now = time.monotonic()
            findings.append({**dataclasses.asdict(finding), "seconds": round(now - last, 1)})
            if not as_json:
                show(finding, now - last)
            last = now
    ok = all(one["verdict"] is not Verdict.FAILED for one in findings)
    seconds = round(time.monotonic() - began, 1)
    if as_json:
        print(json.dumps({"ok": ok, "seconds": seconds, "checks": findings}))
    else:
        print(f"{'all is well' if ok else 'not ready: mend what FAILED, from the top'} ({seconds:.0f} s)", flush=True)
    return 0 if ok else 1


def show(finding: Finding, seconds: float) -> None:
    from learner.run.preflight import Verdict

    verdict = "FAILED" if finding.verdict is Verdict.FAILED else finding.verdict
    print(f"{verdict:7} {finding.check:16} {finding.found} ({seconds:.1f} s)", flush=True)
    if finding.fix:
        print(f"{'':24} → {finding.fix}", flush=True)


def submit(arguments: list[str], cfg: Config) -> int:
    """Make the checks where the run would be: in a job of the cluster."""
    from cluster.job import Job, JobError
    from cluster.quickstart import cluster, entrypoint

    command = ["python", "-m", "cluster.doctor", *arguments, f"run.dir={Path(cfg.run.dir).resolve()}"]
    try:
        with cluster() as (client, runtime_env):
            job = Job(client, entrypoint(command, in_place=False), runtime_env)
            try:
                for line in job:
                    print(line.rstrip("\n"), flush=True)
            except KeyboardInterrupt:
                job.stop()
            return job.exit_code()
    except (JobError, ConnectionError) as error:
        return fail(error, 1)


def fail(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
