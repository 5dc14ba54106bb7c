"""Counts the readers of each session in all processes, and lets the oldest go where there are too many.

The newest reader is always let in. On Lambda nobody learns that a client has left, so a limit that refused
the newest would lock out a client that reconnects often.
"""

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from typing import Protocol

from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.domain.results import ReaderCount
from parley.streaming.session_run import SessionRun
from parley.support.logs import logger
from parley.support.wakeup import Wakeup

_logger = logger("readers")
# Seconds that arrivals are gathered before the log is told of them. A shorter stream costs no round trip.
_GATHER_SECONDS = 0.1
# Counts in one round trip, as the flusher bounds its appends.
_MOST_COUNTS = 256
# Seconds that the log keeps a count, at least. Every process with a reader renews it at each look.
_KEPT_SECONDS = 60.0


class Counted(Protocol):
    """A reader, as the counter sees it."""

    def let_go(self) -> None:
        """Break the stream off without an end."""
        ...


class _Place:
    """A reader's place. `id` is empty until the log is told of it, `arrival` is 0 until it has counted."""

    __slots__ = ("arrival", "id")

    def __init__(self) -> None:
        self.id = ""
        self.arrival = 0


class _Session:
    """The readers of one session in this process, oldest first, and those that the log should forget."""

    __slots__ = ("id", "left", "readers", "run")

    def __init__(self, run: SessionRun) -> None:
        self.id = run.session.id
        self.run = run
        self.readers: dict[Counted, _Place] = {}
        self.left: list[str] = []


class ReaderCounter:
    """Keeps each session to its newest `limit` readers; 0 is no limit.

    This process's readers are counted when they come. One task tells the log of them, all in one round trip,
    and looks every `every` seconds which of them have to go for newer ones elsewhere. While the log is away,
    each process counts its own. Only a session that has not ended is counted: the others are read at once.
    """

    def __init__(self, log: Log, *, limit: int, every: float, gather: float = _GATHER_SECONDS) -> None:
        self._log = log
        self._limit = limit
        self._every = every
        self._gather = gather
        self._kept = max(_KEPT_SECONDS, 3 * every)
        self._sessions: dict[str, _Session] = {}
        self._news: set[_Session] = set()
        self._let_go = 0
        self._wakeup = Wakeup()
        self._task: asyncio.Task[None] | None = None

    def enter(self, run: SessionRun, reader: Counted) -> None:
        """Count a reader that came; let this process's oldest one go if there are too many."""
        if not self._limit or run.result is not None:
            return
        session = self._sessions.get(run.session.id)
        if session is None:
            session = self._sessions[run.session.id] = _Session(run)
        session.run = run
        session.readers[reader] = _Place()
        if len(session.readers) > self._limit:
            oldest = next(iter(session.readers))
            self._remove(session, oldest)
            self._let_go += 1
            oldest.let_go()
        self._tell_soon(session)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def leave(self, run: SessionRun, reader: Counted) -> None:
        """Count a reader no more."""
        session = self._sessions.get(run.session.id)
        if session is None or reader not in session.readers:
            return
        self._remove(session, reader)
        # The count of a session that has ended lapses by itself.
        if not session.readers and (run.result is not None or not session.left):
            del self._sessions[session.id]
            self._news.discard(session)
        else:
            self._tell_soon(session)

    def _remove(self, session: _Session, reader: Counted) -> None:
        place = session.readers.pop(reader)
        if place.id:
            session.left.append(place.id)

    def _tell_soon(self, session: _Session) -> None:
        self._news.add(session)
        self._wakeup.notify()

    async def _run(self) -> None:
        """Tell the log of arrivals and departures soon, and look at everything every `every` seconds."""
        loop = asyncio.get_running_loop()
        look = loop.time() + self._every
        while self._sessions:
            await self._wakeup.wait(max(0.0, look - loop.time()))
            await asyncio.sleep(self._gather)
            due = list(self._news)
            if loop.time() >= look:
                look = loop.time() + self._every
                due = list(self._sessions.values())
            self._news = set()
            counted = [session for session in due if session.run.result is None]
            try:
                for start in range(0, len(counted), _MOST_COUNTS):
                    await self._count(counted[start : start + _MOST_COUNTS])
            except Exception:
                # The limit of every later session depends on this task.
                _logger.exception("readers_broke")
            self._forget_empty(due)
            if self._let_go:
                _logger.info("readers_let_go", extra={"readers": self._let_go})
                self._let_go = 0

    async def _count(self, sessions: Sequence[_Session]) -> None:
        told = [list(session.readers.items()) for session in sessions]
        counts = [_count_of(session) for session in sessions]
        try:
            outcomes = await self._log.count_readers(counts, self._limit, self._kept)
        except LogUnavailable:
            return  # this process alone counts until the next look
        for session, readers, count, arrivals in zip(sessions, told, counts, outcomes, strict=True):
            if arrivals is None:
                continue
            del session.left[: len(count.left)]
            for (reader, place), arrival in zip(readers, arrivals, strict=True):
                place.arrival = arrival
                if not arrival and session.readers.get(reader) is place:
                    del session.readers[reader]
                    self._let_go += 1
                    reader.let_go()

    def _forget_empty(self, sessions: Iterable[_Session]) -> None:
        for session in sessions:
            if session.readers:
                # Where the log did not answer, those who left are told of again. It keeps no more than these.
                del session.left[: -self._limit]
            elif session not in self._news and self._sessions.get(session.id) is session:
                del self._sessions[session.id]

    async def close(self) -> None:
        """Stop counting."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


def _count_of(session: _Session) -> ReaderCount:
    for place in session.readers.values():
        # Made here: a reader of a short stream needs none.
        place.id = place.id or secrets.token_urlsafe(9)
    here = tuple((place.id, place.arrival) for place in session.readers.values())
    return ReaderCount(session.id, here, tuple(session.left))
