"""A wake-up that costs no task: one waiter, many ringers."""

import asyncio
import math
from collections.abc import Iterator
from typing import Protocol

from parley.support.timer import Deadline


class Listener(Protocol):
    """Whoever wants to be told of news, without being told which."""

    def notify(self) -> None:
        """Tell of news."""
        ...


class Wakeup(Deadline):
    """One waiter sleeps on it; whoever has news rings it. A ring before the wait is not lost."""

    __slots__ = ("_future", "_notified")

    def __init__(self) -> None:
        super().__init__()
        self._future: asyncio.Future[None] | None = None
        self._notified = False

    def notify(self) -> None:
        """Wake the waiter, now or at its next wait."""
        self._notified = True
        self._on_deadline()

    async def wait(self, timeout: float | None = None) -> bool:
        """Sleep until rung; False when `timeout` seconds passed first."""
        if not self._notified:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            self._reschedule(math.inf if timeout is None else loop.time() + timeout)
            try:
                await self._future
            finally:
                self._future = None
        notified, self._notified = self._notified, False
        return notified

    def _on_deadline(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Listeners:
    """Those of everybody who wants news of one thing: mostly one or two, so they take little room."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: tuple[Listener, ...] = ()

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, wakeup: Listener) -> None:
        """Ring this one too."""
        if wakeup not in self._all:
            self._all = (*self._all, wakeup)

    def discard(self, wakeup: Listener) -> None:
        """Ring this one no more."""
        if wakeup in self._all:
            self._all = tuple(other for other in self._all if other is not wakeup)

    def notify(self) -> None:
        """Ring them all."""
        for wakeup in self._all:
            wakeup.notify()
