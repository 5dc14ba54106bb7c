"""A wake-up that costs no task: one waiter, many ringers."""

import asyncio
import math
from collections.abc import Iterable

from parley.timed import Timed


class Bell(Timed):
    """One waiter sleeps on it; whoever has news rings it. A ring before the wait is not lost."""

    __slots__ = ("_future", "_rung")

    def __init__(self) -> None:
        super().__init__()
        self._future: asyncio.Future[None] | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._rung = True
        self._on_due()

    async def wait(self, timeout: float | None = None) -> bool:
        """Sleep until rung; False when `timeout` seconds passed first."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            self._set_due(math.inf if timeout is None else loop.time() + timeout)
            try:
                await self._future
            finally:
                self._future = None
        rung, self._rung = self._rung, False
        return rung

    def _on_due(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


def ring_all(bells: Iterable[Bell]) -> None:
    """Ring every bell."""
    for bell in bells:
        bell.ring()
