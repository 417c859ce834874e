"""What can be told of a configuration and a cluster in a second, before a run starts anything.

`learner/main.py` refuses to start on a failed finding; `python -m cluster.doctor` adds the thorough checks.
Invariants: nothing is started or changed; whatever fails says what to do about it.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from huggingface_hub import parse_local_safetensors_file_metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from learner.config import Config

ROOT = Path(__file__).parent.parent
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


class PreflightError(RuntimeError):
    """The run would fail; the message has every reason and what to do."""


def require(cfg: Config, model_dir: Path) -> list[Finding]:
    """The findings for this configuration on the cluster that Ray is connected to.

    Raises:
        PreflightError: one of them has failed.
    """
    found = quick(cfg, model_dir)
    if failed := [f"{one.found}: {one.fix}" for one in found if one.verdict is Verdict.FAILED]:
        raise PreflightError("; ".join(failed))
    return found


def quick(cfg: Config, model_dir: Path) -> list[Finding]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [
        packages(on_gpu(cfg), installed(requirements(on_gpu(cfg)))),
        resources(cfg, [node["Resources"] for node in nodes]),
        object_store(cfg, Model.read(model_dir), [node["Resources"] for node in nodes]),
    ]


def on_gpu(cfg: Config) -> bool:
    return cfg.actors.gpus > 0 or cfg.learner.gpus > 0


@dataclass(frozen=True)
class Model:
    """The size of a model."""

    parameters: int

    @classmethod
    def read(cls, folder: Path) -> Model:
        """From the headers of its weight files."""
        headers = (parse_local_safetensors_file_metadata(file) for file in Path(folder).glob("*.safetensors"))
        return cls(sum(sum(header.parameter_count.values()) for header in headers))

    def bytes(self, dtype: str) -> int:
        """Of one copy of the weights."""
        return self.parameters * {"bfloat16": 2, "float32": 4}[dtype]

    def checkpoint_bytes(self, dtype: str) -> int:
        """Of one checkpoint: the weights twice (to go on from, and to load anywhere), the optimiser's two moments,
        and its float32 copy of the weights where they are narrower."""
        return 2 * self.bytes(dtype) + self.parameters * (12 if dtype == "bfloat16" else 8)


def requirements(gpu: bool) -> list[Requirement]:
    """What pyproject.toml asks for, vLLM of that kind included."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = stated["optional-dependencies"]["gpu" if gpu else "cpu"]
    return [Requirement(line) for line in [*stated["dependencies"], *extra]]


def installed(asked: Iterable[Requirement]) -> dict[str, str]:
    """The versions of those that are installed, by canonical name."""
    found = {}
    for requirement in asked:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[canonicalize_name(requirement.name)] = importlib.metadata.version(requirement.name)
    return found


def packages(gpu: bool, versions: Mapping[str, str]) -> Finding:
    """Whether the versions of the project's requirements are those that it asks for."""
    needed = requirements(gpu)
    if wrong := [text for text in (differs(requirement, versions) for requirement in needed) if text]:
        return Finding("packages", Verdict.FAILED, ", ".join(wrong), install(gpu))
    return Finding("packages", Verdict.OK, f"{len(needed)} packages as pyproject.toml asks")


def install(gpu: bool) -> str:
    what = "-e '.[gpu]'" if gpu else "--no-deps -r requirements-cpu.txt"
    return f"pip install {what}, or take an image that has them"


def differs(requirement: Requirement, versions: Mapping[str, str]) -> str:
    """What is wrong with the installed version; empty where it is as required."""
    version = versions.get(canonicalize_name(requirement.name))
    if version is None:
        return f"{requirement.name} is not installed ({requirement.specifier or 'any version'} is needed)"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, not {requirement.specifier}"
    return ""


@dataclass(frozen=True)
class Share:
    """What one process of a run asks Ray for."""

    who: str
    """`learner` or `actors`: the section of the configuration."""
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return amounts({"CPU": self.cpus, "GPU": self.gpus})


def amounts(resources: Mapping[str, float]) -> str:
    """Such as `4 CPUs and 1 GPU`; zeros are left out."""
    named = [f"{resources[name]:g} {name}{'' if resources[name] == 1 else 's'}" for name in ("CPU", "GPU")
             if resources.get(name)]  # fmt: skip
    return " and ".join(named) or "nothing"


def shares(cfg: Config) -> list[Share]:
    """The largest first."""
    ranks = [Share("learner", cfg.learner.cpus, cfg.learner.gpus)] * cfg.learner.ranks
    actors = [Share("actors", cfg.actors.cpus, cfg.actors.gpus)] * cfg.actors.count
    return sorted([*ranks, *actors], key=lambda share: (share.gpus, share.cpus), reverse=True)


def resources(cfg: Config, nodes: Sequence[Mapping[str, float]]) -> Finding:
    """Whether learner ranks and actors find their places on the nodes, and which nodes are missing otherwise.

    nodes: the total resources of each.
    """
    wanted, homeless = shares(cfg), []
    free = [{"CPU": node.get("CPU", 0.0), "GPU": node.get("GPU", 0.0)} for node in nodes]
    for share in wanted:
        home = next((room for room in free if room["CPU"] >= share.cpus and room["GPU"] >= share.gpus), None)
        if home is None:
            homeless.append(share)
            continue
        home["CPU"] -= share.cpus
        home["GPU"] -= share.gpus
    have = ", ".join(f"{count} × ({of})" for of, count in Counter(map(amounts, nodes)).items())
    need = ", ".join(f"{count} × {share.who} ({share})" for share, count in Counter(wanted).items())
    if not homeless:
        return Finding("resources", Verdict.OK, f"{need} fit on the nodes: {have}")
    missing = ", ".join(f"{count} with {share} free" for share, count in Counter(homeless).items())
    kinds = {share.who: share for share in homeless}
    lower = [f"{who}.{'ranks' if who == 'learner' else 'count'}" for who in kinds]
    lower += [f"{who}.{'gpus' if share.gpus else 'cpus'}" for who, share in kinds.items()]
    return Finding(
        "resources", Verdict.FAILED, f"{need} do not fit on the nodes: {have}",
        f"add nodes ({missing}), or lower {' or '.join(lower)}",
    )  # fmt: skip


def object_store(cfg: Config, model: Model, nodes: Sequence[Mapping[str, float]]) -> Finding:
    """Whether the weights fit into Ray's object store on every node that may hold a rank or an actor."""
    need = VERSIONS_IN_STORE * model.bytes(cfg.model.dtype)
    smallest = min(node.get("object_store_memory", 0.0) for node in nodes)
    weights = f"{VERSIONS_IN_STORE} versions of the weights ({gb(need)})"
    if need > smallest:
        return Finding(
            "object store", Verdict.FAILED, f"{weights} do not fit into the smallest object store ({gb(smallest)})",
            f"start Ray there with --object-store-memory={need} or more, and a /dev/shm of that size",
        )  # fmt: skip
    return Finding("object store", Verdict.OK, f"{weights} fit into the smallest object store ({gb(smallest)})")


def gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
