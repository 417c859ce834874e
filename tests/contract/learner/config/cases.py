"""For every key of the configuration the cases in which it has to make a difference, and the bench that observes them.

The parts are real and joined as in a run (`tests.whole_run`); what a case lists are the borders at which a difference
has to be seen. `tests.cut_wires` reads the same table.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.pool import ActorPool
from learner.config.load import load
from tests import stand_ins, whole_run
from tests.unit import fake_run

ENDPOINT = "http://127.0.0.1:9/v1"
LLM = ("experts.kind=llm", f"experts.endpoint={ENDPOINT}", "experts.model=expert")
SERVED = ("experts.kind=llm", "experts.model={model}")
EMBEDDED = (f"experts.embeddings={ENDPOINT}", "experts.embedding_model=e")
GPUS = ("learner.gpus=1", "actors.gpus=1")
SHORT = ("tasks.held_in=[wine@0.5,wine]",)
SHARED = ("learner.gpus=0.5", "actors.gpus=0.5", "learner.transfer=object_store")
ENTROPIC = ("rl.objective=entropic", "rl.algorithm=rloo")
BEST = ("rl.objective=best_of", "rl.best_of=2")
ADAPTERS = ("learner.lora.rank=2",)
HOSTS = ("sandbox.hosts=1",)
SIMULATED = ("sandbox.backend=simulated", "sandbox.recorded={earlier}/seen/experiments")

STARTING = {
    "place", "cluster", "spawned", "experiment threads", "threads", "sandboxes", "capacity", "hosts", "engine", "group",
    "model of join", "deepspeed", "trackers", "limits",
}  # fmt: skip
"""Borders that a run reaches before it trains."""
PREPARING = STARTING | {
    "ideas", "asked", "embedded", "examples", "finetune", "pool", "rows of finetune_step", "rows of loss",
}  # fmt: skip
"""Before reinforcement."""
LEARNING = PREPARING | {
    "steps", "rates", "requests", "stream", "control", "checkpoints", "saved", "added", "pauses", "checked",
    "broadcast", "turns", "share of a card", "rows of policy_step", "rows of hold_proximal",
    "rows of _reference_logprobs", "model of hold_reference",
}  # fmt: skip
"""Without its evaluations."""


@dataclass(frozen=True)
class Case:
    """One way in which a key has to make a difference."""

    change: str
    """KEY=VALUE; {folder} is the run's, {model} another model's, {earlier} that of a run that has ended."""
    seen: tuple[str, ...]
    """Borders at which what is seen differs."""
    by: str
    """Name of what observes: `OBSERVERS`."""
    given: tuple[str, ...] = ()
    """The arguments with and without the change."""
    broken: dict[str, int] = field(default_factory=dict)
    """As of `whole_run.run`."""
    again: bool = False
    """The run's folder is that of an earlier run."""

    @property
    def key(self) -> str:
        return self.change.partition("=")[0]


def case(change: str, *seen: str, **more: Any) -> Case:
    """Unless it is said by what, it is observed by what ends first of those that reach the borders."""
    shorter = () if change.startswith("evaluation.") or more.keys() & {"broken", "again"} else SHORTER.items()
    by = next((by for by, reached in shorter if set(seen) <= reached), "run")
    return Case(change, seen, **{"by": by, **more})


