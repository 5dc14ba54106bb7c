"""A transaction's turn among those that wait for the same lock."""

from parley.postgres.waits import or_unavailable
from parley.support.semaphore import KeyedQueues


class Turn:
    """A caller's place in a queue, which its work keeps until it has ended."""

    __slots__ = ("_has_it", "_queue", "_queues", "_semaphore", "left_behind")

    def __init__(self, queues: KeyedQueues, queue: str) -> None:
        self._queues = queues
        self._queue = queue
        self._semaphore = queues.join(queue)
        self._has_it = False
        self.left_behind = False

    async def begin(self, deadline: float) -> None:
        """Wait for it. Raises `StoreUnavailable` at `deadline`, in the event loop's time."""
        if not self._semaphore.try_acquire():
            await or_unavailable(self._semaphore.wait(deadline))
        self._has_it = True

    def end(self) -> None:
        """Leave the queue; the next caller gets the place."""
        if self._has_it:
            self._semaphore.release()
        self._queues.leave(self._queue)
