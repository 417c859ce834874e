"""Work beside the event loop that an interruption does not wait for.

Invariant: nothing here outlives the process, which ends without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def beside(function: Callable[..., T], *arguments: Any) -> T:
    """As `asyncio.to_thread`, whose threads `asyncio.run` waits for at the end: an experiment may take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            told = (future.set_result, function(*arguments))
        except BaseException as error:
            told = (future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(tell, *told)

    threading.Thread(target=run, daemon=True).start()
    return await future
