"""Holds a generation's text in this process's memory and notifies its readers."""

import time
from bisect import bisect_right

from parley.domain.events import End, StreamState
from parley.support.wakeup import Listeners

# A piece grows up to this many code points. One string for each token would take ten times the token's size.
_PIECE = 512


class TextBuffer:
    """Text that grows at its end only. Positions count code points, as cursors do.

    - `epoch`: the epoch that produces the text.
    - `pieces`, `length`: the text as a list of pieces, and its code points.
    - `begun`: monotonic time of the first text, in seconds; None before it.
    - `end`: the reply's end; None until then.
    - `status`: the latest state told while there was no text.
    - `turns_sent`: how many of the newest turns were sent after the provider had refused them all; None if it
      did not. Each session that shares the text tells by its own chat what that leaves out.
    - `waits`: True after `tell` until the model is asked again; no model is being asked then.
    - `listeners`: notified of text, status and end.
    """

    __slots__ = (
        "_starts",
        "begun",
        "end",
        "epoch",
        "length",
        "listeners",
        "pieces",
        "status",
        "turns_sent",
        "waits",
    )

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.pieces: list[str] = []
        self._starts: list[int] = []
        self.length = 0
        self.begun: float | None = None
        self.end: End | None = None
        self.status: StreamState | None = None
        self.turns_sent: int | None = None
        self.waits = False
        self.listeners = Listeners()

    def append(self, text: str) -> None:
        """Append text and notify the listeners."""
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
        """Set the status that readers show while there is no text, and notify the listeners."""
        self.status = status
        self.waits = True
        self.listeners.notify()

    def shorten(self, turns_sent: int) -> None:
        """Note how many of the newest turns are sent, and notify the listeners."""
        self.turns_sent = turns_sent
        self.listeners.notify()

    def finish(self, end: End) -> None:
        """Set the end and notify the listeners."""
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
        """Return the whole text."""
        return "".join(self.pieces)
