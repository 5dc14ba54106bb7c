"""Waits with an end, for work and for places."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from parley.domain.errors import StoreUnavailable


async def or_unavailable(wait: Coroutine[Any, Any, None]) -> None:
    """Await `wait`. Raises `StoreUnavailable` for its `TimeoutError`."""
    try:
        await wait
    except TimeoutError as error:
        raise StoreUnavailable from error


async def done_by(work: "asyncio.Future[Any]", deadline: float) -> bool:
    """Wait until `work` is done or the event loop's time is `deadline`. Return whether `work` is done.

    `asyncio.wait` does the same for any number of futures, but takes several times as long.
    """
    if work.done():
        return True
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_at(deadline, wake)
    work.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        work.remove_done_callback(wake)
    return work.done()
