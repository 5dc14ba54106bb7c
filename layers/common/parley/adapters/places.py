"""A semaphore for what is asked thousands of times a second: nobody who finds a place pays for waiting."""

import asyncio
import math
from collections import deque


class Places:
    """So many may be inside; the others wait, first come, first served, each until its deadline.

    One timer serves all who wait: deadlines are expected to come in the order of the calls, and one that
    is out of order may be told late.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> bool:
        """Take a place if there is one, and nobody waits for it."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        return False

    async def wait(self, deadline: float) -> None:
        """Take a place; raises `TimeoutError` when the event loop's time is `deadline`."""
        if self.take():
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append((deadline, turn))
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._expire)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give()  # it came too late for its taker
            raise

    def give(self) -> None:
        """Give a place back."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        first = math.inf
        for deadline, turn in self._waiting:
            if turn.done():
                continue
            # A timer may ring a little early, by the resolution of the clock.
            if deadline - loop.time() < 0.002:
                turn.set_exception(TimeoutError())
            else:
                first = min(first, deadline)
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if first < math.inf:
            self._timer = loop.call_at(first, self._expire)
