"""A whole run of learner/main.py in this process, seen at its borders: what reaches vLLM, DeepSpeed, Ray and the
sandboxes, and what is left in the run's folder.

Everything between the borders is real: training, actors, stream, environment, experts, the losses and a tiny model's
gradients. Invariant: two runs of one configuration are seen alike (with `rl.max_staleness=0`, as in `BASE`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from ray.exceptions import RayActorError, RayTaskError

from learner.stream.stream import Cursor
from tests.stand_ins import (
    Apart,
    Away,
    Broadcaster,
    DeepSpeed,
    Endpoint,
    Engine,
    Experiments,
    RankDies,
    Ray,
    Seen,
    waits,
)

BASE = (
    "run.name=seen",
    "tasks.held_in=[wine,diabetes]", "tasks.held_out=[iris_petal]", "model.response=120", "reward.steepness=3",
    "experts.trajectories=6", "experts.steps=3", "experts.candidates=40", "experts.ideas=5", "sft.batch=4",
    "rl.steps=2", "rl.states=2", "rl.actions=4", "rl.max_staleness=0", "rl.gap_warn=20", "rl.gap_stop=30",
    "actors.sequences=8", "checkpoint.every=1", "evaluation.attempts=2", "sandbox.backend=process",
    "evaluation.steps=2", "evaluation.states=2", "model.dtype=float32", "model.context=2000", "sandbox.cpus=2",
    "sandbox.memory_gb=4", "actors.replacements=0", "learner.restarts=0",
)  # fmt: skip
NODE = {"CPU": 64.0, "GPU": 8.0, "memory": 2**40, "object_store_memory": 2**40}
"""Resources of the one node that the run is told of; it has the label role=test."""
VARYING = ("seconds", "per_s", "finished", "waited", "age_", "cached")
"""Parts of the names of figures that no two runs have in common: times, and which of two alike at once ran first."""
VOCABULARY = 1500
encoded: dict[tuple[str, str], list[int]] = {}
"""Token ids by model and text: the runs have most of their texts in common, and what is slow is asked once."""
TEMPLATE = (
    "{% for one in messages %}<|im_start|>{% if not short %}{{ one.role }}\n{% endif %}{{ one.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run(arguments: Sequence[str], folder: Path, model: Path, broken: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What is seen of a run with `BASE` and the arguments, by border; `error` where it ended with one.

    folder: run.dir, in which an earlier run named `seen` may be.
    """
    from learner import main

    return _seen(main.main, [*BASE, f"run.dir={folder}", f"model.path={model}", *arguments], folder, broken)


def start(arguments: Sequence[str], folder: Path, model: Path) -> dict[str, Any]:
    """As `run`, of a run that trains nothing: it starts all its parts, and ends them."""
    from learner import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "train", lambda run: run.parts.actors.started())
        return run(arguments, folder, model)


def prepare(arguments: Sequence[str], folder: Path, model: Path) -> dict[str, Any]:
    """As `run`, of a run that ends with fine-tuning and evaluates nothing."""
    from learner.training import Training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "batches", lambda run: [])
        return learn(arguments, folder, model)


def learn(arguments: Sequence[str], folder: Path, model: Path) -> dict[str, Any]:
    """As `run`, of a run that evaluates nothing."""
    from learner.training import Training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "evaluate", lambda run, stage: None)
        return run(arguments, folder, model)


def evaluate(arguments: Sequence[str], folder: Path, model: Path) -> dict[str, Any]:
    """As `run`, of an evaluation of the model."""
    from learner import evaluate

    given = [str(model), *BASE, f"model.path={model}", f"evaluation.folder={folder / 'evaluation'}", *arguments]
    seen = _seen(evaluate.main, given, folder)
    result = folder / "evaluation" / "evaluation.json"
    attempts = _rows(result.with_name("attempts.jsonl"))
    return seen | {
        "evaluation": _comparable(json.loads(result.read_text())) if result.exists() else None,
        "rewards": sorted(str([one["reward"] for one in row["tried"]]) for row in attempts),
    }


def _seen(
    command: Callable[[list[str]], int], arguments: list[str], folder: Path, broken: Mapping[str, int] | None = None
) -> dict[str, Any]:
    seen, said = Seen(broken), io.StringIO()
    with borders(seen), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        command(arguments)
    lines = [line.replace(str(folder), "") for line in said.getvalue().splitlines()]
    seen.of["error"] = list(itertools.dropwhile(lambda line: not line.startswith("error:"), lines))
    seen.of["said"] = [line.rpartition("  ")[2] for line in lines if "rl.gap_warn" in line]
    seen.of["timeouts"] = list(set(seen.of["timeouts"]))
    told = {name: sorted(map(repr, of)) for name, of in seen.of.items() if name not in ("error", "said")}
    return told | {name: seen.of[name] for name in ("error", "said")} | left(folder, "seen")


