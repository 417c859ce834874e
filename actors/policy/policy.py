"""The policy as a vLLM engine: samples responses with their log-probs and takes new weights while it serves.

Invariants: every token's log-prob is of the distribution it was sampled from, and its weight version is known; an
update is atomic and keeps the requests in flight; a prompt submitted after an update shares no cached state with
older weights; damaged weights are refused and the old version serves on; no call waits without a deadline; the
engine's processes never outlive this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import mmap
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.policy.weights import Bucket, digests
from actors.runtime.metrics import Metrics, engine_logger
from actors.runtime.remote import KEPT_MEMORY
from envs.errors import UserError

GIB = 1 << 30
DEATH_SECONDS = 1.0
"""Between looks at whether the engine still lives."""


class PolicyError(UserError):
    """The engine does not start, or refused new weights; the message says which and what to do."""


class PolicyDead(PolicyError):
    """The engine has died or hangs: its actor must be replaced; the message names the actor."""


@dataclass(frozen=True)
class Sample:
    """One response."""

    response_ids: np.ndarray
    """int32 [R], the end token included when it was sampled."""
    logprobs: np.ndarray
    """float32 [R]: log-probability of each token at the temperature it was sampled with."""
    version_spans: tuple[tuple[int, int, int], ...]
    """(weight version, start, end) over the response, end exclusive."""
    text: str
    """The response without its end token."""
    seconds: float


class Policy:
    """One `AsyncLLM` engine; all methods are coroutines of one event loop."""

    def __init__(self, name: str, model_dir: str, cfg: Any, version: int):
        """name: whose engine this is, for messages; version: of the weights in `model_dir`."""
        self.name, self.version = name, version
        self.running = 0
        self.tokens = 0
        self._model_dir, self._cfg = model_dir, cfg
        self._engine: Any = None
        self._shelf = Shelf()
        self._updating = asyncio.Lock()

    async def start(self) -> None:
        """Start the engine's processes.

        Raises:
            PolicyError: they do not start.
        """
        _set_environment(self._cfg)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            arguments = AsyncEngineArgs(**_engine_arguments(self._cfg, self._model_dir))
            told = engine_logger(Metrics(self._cfg.run.name, by=self.name))
            self._engine = AsyncLLM.from_engine_args(arguments, stat_loggers=[told])
        except Exception as error:  # whatever vLLM raises, the user needs to know which model and settings
            raise PolicyError(f"{self.name}: vLLM cannot serve {self._model_dir}: {error}") from error
        async with self._alive("start"):
            await self._engine.update_weight_version(str(self.version))

    async def sample(
        self, prompt_ids: Sequence[int], seed: int, temperature: float, max_tokens: int, end_token: int
    ) -> Sample:
        """One response; the same arguments and weights give the same response, up to how vLLM batches it.

        end_token: the token that ends a response.

        Raises:
            PolicyDead: the engine has died, or does not answer within `actors.deadline`.
        """
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        settings = SamplingParams(
            temperature=temperature, seed=seed, max_tokens=max_tokens, stop_token_ids=[end_token], logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        # The salt keeps prompts apart whose cached keys and values are of other weights: running requests hold cache
        # blocks, so that vLLM could clear the cache only by computing all of them again.
        prompt = TokensPrompt(prompt_token_ids=[int(token) for token in prompt_ids], cache_salt=str(self.version))
        started = time.monotonic()
        async with self._alive("a response"):
            with self._counted():
                outputs = [o async for o in self._engine.generate(prompt, settings, request_id=uuid.uuid4().hex)]
        (completion,) = outputs[-1].outputs
        ids = np.array(completion.token_ids, dtype=np.int32)
        self.tokens += len(ids)
        logprobs = [of[token].logprob for token, of in zip(completion.token_ids, completion.logprobs, strict=True)]
        spans = tuple((int(span.version), span.start, span.end) for span in completion.weight_versions)
        seconds = time.monotonic() - started
        return Sample(ids, np.array(logprobs, dtype=np.float32), spans, completion.text, seconds)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Requests that arrive within wait, and are then begun together.

        Raises:
            PolicyDead: the engine has died.
        """
        async with self._updating:
            async with self._alive("a pause"):
                await self._engine.pause_generation(mode="keep", clear_cache=False)
            try:
                yield
            finally:
                async with self._alive("the end of a pause"):
                    await self._engine.resume_generation()

    async def update_weights(self, buckets: Sequence[Bucket], version: int) -> None:
        """Serve new weights from the next token on, unless newer ones are served; requests in flight go on under them.

        Raises:
            PolicyError: a bucket is damaged; the old version is served on.
            PolicyDead: the engine has died, hangs, or failed half-way (it is then ended, as its weights are mixed).
        """
        async with self._updating, self._alive(f"weight version {version}"):
            if version <= self.version:
                return
            if not all(bucket.checksum for bucket in buckets):
                await self._load(lambda: self._shelf.put(buckets), version, {})
                return
            update = self._shelf.put(buckets)
            for wrong in await self._engine.collective_rpc("verify_weights", args=(update,)):
                if wrong:
                    raise PolicyError(f"{self.name}: weight version {version} is damaged: {wrong}")
            await self._load(lambda: update, version, digests(buckets))

    async def join_group(self, init_info: dict[str, Any]) -> None:
        """Have the engine's workers join the group in which the learner broadcasts. Raises PolicyDead."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        async with self._updating, self._alive("the group of the broadcast"):
            await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def receive_broadcast(self, update_info: dict[str, Any], version: int, sent: Mapping[str, str]) -> None:
        """As `update_weights`, for what the learner broadcasts; sent: digests of some of it. Raises PolicyDead."""
        async with self._updating, self._alive(f"weight version {version}"):
            await self._load(lambda: update_info, version, sent)

    async def _load(self, update: Callable[[], dict[str, Any]], version: int, sent: Mapping[str, str]) -> None:
        """update: called while the engine comes to rest, for which vLLM takes at least 20 ms."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        with self._whole_or_dead(version):
            pausing = self._engine.pause_generation(mode="keep", clear_cache=False)
            _, update_info = await asyncio.gather(pausing, asyncio.to_thread(update))
            await self._engine.start_weight_update()
            await self._engine.update_weights(WeightTransferUpdateRequest(update_info=update_info))
            await self._engine.finish_weight_update(str(version))
            if sent:
                self._compare(await self._engine.compute_weight_checksums(), sent)
            self.version = version
            await self._engine.resume_generation()

    @staticmethod
    def _compare(served: Sequence[Mapping[str, str]], sent: Mapping[str, str]) -> None:
        """Hold the digests of vLLM's parameters, by worker, against those of the weights that were sent."""
        found = ((name.rpartition(":")[2], digest) for of_worker in served for name, digest in of_worker.items())
        if wrong := sorted({name for name, digest in found if name in sent and digest != sent[name]}):
            raise PolicyError(f"vLLM serves other values of {', '.join(wrong[:3])} than it was sent")

    @contextlib.contextmanager
    def _whole_or_dead(self, version: int) -> Iterator[None]:
        """End an engine that stops half-way through an update."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, EngineDeadError) or not isinstance(error, Exception):
                raise  # `_alive` says what that means
            raise PolicyDead(f"{self.name}: vLLM did not load weight version {version}: {error}") from error

    @contextlib.asynccontextmanager
    async def _alive(self, awaited: str) -> AsyncIterator[None]:
        """Turn the engine's death, and waiting longer than the deadline, into PolicyDead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        deadline = self._cfg.actors.deadline
        if self._engine is None:
            raise PolicyDead(f"{self.name}: its vLLM engine has ended, it cannot give {awaited}")
        try:
            async with asyncio.timeout(deadline) as limit:
                watch = asyncio.create_task(self._end_with_engine(limit))
                try:
                    yield
                finally:
                    died = not watch.cancel()  # an engine that hangs is ended too, on the way here
        except EngineDeadError as error:
            raise PolicyDead(f"{self.name}: its vLLM engine died during {awaited}") from error
        except TimeoutError as error:
            if died:
                raise PolicyDead(f"{self.name}: its vLLM engine died during {awaited}") from error
            raise PolicyDead(
                f"{self.name}: its vLLM engine did not finish {awaited} in {deadline:g} s (actors.deadline)"
            ) from error

    def require_life(self) -> None:
        """Raises PolicyDead where the engine has ended."""
        if self._dead:
            raise PolicyDead(f"{self.name}: its vLLM engine has ended")

    @property
    def _dead(self) -> bool:
        return self._engine is None or self._engine.errored

    async def _end_with_engine(self, limit: asyncio.Timeout) -> None:
        """End a wait when the engine has died: vLLM leaves some calls to a dead engine unanswered."""
        while not self._dead:
            await asyncio.sleep(DEATH_SECONDS)
        limit.reschedule(asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def close(self) -> None:
        """End the engine's processes."""
        if self._engine:
            self._engine.shutdown()
            self._engine = None


def _engine_arguments(cfg: Any, model_dir: str) -> dict[str, Any]:
    """What the engine is built with; arguments of `AsyncEngineArgs`."""
    from vllm.config.weight_transfer import WeightTransferConfig

    from actors.policy import kernels as engine_kernels

    on_cpu = {
        "enforce_eager": True,  # compiled, it is a seventh faster, but needs a C++ compiler and a minute to start
        "enable_chunked_prefill": False,  # vLLM cannot rewind the seed of a half-read prompt on the CPU
        "kv_cache_memory_bytes": int(cfg.actors.kv_cache_gb * GIB),
        "ir_op_priority": engine_kernels.PRIORITY,  # 7 % less time to sample
        "block_size": 32,  # smaller blocks share more of a group's prompt; the default, 128, is a tenth slower
        # vLLM would start one more process just to bind threads to cores, which we leave to Ray.
        "distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor",
    }
    return {
        "model": model_dir,
        "dtype": cfg.model.dtype,
        "max_model_len": cfg.model.context,
        "max_num_seqs": cfg.actors.sequences,
        "max_num_batched_tokens": max(2048, cfg.model.context),
        "tensor_parallel_size": max(1, int(cfg.actors.gpus)),
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # a model's own top-p or top-k would change the sampling distribution
        "weight_transfer_config": WeightTransferConfig(backend="object_store"),
        "worker_extension_cls": "actors.policy.weights_engine.WorkerExtension",
        "disable_log_stats": True,
        **({} if cfg.actors.gpus else on_cpu),
    }


class Shelf:
    """A memory file in which the engine's processes find the buckets of an update.

    It needs no room in /dev/shm, which is small in containers, and is gone when this process is. It is kept from one
    version to the next, since touching fresh memory takes longer than copying.
    """

    def __init__(self) -> None:
        self._file, self._bytes = -1, np.empty(0, np.uint8)

    def put(self, buckets: Sequence[Bucket]) -> dict[str, Any]:
        """Copy them into the file, over what it held; returns what the engine's workers need to load them."""
        ends = list(itertools.accumulate(bucket.data.nbytes for bucket in buckets))
        if ends[-1] > self._bytes.size:
            self._renew(ends[-1])
        placed = []
        for bucket, end in zip(buckets, ends, strict=True):
            start = end - bucket.data.nbytes
            self._bytes[start:end] = bucket.data
            meta = [[item.name, item.dtype, list(item.shape), item.offset] for item in bucket.meta]
            placed.append((start, end, bucket.checksum, meta))
        return {"path": f"/proc/{os.getpid()}/fd/{self._file}", "file_bytes": self._bytes.size, "buckets": placed}

    def _renew(self, size: int) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = os.memfd_create("weights")
        os.ftruncate(self._file, size)
        self._bytes = np.frombuffer(mmap.mmap(self._file, size), np.uint8)


def _set_environment(cfg: Any) -> None:
    """What vLLM reads from the environment; its own processes inherit it."""
    os.environ |= KEPT_MEMORY | {  # new weights take the place of the old: two thirds of an update are faults otherwise
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # Ray shares the cores out; binding would put all actors on the first
        "OMP_NUM_THREADS": str(max(1, math.ceil(cfg.actors.cpus))),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait stall each other on cores that are shared
        "VLLM_ENGINE_READY_TIMEOUT_S": str(int(cfg.actors.deadline)),
        "MLAGENT_ACTOR_PID": str(os.getpid()),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
