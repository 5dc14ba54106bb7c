"""A wake-up that costs no task: one waiter, many ringers."""

import asyncio
import math
from collections.abc import Iterable

# A timer may ring so much early, by the resolution of the clock.
_EARLY_SECONDS = 0.002


class Bell:
    """One waiter sleeps on it; whoever has news rings it. A ring before the wait is not lost.

    Its timer outlives a wait that ended by a ring, and serves the next: a waiter that is rung at every
    token would otherwise leave a cancelled timer in the event loop for each.
    """

    __slots__ = ("_future", "_rung", "_timer", "_until")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._rung = False
        self._timer: asyncio.TimerHandle | None = None
        self._until = math.inf

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._rung = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout: float | None = None) -> bool:
        """Sleep until rung; False when `timeout` seconds passed first."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            self._until = math.inf
            if timeout is not None:
                self._until = loop.time() + timeout
                if self._timer is None or self._timer.when() > self._until:
                    self._set(loop)
            try:
                await self._future
            finally:
                self._future = None
        rung, self._rung = self._rung, False
        return rung

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._until, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._future is None or self._future.done() or self._until == math.inf:
            return
        if self._until - loop.time() > _EARLY_SECONDS:
            self._set(loop)
        else:
            self._future.set_result(None)


def ring_all(bells: Iterable[Bell]) -> None:
    """Ring every bell."""
    for bell in bells:
        bell.ring()
