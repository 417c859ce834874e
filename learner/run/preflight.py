"""What can be told of a configuration and a cluster in a second, before a run starts anything.

`learner/main.py` refuses to start on a failed finding; `python -m cluster.doctor` adds the thorough checks.
Invariants: nothing is started or changed; whatever fails says what to do about it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib.metadata
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.autoscaler.v2.utils import is_autoscaler_v2

from actors.policy.sizes import ModelSize
from envs import machine
from envs.errors import UserError
from learner.config.schema import Config
from learner.figures import memory
from learner.run import cards, node_memory

ROOT = Path(__file__).parents[2]
VERSIONS_IN_STORE = 2
"""Of the weights: the one that is published, and the one before that late actors still fetch."""


class Verdict(enum.StrEnum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing; a run works all the same."""
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    verdict: Verdict
    found: str
    """One line: what is there, or what is wrong."""
    fix: str = ""
    """What to do; empty where nothing has to be done."""


class PreflightError(UserError):
    """The run would fail; the message has every reason and what to do."""


def require(cfg: Config, model_dir: Path, say: Callable[[str], None]) -> Config:
    """Refuse what cannot work on the cluster that Ray is connected to; the configuration, fitted to the memory of the
    machine where all is on one.

    Raises:
        PreflightError: a check has failed.
        MemoryShort: the memory that is free does not do.
    """
    size, alive = ModelSize.read(model_dir), nodes()
    findings = quick(cfg, size, alive)
    if failed := [f"{finding.found}: {finding.fix}" for finding in findings if finding.verdict is Verdict.FAILED]:
        raise PreflightError("; ".join(failed))
    alone = len(alive) == 1 and not autoscales()
    return node_memory.fitted(cfg, size, machine.free_mb() * 2**20, say) if alone else cfg


def quick(cfg: Config, model: ModelSize, alive: Sequence[Node]) -> list[Finding]:
    gpu = on_gpu(cfg)
    return [
        packages(gpu, installed(requirements(gpu))),
        resources(cfg, alive, autoscales()),
        object_store(cfg, model, alive),
        *gpu_memory(cfg, model, alive),
    ]


def on_gpu(cfg: Config) -> bool:
    return cfg.actors.gpus > 0 or cfg.learner.gpus > 0


def requirements(gpu: bool) -> list[Requirement]:
    """What the project asks for, vLLM of that kind included: a checkout's pyproject.toml, else what was installed."""
    kind, file = "gpu" if gpu else "cpu", ROOT / "pyproject.toml"
    if file.is_file():  # what was installed editable may be older
        stated = tomllib.loads(file.read_text())["project"]
        return [Requirement(line) for line in [*stated["dependencies"], *stated["optional-dependencies"][kind]]]
    asked = map(Requirement, importlib.metadata.requires("mlagent") or ())
    return [one for one in asked if one.marker is None or one.marker.evaluate({"extra": kind})]


def installed(wanted: Iterable[Requirement]) -> dict[str, str]:
    """The versions of those that are installed, by canonical name."""
    versions = {}
    for requirement in wanted:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[canonicalize_name(requirement.name)] = importlib.metadata.version(requirement.name)
    return versions


def packages(gpu: bool, versions: Mapping[str, str]) -> Finding:
    """Whether the versions of the project's requirements are those that it asks for."""
    needed = requirements(gpu)
    if wrong := [text for text in (differs(requirement, versions) for requirement in needed) if text]:
        return Finding("packages", Verdict.FAILED, ", ".join(wrong), install(gpu))
    return Finding("packages", Verdict.OK, f"{len(needed)} packages as the project asks")


def install(gpu: bool) -> str:
    if not (ROOT / "pyproject.toml").is_file():
        return f"pip install 'mlagent[{'gpu' if gpu else 'cpu'}]' again, or take an image that has them"
    return f"pip install --no-deps -r requirements-{'gpu' if gpu else 'cpu'}.txt, or take an image that has them"


def differs(requirement: Requirement, versions: Mapping[str, str]) -> str:
    """What is wrong with the installed version; empty where it is as required."""
    version = versions.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement.name} is not installed ({requirement.specifier or 'any version'} is needed)"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, not {requirement.specifier}"
    return ""


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    id: str
    host: str
    resources: Mapping[str, float]
    """In total, as Ray counts them: CPU, GPU, and bytes of memory and object_store_memory."""
    labels: Mapping[str, str]


def nodes() -> list[Node]:
    """Those that are alive."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"], node["Labels"]) for node in alive]


def autoscales() -> bool:
    """Whether an autoscaler may add nodes, as KubeRay's (version 2) does."""
    return is_autoscaler_v2(fetch_from_server=True)


@dataclass(frozen=True)
class Share:
    """What one process of a run asks Ray for."""

    who: str
    """`learner`, `actors` or `sandbox`: the section of the configuration."""
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0
    """Bytes."""
    label: str = ""
    """KEY=VALUE of the nodes that it may run on; empty: any."""
    apart: bool = False
    """Whether no two of them may be on one node."""

    @property
    def resources(self) -> dict[str, float]:
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}

    def may_run_on(self, node: Node) -> bool:
        """Whether the node has enough, with nothing else on it."""
        key, _, value = self.label.partition("=")
        enough = all(node.resources.get(name, 0.0) >= amount for name, amount in self.resources.items())
        return enough and (not self.label or node.labels.get(key) == value)

    def __str__(self) -> str:
        return amounts(self.resources) + (f", {self.label}" if self.label else "")


