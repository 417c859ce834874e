"""`learner/main.py --dry-run`: what a run would be, without starting any of it.

Invariant: what is shown is what the run would use: the resolved configuration, and the same arithmetic and prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from omegaconf import OmegaConf

from actors.policy import shown
from actors.policy.model import resolve
from actors.policy.sizes import ModelSize
from envs.prompt import Extent
from envs.records import State
from envs.sandbox import installed
from envs.sandbox.packages import OwnPackages
from learner.config.schema import Config
from learner.run import node_memory, preflight
from learner.run.beforehand import load_tasks
from learner.run.cards import gib


def told(cfg: Config) -> Iterator[str]:
    """Paragraphs: configuration, sizes, placement, and the first task's first prompt.

    Raises:
        One of `envs.errors.FAILURES`.
    """
    yield OmegaConf.to_yaml(cfg).rstrip()
    folder = resolve(cfg.model.path)
    size = ModelSize.read(folder)
    parts = {name: bytes for name, bytes in node_memory.needed(cfg, size).items() if bytes}
    memory = "".join(f"\n  {name:36} {gib(bytes):>10}" for name, bytes in parts.items())
    yield (
        f"model: {size.parameters / 1e6:.0f} million parameters in {folder}; a checkpoint takes "
        f"{gib(size.checkpoint_bytes(cfg.model.dtype, cfg.learner.lora.rank))}\n"
        f"memory of the hosts, by arithmetic: {gib(sum(parts.values()))}{memory}"
    )
    asked = Counter((share.who, str(share)) for share in preflight.shares(cfg))
    places = "".join(f"\n  {count} × {who}: {what}" for (who, what), count in asked.items())
    yield f"processes, and what each asks Ray for:{places}"
    yield f"experiments can import {_packages(cfg)}"
    task = next(iter(load_tasks(cfg).values()))
    state, files = State("initial", task.id, ""), {task.script: (task.env_dir / task.script).read_text()}
    text, tokens = shown.prompt(
        folder, cfg.model.context, cfg.model.response, task, state, files, Extent.of(cfg.prompt)
    )  # fmt: skip
    yield (
        f"the first prompt of {task.id}, before its script was measured: {tokens} tokens, of "
        f"{cfg.model.context - cfg.model.response} that a prompt may have\n\n{text}"
    )


def _packages(cfg: Config) -> str:
    of = cfg.sandbox
    if of.image:
        return f"what the image {of.image} has"
    if not of.requirements:
        return f"{', '.join(OwnPackages(of.packages).names)}, and what these need, as they are installed here"
    place = installed.place(of.requirements)
    if not place.exists():
        return f"what {of.requirements} lists: it is installed into {place} first"
    there = installed.InstalledPackages(place)
    return f"{', '.join(there.names)}, and what these need: {there.count} packages of {of.requirements} in {place}"
