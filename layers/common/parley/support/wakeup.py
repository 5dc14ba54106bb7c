"""Wakes one waiter from many sources, without a task."""

import asyncio
import math
from collections.abc import Iterator
from typing import Protocol

from parley.support.timer import Deadline


class Listener(Protocol):
    """An object that wants to be notified of news, without being told the news."""

    def notify(self) -> None:
        """Notify the listener."""
        ...


class Wakeup(Deadline):
    """A wake-up for one waiter, like `asyncio.Event` with a timeout.

    A `notify()` before `wait()` is not lost.
    """

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
        """Wait for `notify()`; return False if `timeout` seconds passed first. None waits for ever."""
        if not self._notified:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            self._reschedule(math.inf if timeout is None else loop.time() + timeout)
            try:
                await self._future
            finally:
                # The timer stays armed: the next wait moves it, and needs no new handle.
                self._future = None
        notified, self._notified = self._notified, False
        return notified

    def _on_deadline(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class Listeners:
    """The listeners of one source, in a tuple: there are usually one or two, and a tuple is small."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: tuple[Listener, ...] = ()

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, listener: Listener) -> None:
        """Add a listener, once."""
        if listener not in self._all:
            self._all = (*self._all, listener)

    def discard(self, listener: Listener) -> None:
        """Remove a listener, if it is there."""
        if listener in self._all:
            self._all = tuple(other for other in self._all if other is not listener)

    def notify(self) -> None:
        """Notify every listener."""
        for listener in self._all:
            listener.notify()
