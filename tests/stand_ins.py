"""Stand-ins for what is beyond a run's borders: they tell what reaches them, and answer as simply as will do.

Invariant: an answer is a matter of what was asked, so that two runs of one configuration are seen alike.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from actors.policy.weights import is_digested, sha256_of
from envs.experiments import BEGUN
from envs.records import MILESTONES, Durations, Experiment, Outcome, Withheld

EDIT = "Thought: try it\nAction: Write\n```\n{script}# attempt {seed}\n```\n"


class Seen:
    """What crossed the borders, by border."""

    def __init__(self, broken: Mapping[str, int] | None = None) -> None:
        """broken: how many engines die at their first request (`engines`), and steps in which a rank does (`ranks`); by
        how much scores differ on the test part of the answers (`tests`)."""
        self.of: dict[str, list[Any]] = collections.defaultdict(list)
        self.broken = collections.Counter(broken or {})
        self.learner_rests = False

    def tell(self, border: str, *what: Any) -> None:
        self.of[border].append(what)

    def breaks(self, part: str) -> bool:
        """Whether this one does."""
        self.broken[part] -= 1
        return self.broken[part] >= 0


def waits(seen: Seen, seconds: float | None) -> None:
    """Tells who waits how long, where it is long."""
    if seconds and seconds > 10:
        seen.tell("timeouts", sys._getframe(2).f_code.co_qualname, round(seconds, -1))


def all_alike(result: Any, task: Any, terms: Any) -> dict[str, float]:
    """A reward by which no action is better than another."""
    return {"alike": 0.5}


class RankDies(Exception):
    """Stands for the death of a rank's process."""


