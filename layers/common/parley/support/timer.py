"""A timer for what mostly does not come to pass: deadlines, heartbeats, the age of what is idle."""

import asyncio
import math

# A timer may ring so much early, by the resolution of the clock.
_EARLY_SECONDS = 0.002


def has_passed(when: float) -> bool:
    """Tell whether it is `when`, in the running event loop's time."""
    return when - asyncio.get_running_loop().time() <= _EARLY_SECONDS


class Deadline:
    """Keeps one `call_at` handle and re-arms it lazily: moving a deadline later costs an assignment.

    A handle for each token or statement would leave as many cancelled ones in the event loop. A subclass that
    overrides `_on_deadline` makes no cycle of references, which a callback would.
    """

    __slots__ = ("_deadline", "_rings", "_timer")

    def __init__(self) -> None:
        self._deadline = math.inf
        self._rings = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def _reschedule(self, when: float) -> None:
        """Have `_on_deadline` called when the event loop's time is `when`; `math.inf` is never."""
        self._deadline = when
        # uvloop's timers do not tell when they ring.
        if when < math.inf and (self._timer is None or self._rings > when):
            self._start()

    def _reschedule_earlier(self, when: float) -> None:
        """Have `_on_deadline` called by then at the latest."""
        if when < self._deadline:
            self._reschedule(when)

    def _on_deadline(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = self._deadline
        self._timer = asyncio.get_running_loop().call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._deadline == math.inf:
            return
        if has_passed(self._deadline):
            self._deadline = math.inf
            self._on_deadline()
        else:
            self._start()

    def _cancel_timer(self) -> None:
        self._deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
