"""Proves a run before it costs anything: `python -m cluster.doctor [--json] [key=value …]`, as for learner/main.py.

One line per check, with what to do where one fails. The cluster is that of RAY_ADDRESS (of a Jobs API: the doctor is
submitted as a job), or one that is started on this machine for as long as it takes. Invariants: a check that cannot
be made has failed; nothing of what is started, written or trained stays. Exit code: 0 all is well, 1 a check failed,
2 the configuration is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.config import Config, ConfigError, load

USAGE = "usage: python -m cluster.doctor [--json] [config=NAME|PATH] [key=value ...]"


def main(arguments: list[str]) -> int:
    as_json = "--json" in arguments
    settings = [argument for argument in arguments if argument != "--json"]
    try:
        cfg = load(settings)
    except ConfigError as error:
        print(f"error: {error}\n{USAGE}", file=sys.stderr)
        return 2
    if os.environ.get("RAY_ADDRESS", "").startswith("http"):
        return submit(arguments, cfg)
    began, findings = time.monotonic(), []
    for finding, seconds in timed(examine(cfg)):
        findings.append({**dataclasses.asdict(finding), "seconds": round(seconds, 2)})
        if not as_json:
            show(findings[-1])
    ok = all(finding["verdict"] != "failed" for finding in findings)
    if as_json:
        print(json.dumps({"ok": ok, "seconds": round(time.monotonic() - began, 1), "checks": findings}))
    else:
        said = "all is well" if ok else "not ready: mend what FAILED, from the top"
        print(f"{said} ({time.monotonic() - began:.0f} s)", flush=True)
    return 0 if ok else 1


def submit(arguments: list[str], cfg: Config) -> int:
    """Run the doctor where the run would be: as a job of the cluster."""
    from cluster.job import Job, JobError
    from cluster.quickstart import cluster, entrypoint

    command = ["python", "-m", "cluster.doctor", *arguments, f"run.dir={Path(cfg.run.dir).resolve()}"]
    try:
        with cluster() as (client, runtime_env):
            job = Job(client, entrypoint(command, in_place=False), runtime_env)
            for line in job:
                print(line.rstrip("\n"), flush=True)
            return job.exit_code()
    except (JobError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def timed(findings: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Each with the seconds that it took."""
    began = time.monotonic()
    for finding in findings:
        yield finding, time.monotonic() - began
        began = time.monotonic()


def show(finding: dict[str, Any]) -> None:
    word = {"failed": "FAILED"}.get(finding["verdict"], finding["verdict"])
    print(f"{word:7} {finding['check']:16} {finding['found']} ({finding['seconds']:.1f} s)")
    if finding["fix"]:
        print(f"{'':7} {'':16} → {finding['fix']}")
    sys.stdout.flush()


def examine(cfg: Config) -> Iterator[Any]:
    """All findings, the cheap ones first; what depends on a failed one is not tried, and says so."""
    import ray

    from actors.model import ModelError, resolve
    from envs.loader import TaskError
    from envs.loader import load as load_task
    from learner.preflight import Finding, Verdict

    try:
        tasks = [load_task(name) for name in [*cfg.tasks.held_in, *cfg.tasks.held_out]]
        yield Finding("tasks", Verdict.OK, f"{', '.join(task.id for task in tasks)} are prepared")
    except TaskError as error:
        tasks = []
        yield Finding("tasks", Verdict.FAILED, str(error), "correct tasks.held_in and tasks.held_out, or the folder")
    try:
        model_dir = resolve(cfg.model.path)
    except ModelError as error:
        yield Finding("model", Verdict.FAILED, str(error), "correct model.path, or sign in to the model hub")
        return
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS", "local"), log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        yield Finding("ray", Verdict.FAILED, reason, "start Ray there, and give its token (`ray get-auth-token`)")
        return
    try:
        yield from _on_cluster(cfg, tasks, model_dir)
    finally:
        ray.shutdown()


def _on_cluster(cfg: Config, tasks: list[Any], model_dir: Path) -> Iterator[Any]:
    import ray

    from cluster.checks import nodes as node_checks
    from learner import preflight
    from learner.preflight import Finding, Verdict

    yield _ray(ray.__version__)
    quick = preflight.quick(cfg, model_dir)
    yield from quick
    nodes = node_checks.Nodes()
    try:
        names = [str(one.name) for one in [*preflight.requirements(preflight.on_gpu(cfg)), *node_checks.locked()]]
        about = nodes.all("about", names, str(model_dir))
        weights = preflight.Model.read(model_dir)
        yield node_checks.versions(preflight.on_gpu(cfg), about)
        yield node_checks.model(about, model_dir)
        yield from _storage(cfg, nodes, about)
        yield node_checks.shared_memory(about, nodes.resources)
        yield node_checks.disk(cfg, weights, about)
        yield node_checks.clocks(nodes.skews(), about)
        sandboxes = list(_sandboxes(cfg, tasks, nodes, about))
        yield from sandboxes
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        yield Finding("nodes", Verdict.FAILED, reason, "its image must have Python and the packages of the project")
        return
    finally:
        nodes.close()
    failed = sorted({one.check for one in [*quick, *sandboxes] if one.verdict is Verdict.FAILED})
    if failed or not tasks:
        reason = f"not tried, since {', '.join(failed or ['tasks'])} failed"
        yield Finding("engine", Verdict.NOTE, reason)
    else:
        yield from _rehearsal(cfg, tasks[0], model_dir)