SHORTER = {"start": STARTING, "prepare": PREPARING, "learn": LEARNING}
"""Borders by what observes less than a whole run."""
CASES = [
    case("size=0.5b", "deepspeed", given=("size=1.5b", "gpus=1", "learner.transfer=object_store")),
    case("gpus=2", "spawned", given=("size=1.5b", "gpus=1", "learner.transfer=object_store")),
    case("run.name=other", "spawned", "files"),
    case("run.dir={folder}/elsewhere", "files", "steps"),
    case("run.mode=serial", "place", "cluster"),
    case("run.seed=5", "stream", "capacity", "ideas", "experiments", "finetune", "pool", "requests"),
    case("run.seed=5", "pool", given=("experts.states=6", "experts.path={earlier}/seen")),
    case("run.seed=5", "finetune", given=("sft.examples=5", "experts.path={earlier}/seen")),
    case("run.seed=5", "capacity", "cached", given=HOSTS),
    case("run.resume=true", "files", again=True),
    case("run.track=[wandb]", "trackers"),
    case("model.path={model}", "engine"),
    case("model.dtype=bfloat16", "engine", "deepspeed", "model of join"),
    case("model.dtype=bfloat16", "model of hold_reference", given=("rl.kl=0.5",)),
    case("model.context=520", "engine", "requests"),
    case("model.response=70", "requests", "examples"),
    case("model.template_arguments={{short: true}}", "requests"),
    case("model.thinking=[Action,Execute]", "steps"),
    case("prompt.history=1", "requests"),
    case("prompt.actions=whole", "requests"),
    case("prompt.observation=1", "requests"),
    case("prompt.descriptor=300", "requests"),
    case("prompt.descriptor=300", "asked", given=LLM),
    case("prompt.preview=300", "requests"),
    case("prompt.preview=300", "asked", given=LLM),
    case("tasks.held_in=[wine]", "experiments", "evaluation", "pool"),
    case("tasks.held_out=[digits]", "experiments", "evaluation"),
    case("tasks.limits.seconds=77", "limits"),
    case("tasks.limits.cpus=2", "limits"),
    case("tasks.limits.memory_mb=777", "limits"),
    case("tasks.limits.gpus=1", "limits", given=("sandbox.gpus=[1]",)),
    case("tasks.limits.disk_mb=77", "limits"),
    case("tasks.limits.processes=77", "limits"),
    case("sandbox.hosts=1", "hosts"),
    case("sandbox.node=role=test", "hosts", given=HOSTS),
    case("sandbox.backend=gvisor", "sandboxes"),
    case("sandbox.backend=simulated", "simulated", "evaluation", given=SIMULATED[1:]),
    case("sandbox.cpus=3", "capacity"),
    case("sandbox.cpus=3", "capacity", "hosts", given=HOSTS),
    case("sandbox.memory_gb=5", "capacity"),
    case("sandbox.memory_gb=5", "capacity", "hosts", given=HOSTS),
    case("sandbox.gpus=[1]", "capacity"),
    case("sandbox.gpus=[1]", "capacity", "hosts", given=HOSTS),
    case("sandbox.warm=3", "sandboxes"),
    case("sandbox.patience=7", "sandboxes"),
    case("sandbox.image=mine", "sandboxes"),
    case("sandbox.packages=torch", "sandboxes"),
    case("sandbox.requirements={folder}/listed.txt", "sandboxes"),
    case("sandbox.cache=false", "experiments"),
    case("sandbox.cache_path={folder}/cache", "files"),
    case("sandbox.snapshots={folder}/states", "files", "collected"),
    case("sandbox.snapshots={folder}/states", "files", given=("experts.path={earlier}/seen",)),
    case("sandbox.recorded={folder}", "error", given=SIMULATED),
    case("sandbox.speed=0.25", "simulated", given=SIMULATED),
    case("editor.endpoint=" + ENDPOINT, "asked", given=("editor.model=editor",), by="editor"),
    case("editor.model=other", "asked", given=("editor.model=editor", "editor.endpoint=" + ENDPOINT), by="editor"),
    case(
        "editor.key_variable=MY_KEY", "asked", given=("editor.model=editor", "editor.endpoint=" + ENDPOINT), by="editor"
    ),
    case("reward.version=v2", "steps", "evaluation"),
    case("reward.version=v2", "evaluation", by="evaluate"),
    case("reward.steepness=9", "steps", "evaluation"),
    case("reward.steepness=9", "evaluation", by="evaluate"),
    case("reward.over=best", "steps"),
    case("reward.over=best", "evaluation", by="evaluate"),
    case("reward.milestones=0.5", "steps"),
    case("reward.milestones=0.5", "rewards", by="evaluate"),
    case("reward.time=0.5", "steps", "evaluation"),
    case("reward.time=0.5", "rewards", by="evaluate"),
    case("reward.memory=0.5", "steps", "evaluation"),
    case("reward.memory=0.5", "rewards", by="evaluate"),
    case("reward.truncated=failure", "steps"),
    case("reward.truncated=soft", "steps", given=("reward.truncated=failure",)),
    case("audit.mask=true", "steps"),
    case("experts.kind=llm", "asked", given=LLM[1:]),
    case(f"experts.endpoint={ENDPOINT}", "spawned", "asked", given=SERVED),
    case("experts.model=other", "asked", given=LLM),
    case("experts.model={model}", "engine", given=("experts.kind=llm", "experts.model={mine}"), by="prepare"),
    case("experts.key_variable=MY_KEY", "asked", given=LLM),
    case("experts.key_variable=MY_KEY", "embedded", given=EMBEDDED),
    case("experts.temperature=0.5", "asked", given=LLM),
    case("experts.temperature=0.5", "requests", given=SERVED, by="prepare"),
    case("experts.response=100", "asked", given=LLM),
    case("experts.response=100", "requests", given=SERVED, by="prepare"),
    case("experts.context=1400", "asked", given=LLM),
    case("experts.context=5000", "engine", given=SERVED, by="prepare"),
    case("experts.template_arguments={{a: 1}}", "asked", given=LLM),
    case("experts.template_arguments={{short: true}}", "requests", given=SERVED, by="prepare"),
    case("experts.candidates=140", "ideas", given=("tasks.held_in=[wine]", "tasks.held_out=[]")),
    case("experts.ideas=3", "ideas"),
    case(f"experts.embeddings={ENDPOINT}", "embedded", "ideas", given=("experts.embedding_model=e",)),
    case("experts.embedding_model=f", "embedded", given=EMBEDDED),
    case("experts.trajectories=9", "experiments", "examples", by="prepare"),
    case("experts.steps=1", "pool"),
    case("experts.mistakes=0.9", "experiments", "pool", by="prepare"),
    case("experts.states=4", "pool"),
    case("experts.path={earlier}/seen", "ideas"),
    case("sft.epochs=2", "finetune"),
    case("sft.learning_rate=1e-3", "rates", "finetune"),
    case("sft.batch=2", "finetune"),
    case("sft.best=0.2", "examples"),
    case("sft.others=0", "examples"),
    case("sft.examples=3", "examples"),
    case("sft.held_out=0.4", "examples"),
    case("sft.checkpoint_every=1", "saved"),
    case("rl.steps=1", "steps", "checkpoints", "stream"),
    case("rl.states=3", "steps", "stream"),
    case("rl.actions=3", "steps", "stream"),
    case("rl.preset=gspo", "steps"),
    case("rl.algorithm=rloo", "steps"),
    case("rl.algorithm=ppo", "steps"),
    case("rl.objective=best_of", "steps", given=("rl.best_of=2",)),
    case("rl.best_of=3", "steps", given=BEST),
    case("rl.best_of_steps=5", "steps", given=BEST),
    case("rl.objective=entropic", "steps", given=("rl.algorithm=rloo",)),
    case("rl.entropic_beta=5", "steps", given=ENTROPIC),
    case("rl.entropic_kl=0.1", "steps", given=ENTROPIC),
    case("rl.refill=3", "steps", given=("reward.version=tests.stand_ins:all_alike",)),
    case("rl.episode_steps=2", "pool", "requests"),
    case("rl.discount=0.5", "steps"),
    case("rl.epochs=2", "steps", "rates"),
    case("rl.minibatches=2", "steps", "rates"),
    case("rl.minibatches=2", "rows of hold_proximal", given=("rl.correction=decoupled",)),
    case("rl.learning_rate=1e-3", "rates", "steps"),
    case("rl.value_learning_rate=0.5", "steps", given=("rl.algorithm=ppo",)),
    case("rl.value_epochs=1", "steps", given=("rl.algorithm=ppo",)),
    case("rl.loss=cispo", "steps"),
    case("rl.ratio=sequence", "steps"),
    case("rl.clip=0.01", "steps"),
    case("rl.clip_high=0.01", "steps"),
    case("rl.dual_clip=1.01", "steps"),
    case("rl.correction=decoupled", "steps"),
    case("rl.correction_cap=0.99", "steps", given=("rl.correction=truncated",)),
    case("rl.correction_level=sequence", "steps", given=("rl.correction=decoupled",)),
    case("rl.mask=token", "steps", given=("rl.mask_low=0.99", "rl.mask_high=1.01")),
    case("rl.mask_low=0.99", "steps", given=("rl.mask=token",)),
    case("rl.mask_high=1.01", "steps", given=("rl.mask=token",)),
    case("rl.kl=0.5", "steps", given=("rl.learning_rate=0.1",)),
    case("rl.entropy=0.5", "steps"),
    case("rl.entropy=0.5", "steps", given=("reward.version=tests.stand_ins:all_alike",)),
    case("rl.entropy_target=50", "steps"),
    case("rl.entropy_step=0.5", "steps", given=("rl.entropy_target=50",)),
    case("rl.aggregation=sequence", "steps"),
    case("rl.sampling=uniform", "requests"),
    case("rl.curriculum=0.5", "steps", given=(*SHORT, "rl.steps=4")),
    case("rl.grow_pool=false", "added"),
    case("rl.pool_states=1", "added", given=("rl.actions=8",)),
    case("rl.max_staleness=1", "stream", "pauses"),
    case("rl.temperature=0.5", "requests", "steps", "rows of policy_step"),
    case("rl.temperature=0.5", "requests", by="evaluate"),
    case("rl.temperature=0.5", "rows of _reference_logprobs", given=("rl.kl=0.5",)),
    case("rl.gap_warn=0.001", "said"),
    case("rl.gap_stop=0.002", "error", given=("rl.gap_warn=0.001",)),
    case("learner.ranks=2", "spawned"),
    case("learner.gpus=1", "spawned", "group"),
    case("learner.cpus=3", "spawned", "threads"),
    case("learner.node=role=test", "spawned"),
    case("learner.zero_stage=2", "deepspeed"),
    case("learner.offload=optimizer", "deepspeed"),
    case("learner.lora.rank=2", "deepspeed", "steps"),
    case("learner.lora.alpha=99", "steps", given=ADAPTERS),
    case("learner.lora.targets=[q_proj]", "deepspeed", given=ADAPTERS),
    case("learner.gradient_checkpointing=true", "deepspeed"),
    case(
        "learner.row_tokens=5000", "rows of finetune_step", "rows of policy_step", given=("sft.batch=12", "rl.states=6")
    ),
    case("learner.row_tokens=5000", "rows of loss", given=("sft.held_out=0.5", "experts.trajectories=12")),
    case("learner.grad_clip=0.25", "deepspeed"),
    case("learner.transfer=nccl", "broadcast", given=GPUS),
    case("learner.full_every=3", "steps"),
    case("learner.check_every=1", "checked"),
    case("learner.restarts=1", "error", broken={"ranks": 1}),
    case("learner.deadline=77", "timeouts", "group"),
    case("actors.count=2", "spawned"),
    case("actors.gpus=1", "spawned", "engine"),
    case("actors.gpu_memory=0.4", "engine", given=GPUS),
    case("actors.colocate=true", "engine", "turns", "share of a card", given=SHARED),
    case("actors.cpus=3", "spawned", "engine"),
    case("actors.threads=3", "engine"),
    case("actors.node=role=test", "spawned"),
    case("actors.sequences=16", "engine", "experiment threads"),
    case("actors.kv_cache_gb=2", "engine"),
    case("actors.min=2", "control", given=("actors.count=2",)),
    case("actors.max=3", "control"),
    case("actors.replacements=1", "error", broken={"engines": 1}),
    case("actors.heartbeat=20", "replaced", by="heartbeat"),
    case("actors.deadline=123", "timeouts", "engine"),
    case("evaluation.attempts=3", "requests", "evaluation"),
    case("evaluation.attempts=3", "evaluation", by="evaluate"),
    case("evaluation.seed=99", "requests"),
    case("evaluation.seed=99", "requests", by="evaluate"),
    case("evaluation.every=1", "requests", "steps"),
    case("evaluation.patience=1", "steps", "checkpoints", given=("evaluation.every=1", "rl.steps=3")),
    case("evaluation.states=1", "evaluation", by="evaluate"),
    case("evaluation.steps=1", "evaluation", by="evaluate"),
    case("evaluation.seconds=0.001", "evaluation", by="evaluate"),
    case("evaluation.baselines=[random]", "evaluation", by="evaluate"),
    case("evaluation.folder={folder}/elsewhere", "files", by="evaluate"),
    case("checkpoint.every=2", "saved", "checkpoints"),
    case("checkpoint.keep=1", "checkpoints", given=("rl.steps=3",)),  # of two steps the other may be the best
    case("checkpoint.beside=false", "saved"),
    case("report.gpu_hour=9", "html", given=("learner.gpus=1",), by="report"),
    case("report.cpu_hour=9", "html", by="report"),
    case("report.million_tokens=9", "html", by="report"),
    case("report.currency=doubloons", "html", by="report"),
]


