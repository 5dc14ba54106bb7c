"""A generation's text in this process's memory, with the bells of those who read along."""

import time
from bisect import bisect_right

from parley.domain.events import End, StreamState
from parley.support.wakeup import Listeners

# Pieces up to so many code points grow with what comes: a token by itself would take ten times its size.
_PIECE = 512


class TextBuffer:
    """Grows at its end only. Positions count code points, as cursors do.

    `begun` is when text came first. `waits` says that nobody is asked at the moment, for the `status` that
    was told.
    """

    __slots__ = ("_starts", "begun", "end", "epoch", "length", "listeners", "pieces", "status", "waits")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pieces: list[str] = []
        self._starts: list[int] = []
        self.length = 0
        self.begun: float | None = None
        self.end: End | None = None
        self.status: StreamState | None = None
        self.waits = False
        self.listeners = Listeners()

    def append(self, text: str) -> None:
        """Add text and wake the readers."""
        if text:
            if self.begun is None:
                self.begun = time.monotonic()
            pieces = self.pieces
            if pieces and len(pieces[-1]) < _PIECE:
                pieces[-1] += text
            else:
                pieces.append(text)
                self._starts.append(self.length)
            self.length += len(text)
            self.listeners.notify()

    def tell(self, status: StreamState) -> None:
        """Tell the readers what goes on while there is no text."""
        self.status = status
        self.waits = True
        self.listeners.notify()

    def finish(self, end: End) -> None:
        """Add the end and wake the readers."""
        self.end = end
        self.listeners.notify()

    def after(self, position: int) -> str:
        """Return the text after the first `position` code points."""
        if position >= self.length:
            return ""
        index = bisect_right(self._starts, position) - 1
        first = self.pieces[index]
        offset = position - self._starts[index]
        if offset:
            first = first[offset:]
        if index == len(self.pieces) - 1:
            return first
        return first + "".join(self.pieces[index + 1 :])

    def text(self) -> str:
        """Return all of it."""
        return "".join(self.pieces)