def left(folder: Path, name: str) -> dict[str, Any]:
    """What a run left in its folder, times and random names left out."""
    here = folder / name
    evaluation = json.loads((here / "evaluation.json").read_text()) if (here / "evaluation.json").exists() else {}
    ideas = json.loads((here / "ideas.json").read_text()) if (here / "ideas.json").exists() else {}
    states = json.loads((here / "states.json").read_text()) if (here / "states.json").exists() else []
    cursors = sorted((here / "checkpoints").glob("step_*/cursor.msgpack"))
    return {
        "steps": _comparable(_rows(here / "metrics.jsonl")),
        "evaluation": _comparable(evaluation),
        "finetune": _comparable(_rows(here / "finetune.jsonl")),
        "examples": (here / "finetune.json").read_text() if (here / "finetune.json").exists() else "",
        "ideas": sorted(ideas.items()),
        "pool": sorted((one["task_id"], one["kind"], one["snapshot"], len(one["history"])) for one in states),
        "files": sorted(str(path.relative_to(folder)) for path in folder.glob("*/*")),
        "checkpoints": sorted(path.name for path in (here / "checkpoints").glob("*")),
        "cached": sorted(path.name for path in (here / "experiments").glob("*/*")),
        "added": [len(msgspec.msgpack.decode(file.read_bytes(), type=Cursor).experience.added) for file in cursors],
    }


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _varies(name: str) -> bool:
    return any(part in name for part in VARYING)


def _comparable(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _comparable(value) for name, value in tree.items() if not _varies(name)}
    return [_comparable(one) for one in tree] if isinstance(tree, list) else tree


