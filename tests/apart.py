"""Calls in a process of their own, for whole runs in one process (`tests.whole_run`).

What engines, clusters and servers of earlier tests leave in a process (threads, native state) would be changed under
their feet where a run sets the environment, and may change what is seen of it.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any


def process(begin: Callable[..., None] | None = None, *arguments: Any, count: int = 1) -> ProcessPoolExecutor:
    """New processes that first call `begin`, then do what is submitted, each one after the other."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begun, (begin, arguments))


def ask(its_own: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or raises, in that process; where that ends instead, how it did."""
    return result(its_own.submit(told, function, *arguments))


def told(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or raises; as text where the error cannot be pickled, or made again, which would hide it."""
    try:
        return function(*arguments)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(traceback.format_exc()) from None
        raise


def result(coming: Future) -> Any:
    """What was submitted returns, or raises; where its process ends instead, how it did."""
    children = multiprocessing.active_children()
    try:
        return coming.result()
    except BrokenProcessPool as error:
        ended = [child.exitcode for child in children if child.exitcode is not None]
        raise RuntimeError(f"the process ended, with exit code {ended}") from error


def _begun(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    faulthandler.enable()
    if begin:
        begin(*arguments)
