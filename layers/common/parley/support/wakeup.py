"""A wake-up that costs no task: one waiter, many ringers."""

import asyncio
import math
from collections.abc import Iterator
from typing import Protocol

from parley.support.timer import Timed


class Ringable(Protocol):
    """Whoever wants to be told of news, without being told which."""

    def ring(self) -> None:
        """Tell of news."""
        ...


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


class Bells:
    """Those of everybody who wants news of one thing: mostly one or two, so they take little room."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: tuple[Ringable, ...] = ()

    def __iter__(self) -> Iterator[Ringable]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, bell: Ringable) -> None:
        """Ring this one too."""
        if bell not in self._all:
            self._all = (*self._all, bell)

    def discard(self, bell: Ringable) -> None:
        """Ring this one no more."""
        if bell in self._all:
            self._all = tuple(other for other in self._all if other is not bell)

    def ring(self) -> None:
        """Ring them all."""
        for bell in self._all:
            bell.ring()