@contextlib.contextmanager
def borders(seen: Seen) -> Iterator[None]:
    """Within, the run's borders are those of this module, which tell `seen`."""
    import deepspeed
    import openai
    import ray
    from transformers import AutoTokenizer
    from vllm.engine import arg_utils
    from vllm.v1.engine import async_llm

    from actors import explorer, hosts
    from actors.policy.chat import Chat
    from actors.runtime import remote
    from envs import simulated
    from envs.workspace import SnapshotStore
    from learner.model.policy_model import PolicyModel
    from learner.ranks import broadcast, rank, trainer, training_state
    from learner.reporting import report
    from learner.run import beforehand, cards, preflight, preparation, trackers

    class Rank(remote.Handle):
        def __getattr__(self, name: str) -> Any:
            assert name == "wake" or not seen.learner_rests, f"{name} is asked of a learner without its memory"
            return super().__getattr__(name)

    class Place(remote.InProcess):
        def spawn(self, kind: type, options: Any, *args: Any) -> Any:
            told = {name: value for name, value in options.items() if name != "scheduling_strategy"}
            seen.tell("spawned", kind.__name__, sorted(told.items(), key=str))
            if kind.__name__ in ("Stream", "Control"):
                seen.tell(kind.__name__.lower(), [one for one in args if isinstance(one, int)])
            return Rank(kind(*args), self._loop) if kind is rank.LearnerRank else super().spawn(kind, options, *args)

        def get(self, ref: Any, timeout: float | None = None) -> Any:
            waits(seen, timeout)
            try:
                return super().get(ref, timeout)
            except RayTaskError as error:
                if isinstance(error.cause, RankDies):
                    raise RayActorError from error
                raise

        def wait(self, refs: Sequence[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list, list]:
            waits(seen, timeout)
            return super().wait(refs, num_returns, timeout)

    def limited(seconds: float) -> asyncio.Timeout:
        waits(seen, seconds)
        return asyncio.Timeout(asyncio.get_running_loop().time() + seconds)

    def threads(count: int, **options: Any) -> ThreadPoolExecutor:
        seen.tell("experiment threads", count)
        return ThreadPoolExecutor(count, **options)

    def forward(model: PolicyModel, row: Any, *settings: Any) -> Any:
        seen.tell(f"rows of {_of_rank()}", len(row.input_ids), *settings)
        return computed(model, row, *settings)

    def encode(chat: Chat, text: str) -> list[int]:
        if (known := (chat._tokenizer.name_or_path, text)) not in encoded:
            encoded[known] = encoding(chat, text)
        return encoded[known]

    def loaded(folder: Path, dtype: torch.dtype, *settings: Any) -> PolicyModel:
        seen.tell(f"model of {_of_rank()}", dtype, *settings)
        return load_model(folder, dtype, *settings)

    def unsharded(engine: Any, named: Iterable[tuple[str, Any]]) -> Iterator[Any]:
        return training_state.whole((name, one) for name, one in named if one.requires_grad)

    def write(folder: Path, *given: Any) -> None:
        seen.tell("saved", folder.parent.name, "here" if threading.current_thread() is running else "beside")
        write_state(folder, *given)

    def collect(store: SnapshotStore, *given: Any) -> Any:
        seen.tell("collected", Path(store._store.path).name)
        return collected(store, *given)

    def in_ray() -> Place:
        seen.tell("place", "ray")
        return Place()

    def on_node(pool: Any, capacity: Any, seed: int, snapshots: Any) -> Experiments:
        return Experiments(seen, pool, capacity, seed)

    def sandboxes(*arguments: Any) -> SimpleNamespace:
        seen.tell("sandboxes", arguments)
        return SimpleNamespace(name=arguments[0], image=arguments[1], idle=0, close=lambda: None)

    def tracker(names: Sequence[str], run_dir: Path, config: dict[str, Any]) -> list[Any]:
        seen.tell("trackers", tuple(names))
        return []

    encoding = Chat._encode
    computed, load_model, collected = PolicyModel.forward, PolicyModel.load, SnapshotStore.collect
    write_state = training_state.write
    running = threading.current_thread()
    in_process, loops = remote.InProcess.__init__, []

    def begun(place: remote.InProcess) -> None:
        in_process(place)
        loops.append(place._loop)

    environment = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        remote.place.cache_clear()
        patch.setattr(remote, "InRay", in_ray)
        patch.setattr(remote.InProcess, "__init__", begun)
        patch.setattr(ray, "init", lambda **options: seen.tell("cluster", sorted(options)))
        patch.setattr(PolicyModel, "forward", forward)
        patch.setattr(PolicyModel, "load", loaded)
        patch.setattr(SnapshotStore, "collect", collect)
        patch.setattr(training_state, "slices", unsharded)
        patch.setattr(training_state, "write", write)
        patch.setattr(Chat, "_encode", encode)
        patch.setattr(hosts, "ray", Ray(seen))
        patch.setattr(hosts, "Apart", Apart)
        patch.setattr(openai, "OpenAI", lambda **given: Endpoint(seen, **given))
        patch.setattr(asyncio, "timeout", limited)
        patch.setattr(explorer, "ThreadPoolExecutor", threads)
        sleep = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: seen.tell("simulated", seconds))
        patch.setattr(simulated, "time", sleep)
        patch.setattr(trainer, "Away", lambda device: Away(seen))
        patch.setattr(broadcast, "Broadcaster", lambda *given: Broadcaster(seen))
        patch.setattr(ray, "shutdown", lambda: None)
        patch.setattr(preparation.signal, "signal", lambda *which: None)
        patch.setattr(preflight, "nodes", lambda: [preflight.Node("node", "here", NODE, {"role": "test"})])
        patch.setattr(cards, "of_nodes", lambda names: {name: [] for name in names})
        patch.setattr(preflight, "autoscales", lambda: False)
        patch.setattr(preflight, "requirements", lambda gpu: [])
        patch.setattr(trackers, "start", tracker)
        patch.setattr(trackers, "missing", lambda names: None)
        patch.setattr(beforehand.sandbox, "require", lambda name: None)
        patch.setattr(beforehand.sandbox, "install", lambda listed: None)
        patch.setattr(hosts, "SandboxPool", sandboxes)
        patch.setattr(hosts, "SandboxRunner", on_node)
        patch.setattr(arg_utils, "AsyncEngineArgs", lambda **arguments: arguments)
        patch.setattr(async_llm.AsyncLLM, "from_engine_args", lambda *given, **_: Engine(seen, *given))
        patch.setattr(deepspeed, "initialize", lambda **given: (DeepSpeed(seen, **given),))
        patch.setattr(deepspeed, "init_distributed", lambda *given, **options: seen.tell("group", given, options))
        patch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: seen.tell("share of a card", share))
        torch.set_num_threads(1)  # what is so small is faster alone
        patch.setattr(torch, "set_num_threads", lambda count: seen.tell("threads", count))
        patch.setattr(AutoTokenizer, "from_pretrained", functools.cache(AutoTokenizer.from_pretrained))
        patch.setattr(report, "write_report", lambda run_dir: "")  # takes longer than all the rest
        try:
            yield
        finally:
            for loop in loops:
                _end(loop)
            remote.place.cache_clear()
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """End what a run left there: found by the garbage collector, it would run in the middle of anything."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _of_rank() -> str:
    """Name of the method of the rank that asks."""
    frame = sys._getframe(2)
    while "/learner/ranks/trainer.py" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_qualname.split(".")[1]


def small_model(folder: Path) -> Path:
    """A random model of one narrow layer whose tokenizer knows the tasks' words, so that steps take no time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from actors.expert import estimators
    from envs import prompt
    from envs.benchmarks.loader import BUILTIN

    of_texts = Tokenizer(models.BPE())
    of_texts.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    of_texts.decoder = decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    scripts = [*sorted(map(str, BUILTIN.glob("*/env/train.py"))), prompt.__file__, estimators.__file__]
    of_texts.train(scripts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=ends))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=of_texts, eos_token=ends[2], pad_token=ends[2])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
