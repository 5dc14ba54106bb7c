"""Turns a run into the frames of one reader's stream, from the reader's cursor on, without I/O.

The stream's server is woken when there may be news, and takes the frames that are due.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable

from parley.domain.conversation import Reply
from parley.domain.events import Completed, Cursor, Source, StreamState
from parley.streaming import frames as sse
from parley.streaming.reader_counter import ReaderCounter
from parley.streaming.session_run import SessionRun
from parley.streaming.text_buffer import TextBuffer
from parley.support.timer import Deadline, has_passed
from parley.support.wakeup import Wakeup

# Seconds. A model that seems to think for longer was elected by a clock that differs from ours.
_LONGEST_THOUGHT = 3600.0
# Seconds that we believe a reader whose cursor is ahead of this process's copy.
_CATCH_UP = 1.0
# Seconds without a frame until the first heartbeat, which comes early: the response's head goes out with it.
_HELLO = 0.1


def at_end(reply: Reply, cursor: Cursor | None) -> bool:
    """Tell whether a reader with this cursor has the whole of an ended reply."""
    return cursor == Cursor(reply.epoch, len(reply.text))


class Reader(Deadline):
    """One reader's stream. `take` returns all frames that are due as one piece of bytes.

    `over` is True after the last frame was taken, and so is `whole`. `over` alone is True after the stream
    broke off without an end: at its limit, because its client left, or because it was let go. `is_let_go`
    tells of the last one.
    """

    __slots__ = (
        "_ahead_until", "_beat", "_buffer", "_counter", "_cursor", "_epoch", "_heartbeat", "_hinted",
        "_notified", "_opened", "_pace", "_position", "_release", "_resting", "_run", "_status",
        "_turns_sent", "_until", "_wake", "is_let_go", "over", "whole",
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
        counter: ReaderCounter | None = None,
        release: "Callable[[Reader], object] | None" = None,
    ) -> None:
        """`hinted`: the client sent a cursor, readable or not. `heartbeat` is in seconds. `pace` slows a
        cache hit to that many words a second, except for a client that returns with a cursor. `until`, in the
        event loop's time, is when the stream breaks off without an end, so that the client resumes elsewhere.
        `counter` counts the session's readers, and lets this one go for newer ones. `release` then has the
        stream break off when its process allows; None breaks it off at once.
        """
        super().__init__()
        self._run = run
        self._cursor = cursor
        self._hinted = hinted
        self._heartbeat = heartbeat
        self._pace = 0.0 if hinted else pace
        self._until = until
        self._counter = counter
        self._release = release
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
        self._turns_sent: int | None = None
        self.is_let_go = False
        self.over = False
        self.whole = False

    def begin(self, wake: Callable[[], object]) -> None:
        """Call `wake` from the event loop whenever there may be frames to take."""
        self._wake = wake
        self._run.listeners.add(self)
        if self._counter is not None:
            self._counter.enter(self._run, self)
        self._expect(min(self._heartbeat, _HELLO))
        if self._run.generation is not None or self._run.result is not None:
            self.notify()

    def notify(self) -> None:
        """Wake the stream's server, once until it takes."""
        if not self._notified and self._wake is not None:
            self._notified = True
            asyncio.get_running_loop().call_soon(self._wake)

    def leave(self) -> None:
        """End the stream, if it has not ended, because its client has left."""
        self.notify()  # `_end` drops the callback, and `frames` may still wait for it
        self._end()

    def let_go(self) -> None:
        """Have the stream break off without an end, because newer readers have its place."""
        if self._release is None:
            self.break_off()
        else:
            self._release(self)

    def break_off(self) -> None:
        """Break the stream off without an end at the next `take`, as at its limit."""
        self.is_let_go = True
        self._until = asyncio.get_running_loop().time()
        self.notify()

    def _end(self) -> None:
        self.over = True
        if self._counter is not None:
            self._counter.leave(self._run, self)
        self._cancel_timer()
        self._run.listeners.discard(self)
        if self._buffer is not None:
            self._buffer.listeners.discard(self)
            self._buffer = None
        self._wake = None

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's frames."""
        wakeup = Wakeup()
        self.begin(wakeup.notify)
        try:
            while not self.over:
                if piece := self.take():
                    yield piece
                elif not self.over:
                    await wakeup.wait()
        finally:
            self.leave()

    def take(self) -> bytes:
        """Return the frames that are due now; empty bytes if there are none."""
        self._notified = False
        if self.over or (self._resting and not self._over_limit()):
            return b""
        frames: list[bytes] = []
        run = self._run
        if self._opened or self._may_open():
            if not self._opened:
                self._opened = True
                frames = self._opening()
            frames += self._news()
            if run.result is not None and self._position >= self._length():
                frames.append(self._closing())
                self.whole = True
        if not frames and self._beat:
            frames.append(self._heartbeat_frame())
        self._beat = False
        if self.whole or self._over_limit():
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
        """Wake the server after `seconds` at the latest, with a heartbeat if there is nothing else."""
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
        """Return whether the start frame can be sent: is the cursor known to be valid, or known not to be?"""
        self._adopt()
        run, cursor = self._run, self._cursor
        if run.result is not None:
            return True
        if run.generation is None:
            return False
        # A follower's copy lags behind the writer's process, whose readers see more. A resumed cursor may
        # thus be ahead of this copy for a moment, which is no reason for a reset.
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
        self._turns_sent = self._buffer.turns_sent if self._buffer is not None else None
        frames = [
            sse.start_frame(
                Cursor(self._epoch, self._position),
                session_id=session.id,
                chat_id=session.chat_id,
                message_id=session.reply_id,
                model_id=session.model.id,
                source=run.source,
                left_out=run.left_out_of(self._turns_sent),
            )
        ]
        if self._hinted and not fits:
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "cursor"))
        if not self._length() and run.result is None:
            frames.append(sse.TYPING)
        return frames

    def _adopt(self) -> bool:
        """Turn to the run's current text. True means that its epoch differs from the one before."""
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
        # Adopt first: the length is the adopted text's. Another process may have ended the session first,
        # with less of this epoch's text than is shown here; the stored reply counts.
        if self._adopt() or self._position > self._length():
            self._position = 0
            self._status = None
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "restarted"))
        turns_sent = self._buffer.turns_sent if self._buffer is not None else None
        if turns_sent is not None and turns_sent != self._turns_sent:
            self._turns_sent = turns_sent
            left_out = self._run.left_out_of(turns_sent)
            if left_out is not None:
                frames.append(sse.shortened_frame(left_out))
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
            frames.append(sse.token_frames(self._epoch, self._position, text))
        return frames

    def _heartbeat_frame(self) -> bytes:
        """Return a heartbeat. Before the first text it tells how long the model has been thinking."""
        run = self._run
        buffer = self._buffer
        if not self._opened or run.result is not None or buffer is None or buffer.waits or self._length():
            return sse.HEARTBEAT
        # An epoch is when the log, or the database, elected its writer. Where its clock is too far from ours,
        # the time since this process opened the session counts.
        seen = time.monotonic() - run.opened
        elected = time.time() - self._epoch / 1000
        elapsed = max(seen, elected) if elected < _LONGEST_THOUGHT else seen
        return sse.thinking_frame(round(elapsed * 1000))

    def _closing(self) -> bytes:
        result = self._run.result
        assert result is not None
        end = result.reply.end
        if isinstance(end, Completed):
            return sse.done_frame(end, message_id=self._run.session.reply_id, saved=result.saved)
        return sse.error_frame(end, saved=result.saved)


_WORD = re.compile(r"\s*\S+\s?", re.ASCII)


def _first_word(text: str) -> str:
    match = _WORD.match(text)
    return match[0] if match else text