class Bench:
    """Observes cases; what several have in common is observed once."""

    def __init__(self, folder: Path):
        self._folder, self._made = folder, 0
        self._names: dict[str, Path] = {}
        for name in ("mine", "model"):
            (folder / name).mkdir()
            self._names[name] = whole_run.small_model(folder / name)
        self._names["earlier"] = folder / "earlier"
        whole_run.run([], folder / "earlier", self._names["mine"])
        self._once = functools.cache(self._observed)

    def without(self, of: Case) -> dict[str, Any]:
        return self._once(*_asked(of, of.given))

    def with_change(self, of: Case) -> dict[str, Any]:
        return self._once(*_asked(of, (*of.given, of.change)))

    def with_change_anew(self, of: Case) -> dict[str, Any]:
        """For whoever has changed the product meanwhile."""
        return self._observed(*_asked(of, (*of.given, of.change)))

    def arguments(self, of: Case) -> list[str]:
        """Those without the change, for a configuration that is only looked at."""
        return [argument.format(**self._names, folder="there") for argument in of.given]

    def _observed(self, by: str, arguments: tuple[str, ...], broken: tuple, again: bool) -> dict[str, Any]:
        self._made += 1
        folder = self._folder / f"run-{self._made}"
        folder.mkdir()
        if again:
            shutil.copytree(self._names["earlier"] / "seen", folder / "seen", symlinks=True)
        names = {name: str(path) for name, path in self._names.items()} | {"folder": str(folder)}
        given = [argument.format(**names) for argument in arguments]
        seen = OBSERVERS[by](given, folder, self._names["mine"], **({"broken": dict(broken)} if broken else {}))
        return {border: _plain(what, str(folder)) for border, what in seen.items()}


