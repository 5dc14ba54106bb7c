"""A wake-up that costs no task: one waiter, many ringers."""

import asyncio
from collections.abc import Iterable


class Bell:
    """One waiter sleeps on it; whoever has news rings it. A ring before the wait is not lost."""

    __slots__ = ("_future", "_rung")

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None
        self._rung = False

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
            handle = None if timeout is None else loop.call_later(timeout, _wake, self._future)
            try:
                await self._future
            finally:
                self._future = None
                if handle is not None:
                    handle.cancel()
        rung, self._rung = self._rung, False
        return rung


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def ring_all(bells: Iterable[Bell]) -> None:
    """Ring every bell."""
    for bell in bells:
        bell.ring()
