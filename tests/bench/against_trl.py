"""Transitions per second of the whole loop, against TRL's `GRPOTrainer` on the same machine.

`python tests/bench/against_trl.py [--json] [--groups 8] [--trl-steps 1] [--steps 10]`. The same model (SmolLM2-135M),
the same prompts (480 tokens), K = 8 actions of at most 64 tokens, `--groups` prompts per optimiser step, and the same
experiment for each action, whatever the model wrote: the unchanged script of the task `wine`. TRL generates, runs them
as plain processes and trains, in turn; it gets an environment of its own, made once in the user's cache. Ours is one
actor, one learner rank and the stream, as in `learner/main.py`, with the cache of experiments off. The prompts are of
states of one task that differ in what was observed: they begin alike, which is computed once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2]))

from actors.actor import Actor
from actors.policy.chat import Chat
from actors.policy.model import resolve
from actors.pool import ActorPool
from envs.benchmarks.loader import load
from envs.records import State, Step, StepResult, Task
from learner.config.defaults import defaults, settle
from learner.config.schema import Config
from learner.ranks.handle import Learner
from learner.ranks.publisher import BUCKET_BYTES
from learner.stream.packed import unpack
from learner.stream.states import StatePool
from learner.stream.stream import Cursor, Stream
from reward import Reward

TRL = ("trl==1.16.0", "transformers==5.19.0")
TORCH = "torch==2.13.0"
PROMPT, ACTIONS, RESPONSE = 480, 8, 64
EDIT = "Thought: the same\nAction: Edit\n<<<<<<< SEARCH\n{line}\n=======\n{line}  # {name}\n>>>>>>> REPLACE\n"


class SameExperiment(Actor):
    """Runs the task's script for every action, changed by a comment; rewards are random, so that they vary."""

    count = 0

    def _reward(self, task: Task, result: StepResult) -> Reward:
        return Reward(random.random(), {})

    async def _step(self, state: State, text: str, truncated: bool, used: float) -> StepResult:
        task = self._tasks[state.task_id]
        SameExperiment.count += 1
        line = (task.env_dir / task.script).read_text().splitlines()[0]
        return await super()._step(state, EDIT.format(line=line, name=SameExperiment.count), False, used)


def prompts(chat: Chat, task: Any, count: int) -> list[State]:
    """States of the task whose prompts have `PROMPT` tokens, by what was observed before."""
    files = {task.script: (task.env_dir / task.script).read_text()}
    found = []
    for number in range(count):
        words = [f"note {number}:"]
        while True:
            state = State(f"s{number}", task.id, "", (Step("Thought: look\nAction: Inspect\n", " ".join(words)),))
            missing = PROMPT - len(chat.prompt(task, state, files))
            if missing <= 0:
                break
            words += ["ok"] * missing
        while len(chat.prompt(task, state, files)) > PROMPT:
            words.pop()
            state = dataclasses.replace(state, history=(Step(state.history[0].action, " ".join(words)),))
        found.append(state)
    return found


def ours(cfg: Config, folder: Path, states: Sequence[State], steps: int) -> dict[str, Any]:
    actors = ActorPool(cfg, [load("wine")], str(folder), cfg.run.dir, 0, print, list, kind=SameExperiment)
    learner = Learner(cfg, folder)
    try:
        (about,) = actors.started().values()
        actors.set_baselines({name: result.score_after for name, result in actors.first("baselines").items()})
        snapshot = actors.first("explore", "wine", 0, []).moves[0].state.snapshot
        pool = StatePool([dataclasses.replace(state, snapshot=snapshot) for state in states], 0)
        stream = ray.remote(num_cpus=0, max_concurrency=1000)(Stream)
        stream = stream.remote(pool, 0, 10**6, cfg.rl.states, ACTIONS, cfg.rl.max_staleness, Cursor())
        parts, tokens = dict.fromkeys(("wait", "train", "publish"), 0.0), []
        actors.collect(stream)
        for version in range(steps + 2):  # two to fill what runs ahead
            if version == 2:
                began, parts = time.monotonic(), dict.fromkeys(parts, 0.0)
            asked = time.monotonic()
            groups = unpack(ray.get(stream.batch.remote(), timeout=600))
            waited = time.monotonic()
            tokens += [len(member.response_ids) for group in groups for member in group]
            failed = [member for group in groups for member in group if member.info.score_after is None]
            assert not failed, f"no experiment ran: {failed[0].outcome}, {failed[0].info.log_tail}"
            assert learner.train(groups, version).update, "no reward varied"
            trained = time.monotonic()
            actors.publish(version + 1, learner.publish(BUCKET_BYTES, version + 1).buckets)
            ray.get(stream.advance.remote())
            spent = (waited - asked, trained - waited, time.monotonic() - trained)
            parts = {name: parts[name] + one / steps for name, one in zip(parts, spent, strict=True)}
        seconds = time.monotonic() - began
        ray.get(stream.close.remote())
        actors.finish()
        done = steps * cfg.rl.states * ACTIONS
        return parts | {
            "per_s": done / seconds, "step_seconds": seconds / steps, "tokens": sum(tokens) / len(tokens),
            "sandbox": about["sandbox"],
        }  # fmt: skip
    finally:
        actors.close()
        learner.close()