def _asked(of: Case, arguments: tuple[str, ...]) -> tuple[str, tuple[str, ...], tuple, bool]:
    """What is observed, the same in whichever order the arguments come; of two for one key the last counts."""
    of_keys = {argument.partition("=")[0]: argument for argument in arguments}
    return of.by, tuple(sorted(of_keys.values())), tuple(of.broken.items()), of.again


def _plain(what: Any, folder: str) -> str:
    return repr(what).replace(folder, "FOLDER")


def editor(arguments: list[str], folder: Path, model: Path) -> dict[str, Any]:
    """What answers an action of the policy that needs another model."""
    from actors.explorer import Explorer

    cfg, seen = load([*whole_run.BASE, *arguments]), stand_ins.Seen()
    with whole_run.borders(seen):
        if ask := Explorer("actor-0", cfg, [], str(model), str(folder), 0)._editor():
            ask("how?")
    return dict(seen.of)


class Silent:
    """An actor that starts, and gives no sign of life after."""

    def __init__(self, *_: Any): ...

    async def start(self) -> dict[str, Any]:
        return {"node": "here", "pid": os.getpid()}

    async def serve(self) -> dict[str, Any]:
        return {}

    async def share(self, *_: Any) -> None: ...

    async def status(self) -> dict[str, int]:
        await asyncio.Event().wait()

    async def close(self) -> None: ...


