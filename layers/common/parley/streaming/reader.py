"""Turns a run into the frames of one reader's stream, from the reader's cursor on.

It does no I/O: whoever serves the stream is woken when there may be news, and takes what is due.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable

from parley.domain.conversation import Reply
from parley.domain.events import Completed, Cursor, Source, StreamState
from parley.streaming import frames as sse
from parley.streaming.session_run import SessionRun
from parley.streaming.text_buffer import TextBuffer
from parley.support.timer import Deadline, has_passed
from parley.support.wakeup import Wakeup

# A model that seems to have thought for longer, in seconds, was elected by another clock.
_LONGEST_THOUGHT = 3600.0
# How long a reader that seems to be ahead of this process's copy is believed.
_CATCH_UP = 1.0
# After so long without a frame there is a heartbeat, early: the response's head goes out with it.
_HELLO = 0.1


def at_end(reply: Reply, cursor: Cursor | None) -> bool:
    """Tell whether a reader with this cursor has all of an ended reply."""
    return cursor == Cursor(reply.epoch, len(reply.text))


class Reader(Deadline):
    """One stream. Everything that is due at a time comes as one piece of bytes.

    `over` says that nothing more will come: the last frame was taken, or the stream breaks off without
    one, at its limit or because its client has left.
    """

    __slots__ = (
        "_ahead_until",
        "_beat",
        "_buffer",
        "_cursor",
        "_epoch",
        "_heartbeat",
        "_hinted",
        "_notified",
        "_opened",
        "_pace",
        "_position",
        "_resting",
        "_run",
        "_status",
        "_until",
        "_wake",
        "over",
    )  # fmt: skip

    def __init__(
        self,
        run: SessionRun,
        cursor: Cursor | None,
        *,
        hinted: bool,
        heartbeat: float,
        pace: float = 0.0,
        until: float | None = None,
    ) -> None:
        """`hinted` says that the client sent a cursor, readable or not; `heartbeat` is in seconds; `pace`
        slows a cache hit to so many words a second, but for who comes back; `until`, in the event loop's
        time, is when the stream breaks off without an end, so that the client resumes elsewhere."""
        super().__init__()
        self._run = run
        self._cursor = cursor
        self._hinted = hinted
        self._heartbeat = heartbeat
        self._pace = 0.0 if hinted else pace
        self._until = until
        self._wake: Callable[[], object] | None = None
        self._notified = False
        self._beat = False
        self._resting = False
        self._opened = False
        self._ahead_until: float | None = None
        self._buffer: TextBuffer | None = None
        self._epoch = 0
        self._position = 0
        self._status: StreamState | None = None
        self.over = False

    def begin(self, wake: Callable[[], object]) -> None:
        """Have `wake` called, from the event loop, whenever there may be something to take."""
        self._wake = wake
        self._run.listeners.add(self)
        self._expect(min(self._heartbeat, _HELLO))
        if self._run.generation is not None or self._run.result is not None:
            self.notify()

    def notify(self) -> None:
        """Have the stream's server woken, once until it takes."""
        if not self._notified and self._wake is not None:
            self._notified = True
            asyncio.get_running_loop().call_soon(self._wake)

    def leave(self) -> None:
        """End the stream, if it has not ended: nobody is there any more."""
        self.notify()  # whoever waits for what comes next
        self._end()

    def _end(self) -> None:
        self.over = True
        self._cancel_timer()
        self._run.listeners.discard(self)
        if self._buffer is not None:
            self._buffer.listeners.discard(self)
            self._buffer = None
        self._wake = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream."""
        wakeup = Wakeup()
        self.begin(wakeup.notify)
        try:
            while not self.over:
                if piece := self.take():
                    yield piece
                else:
                    await wakeup.wait()
        finally:
            self.leave()

    def take(self) -> bytes:
        """Return what is due now; nothing, if nothing is."""
        self._notified = False
        if self.over or (self._resting and not self._over_limit()):
            return b""
        frames: list[bytes] = []
        ended = False
        run = self._run
        if self._opened or self._may_open():
            if not self._opened:
                self._opened = True
                frames = self._opening()
            frames += self._news()
            if run.result is not None and self._position >= self._length():
                frames.append(self._closing())
                ended = True
        if not frames and self._beat:
            frames.append(self._heartbeat_frame())
        self._beat = False
        if ended or self._over_limit():
            self._end()
        elif self._slow and self._position < self._length():
            self._resting = True
            self._expect(1 / self._pace)
        elif frames:
            self._expect(self._heartbeat)
        return b"".join(frames)

    def _over_limit(self) -> bool:
        return self._until is not None and has_passed(self._until)

    def _expect(self, seconds: float) -> None:
        """Have something to take in so many seconds, whether anything happens by then or not."""
        due = asyncio.get_running_loop().time() + seconds
        if self._until is not None:
            due = min(due, self._until)
        if self._ahead_until is not None and not self._opened:
            due = min(due, self._ahead_until)
        self._reschedule(due)

    def _on_deadline(self) -> None:
        self._beat = True
        self._resting = False
        self.notify()

    @property
    def _slow(self) -> bool:
        return self._pace > 0 and self._run.source is Source.CACHE

    def _may_open(self) -> bool:
        """Tell whether it is known where the reader stands.

        One that seems to be ahead of this process's copy is believed for a moment: another process feeds
        the copy, and the readers of that one see more.
        """
        self._adopt()
        run, cursor = self._run, self._cursor
        if run.result is not None:
            return True
        if run.generation is None:
            return False
        ahead = cursor is not None and cursor.epoch == self._epoch and cursor.position > self._length()
        if run.generation.writing or not ahead:
            return True
        if self._ahead_until is None:
            self._ahead_until = asyncio.get_running_loop().time() + _CATCH_UP
            self._reschedule_earlier(self._ahead_until)
        return has_passed(self._ahead_until)

    def _opening(self) -> list[bytes]:
        run, cursor = self._run, self._cursor
        fits = cursor is not None and cursor.epoch == self._epoch and cursor.position <= self._length()
        if fits and cursor is not None:
            self._position = cursor.position
        session = run.session
        frames = [
            sse.start_frame(
                Cursor(self._epoch, self._position),
                session_id=session.id,
                chat_id=session.chat_id,
                message_id=session.reply_id,
                model_id=session.model.id,
                source=run.source,
            )
        ]
        if self._hinted and not fits:
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "cursor"))
        if not self._length() and run.result is None:
            frames.append(sse.TYPING)
        return frames

    def _adopt(self) -> bool:
        """Turn to the run's present text; True when it is of another epoch than before."""
        run = self._run
        buffer = run.generation.buffer if run.generation else None
        if buffer is not self._buffer:
            if self._buffer is not None:
                self._buffer.listeners.discard(self)
            if buffer is not None:
                buffer.listeners.add(self)
            self._buffer = buffer
        before = self._epoch
        if run.result is not None:
            self._epoch = run.result.reply.epoch
        elif buffer is not None:
            self._epoch = buffer.epoch
        return self._epoch != before

    def _length(self) -> int:
        run = self._run
        if run.result is not None:
            return len(run.result.reply.text)
        length = self._buffer.length if self._buffer is not None else 0
        return length if run.limit is None else min(length, run.limit)

    def _after(self, position: int) -> str:
        if self._run.result is not None:
            return self._run.result.reply.text[position:]
        text = self._buffer.after(position) if self._buffer is not None else ""
        return text[: self._length() - position]

    def _news(self) -> list[bytes]:
        frames: list[bytes] = []
        if self._adopt() or self._position > self._length():
            self._position = 0
            self._status = None
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "restarted"))
        status = self._buffer.status if self._buffer is not None else None
        if status is not self._status and self._run.result is None and not self._length():
            self._status = status
            if status is not None:
                frames.append(sse.status_frame(status))
        text = self._after(self._position) if self._position < self._length() else ""
        if self._slow:
            text = _first_word(text)
        if text:
            self._position += len(text)
            frames.append(sse.token_frame(self._epoch, self._position, text))
        return frames

    def _heartbeat_frame(self) -> bytes:
        """Return a sign of life: since when the model has been at it, as long as there is no text."""
        run = self._run
        buffer = self._buffer
        if not self._opened or run.result is not None or buffer is None or buffer.waits or self._length():
            return sse.HEARTBEAT
        # An epoch is the time at which the log, or the database, elected its writer. Where that clock can't
        # be ours, what this process has seen of the session counts.
        seen = time.monotonic() - run.opened
        elected = time.time() - self._epoch / 1000
        elapsed = max(seen, elected) if elected < _LONGEST_THOUGHT else seen
        return sse.thinking_frame(round(elapsed * 1000))

    def _closing(self) -> bytes:
        answer = self._run.result
        assert answer is not None
        end = answer.reply.end
        if isinstance(end, Completed):
            return sse.done_frame(end, message_id=self._run.session.reply_id, saved=answer.saved)
        return sse.error_frame(end, saved=answer.saved)


_WORD = re.compile(r"\s*\S+\s?", re.ASCII)


def _first_word(text: str) -> str:
    match = _WORD.match(text)
    return match[0] if match else text