class Experiments:
    """Stands for `SandboxRunner`: the score is a matter of the script's text and the seed."""

    running = 0

    def __init__(self, seen: Seen, pool: Any, capacity: Any, seed: int):
        self._seen, self.name, self.image, self.seed = seen, pool.name, pool.image, seed
        seen.tell("capacity", capacity, seed)

    def begin(self, task: Any, files: Any, **_: Any) -> Iterator[Any]:
        yield BEGUN
        yield self._run(task, files)

    def _run(self, task: Any, files: Any) -> Experiment:
        unchanged = (task.env_dir / task.script).read_text()
        script = files.get(task.script, unchanged)
        self._seen.tell("experiments", task.id, task.fidelity, self.seed, _digest(script))
        number = int(_digest(script)[:6], 16)
        spent = Durations(0.0, 0.0, task.limits.seconds * 0.3, 0.0)
        if script != unchanged and number % 5 == 0:
            return Experiment(Outcome.SCRIPT_ERROR, None, "error", spent, 100.0, MILESTONES[:2], False)
        score = (task.m_best or 1.0) * (0.8 + 0.2 * (number % 97) / 97)
        withheld = Withheld(score * 0.9 - self._seen.broken["tests"] * (number % 7))
        memory = task.limits.memory_mb / 2
        findings = (("copied", "every third is"),) if number % 3 == 0 else ()
        return Experiment(
            Outcome.EDITED, score, "ok", spent, memory, MILESTONES, True, withheld=withheld, findings=findings
        )

    def resize(self, capacity: Any) -> None:
        self._seen.tell("capacity", capacity)

    def expect(self, tasks: Any) -> None:
        self._seen.tell("limits", [task.limits for task in tasks])

    def close(self) -> None: ...


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Engine:
    """Stands for `AsyncLLM`; its answers are a matter of prompt and seed, its log-probs those of equal odds."""

    errored, device = False, torch.device("cpu")
    _rests = False

    def __init__(self, seen: Seen, arguments: dict[str, Any]):
        from transformers import AutoTokenizer

        plain = {name: value for name, value in arguments.items() if isinstance(value, str | int | float)}
        variables = ("OMP_NUM_THREADS", "VLLM_ENGINE_READY_TIMEOUT_S")
        seen.tell("engine", sorted(plain.items()), [os.environ[name] for name in variables])
        self._seen, self._version, self._dies = seen, "0", seen.breaks("engines")
        self._tokenizer = AutoTokenizer.from_pretrained(arguments["model"])

    async def update_weight_version(self, version: str) -> None:
        self._version = version

    async def generate(self, prompt: Any, settings: Any, request_id: str) -> Any:
        from vllm.v1.engine.exceptions import EngineDeadError

        while self._rests:
            await asyncio.sleep(0.01)
        ids = prompt["prompt_token_ids"]
        if self._dies:
            self.errored = True
            raise EngineDeadError
        asked = (settings.temperature, settings.seed, settings.max_tokens, len(ids), prompt["cache_salt"])
        self._seen.tell("requests", *asked)
        whole = [*self._tokenizer.encode(self._answer(ids, settings.seed)), settings.stop_token_ids[0]]
        response, ends = whole[: settings.max_tokens], len(whole) <= settings.max_tokens
        even = SimpleNamespace(logprob=-float(np.log(len(self._tokenizer))))
        version, middle = int(self._version), len(response) // 2
        spans = [SimpleNamespace(version=max(0, version - 1), start=0, end=middle),
                 SimpleNamespace(version=version, start=middle, end=len(response))]  # fmt: skip
        yield SimpleNamespace(outputs=[SimpleNamespace(
            token_ids=response, logprobs=[{token: even} for token in response], weight_versions=spans,
            text=self._tokenizer.decode(response[:-1] if ends else response),
            finish_reason="stop" if ends else "length",
        )])  # fmt: skip

    def _answer(self, ids: list[int], seed: int) -> str:
        kind = seed % 4
        if kind == 0:
            return "no action at all" if seed % 8 else f"{EDIT.format(script='', seed=seed)} and so on" * 9
        if kind == 1:
            return "Thought: look\nAction: Execute\n"
        return EDIT.format(script="", seed=seed)

    async def pause_generation(self, **options: Any) -> None:
        self._seen.tell("pauses", sys._getframe(1).f_code.co_name)

    async def resume_generation(self) -> None:
        assert not self._rests, "it would sample without its memory"

    async def sleep(self, level: int, mode: str) -> None:
        self._seen.tell("turns", "engine rests", level, mode)
        self._rests = True

    async def wake_up(self) -> None:
        assert self._seen.learner_rests, "both would have the card"
        self._seen.tell("turns", "engine wakes")
        self._rests = False

    async def start_weight_update(self) -> None:
        assert not self._rests, "it would load into memory that it has not"

    async def update_weights(self, request: Any) -> None:
        from actors.policy.weights_engine import ObjectStoreUpdate

        if "path" in request.update_info:
            self._weights = dict(ObjectStoreUpdate(**request.update_info).tensors(self.device))

    async def finish_weight_update(self, version: str) -> None:
        self._version = version

    async def collective_rpc(self, method: str, args: tuple = ()) -> list[Any]:
        from actors.policy.weights_engine import WorkerExtension

        self._seen.tell("checked", method, self._version)
        if method == "norm_digests":
            return [{name: sha256_of(one) for name, one in self._weights.items() if is_digested(name, one.shape)}]
        return [getattr(WorkerExtension, method)(self, *args)]

    async def init_weight_transfer_engine(self, request: Any) -> None: ...

    async def compute_weight_checksums(self) -> list[dict[str, str]]:
        return [{}]

    def shutdown(self) -> None: ...


