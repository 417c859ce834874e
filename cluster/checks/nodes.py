"""What a node of the cluster offers: versions, storage, memory, disk, clock. `Probe` is a Ray actor on each of them.

Invariants: whatever a check writes it deletes; a folder counts as shared only if a node read there what the driver
wrote, and the driver what the node wrote.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from fsspec.core import url_to_fs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.policy.sizes import ModelSize
from cluster.checks import sandboxes
from envs.errors import UserError
from envs.sandbox import SandboxFailure
from learner.config.schema import Config
from learner.config.sockets import refused
from learner.run import preflight
from learner.run.preflight import Finding, Verdict, gb

LOCK = preflight.ROOT / "requirements-cpu.txt"
SKEW_SECONDS = 2.0
SCRATCH_BYTES = 5e9
"""For the sandboxes' workspaces and Ray's session, in the folder for temporary files of a node."""
SECONDS = 100.0
"""That a node may take to answer; a process of its own has to start there first."""
SANDBOX_SECONDS = 900.0
"""That it may take for its sandboxes: the first use of Docker builds an image."""


class NodeError(UserError):
    """A node on which a check cannot be made; the message names it."""


@dataclass(frozen=True)
class About:
    """A node, as it sees itself."""

    host: str
    versions: dict[str, str]
    shm_bytes: int
    scratch_bytes: int
    """Free in the folder for temporary files."""
    has_model: bool


class Probe:
    """Lives on one node."""

    def about(self, names: Sequence[str], model_dir: str) -> About:
        shm = Path("/dev/shm")
        return About(
            socket.gethostname(),
            preflight.installed(map(Requirement, names)),
            shutil.disk_usage(shm).total if shm.exists() else 0,
            shutil.disk_usage(tempfile.gettempdir()).free,
            Path(model_dir, "config.json").is_file(),
        )

    def refused(self, cfg: Config) -> str | None:
        return refused(cfg)

    def now(self) -> float:
        return time.time()

    def answer(self, path: str, token: str) -> str:
        """Read the driver's mark in `path` and leave one of this node's there; what is wrong, else nothing."""
        name = ray.get_runtime_context().get_node_id()
        try:
            fs, root = url_to_fs(path)
            if not fs.exists(f"{root}/{token}"):
                return "is not the folder that the driver sees"
            fs.pipe_file(f"{root}/{token}-{name}", b"node")
        except Exception as error:  # each kind of storage has its own
            return f"cannot be written: {type(error).__name__}: {error}"
        return ""

    def install(self, listed: str) -> sandboxes.Installation | str:
        """The packages of that list, installed now if they are not there; a text where they cannot be had."""
        try:
            return sandboxes.installation(listed)
        except SandboxFailure as failure:
            return str(failure)

    def try_sandboxes(
        self, names: Sequence[str], of: sandboxes.Found, needed: Sequence[str], targets: Sequence[tuple]
    ) -> dict[str, sandboxes.Trial | str]:
        """A trial of each backend; a text where it does not start."""

        def one(name: str) -> sandboxes.Trial | str:
            try:
                return sandboxes.examine(name, of, needed, targets)
            except SandboxFailure as failure:
                return str(failure)

        with ThreadPoolExecutor(len(names)) as threads:
            return dict(zip(names, threads.map(one, names), strict=True))


class Probes:
    """A `Probe` on each node."""

    def __init__(self, there: Sequence[preflight.Node]) -> None:
        self._hosts = {node.id: node.host for node in there}
        self._handles = {
            name: ray.remote(num_cpus=0)(Probe)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False))
            .remote()
            for name in self._hosts
        }

    def ask(self, method: str, *args: Any, of: Collection[str] | None = None, seconds: float = SECONDS) -> dict:
        """What each node answers, or each of those in `of`, by node id.

        Raises:
            NodeError: one does not answer in time, or cannot import the project.
        """
        handles = {name: handle for name, handle in self._handles.items() if of is None or name in of}
        refs = {name: getattr(handle, method).remote(*args) for name, handle in handles.items()}
        return {name: self._result(name, method, ref, seconds) for name, ref in refs.items()}

    def _result(self, name: str, method: str, ref: ray.ObjectRef, seconds: float) -> Any:
        try:
            return ray.get(ref, timeout=seconds)
        except GetTimeoutError as error:
            raise NodeError(f"{self._hosts[name]} did not answer `{method}` in {seconds:g} s") from error
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise NodeError(f"{self._hosts[name]} failed in `{method}`: {reason}") from error

    def skews(self) -> dict[str, float]:
        """Seconds that each node's clock is ahead of the driver's; a call that took t may be wrong by t/2."""
        found = {}
        for name, handle in self._handles.items():
            before = time.time()
            there = self._result(name, "now", handle.now.remote(), SECONDS)
            found[name] = there - (before + time.time()) / 2
        return found

    def storage(self, path: str) -> dict[str, str]:
        """What is wrong with a folder or URL on each node; empty where nothing is.

        Raises:
            OSError: the driver itself cannot write there.
            NodeError: a node does not answer in time.
        """
        fs, root = url_to_fs(path)
        token = f".doctor-{time.time_ns()}"
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{token}", b"driver")
        try:
            wrong = self.ask("answer", path, token)
            unseen = "was written, and the driver does not see it"
            return {n: why or ("" if fs.exists(f"{root}/{token}-{n}") else unseen) for n, why in wrong.items()}
        finally:
            fs.rm(fs.glob(f"{root}/{token}*"))

    def close(self) -> None:
        for handle in self._handles.values():
            ray.kill(handle)


def locked() -> list[Requirement]:
    """What a checkout pins for the CPU; nothing where the project was installed."""
    lines = LOCK.read_text().splitlines() if LOCK.is_file() else ()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def versions(gpu: bool, found: Mapping[str, About]) -> Finding:
    """Whether all nodes have the versions that the project asks for, and those of the lock."""
    failed, other = [], []
    for about in found.values():
        needed = preflight.packages(gpu, about.versions)
        if needed.verdict is Verdict.FAILED:
            failed.append(f"{about.host}: {needed.found}")
        elif not gpu:  # the lock is that of the CPU environment
            there = (one for one in locked() if canonicalize_name(one.name) in about.versions)
            wrong = (preflight.differs(one, about.versions) for one in there)
            other += [f"{about.host}: {text}" for text in wrong if text]
    if failed:
        return Finding("lock", Verdict.FAILED, "; ".join(failed), preflight.install(gpu))
    if other:
        shown = f"{len(other)} packages differ from {LOCK.name}: {'; '.join(other[:4])}"
        return Finding("lock", Verdict.NOTE, shown, preflight.install(gpu))
    lock = LOCK.name if LOCK.is_file() and not gpu else "the project's requirements"
    return Finding("lock", Verdict.OK, f"versions on {hosts(found)} are those of {lock}")


def model(found: Mapping[str, About], model_dir: Path) -> Finding:
    if lacking := [about.host for about in found.values() if not about.has_model]:
        fix = "put the model on storage that all nodes share (HF_HOME or MLAGENT_CACHE there), or into the image"
        return Finding("model", Verdict.FAILED, f"{model_dir} is not on {', '.join(lacking)}", fix)
    return Finding("model", Verdict.OK, f"{model_dir} is on {hosts(found)}")


def parts(found: Mapping[str, About], settings: Sequence[str], refusals: Mapping[str, str | None]) -> Finding:
    """Whether every node can use what the settings name by import path; refusals: by node, why it cannot."""
    if wrong := [f"{found[name].host}: {reason}" for name, reason in refusals.items() if reason]:
        fix = "bring the modules to every node: in the image, on PYTHONPATH, or with `ray job submit --working-dir`"
        return Finding("parts", Verdict.FAILED, "; ".join(wrong), fix)
    return Finding("parts", Verdict.OK, f"{', '.join(settings)} can be used on {hosts(found)}")


def shared_memory(found: Mapping[str, About], there: Sequence[preflight.Node]) -> Finding:
    """Whether Ray's object store lies in memory on every node."""
    stores = {node.id: node.resources.get("object_store_memory", 0.0) for node in there}
    small = {found[name].host: store for name, store in stores.items() if found[name].shm_bytes < store}
    if small:
        shown = ", ".join(f"{host} has less than its object store's {gb(store)}" for host, store in small.items())
        fix = (
            "enlarge it (docker run --shm-size, an emptyDir of medium Memory in Kubernetes): Ray uses the disk instead"
        )
        return Finding("shared memory", Verdict.FAILED, f"/dev/shm of {shown}", fix)
    least = min(about.shm_bytes for about in found.values())
    return Finding("shared memory", Verdict.OK, f"/dev/shm of {gb(least)} or more holds the object store")