def heartbeat(arguments: list[str], folder: Path, model: Path) -> dict[str, Any]:
    """After how many seconds an actor is replaced that gives no sign of life."""
    cfg = load([*whole_run.BASE, "run.mode=serial", "actors.replacements=1", *arguments])
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        now = time.monotonic()
        pool = ActorPool(cfg, [], "", str(folder), 0, said.append, list, kind=Silent)
        pool.started()
        pool.check()
        for seconds in range(0, 100, 5):
            patch.setattr("actors.pool.time", SimpleNamespace(monotonic=lambda at=now + seconds: at))
            pool.check()
            if said:
                break
        patch.undo()
        pool.close()
    return {"replaced": (seconds, said)}


def report(arguments: list[str], folder: Path, model: Path) -> dict[str, Any]:
    """The report of a run with that configuration, without its plots."""
    from learner.reporting.report import write_report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learner.reporting.report._plots", lambda *_: [])
        html = write_report(fake_run.make(folder / "run", steps=1, settings=arguments)).read_text()
    return {"html": [line for line in html.splitlines() if "arguments" not in line]}


OBSERVERS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": whole_run.run, "start": whole_run.start, "prepare": whole_run.prepare, "learn": whole_run.learn,
    "evaluate": whole_run.evaluate, "editor": editor, "heartbeat": heartbeat, "report": report,
}  # fmt: skip


def unmoved(without: dict[str, Any], with_change: dict[str, Any], of: Case) -> list[str]:
    """The borders at which the difference is missing; the errors too where there should be none."""
    seen = () if "error" in of.seen else (without, with_change)
    errors = [one["error"] for one in seen if one.get("error", "[]") != "[]"]
    return [border for border in of.seen if without.get(border) == with_change.get(border)] + errors
