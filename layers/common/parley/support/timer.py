"""A reusable timer for deadlines that rarely fire: timeouts, heartbeats, idle connections."""

import asyncio
import math

# Seconds that a timer may fire early, by the resolution of the clock.
_EARLY_SECONDS = 0.002


def has_passed(when: float) -> bool:
    """Tell whether the running event loop's time has reached `when`, within a timer's resolution."""
    return when - asyncio.get_running_loop().time() <= _EARLY_SECONDS


class Deadline:
    """Keeps one `call_at` handle and re-arms it lazily: moving a deadline later costs an assignment.

    A new handle for each token or statement would leave as many cancelled handles in the event loop. A
    subclass overrides `_on_deadline`, because a callback would make a cycle of references.
    """

    __slots__ = ("_deadline", "_fires_at", "_timer")

    def __init__(self) -> None:
        self._deadline = math.inf
        self._fires_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def _reschedule(self, when: float) -> None:
        """Call `_on_deadline` when the event loop's time is `when`; `math.inf` means never."""
        self._deadline = when
        # Our own note of when the handle fires: uvloop's handles do not tell.
        if when < math.inf and (self._timer is None or self._fires_at > when):
            self._start()

    def _reschedule_earlier(self, when: float) -> None:
        """Call `_on_deadline` by `when` at the latest."""
        if when < self._deadline:
            self._reschedule(when)

    def _on_deadline(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires_at = self._deadline
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