def trl(model: Path, texts: Sequence[str], steps: int) -> dict[str, float]:
    python = _environment() / "bin/python"
    task = load("wine")
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "model": str(model), "prompts": list(texts), "groups": len(texts), "actions": ACTIONS,
            "response": RESPONSE, "steps": steps, "threads": os.cpu_count(), "python": sys.executable,
            "script": str(task.env_dir / task.script), "folder": folder,
        }  # fmt: skip
        for file in task.env_dir.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        (Path(folder) / "job.json").write_text(json.dumps(job))
        script = Path(__file__).with_name("trl_step.py")
        said = subprocess.run([python, script, f"{folder}/job.json"], capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(f"TRL failed:\n{said.stderr[-3000:]}")
    return json.loads(said.stdout.splitlines()[-1])


def _environment() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlagent" / "-".join(TRL)
    if not (folder / "ready").exists():
        print("making an environment for TRL (some minutes, once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [folder / "bin/python", "-m", "pip", "install", "-qq"]
        if subprocess.run([*install, "--no-deps", f"{TORCH}+cpu"], stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*install, TORCH], check=True)
        subprocess.run([*install, *TRL], check=True)
        (folder / "ready").touch()
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--groups", type=int, default=8, help="prompts per optimiser step, of both")
    parser.add_argument("--steps", type=int, default=10, help="of ours that are measured")
    parser.add_argument("--trl-steps", type=int, default=1, help="of TRL's that are measured")
    args = parser.parse_args()
    folder = resolve("builtin:smollm2-135m")
    cfg = defaults()
    settle(cfg)
    cfg.model.response, cfg.rl.states, cfg.rl.actions, cfg.rl.learning_rate = RESPONSE, args.groups, ACTIONS, 1e-6
    cfg.sandbox.cache, cfg.learner.cpus, cfg.actors.cpus = False, float(os.cpu_count()), 1.0  # the cores are shared
    cfg.learner.row_tokens = 8192  # all prompts of a step
    chat, task = Chat(str(folder), cfg.model.context, RESPONSE), load("wine")
    states = prompts(chat, task, args.groups)
    files = {task.script: (task.env_dir / task.script).read_text()}
    ids = [chat.prompt(task, state, files).tolist() for state in states]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(f"prompts of {sorted({len(one) for one in ids})} tokens", file=sys.stderr, flush=True)
    ray.init(address="local", num_cpus=os.cpu_count() + 1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as run_dir:
        cfg.run.dir = run_dir
        mine = ours(cfg, folder, states, args.steps)
    ray.shutdown()
    print(mine, file=sys.stderr, flush=True)
    theirs = trl(folder, [tokenizer.decode(one) for one in ids], args.trl_steps)
    ratio = mine["per_s"] / theirs["per_s"]
    table = Table(title=f"{args.groups} prompts of {PROMPT} tokens × {ACTIONS} actions per step; ratio {ratio:.1f}")
    for head in ("", "transitions/s", "s per step", "tokens per action", "of a step"):
        table.add_column(head, justify="left" if head in ("", "of a step") else "right")
    shares = ", ".join(f"{name} {mine[name]:.1f} s" for name in ("wait", "train", "publish"))
    for name, row, of in (
        (f"ours, {mine['sandbox']}", mine, shares), ("TRL", theirs, f"experiments {theirs['experiment_seconds']:.1f} s")
    ):  # fmt: skip
        table.add_row(name, f"{row['per_s']:.3f}", f"{row['step_seconds']:.1f}", f"{row['tokens']:.0f}", of)
    Console(width=110).print(table)
    if args.json:
        print(json.dumps({"ratio": ratio, "ours": mine, "trl": theirs}))


if __name__ == "__main__":
    main()