COUNTS = {"learner": "learner.ranks", "actors": "actors.count", "sandbox": "sandbox.hosts"}


def shares(cfg: Config) -> list[Share]:
    """Of all processes, the largest first."""
    learner, actors, sandbox = cfg.learner, cfg.actors, cfg.sandbox
    memory = sandbox.memory_gb * 2**30
    experts = cfg.experts  # a model of one's own that explores is served beside the policy
    served = 2 if experts.kind == "llm" and not experts.endpoint and not experts.path else 1
    every = [
        *[Share("learner", learner.cpus, learner.gpus, label=learner.node)] * learner.ranks,
        *[Share("actors", actors.cpus, actors.gpus, label=actors.node)] * actors.count * served,
        *[Share("sandbox", sandbox.cpus, 0.0, memory, sandbox.node, apart=bool(sandbox.gpus))] * sandbox.hosts,
    ]
    return sorted(every, key=lambda share: (bool(share.label), share.gpus, share.cpus), reverse=True)


def amounts(kinds: Mapping[str, float]) -> str:
    """Such as `4 CPUs, 1 GPU`; zeros are left out."""
    named = [f"{kinds[name]:g} {name}{'' if kinds[name] == 1 else 's'}" for name in ("CPU", "GPU") if kinds.get(name)]
    return ", ".join(named) or "no CPU"


def resources(cfg: Config, alive: Sequence[Node], autoscales: bool = False) -> Finding:
    """Whether all processes find their places on the nodes, and what is missing otherwise.

    autoscales: the cluster can add nodes of kinds that Ray does not tell.
    """
    wanted, homeless, there = shares(cfg), [], set[tuple[str, str]]()
    free = {node.id: dict(node.resources) for node in alive}
    for share in wanted:
        for node in alive:
            alone = share.apart and (share.who, node.id) in there
            if not alone and share.may_run_on(dataclasses.replace(node, resources=free[node.id])):
                there.add((share.who, node.id))
                free[node.id] |= {name: free[node.id].get(name, 0.0) - x for name, x in share.resources.items()}
                break
        else:
            homeless.append(share)
    have = ", ".join(
        f"{count} × ({amount})" for amount, count in Counter(amounts(node.resources) for node in alive).items()
    )
    need = ", ".join(f"{count} × {share.who} ({share})" for share, count in Counter(wanted).items())
    if not homeless:
        return Finding("resources", Verdict.OK, f"{need} fit on the nodes: {have}")
    missing = "; ".join(
        f"{count} with {_asked(share)} free" + " that have no other (sandbox.gpus)" * share.apart
        for share, count in Counter(homeless).items()
    )
    if autoscales:
        shown = f"{need} wait for the autoscaler, since they do not fit on the nodes: {have}"
        return Finding("resources", Verdict.NOTE, shown, f"its node groups must be able to give {missing}")
    kinds = {share.who: share for share in homeless}
    lower = [COUNTS[who] for who in kinds]
    lower += [f"{who}.{'gpus' if share.gpus else 'cpus'}" for who, share in kinds.items()]
    return Finding(
        "resources", Verdict.FAILED, f"{need} do not fit on the nodes: {have}",
        f"add nodes ({missing}), or lower {' or '.join(lower)}",
    )  # fmt: skip


def _asked(share: Share) -> str:
    """As the user of a cluster would ask for such a node."""
    memory = f", {gb(share.memory)} of memory" if share.memory else ""
    label = f" and the Ray label {share.label}" if share.label else ""
    return f"{amounts(share.resources)}{memory}{label}"


def object_store(cfg: Config, model: ModelSize, alive: Sequence[Node]) -> Finding:
    """Whether the weights fit into Ray's object store on every node that may hold a rank or an actor."""
    holders = [share for share in shares(cfg) if share.who != "sandbox"]
    stores = [
        node.resources.get("object_store_memory", 0.0)
        for node in alive
        if any(share.may_run_on(node) for share in holders)
    ]
    need, smallest = VERSIONS_IN_STORE * model.bytes(cfg.model.dtype), min(stores, default=0.0)
    weights = f"{VERSIONS_IN_STORE} versions of the weights ({gb(need)})"
    if stores and need > smallest:
        return Finding(
            "object store", Verdict.FAILED, f"{weights} do not fit into the smallest object store ({gb(smallest)})",
            f"start Ray there with --object-store-memory={need} or more, and a /dev/shm of that size",
        )  # fmt: skip
    return Finding("object store", Verdict.OK, f"{weights} fit into the smallest object store ({gb(smallest)})")


def gpu_memory(cfg: Config, model: ModelSize, alive: Sequence[Node]) -> Iterator[Finding]:
    """Whether the cards hold learner and engines; nothing where none is used or none is there yet."""
    with_cards = [node.id for node in alive if node.resources.get("GPU")]
    if not on_gpu(cfg) or not with_cards:
        return
    wrong = cards.misfits(cfg, model, cards.of_nodes(with_cards))
    if wrong:
        yield Finding("GPU memory", Verdict.FAILED, *wrong)
    else:
        parts = sum(memory.rank_bytes(cfg, model).values()) if cfg.learner.gpus else 0.0
        yield Finding("GPU memory", Verdict.OK, f"learner ranks ({cards.gib(parts)}) and engines fit on the cards")


def gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