def _ray(version: str) -> Any:
    import ray

    from learner.preflight import Finding, Verdict

    alive = sum(node["Alive"] for node in ray.nodes())
    token = os.environ.get("RAY_AUTH_MODE") == "token"
    shown = f"Ray {version}, {alive} node{'s' * (alive > 1)}, token authentication {'on' if token else 'off'}"
    if token:
        return Finding("ray", Verdict.OK, shown)
    fix = "whoever reaches its ports can run code: start every node and client with RAY_AUTH_MODE=token"
    return Finding("ray", Verdict.NOTE, shown, fix)


def _storage(cfg: Config, nodes: Any, about: dict[str, Any]) -> Iterator[Any]:
    """A finding for each place where a run writes."""
    from cluster.checks.nodes import hosts
    from learner.preflight import Finding, Verdict

    places = {
        "run.dir": str(Path(cfg.run.dir).resolve()),
        "sandbox.snapshots": cfg.sandbox.snapshots,
        "sandbox.cache_path": cfg.sandbox.cache_path,
    }
    for key, path in places.items():
        if not path:
            continue
        fix = f"give {key} a folder that all nodes share and this user may write"
        try:
            wrong = {name: why for name, why in nodes.storage(path).items() if why}
        except Exception as error:  # each kind of storage has its own
            yield Finding("storage", Verdict.FAILED, f"{key}={path}: {type(error).__name__}: {error}", fix)
            continue
        if wrong:
            shown = ", ".join(f"on {about[name].host} it {why}" for name, why in wrong.items())
            yield Finding("storage", Verdict.FAILED, f"{key}={path}: {shown}", fix)
        else:
            yield Finding("storage", Verdict.OK, f"{key}={path} is one folder, written by {hosts(about)}")


def _sandboxes(cfg: Config, tasks: list[Any], nodes: Any, about: dict[str, Any]) -> Iterator[Any]:
    """The findings of each node; those of several nodes that agree are told once."""
    import ray

    from cluster.checks import sandboxes
    from learner.preflight import Finding, Verdict

    chosen = cfg.sandbox.backend
    if chosen == "simulated":
        yield Finding("sandbox", Verdict.OK, "experiments are simulated")
        return
    names = sandboxes.BACKENDS if chosen == "auto" else (chosen,)
    imports = {task.id: sandboxes.imports(task) for task in tasks}
    gcs = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    targets = [("Ray's GCS", gcs[0], int(gcs[1]))]
    if host := os.environ.get("KUBERNETES_SERVICE_HOST"):
        targets.append(("the Kubernetes API", host, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))))
    needed = sorted(set().union(*imports.values()))
    tried = nodes.all("try_sandboxes", names, cfg.sandbox.image, cfg.sandbox.packages, needed, targets)
    on: dict[Any, list[str]] = {}
    for node, trials in tried.items():
        for finding in sandboxes.judge(trials, chosen, imports):
            on.setdefault(dataclasses.replace(finding, found=""), []).append(node)
            if on[dataclasses.replace(finding, found="")] == [node]:
                yield finding if len(tried) == 1 else _named(finding, about[node].host)


def _named(finding: Any, host: str) -> Any:
    return dataclasses.replace(finding, found=f"{host}: {finding.found}")


def _rehearsal(cfg: Config, task: Any, model_dir: Path) -> Iterator[Any]:
    os.environ["DS_ACCELERATOR"] = "cpu"  # of this process, which only drives; DeepSpeed would warn that it has none
    from cluster.checks.rehearsal import rehearse
    from learner.preflight import Finding, Verdict
    from learner.training import FAILURES

    rehearsal, done = rehearse(cfg, task, model_dir, f".doctor-{uuid.uuid4().hex[:8]}"), []
    with contextlib.closing(rehearsal):
        try:
            for finding in rehearsal:
                done.append(finding.check)
                yield finding
        except FAILURES as error:
            after = ["engine", "experiment", "weights", "log-probs"][len(done)]
            yield Finding(after, Verdict.FAILED, str(error), "a run would end with this")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