def disk(cfg: Config, weights: ModelSize, found: Mapping[str, About]) -> Finding:
    """Whether the checkpoints fit into `run.dir`, and the nodes have room for what is temporary."""
    one = weights.checkpoint_bytes(cfg.model.dtype, cfg.learner.lora.rank)
    need = one * (cfg.checkpoint.keep + 1)  # a new one is complete before the oldest is deleted
    free = shutil.disk_usage(cfg.run.dir).free
    if need > free:
        shown = f"run.dir={cfg.run.dir} has {gb(free)} free, and {cfg.checkpoint.keep + 1} checkpoints take {gb(need)}"
        return Finding("disk", Verdict.FAILED, shown, "free some, lower checkpoint.keep, or choose another run.dir")
    if full := [about.host for about in found.values() if about.scratch_bytes < SCRATCH_BYTES]:
        shown = f"less than {gb(SCRATCH_BYTES)} are free for temporary files on {', '.join(full)}"
        return Finding("disk", Verdict.FAILED, shown, "free some, or set TMPDIR to a larger disk")
    return Finding(
        "disk", Verdict.OK, f"{gb(free)} are free in run.dir; {cfg.checkpoint.keep + 1} checkpoints: {gb(need)}"
    )


def clocks(skews: Mapping[str, float], found: Mapping[str, About]) -> Finding:
    if wrong := {found[name].host: skew for name, skew in skews.items() if abs(skew) > SKEW_SECONDS}:
        shown = ", ".join(
            f"{host} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}" for host, skew in wrong.items()
        )
        fix = "turn on time synchronisation there (chrony or systemd-timesyncd): ages and durations would be wrong"
        return Finding("clocks", Verdict.FAILED, f"the clock of {shown}", fix)
    return Finding("clocks", Verdict.OK, f"within {max(map(abs, skews.values())):.2f} s of the driver's")


def hosts(found: Mapping[str, About]) -> str:
    return ", ".join(sorted({about.host for about in found.values()})) if len(found) < 4 else f"{len(found)} nodes"
