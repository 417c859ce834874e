"""Where actors, stream and learner ranks live: as Ray actors, or (`run.mode=serial`) all in this process.

The rest of the code sees handles whose methods have `.remote(...)`, and references to what they will give, either way.
In the serial mode these are tasks of one event loop, which runs while the caller waits for one of them: nothing happens
behind a debugger's back, but in the engine's own process, the sandboxes and the threads that wait for them. (Ray's
`local_mode` has no asynchronous actors.) Invariants: failures are Ray's in both modes; what was `put` is no longer
shared with who put it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import pickle
import signal
import time
import traceback
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.runtime.placement import Anywhere, Together

KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Environment of processes with large tensors on a CPU: glibc otherwise gives each back to the kernel, and faults the
pages of the next in again. (It takes no threshold of mmap above 32 MiB, so mmap is switched off.)"""


DEATHS = (RayActorError, OutOfMemoryError)
"""How Ray tells that the process of an actor has ended; its memory monitor's kill has an error of its own."""


@functools.cache
def place(mode: str) -> InRay | InProcess:
    """The one of `run.mode`."""
    return InProcess() if mode == "serial" else InRay()


class InRay:
    """The cluster."""

    def spawn(self, kind: type, options: Mapping[str, Any], *args: Any) -> Any:
        """A handle on a new `kind(*args)`; options: of `ray.remote`."""
        return ray.remote(kind).options(**options).remote(*args)

    def here(self) -> dict[str, Any]:
        """Options of an actor that lives on the node of who starts it: it is lost only where that is lost too."""
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)}

    def together(self, count: int, cpus: float, gpus: float, label: str) -> Anywhere:
        """Reserved places for so many processes near each other; cpus, gpus: of each."""
        return Together(count, cpus, gpus, label) if cpus or gpus else Anywhere(label)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        """What a reference, or each of a list, gives. Raises GetTimeoutError, RayTaskError, one of `DEATHS`."""
        return ray.get(ref, timeout=timeout)

    def wait(self, refs: Sequence[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list, list]:
        """(those that are done, the others), once `num_returns` are done or the seconds are over."""
        return ray.wait(list(refs), num_returns=num_returns, timeout=timeout)

    def put(self, value: Any) -> Any:
        """A reference to a copy of the value."""
        return ray.put(value)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def kill(self, handle: Any) -> None:
        ray.kill(handle)

    def kill_process(self, node: str, pid: int) -> None:
        """For a process that does not hear `kill`, because it is stopped."""
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ray.remote(num_cpus=0)(_kill).options(scheduling_strategy=there).remote(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class InProcess:
    """This process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def spawn(self, kind: type, options: Mapping[str, Any], *args: Any) -> Handle:
        return Handle(kind(*args), self._loop)

    def here(self) -> dict[str, Any]:
        return {}

    def together(self, count: int, cpus: float, gpus: float, label: str) -> Anywhere:
        return Anywhere(label)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        refs = ref if isinstance(ref, list) else [ref]
        if self.wait(refs, len(refs), timeout)[1]:
            raise GetTimeoutError(f"no answer in {timeout:g} s")
        results = [one.future.result() for one in refs]
        return results if isinstance(ref, list) else results[0]

    def wait(self, refs: Sequence[Reference], num_returns: int = 1, timeout: float | None = None) -> tuple[list, list]:
        end = None if timeout is None else time.monotonic() + timeout
        self._loop.run_until_complete(asyncio.sleep(0))
        while sum(ref.future.done() for ref in refs) < num_returns:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                break
            pending = [ref.future for ref in refs if not ref.future.done()]
            self._loop.run_until_complete(asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED))
        done = [ref for ref in refs if ref.future.done()][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def put(self, value: Any) -> Reference:
        return Reference(_done(self._loop, pickle.loads(pickle.dumps(value, protocol=5))))

    def sleep(self, seconds: float) -> None:
        self._loop.run_until_complete(asyncio.sleep(seconds))

    def kill(self, handle: Handle) -> None:
        """Its calls end where they stand."""
        for task in handle.running:
            task.cancel()

    def kill_process(self, node: str, pid: int) -> None:
        """There is only this process."""


class Reference:
    """What a call will give; can be awaited on the loop, as Ray's."""

    def __init__(self, future: asyncio.Future):
        self.future = future

    def __await__(self) -> Generator[Any, None, Any]:
        return self.future.__await__()


class Handle:
    """An object of this process, called as a Ray actor: coroutines run on the loop, the rest at once."""

    def __init__(self, of: Any, loop: asyncio.AbstractEventLoop):
        self._of, self._loop = of, loop
        self.running: set[asyncio.Task] = set()

    def __getattr__(self, name: str) -> Method:
        return Method(self, getattr(self._of, name), self._loop)


class Method:
    def __init__(self, handle: Handle, function: Any, loop: asyncio.AbstractEventLoop):
        self._handle, self._function, self._loop = handle, function, loop

    def remote(self, *args: Any) -> Reference:
        if inspect.iscoroutinefunction(self._function):
            task = self._loop.create_task(_as_in_ray(self._function, args))
            self._handle.running.add(task)
            task.add_done_callback(self._handle.running.discard)
            return Reference(task)
        try:
            return Reference(_done(self._loop, self._function(*args)))
        except Exception as error:
            failed = self._loop.create_future()
            failed.set_exception(_failure(self._function, error))
            return Reference(failed)


async def _as_in_ray(function: Any, args: Sequence[Any]) -> Any:
    args = [await one if isinstance(one, Reference) else one for one in args]
    try:
        return await function(*args)
    except Exception as error:
        raise _failure(function, error) from error


def _failure(function: Any, error: Exception) -> RayTaskError:
    """What Ray raises where the result is asked for; of the error's own class as well."""
    return RayTaskError(function.__qualname__, traceback.format_exc(), error).as_instanceof_cause()


def _done(loop: asyncio.AbstractEventLoop, value: Any) -> asyncio.Future:
    future = loop.create_future()
    future.set_result(value)
    return future
