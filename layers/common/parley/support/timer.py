"""A timer for what mostly does not come to pass: deadlines, heartbeats, the age of what is idle."""

import asyncio
import math

# A timer may ring so much early, by the resolution of the clock.
_EARLY_SECONDS = 0.002


def has_come(when: float) -> bool:
    """Tell whether it is `when`, in the running event loop's time."""
    return when - asyncio.get_running_loop().time() <= _EARLY_SECONDS


class Timed:
    """Has one timer, which outlives what it was set for and serves the next: to set `_due` is to move it.

    A timer for each token or statement would leave as many cancelled ones in the event loop. To inherit
    it makes no cycle of references, which an object with a callback would.
    """

    __slots__ = ("_due", "_rings", "_timer")

    def __init__(self) -> None:
        self._due = math.inf
        self._rings = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def _set_due(self, when: float) -> None:
        """Have `_on_due` called when the event loop's time is `when`; `math.inf` is never."""
        self._due = when
        # uvloop's timers do not tell when they ring.
        if when < math.inf and (self._timer is None or self._rings > when):
            self._start()

    def _hasten(self, when: float) -> None:
        """Have `_on_due` called by then at the latest."""
        if when < self._due:
            self._set_due(when)

    def _on_due(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._due
        self._timer = asyncio.get_running_loop().call_at(self._due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._due == math.inf:
            return
        if has_come(self._due):
            self._due = math.inf
            self._on_due()
        else:
            self._start()

    def _cancel_timer(self) -> None:
        self._due = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
