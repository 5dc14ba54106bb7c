"""Turns a run into the frames of one reader's stream, from the reader's cursor on."""

import asyncio
import re
from collections.abc import AsyncGenerator

from parley import sse
from parley.bell import Bell
from parley.conversation import Reply
from parley.events import Completed, Cursor, Source, StreamState
from parley.run import Run
from parley.tape import Tape

# How long a reader that seems to be ahead of this process's copy is believed.
_CATCH_UP = 1.0


def at_end(reply: Reply, cursor: Cursor | None) -> bool:
    """Tell whether a reader with this cursor has all of an ended reply."""
    return cursor == Cursor(reply.epoch, len(reply.text))


class Reader:
    """One stream. Everything that is due at a time comes as one piece of bytes."""

    def __init__(self, run: Run, *, heartbeat: float, pace: float = 0.0, until: float | None = None) -> None:
        """`pace` slows a cache hit to so many words a second; `until`, in the event loop's time, is when
        the stream breaks off without an end, so that the client resumes elsewhere."""
        self._run = run
        self._heartbeat = heartbeat
        self._pace = pace
        self._until = until
        self._bell = Bell()
        self._tape: Tape | None = None
        self._epoch = 0
        self._position = 0
        self._status: StreamState | None = None
        self._left = False
        self.ended = False

    def leave(self) -> None:
        """End the stream: nobody is there any more."""
        self._left = True
        self._bell.ring()

    async def frames(self, cursor: Cursor | None, *, hinted: bool) -> AsyncGenerator[bytes, None]:
        """Yield the stream. `hinted` says that the client sent a cursor, readable or not."""
        run = self._run
        run.bells.add(self._bell)
        try:
            while run.generation is None and run.answer is None:
                if not await self._wait():
                    yield sse.HEARTBEAT
                if self._over():
                    return
            opening = await self._opening(cursor, hinted=hinted)
            while True:
                # What is there already goes out with the first frame.
                news = opening + self._news()
                opening = []
                if news:
                    yield b"".join(news)
                if run.answer is not None:
                    if self._position >= self._length():
                        self.ended = True
                        yield self._closing()
                        return
                elif not news and not await self._wait() and not self._over():
                    yield sse.HEARTBEAT
                if self._over():
                    return
                if self._slow and self._position < self._length():
                    await asyncio.sleep(1 / self._pace)
        finally:
            run.bells.discard(self._bell)
            if self._tape is not None:
                self._tape.bells.discard(self._bell)

    def _over(self) -> bool:
        return self._left or (self._until is not None and asyncio.get_running_loop().time() >= self._until)

    async def _wait(self) -> bool:
        timeout = self._heartbeat
        if self._until is not None:
            timeout = max(0.0, min(timeout, self._until - asyncio.get_running_loop().time()))
        return await self._bell.wait(timeout)

    @property
    def _slow(self) -> bool:
        return self._pace > 0 and self._run.source is Source.CACHE

    async def _opening(self, cursor: Cursor | None, *, hinted: bool) -> list[bytes]:
        run = self._run
        self._adopt()
        if cursor is not None and cursor.epoch == self._epoch and cursor.position > self._length():
            await self._catch_up(cursor)
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
        if hinted and not fits:
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "cursor"))
        if not self._length() and run.answer is None:
            frames.append(sse.TYPING)
        return frames

    async def _catch_up(self, cursor: Cursor) -> None:
        """Wait a little for a copy that another process feeds; its writer's readers may be ahead."""
        loop = asyncio.get_running_loop()
        generation = self._run.generation
        if generation is None or generation.writing or self._run.answer is not None:
            return
        deadline = loop.time() + _CATCH_UP
        while loop.time() < deadline and self._run.answer is None:
            await self._bell.wait(deadline - loop.time())
            self._adopt()
            if self._epoch != cursor.epoch or self._length() >= cursor.position:
                return

    def _adopt(self) -> bool:
        """Turn to the run's present text; True when it is of another epoch than before."""
        run = self._run
        tape = run.generation.tape if run.generation else None
        if tape is not self._tape:
            if self._tape is not None:
                self._tape.bells.discard(self._bell)
            if tape is not None:
                tape.bells.add(self._bell)
            self._tape = tape
        before = self._epoch
        if run.answer is not None:
            self._epoch = run.answer.reply.epoch
        elif tape is not None:
            self._epoch = tape.epoch
        return self._epoch != before

    def _length(self) -> int:
        run = self._run
        if run.answer is not None:
            return len(run.answer.reply.text)
        length = self._tape.length if self._tape is not None else 0
        return length if run.limit is None else min(length, run.limit)

    def _after(self, position: int) -> str:
        if self._run.answer is not None:
            return self._run.answer.reply.text[position:]
        text = self._tape.after(position) if self._tape is not None else ""
        return text[: self._length() - position]

    def _news(self) -> list[bytes]:
        frames: list[bytes] = []
        if self._adopt() or self._position > self._length():
            self._position = 0
            self._status = None
            frames.append(sse.reset_frame(Cursor(self._epoch, 0), "restarted"))
        status = self._tape.status if self._tape is not None else None
        if status is not self._status and self._run.answer is None and not self._length():
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

    def _closing(self) -> bytes:
        answer = self._run.answer
        assert answer is not None
        end = answer.reply.end
        if isinstance(end, Completed):
            return sse.done_frame(end, message_id=self._run.session.reply_id, saved=answer.saved)
        return sse.error_frame(end, saved=answer.saved)


_WORD = re.compile(r"\s*\S+\s?", re.ASCII)


def _first_word(text: str) -> str:
    match = _WORD.match(text)
    return match[0] if match else text
