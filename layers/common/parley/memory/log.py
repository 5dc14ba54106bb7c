"""The log in this process's memory: the reference of the conformance suite, and the log without Valkey."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from parley.domain.conversation import Reply
from parley.domain.events import End
from parley.domain.ports import Watch
from parley.domain.results import Append, Fenced, Flushed, Follow, Hit, ReaderCount, Slice, Wait, Write
from parley.support.wakeup import Listeners, Wakeup

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    """The log of one epoch. `earlier` is the epoch before, if it had ended: its text stays readable."""

    epoch: int
    owner: str
    lease_until: float
    text: str = ""
    end: End | None = None
    earlier: "_Entry | None" = None

    @property
    def alive(self) -> bool:
        return self.lease_until > time.monotonic()


@dataclass(slots=True)
class _Sessions:
    """The sessions of one generation: those attached, and those that asked to stop."""

    attached: set[str] = field(default_factory=set)
    stops: set[str] = field(default_factory=set)


class MemoryLog:
    """`ports.Log` without a server. Keeps up to `entries` generations, the most recently used."""

    def __init__(self, *, lease_seconds: float, cache_seconds: int, entries: int = 2000) -> None:
        self._lease = lease_seconds
        self._cache_seconds = cache_seconds
        self._most = entries
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._sessions: OrderedDict[str, _Sessions] = OrderedDict()
        self._done: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self._listeners: dict[str, Listeners] = {}
        self._readers: OrderedDict[str, tuple[float, dict[str, int]]] = OrderedDict()
        self._parked: dict[str, tuple[Reply, str]] = {}

    async def join(
        self, key: str, session_id: str, owner: str, *, epoch: int, may_create: bool, read: bool = False
    ) -> Hit | Follow | Write | Wait:
        reply = await self.cached(key)
        if reply is not None and reply.epoch >= epoch:
            return Hit(reply)
        entry = self._entries.get(key)
        running = entry is not None and entry.end is None
        # A running epoch is followed while its writer has the lease. An epoch that ended is followed only by
        # a session that followed it before: any other session begins a new one.
        if entry is not None and (entry.alive if running else entry.epoch == epoch):
            self._sessions_of(key).attached.add(session_id)
            if running and entry.owner == owner:
                return Write(entry.epoch, takeover=False)
            return Follow(entry.epoch, await self.read(key, entry.epoch, 0) if read else None)
        if entry is None and not may_create:
            return Wait()
        following = max(entry.epoch if entry else 0, epoch) + 1
        if not running:
            # Milliseconds, as in Valkey: an epoch must grow even after a restart has lost the last one.
            following = max(following, int(time.time() * 1000))
            self._sessions.pop(key, None)
        sessions = self._sessions_of(key)
        sessions.attached.add(session_id)
        sessions.stops.clear()
        self._begin(key, following, owner)
        self._notify(key)
        return Write(following, takeover=running)

    async def cached(self, key: str) -> Reply | None:
        until, reply = self._done.get(key, (0.0, None))
        if reply is None or until <= time.monotonic():
            return None
        self._done.move_to_end(key)
        return reply

    def _sessions_of(self, key: str) -> _Sessions:
        return _latest(self._sessions, key, self._sessions.get(key) or _Sessions(), self._most)

    def _begin(self, key: str, epoch: int, owner: str) -> _Entry:
        earlier = self._entries.get(key)
        if earlier is not None:
            # One earlier epoch is kept, not a chain of them.
            earlier.earlier = None
        entry = _Entry(epoch, owner, time.monotonic() + self._lease)
        if earlier is not None and earlier.end is not None:
            entry.earlier = earlier
        return _latest(self._entries, key, entry, self._most)

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        return [self._flush(append) for append in appends]

    def _flush(self, append: Append) -> Flushed | Fenced:
        key = append.key
        entry = self._mine(key, append.epoch, append.owner)
        if entry is None or entry.end is not None:
            return Fenced()
        # An append that is repeated adds nothing.
        if append.position > len(entry.text):
            entry.text = "".join(append.whole)[: append.position]
        entry.lease_until = time.monotonic() + self._lease
        if append.text:
            self._notify(key)
        return self._flushed(key)

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        entry = self._mine(key, reply.epoch, owner)
        if entry is None:
            return Fenced()
        if entry.end is None:
            entry.text, entry.end, entry.lease_until = reply.text, reply.end, 0.0
            if reply.cacheable and self._cache_seconds:
                _latest(self._done, key, (time.monotonic() + self._cache_seconds, reply), self._most)
            self._notify(key)
        return self._flushed(key)

    def _mine(self, key: str, epoch: int, owner: str) -> _Entry | None:
        # A log that was dropped for room is begun again by its writer, as a lost log is in Valkey.
        entry = self._entries.get(key) or self._begin(key, epoch, owner)
        return entry if entry.epoch == epoch and (entry.owner == owner or not entry.alive) else None

    def _flushed(self, key: str) -> Flushed:
        sessions = self._sessions_of(key)
        return Flushed(frozenset(sessions.stops), len(sessions.attached))

    async def abandon(self, key: str, owner: str) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.owner != owner or not entry.alive or self._sessions_of(key).attached:
            return False
        del self._entries[key], self._sessions[key]
        self._notify(key)
        return True

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        entry = self._entries.get(key)
        if entry is not None and entry.epoch != epoch:
            entry = entry.earlier
        if entry is not None and entry.epoch == epoch:
            stops = frozenset(self._sessions_of(key).stops)
            return Slice(entry.text[position:], entry.end, entry.alive, False, stops)
        reply = await self.cached(key)
        if reply is not None and reply.epoch == epoch:
            return Slice(reply.text[position:], reply.end, True, False, frozenset())
        return Slice("", None, False, True, frozenset())

    async def watch(self, key: str, wakeup: Wakeup) -> Watch:
        self._listeners.setdefault(key, Listeners()).add(wakeup)
        return _Subscription(self, key, wakeup)

    def forget(self, key: str, wakeup: Wakeup) -> None:
        """Close a subscription."""
        listeners = self._listeners.get(key, Listeners())
        listeners.discard(wakeup)
        if not listeners:
            self._listeners.pop(key, None)

    def _notify(self, key: str) -> None:
        self._listeners.get(key, Listeners()).notify()

    async def attached(self, key: str) -> frozenset[str]:
        return frozenset(self._sessions_of(key).attached)

    async def stop(self, key: str, session_id: str) -> int:
        sessions = self._sessions_of(key)
        sessions.attached.discard(session_id)
        sessions.stops.add(session_id)
        self._notify(key)
        return len(sessions.attached)

    async def count_readers(
        self, counts: Sequence[ReaderCount], limit: int, seconds: float
    ) -> list[list[int] | None]:
        return [self._count_readers(count, limit, seconds) for count in counts]

    def _count_readers(self, count: ReaderCount, limit: int, seconds: float) -> list[int]:
        until, readers = self._readers.get(count.session_id, (0.0, {}))
        readers = readers if until > time.monotonic() else {}
        for reader_id in count.left:
            readers.pop(reader_id, None)
        following = max(int(time.time() * 1000), *(arrival + 1 for arrival in readers.values()), 0)
        for reader_id, arrival in count.here:
            known = arrival or readers.get(reader_id) or following
            readers[reader_id] = known
            following = max(following, known + 1)
        newest = dict(sorted(readers.items(), key=lambda item: item[1])[-limit:])
        if newest:
            _latest(self._readers, count.session_id, (time.monotonic() + seconds, newest), self._most)
        else:
            self._readers.pop(count.session_id, None)
        return [newest.get(reader_id, 0) for reader_id, _ in count.here]

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        self._parked[session_id] = (reply, source)

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        return [(session_id, *value) for session_id, value in list(self._parked.items())[:limit]]

    async def parked_of(self, session_id: str) -> tuple[Reply, str] | None:
        return self._parked.get(session_id)

    async def unpark(self, session_id: str) -> None:
        self._parked.pop(session_id, None)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return


def _latest(table: OrderedDict[str, T], key: str, value: T, most: int) -> T:
    """Put a value last, and drop the oldest ones above `most`."""
    table[key] = value
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
    return value


class _Subscription:
    """`ports.Watch` of one wakeup on one generation."""

    def __init__(self, log: MemoryLog, key: str, wakeup: Wakeup) -> None:
        self._log = log
        self._key = key
        self._wakeup = wakeup

    async def close(self) -> None:
        self._log.forget(self._key, self._wakeup)
