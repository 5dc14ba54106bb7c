"""Writes the text of this process's generations into the log, all of them together in one round trip.

Single flushes would cost a command, a task and timers for each piece of each reply. A joint flush costs
little more than its text. Text that arrives during a round trip goes with the next one, so a slow log or a
crowded process makes the pieces larger, not more.
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
# Appends in one round trip. The bound keeps Valkey's time for one batch to a few milliseconds.
_MOST_APPENDS = 256
_PAUSE_SECONDS = 0.2


class Writer(Protocol):
    """A writer of a text buffer, as the flusher sees it."""

    @property
    def key(self) -> str:
        """The generation's key."""
        ...

    @property
    def owner(self) -> str:
        """The writer's name in the lease."""
        ...

    @property
    def buffer(self) -> TextBuffer:
        """The text to write."""
        ...

    def took(self, outcome: Flushed) -> bool:
        """Note what the log says of the sessions; return whether every session has stopped."""
        ...

    def missed(self) -> None:
        """Note that the log did not answer."""
        ...

    def lose(self) -> None:
        """Note that the log has another writer or was abandoned: further text does not count."""
        ...


@dataclass(slots=True, eq=False)
class _Progress:
    """How much of a writer's text is in the log. Times are the event loop's.

    - `due`: the time by which the lease must be renewed.
    - `flushed`: code points in the log.
    - `after`: the time before which no flush is tried, after a failure.
    - `under_way`: an append has been sent whose outcome is not known yet.
    """

    writer: Writer
    due: float
    flushed: int = 0
    after: float = 0.0
    under_way: bool = False


class Flusher:
    """Flushes every writer's new text in micro-batches, and renews the leases of silent writers."""

    def __init__(self, log: Log, *, gather: float, look: float) -> None:
        """`gather`: seconds that text is gathered. `look`: seconds between flushes of a silent writer."""
        self._log = log
        self._gather = gather
        self._look = look
        self._writers: dict[Writer, _Progress] = {}
        self._wakeup = Wakeup()
        self._round: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, writer: Writer) -> None:
        """Flush this writer's buffer from now on."""
        loop = asyncio.get_running_loop()
        self._writers[writer] = _Progress(writer, loop.time() + self._look)
        writer.buffer.listeners.add(self._wakeup)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def flush_soon(self, writer: Writer) -> None:
        """Flush this writer soon, because its log has news."""
        progress = self._writers.get(writer)
        if progress is not None:
            progress.due = 0.0
            self._wakeup.notify()

    def discard(self, writer: Writer) -> None:
        """Stop flushing this writer's buffer."""
        if self._writers.pop(writer, None) is not None:
            writer.buffer.listeners.discard(self._wakeup)

    async def end(self, writer: Writer, reply: Reply) -> bool:
        """Write a reply's remaining text and its end. False means that another writer has the log.

        Raises `LogUnavailable`.
        """
        progress = self._writers.get(writer)
        self.discard(writer)
        # The append under way decides where the text in the log ends; the end must start from there.
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
                # A silent writer is flushed too: an empty append renews its lease and reads its stops.
                if progress.after <= now
                and (progress.writer.buffer.length > progress.flushed or progress.due <= now)
            ]
            for start in range(0, len(waiting), _MOST_APPENDS):
                # A writer may have ended during the batch before this one.
                batch = [
                    progress
                    for progress in waiting[start : start + _MOST_APPENDS]
                    if self._writers.get(progress.writer) is progress
                ]
                try:
                    await self._flush(batch)
                except Exception:
                    # The other writers' leases depend on this task.
                    _logger.exception("flush_broke")

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
            # An error in one reply's log must not end the flushing of all the others.
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
    # `pieces` is the live list: only a lost log needs the whole text, which is then cut at this position.
    return Append(writer.key, buffer.epoch, writer.owner, buffer.length, buffer.after(flushed), buffer.pieces)
