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
import mmap
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actors.policy.arguments import engine_arguments, set_environment
from actors.policy.card import CardWeights
from actors.policy.errors import PolicyDead, PolicyError
from actors.policy.last_words import LastWords
from actors.policy.weights import Bucket, digests
from actors.runtime.imports import quick
from actors.runtime.metrics import Metrics, engine_logger

DEATH_SECONDS = 1.0
"""Between looks at whether the engine still lives."""


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
    truncated: bool = False
    """It ended at its limit of tokens, not by its end token."""


class Policy:
    """One `AsyncLLM` engine; all methods are coroutines of one event loop."""

    def __init__(self, name: str, model_dir: str, cfg: Any, version: int):
        """name: whose engine this is, for messages; version: of the weights in `model_dir`."""
        self.name, self.version = name, version
        self.running = 0
        self.tokens = 0
        self._model_dir, self._cfg = model_dir, cfg
        self._engine: Any = None
        self._served = self._closed = False
        self._last_words = LastWords()
        self._shelf = Shelf()
        self._updating = asyncio.Condition()
        """Held by whoever changes what the engine does; told when a rest ends."""
        self._rests = False
        self._left: dict[asyncio.Timeout, float] = {}
        """Limits of the responses that are awaited; while the engine rests, with the seconds that each had left."""

    async def start(self) -> None:
        """Start the engine's processes; the event loop goes on meanwhile, but for the imports.

        Raises:
            PolicyError: they do not start.
            PolicyDead: it was closed before they had.
        """
        set_environment(self._cfg)
        with quick():  # on the loop, as two threads that import modules which import each other may find them half made
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

        def begin() -> AsyncLLM:
            with self._last_words.heard():
                return AsyncLLM.from_engine_args(arguments, stat_loggers=[stat_logger])

        try:
            arguments = AsyncEngineArgs(**engine_arguments(self._cfg, self._model_dir))
            stat_logger = engine_logger(Metrics(self._cfg.run.name, by=self.name))
            self._engine = await asyncio.to_thread(begin)
        except Exception as error:  # whatever vLLM raises, the user needs to know which model and settings
            reason = self._last_words.cause() or error
            raise PolicyError(f"{self.name}: vLLM cannot serve {self._model_dir}: {reason}") from error
        if self._closed:
            self.close()
        async with self._alive("start"):
            await self._engine.update_weight_version(str(self.version))
        self._served = True

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
        async with self._alive("a response") as limit:
            with self._counted(limit):
                outputs = [o async for o in self._engine.generate(prompt, settings, request_id=uuid.uuid4().hex)]
        (completion,) = outputs[-1].outputs
        ids = np.array(completion.token_ids, dtype=np.int32)
        self.tokens += len(ids)
        logprobs = [of[token].logprob for token, of in zip(completion.token_ids, completion.logprobs, strict=True)]
        spans = tuple((int(span.version), span.start, span.end) for span in completion.weight_versions)
        seconds = time.monotonic() - started
        truncated = completion.finish_reason == "length"
        return Sample(ids, np.array(logprobs, dtype=np.float32), spans, completion.text, seconds, truncated)

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Requests that arrive within wait, and are then begun together; where the engine rests, after its rest.

        Raises:
            PolicyDead: the engine has died.
        """
        async with self._updating:
            await self._updating.wait_for(lambda: not self._rests)
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
            if not any(bucket.checksum for bucket in buckets):
                await self._load(lambda: self._shelf.put(buckets), version, {})
                return
            update = await asyncio.to_thread(self._shelf.put, buckets)
            await self._verify(update, version)
            await self._load(lambda: update, version, digests(buckets))

    async def rest(self) -> None:
        """Give up the card's memory until `wake`; requests in flight wait, and are computed again from their tokens.

        The weights wait in the memory of the host (vLLM's level 1): an engine that wakes serves what it served.

        Raises:
            PolicyDead: the engine has died.
        """
        async with self._updating, self._alive("a rest"):
            if not self._rests:
                await self._engine.sleep(level=1, mode="keep")
                self._rests = True
                for limit in self._left:
                    self._suspend(limit)

    async def wake(self) -> None:
        """Serve again; what waits for a response has as much time left as it had before the rest. Raises PolicyDead."""
        async with self._updating, self._alive("the end of a rest"):
            if self._rests:
                await self._engine.wake_up()
                self._rests = False
                for limit, left in self._left.items():
                    if not limit.expired():
                        limit.reschedule(asyncio.get_running_loop().time() + left)
                self._updating.notify_all()

    def _suspend(self, limit: asyncio.Timeout) -> None:
        """A rest takes as long as the learner's turn, which says nothing of the engine."""
        if not limit.expired():
            self._left[limit] = limit.when() - asyncio.get_running_loop().time()
            limit.reschedule(None)

    async def join_group(self, init_info: dict[str, Any]) -> None:
        """Have the engine's workers join the group in which the learner broadcasts. Raises PolicyDead."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        async with self._updating, self._alive("the group of the broadcast"):
            await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init_info))

    async def receive_broadcast(self, update_info: dict[str, Any], version: int, sent: Mapping[str, str]) -> None:
        """As `update_weights`, for what the learner broadcasts; sent: digests of some of it. Raises PolicyDead."""
        async with self._updating, self._alive(f"weight version {version}"):
            await self._load(lambda: update_info, version, sent)

    async def load_from_card(self, weights: CardWeights) -> None:
        """As `update_weights`, for weights that lie in the memory of the engine's card."""
        update, version = weights.update_info(), weights.version
        async with self._updating, self._alive(f"weight version {version}"):
            if version <= self.version:
                return
            if weights.checksums:
                await self._verify(update, version)
            await self._load(lambda: update, version, weights.digests)

    async def _verify(self, update: dict[str, Any], version: int) -> None:
        for wrong in await self._engine.collective_rpc("verify_weights", args=(update,)):
            if wrong:
                raise PolicyError(f"{self.name}: weight version {version} is damaged: {wrong}")

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
                self._compare(await self._engine.collective_rpc("norm_digests"), sent)
            self.version = version
            await self._engine.resume_generation()

    @staticmethod
    def _compare(served: Sequence[Mapping[str, str]], sent: Mapping[str, str]) -> None:
        """Hold the digests of vLLM's parameters, by worker, against those of the weights that were sent."""
        compared = [(name, digest) for of_worker in served for name, digest in of_worker.items() if name in sent]
        if not compared:
            raise PolicyError(
                f"vLLM serves none of {', '.join(sorted(sent)[:3])} by that name, so its weights cannot be checked; "
                "learner.check_every=0 does without"
            )
        if wrong := sorted({name for name, digest in compared if digest != sent[name]}):
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
    async def _alive(self, awaited: str) -> AsyncIterator[asyncio.Timeout]:
        """Turn the engine's death, and waiting longer than the deadline, into PolicyDead; yields the deadline."""
        from vllm.v1.engine.exceptions import EngineDeadError

        deadline = self._cfg.actors.deadline
        if self._engine is None:
            raise PolicyDead(f"{self.name}: its vLLM engine has ended, it cannot give {awaited}")
        try:
            async with asyncio.timeout(deadline) as limit:
                watch = asyncio.create_task(self._end_with_engine(limit))
                try:
                    yield limit
                finally:
                    died = not watch.cancel()  # an engine that hangs is ended too, on the way here
        except EngineDeadError as error:
            raise self._died(awaited) from error
        except TimeoutError as error:
            if died:
                raise self._died(awaited) from error
            raise PolicyDead(
                f"{self.name}: its vLLM engine did not finish {awaited} in {deadline:g} s (actors.deadline)"
            ) from error

    def _died(self, awaited: str) -> PolicyDead:
        cause = self._last_words.cause()
        return PolicyDead(f"{self.name}: its vLLM engine died during {awaited}" + (f": {cause}" if cause else ""))

    def require_life(self) -> None:
        """Raises PolicyDead where an engine that has served has ended."""
        if self._served and self._dead:
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
    def _counted(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Within, a request is on its way, and its limit does not count rests."""
        self.running += 1
        self._left[limit] = 0.0
        if self._rests:
            self._suspend(limit)
        try:
            yield
        finally:
            self.running -= 1
            del self._left[limit]

    def close(self) -> None:
        """End the engine's processes, once they have started."""
        self._closed = True
        if self._engine:
            self._engine.shutdown()
            self._engine = None


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
