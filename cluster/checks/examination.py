"""All checks of the doctor in order, the cheap ones first.

Invariants: what depends on a failed check is not tried, and says so; a check that cannot be made has failed; whatever
was started is ended, also where the caller stops early.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray

from actors.policy.model import ModelError, resolve
from actors.policy.sizes import ModelSize
from cluster.checks import nodes as of_nodes
from cluster.checks import sandboxes
from cluster.checks.nodes import SANDBOX_SECONDS, About, NodeError, Probes
from envs.benchmarks.loader import TaskError, load
from envs.errors import FAILURES
from envs.records import Task
from learner.config.schema import Config
from learner.config.sockets import outside
from learner.run import preflight
from learner.run.preflight import Finding, Verdict

CONNECT_SECONDS = 10.0
REHEARSED = ("engine", "experiment", "weights", "log-probs", "costs")
"""The findings of a rehearsal, in order."""


def examine(cfg: Config) -> Iterator[Finding]:
    """The findings as they come, on the cluster of RAY_ADDRESS or one that is started here."""
    tasks: list[Task] = []
    try:
        tasks = [load(name) for name in [*cfg.tasks.held_in, *cfg.tasks.held_out]]
        yield Finding("tasks", Verdict.OK, f"{', '.join(task.id for task in tasks)} are prepared")
    except TaskError as error:
        yield Finding("tasks", Verdict.FAILED, str(error), "correct tasks.held_in and tasks.held_out, or the folder")
    try:
        model_dir = resolve(cfg.model.path)
    except ModelError as error:
        yield Finding("model", Verdict.FAILED, str(error), "correct model.path, or sign in to the model hub")
        return
    try:
        address = os.environ.get("RAY_ADDRESS", "local")
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        yield Finding("ray", Verdict.FAILED, reason, "start Ray there, and give its token (`ray get-auth-token`)")
        return
    try:
        yield from _on_cluster(cfg, tasks, model_dir)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon:
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise OSError(f"RAY_ADDRESS={address}: nothing answers there ({error})") from error


def _on_cluster(cfg: Config, tasks: list[Task], model_dir: Path) -> Iterator[Finding]:
    there, model = preflight.nodes(), ModelSize.read(model_dir)
    yield _ray(len(there))
    findings = preflight.quick(cfg, model, there)
    yield from findings
    probes = Probes(there)
    try:
        for finding in _on_nodes(cfg, tasks, model_dir, model, there, probes):
            findings.append(finding)
            yield finding
    except NodeError as error:
        fix = "look at that node's Ray logs; its image must have the project's packages"
        yield Finding("nodes", Verdict.FAILED, str(error), fix)
        return
    finally:
        probes.close()
    failed = sorted({one.check for one in findings if one.verdict is Verdict.FAILED})
    if failed or not tasks:
        yield Finding(REHEARSED[0], Verdict.NOTE, f"not tried, since {', '.join(failed or ['tasks'])} failed")
    else:
        yield from _rehearsal(cfg, tasks[0], model_dir)


def _ray(alive: int) -> Finding:
    on = os.environ.get("RAY_AUTH_MODE") == "token"
    shown = f"Ray {ray.__version__}, {alive} node{'s' * (alive > 1)}, token authentication {'on' if on else 'off'}"
    if on:
        return Finding("ray", Verdict.OK, shown)
    fix = "whoever reaches its ports can run code: start every node and client with RAY_AUTH_MODE=token"
    return Finding("ray", Verdict.NOTE, shown, fix)


def _on_nodes(
    cfg: Config, tasks: list[Task], model_dir: Path, model: ModelSize, there: Sequence[preflight.Node], probes: Probes
) -> Iterator[Finding]:
    gpu = preflight.on_gpu(cfg)
    names = [one.name for one in [*preflight.requirements(gpu), *of_nodes.locked()]]
    about: dict[str, About] = probes.ask("about", names, str(model_dir))
    yield of_nodes.versions(gpu, about)
    yield of_nodes.model(about, model_dir)
    if settings := outside(cfg):
        yield of_nodes.parts(about, settings, probes.ask("refused", cfg))
    storage = list(_storage(cfg, probes, about))
    yield from storage
    yield of_nodes.shared_memory(about, there)
    if all(one.verdict is Verdict.OK for one in storage):
        yield of_nodes.disk(cfg, model, about)
    yield of_nodes.clocks(probes.skews(), about)
    runners = [share for share in preflight.shares(cfg) if share.who == ("sandbox" if cfg.sandbox.hosts else "actors")]
    capable = [node.id for node in there if any(share.may_run_on(node) for share in runners)]
    where = capable or list(about)  # where no node is large enough, the sandboxes of those that are there still tell
    yield from _sandboxes(cfg, tasks, probes, about, where)


def _storage(cfg: Config, probes: Probes, about: Mapping[str, About]) -> Iterator[Finding]:
    """A finding for each place where a run writes."""
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
            wrong = {name: why for name, why in probes.storage(path).items() if why}
        except NodeError:
            raise
        except Exception as error:  # each kind of storage has its own
            yield Finding("storage", Verdict.FAILED, f"{key}={path}: {type(error).__name__}: {error}", fix)
            continue
        if wrong:
            shown = ", ".join(f"on {about[name].host} it {why}" for name, why in wrong.items())
            yield Finding("storage", Verdict.FAILED, f"{key}={path}: {shown}", fix)
        else:
            yield Finding("storage", Verdict.OK, f"{key}={path} is one folder, written by {of_nodes.hosts(about)}")


def _sandboxes(
    cfg: Config, tasks: list[Task], probes: Probes, about: Mapping[str, About], where: Sequence[str]
) -> Iterator[Finding]:
    """The findings of each node that runs experiments, those that repeat another node's left out."""
    chosen = cfg.sandbox.backend
    if chosen == "simulated":
        yield Finding("sandbox", Verdict.OK, "experiments are simulated")
        return
    shown_before: set[tuple[str, Verdict]] = set()

    def first(finding: Finding, node: str, nodes: int) -> Iterator[Finding]:
        if (what := (finding.check, finding.verdict)) not in shown_before:
            shown_before.add(what)
            host = f"{about[node].host}: " if nodes > 1 else ""
            yield dataclasses.replace(finding, found=host + finding.found)

    if listed := cfg.sandbox.requirements:
        found = probes.ask("install", listed, of=where, seconds=SANDBOX_SECONDS)
        for node, installation in found.items():
            yield from first(sandboxes.judge_installation(listed, installation), node, len(found))
        where = [node for node in where if not isinstance(found[node], str)]
        if not where:
            return
    names = sandboxes.BACKENDS if chosen == "auto" else (chosen,)
    imports = {task.id: sandboxes.imports(task) for task in tasks}
    needed = sorted(set().union(*imports.values()))
    of = sandboxes.Found(cfg.sandbox.image, cfg.sandbox.packages, cfg.sandbox.requirements)
    trial = names, of, needed, _targets()
    tried = probes.ask("try_sandboxes", *trial, of=where, seconds=SANDBOX_SECONDS)
    for node, trials in tried.items():
        for finding in sandboxes.judge(trials, chosen, imports):
            yield from first(finding, node, len(tried))


def _targets() -> list[tuple[str, str, int]]:
    """(what, host, port) of what is on the network here and no script may reach."""
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    targets = [("Ray's GCS", host, int(port))]
    if api := os.environ.get("KUBERNETES_SERVICE_HOST"):
        targets.append(("the Kubernetes API", api, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))))
    return targets


def _rehearsal(cfg: Config, task: Task, model_dir: Path) -> Iterator[Finding]:
    os.environ["DS_ACCELERATOR"] = "cpu"  # of this process, which only drives; DeepSpeed would warn that it has none
    from cluster.checks.rehearsal import rehearse  # imports DeepSpeed

    done = 0
    with contextlib.closing(rehearse(cfg, task, model_dir, f".doctor-{uuid.uuid4().hex[:8]}")) as rehearsal:
        try:
            for finding in rehearsal:
                done += 1
                yield finding
        except FAILURES as error:
            yield Finding(REHEARSED[done], Verdict.FAILED, str(error), "a run would end with this error")
