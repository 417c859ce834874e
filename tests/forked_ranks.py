"""Learner ranks in processes that are forked from one which has loaded DeepSpeed: no rank loads it again.

For tests of what several ranks compute; how Ray holds them is tested with Ray's own (test_learner.py). Invariant: what
a call gives or raises is what it gives or raises in Ray.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.runtime.placement import Anywhere
from learner.ranks import group, trainer

_hosted: Any
"""Of a rank's process, the rank."""


class Put:
    """A value that a rank gives out by reference, which travels as it is."""

    def __init__(self, value: Any):
        self.value = value


class Forked:
    """Stands for the cluster, as `actors.runtime.remote.InRay`."""

    def __init__(self, context: BaseContext) -> None:
        self._context = context

    def spawn(self, kind: type, options: Mapping[str, Any], *args: Any) -> Handle:
        environment = {"OMP_NUM_THREADS": "1", **options["runtime_env"]["env_vars"]}
        started = futures.ProcessPoolExecutor(1, self._context, _begin, (environment, kind, args))
        return Handle(started)

    def together(self, count: int, cpus: float, gpus: float, label: str) -> Anywhere:
        return Anywhere(label)

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        if isinstance(ref, list):
            return [self.get(one, timeout) for one in ref]
        if isinstance(ref, Put):
            return ref.value
        try:
            failed, value = ref.result(timeout)
        except TimeoutError as error:
            raise GetTimeoutError(f"no answer in {timeout} s") from error
        except (BrokenProcessPool, futures.CancelledError) as error:
            raise RayActorError(error_msg="the process of a rank has ended") from error
        if failed:
            name, trace, cause = value
            raise RayTaskError(name, trace, cause).as_instanceof_cause()
        return value

    def wait(self, refs: Sequence[Any], num_returns: int = 1, timeout: float | None = None) -> tuple[list, list]:
        when = futures.FIRST_COMPLETED if num_returns == 1 else futures.ALL_COMPLETED
        ended = futures.wait(refs, timeout, when).done
        done = [ref for ref in refs if ref in ended][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def kill(self, handle: Handle) -> None:
        handle.kill()


class Handle:
    def __init__(self, process: futures.ProcessPoolExecutor):
        self._process = process

    def __getattr__(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *args: self._asked(method, args))

    def _asked(self, method: str, args: Sequence[Any]) -> futures.Future:
        try:
            return self._process.submit(_answer, method, args)
        except RuntimeError as error:  # it has ended
            failed: futures.Future = futures.Future()
            failed.set_exception(BrokenProcessPool(str(error)))
            return failed

    def kill(self) -> None:
        for process in list((self._process._processes or {}).values()):
            process.kill()
        self._process.shutdown(wait=True, cancel_futures=True)


def _begin(environment: Mapping[str, str], kind: type, args: Sequence[Any]) -> None:
    global _hosted
    os.environ.update(environment)
    trainer.place = lambda mode: SimpleNamespace(put=Put)
    _hosted = kind(*args)


def _answer(method: str, args: Sequence[Any]) -> tuple[bool, Any]:
    """Whether it failed, and what it gave or raised."""
    try:
        return False, getattr(_hosted, method)(*args)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return True, (method, traceback.format_exc(), error)


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """Within, learners of several ranks have them so."""
    in_ray, context = group.place, multiprocessing.get_context("forkserver")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")  # which DeepSpeed asks for when it is loaded
        context.set_forkserver_preload([trainer.__name__, __name__])
        forkserver.ensure_running()
        patch.setattr(group, "place", lambda mode: in_ray(mode) if mode == "serial" else Forked(context))
        yield
