"""Semaphores for hot paths, with thousands of calls a second: a free place costs no future."""

import asyncio
from collections import deque

from parley.support.timer import Deadline, has_passed


class FastSemaphore(Deadline):
    """Admits `count` callers at once. The others wait in order of arrival, each until its deadline."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._free = count
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    def try_acquire(self) -> bool:
        """Take a place if one is free and no caller waits for it; return whether it was taken."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        return False

    async def wait(self, deadline: float) -> None:
        """Wait for a place. Raises `TimeoutError` when the event loop's time reaches `deadline`."""
        if self.try_acquire():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((deadline, turn))
        self._reschedule_earlier(deadline)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # the place came together with the cancellation
            raise

    def release(self) -> None:
        """Give a place back; the first waiting caller gets it."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _on_deadline(self) -> None:
        for deadline, turn in self._waiting:
            if turn.done():
                continue
            if has_passed(deadline):
                turn.set_exception(TimeoutError())
            else:
                self._reschedule_earlier(deadline)
        # Futures that are done leave at the front only; `release` skips the others.
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()


class KeyedQueues:
    """A semaphore of so many places for each key, for as long as somebody has joined its queue."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._queues: dict[str, tuple[FastSemaphore, int]] = {}

    def join(self, key: str) -> FastSemaphore:
        """Return the semaphore of a key; call `leave` afterwards."""
        semaphore, callers = self._queues.get(key) or (FastSemaphore(self._places), 0)
        self._queues[key] = semaphore, callers + 1
        return semaphore

    def leave(self, key: str) -> None:
        """Give the semaphore up."""
        semaphore, callers = self._queues[key]
        if callers > 1:
            self._queues[key] = semaphore, callers - 1
        else:
            del self._queues[key]