class DeepSpeed:
    """Stands for DeepSpeed's engine: the model and its optimiser, without a group of ranks."""

    device = torch.device("cpu")

    def __init__(self, seen: Seen, model: Any, config: dict[str, Any], optimizer: Any = None, **_: Any):
        self._seen, self._model, self._config = seen, model, config
        checkpointing = getattr(model.model, "is_gradient_checkpointing", False)
        dtype = str(next(model.parameters()).dtype)
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        seen.tell("deepspeed", sorted(config.items(), key=str), dtype, trained, checkpointing)
        if optimizer:
            self.basic_optimizer = optimizer([one for one in model.parameters() if one.requires_grad])

    def __call__(self, *args: Any) -> Any:
        return self._model(*args)

    def to(self, device: Any) -> DeepSpeed:
        return self

    def zero_optimization_stage(self) -> int:
        return self._config["zero_optimization"]["stage"]

    def set_gradient_accumulation_boundary(self, last: bool) -> None: ...

    def backward(self, loss: Any, scale_wrt_gas: bool) -> None:
        loss.backward()

    def step(self) -> None:
        if self._seen.breaks("ranks"):
            raise RankDies
        gradients = [one.grad for one in self._model.parameters() if one.grad is not None]
        self._norm = float(torch.nn.utils.get_total_norm(gradients))
        self._seen.tell("rates", self.basic_optimizer.param_groups[0]["lr"])
        self.basic_optimizer.step()
        self.basic_optimizer.zero_grad()

    def get_global_grad_norm(self) -> float:
        return self._norm


class Away:
    """Stands for the memory of the host: in this process are not only the learner's tensors."""

    def __init__(self, seen: Seen):
        self._seen = seen

    def put(self) -> None:
        self._seen.tell("turns", "learner rests")
        self._seen.learner_rests = True

    def bring(self) -> None:
        self._seen.tell("turns", "learner wakes")
        self._seen.learner_rests = False


class Broadcaster:
    """Stands for vLLM's NCCL: the weights do not travel, but their version does."""

    norms = frozenset()

    def __init__(self, seen: Seen):
        self._seen = seen

    def send(self, receivers: Sequence[Any], version: int, digests: Any, deadline: float) -> None:
        self._seen.tell("broadcast", version)
        for one in receivers:
            one.handle.receive_broadcast.remote(version, {}, {})


class Endpoint:
    """Stands for an OpenAI client and what answers at its other end."""

    def __init__(self, seen: Seen, base_url: str, api_key: str, **options: Any):
        self._seen, self._url, self._key = seen, base_url, api_key
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._complete))
        self.embeddings = SimpleNamespace(create=self._embed)

    def _complete(self, model: str, messages: Any, **settings: Any) -> SimpleNamespace:
        size = sum(len(message["content"]) for message in messages)
        self._seen.tell("asked", self._url, self._key, model, sorted(settings.items()), size)
        if "List" in messages[-1]["content"]:
            answer = "\n".join(f"- idea number {number} of seed {settings['seed']}" for number in range(20))
        else:
            answer = EDIT.format(script="", seed=settings.get("seed"))
        return SimpleNamespace(
            choices=[SimpleNamespace(message=SimpleNamespace(content=answer), finish_reason="stop")], usage=None
        )

    def _embed(self, model: str, input: Sequence[str]) -> SimpleNamespace:
        self._seen.tell("embedded", self._url, self._key, model, len(input))
        return SimpleNamespace(data=[SimpleNamespace(embedding=[len(text), text.count("e"), 1.0]) for text in input])


class Ray:
    """Stands for Ray where sandbox hosts are its actors: they live in this process."""

    def __init__(self, seen: Seen):
        self._seen, self._actors = seen, {}

    def remote(self, kind: type) -> SimpleNamespace:
        def options(name: str, **given: Any) -> SimpleNamespace:
            self._seen.tell("hosts", name, sorted(given.items(), key=str))
            return SimpleNamespace(remote=lambda *args: self._actors.setdefault(name, Called(kind(*args))))

        return SimpleNamespace(options=options)

    def get_actor(self, name: str) -> Called:
        return self._actors[name]

    def get(self, result: Any, timeout: float) -> Any:
        waits(self._seen, timeout)
        return result

    def wait(self, results: Sequence[Any], **_: Any) -> tuple[Sequence[Any], list[Any]]:
        return results, []

    def kill(self, actor: Any) -> None: ...


class Apart:
    """Stands for places on a node each."""

    def __init__(self, *places: Any):
        self._places = places

    def options(self, number: int) -> dict[str, Any]:
        return {"apart": (number, *self._places)}

    def close(self) -> None: ...


class Called:
    """An object whose methods are called by `.remote`."""

    def __init__(self, of: Any):
        self._of = of

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._of, name))
