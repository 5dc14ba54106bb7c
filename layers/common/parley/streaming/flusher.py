"""Carries what this process's generations write into the log: all of them together, a round trip at a time.

One after the other would cost a command, a task and timers for each piece of each reply; together they cost
little more than their text. What arrives during a round trip goes with the next, so a slow log or a crowded
process makes the pieces larger, not more.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.domain.results import Append, Fenced, Flushed
from parley.streaming.text_buffer import TextBuffer
from parley.support.logs import logger
from parley.support.wakeup import Wakeup

_logger = logger("flusher")
# Bounds how long the server is busy with us alone.
_MOST_APPENDS = 256
_PAUSE_SECONDS = 0.2


class Writer(Protocol):
    """Who writes a tape into the log, and is told how that went."""

    @property
    def key(self) -> str:
        """The generation's key."""
        ...

    @property
    def owner(self) -> str:
        """The name in the lease."""
        ...

    @property
    def buffer(self) -> TextBuffer:
        """What there is to write."""
        ...

    def took(self, outcome: Flushed) -> bool:
        """Note what the log said, and return whether nobody wants the reply any more."""
        ...

    def missed(self) -> None:
        """Note that the log did not answer."""
        ...

    def lose(self) -> None:
        """Note that the log has another writer, or none: what is written now counts for nothing."""
        ...


@dataclass(slots=True, eq=False)
class _Progress:
    """How far a writer's log is. `due` is when its lease must be renewed at the latest, `after` when it
    may be tried again after a failure, both in the event loop's time."""

    writer: Writer
    due: float
    flushed: int = 0
    after: float = 0.0
    under_way: bool = False


class Flusher:
    """Flushes every writer's new text in micro-batches, and renews the leases of those that are silent."""

    def __init__(self, log: Log, *, gather: float, look: float) -> None:
        """In seconds: `gather` is how long text is gathered, `look` how often a silent log is looked at."""
        self._log = log
        self._gather = gather
        self._look = look
        self._writers: dict[Writer, _Progress] = {}
        self._wakeup = Wakeup()
        self._round: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, writer: Writer) -> None:
        """Flush this writer's tape from now on."""
        loop = asyncio.get_running_loop()
        self._writers[writer] = _Progress(writer, loop.time() + self._look)
        writer.buffer.listeners.add(self._wakeup)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def flush_soon(self, writer: Writer) -> None:
        """Look at this writer's log soon: there is news in it."""
        progress = self._writers.get(writer)
        if progress is not None:
            progress.due = 0.0
            self._wakeup.notify()

    def discard(self, writer: Writer) -> None:
        """Flush this writer's tape no more."""
        if self._writers.pop(writer, None) is not None:
            writer.buffer.listeners.discard(self._wakeup)

    async def end(self, writer: Writer, reply: Reply) -> bool:
        """Write a reply's last text and its end; False where another writer has the log.

        Raises `LogUnavailable`.
        """
        progress = self._writers.get(writer)
        self.discard(writer)
        if progress is not None and progress.under_way and self._round is not None:
            await asyncio.wait({self._round})
        flushed = 0 if progress is None else progress.flushed
        return not isinstance(await self._log.end(writer.key, writer.owner, reply, flushed), Fenced)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._writers:
            await self._wakeup.wait(self._look)
            await asyncio.sleep(self._gather)
            now = loop.time()
            waiting = [
                progress
                for progress in self._writers.values()
                if progress.after <= now
                and (progress.writer.buffer.length > progress.flushed or progress.due <= now)
            ]
            for start in range(0, len(waiting), _MOST_APPENDS):
                # Some may have ended while those before them were flushed.
                batch = [
                    progress
                    for progress in waiting[start : start + _MOST_APPENDS]
                    if self._writers.get(progress.writer) is progress
                ]
                await self._flush(batch)

    async def _flush(self, batch: Sequence[_Progress]) -> None:
        loop = asyncio.get_running_loop()
        self._round = loop.create_future()
        try:
            appends = [_append(progress) for progress in batch]
            outcomes = await self._outcomes(appends)
            now = loop.time()
            deserted = []
            for progress, append, outcome in zip(batch, appends, outcomes, strict=True):
                writer = progress.writer
                progress.under_way = False
                if isinstance(outcome, Flushed):
                    progress.flushed = append.position
                    progress.due = now + self._look
                    if writer.took(outcome):
                        deserted.append(writer)
                elif outcome is None:
                    progress.after = now + _PAUSE_SECONDS
                    writer.missed()
                else:
                    _logger.warning("writer_fenced", extra={"epoch": append.epoch})
                    self.discard(writer)
                    writer.lose()
        finally:
            self._round.set_result(None)
            self._round = None
        for writer in deserted:
            if await self._abandon(writer):
                self.discard(writer)
                writer.lose()

    async def _outcomes(self, appends: Sequence[Append]) -> Sequence[Flushed | Fenced | None]:
        try:
            return await self._log.flush(appends)
        except LogUnavailable:
            pass
        except Exception:
            # Whatever is wrong with one reply's log must not end the flushing of all the others.
            _logger.exception("flush_broke")
        return [None] * len(appends)

    async def _abandon(self, writer: Writer) -> bool:
        try:
            return await self._log.abandon(writer.key, writer.owner)
        except LogUnavailable:
            return False
        except Exception:
            _logger.exception("flush_broke")
            return False

    async def close(self) -> None:
        """Stop flushing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


def _append(progress: _Progress) -> Append:
    progress.under_way = True
    writer, flushed = progress.writer, progress.flushed
    buffer = writer.buffer
    return Append(writer.key, buffer.epoch, writer.owner, buffer.length, buffer.after(flushed), buffer.pieces)
