"""The log in this process's memory: the conformance suite's reference, and what runs without Valkey."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from parley.bell import Bell, ring_all
from parley.conversation import Reply
from parley.events import End
from parley.ports import Fenced, Flushed, Follow, Hit, Slice, Wait, Watch, Write


@dataclass(slots=True)
class _Entry:
    epoch: int
    owner: str
    lease_until: float
    text: str = ""
    end: End | None = None
    attached: set[str] = field(default_factory=set)
    stops: set[str] = field(default_factory=set)


class MemoryLog:
    """`ports.Log` without a server. Keeps at most `entries` generations, the latest used."""

    def __init__(self, *, lease_seconds: float, cache_seconds: int, entries: int = 2000) -> None:
        self._lease = lease_seconds
        self._cache_seconds = cache_seconds
        self._most = entries
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._done: OrderedDict[str, tuple[float, Reply]] = OrderedDict()
        self._bells: dict[str, set[Bell]] = {}
        self._parked: dict[str, tuple[Reply, str]] = {}

    async def join(
        self, key: str, session_id: str, owner: str, *, epoch: int, may_create: bool
    ) -> Hit | Follow | Write | Wait:
        until, reply = self._done.get(key, (0.0, None))
        if reply is not None and until > time.monotonic() and reply.epoch >= epoch:
            self._done.move_to_end(key)
            return Hit(reply)
        entry = self._entries.get(key)
        if entry is not None:
            entry.attached.add(session_id)
            if entry.end is not None and entry.epoch == epoch:
                return Follow(entry.epoch)
            if entry.end is None and entry.lease_until > time.monotonic():
                if entry.owner == owner:
                    return Write(entry.epoch, takeover=False)
                return Follow(entry.epoch)
        elif not may_create:
            return Wait()
        top = entry.epoch if entry else 0
        takeover = entry is not None and entry.end is None
        following = max(top, epoch) + 1
        if not takeover:
            following = max(following, int(time.time() * 1000))
        attached = entry.attached if entry else {session_id}
        self._entries[key] = _Entry(following, owner, time.monotonic() + self._lease, attached=attached)
        self._entries.move_to_end(key)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
        self._ring(key)
        return Write(following, takeover=takeover)

    async def flush(
        self, key: str, epoch: int, owner: str, position: int, text: str, whole: Sequence[str]
    ) -> Flushed | Fenced:
        entry = self._mine(key, epoch, owner)
        if entry is None or entry.end is not None:
            return Fenced()
        if position > len(entry.text):
            entry.text = "".join(whole)[:position]
        entry.lease_until = time.monotonic() + self._lease
        if text:
            self._ring(key)
        return Flushed(frozenset(entry.stops), len(entry.attached))

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        entry = self._mine(key, reply.epoch, owner)
        if entry is None:
            return Fenced()
        entry.text, entry.end, entry.lease_until = reply.text, reply.end, 0.0
        if reply.cacheable and self._cache_seconds:
            self._done[key] = (time.monotonic() + self._cache_seconds, reply)
            while len(self._done) > self._most:
                self._done.popitem(last=False)
        self._ring(key)
        return Flushed(frozenset(entry.stops), len(entry.attached))

    def _mine(self, key: str, epoch: int, owner: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(epoch, owner, time.monotonic() + self._lease)
        held = entry.owner == owner or entry.lease_until <= time.monotonic()
        return entry if entry.epoch == epoch and held else None

    async def abandon(self, key: str, owner: str) -> bool:
        entry = self._entries.get(key)
        if entry is None or entry.attached or entry.owner != owner or entry.lease_until <= time.monotonic():
            return False
        del self._entries[key]
        self._ring(key)
        return True

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        entry = self._entries.get(key)
        if entry is not None and entry.epoch == epoch:
            alive = entry.lease_until > time.monotonic()
            return Slice(entry.text[position:], entry.end, alive, False, frozenset(entry.stops))
        until, reply = self._done.get(key, (0.0, None))
        if reply is not None and until > time.monotonic() and reply.epoch == epoch:
            return Slice(reply.text[position:], reply.end, True, False, frozenset())
        return Slice("", None, False, True, frozenset())

    async def watch(self, key: str, bell: Bell) -> Watch:
        self._bells.setdefault(key, set()).add(bell)
        return _Watching(self, key, bell)

    def forget(self, key: str, bell: Bell) -> None:
        """End a watch."""
        bells = self._bells.get(key, set())
        bells.discard(bell)
        if not bells:
            self._bells.pop(key, None)

    def _ring(self, key: str) -> None:
        ring_all(self._bells.get(key, ()))

    async def stop(self, key: str, session_id: str) -> int:
        entry = self._entries.get(key)
        if entry is None:
            return 0
        entry.attached.discard(session_id)
        entry.stops.add(session_id)
        self._ring(key)
        return len(entry.attached)

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        self._parked[session_id] = (reply, source)

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        return [(session_id, *value) for session_id, value in list(self._parked.items())[:limit]]

    async def unpark(self, session_id: str) -> None:
        self._parked.pop(session_id, None)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return


class _Watching:
    def __init__(self, log: MemoryLog, key: str, bell: Bell) -> None:
        self._log = log
        self._key = key
        self._bell = bell

    async def close(self) -> None:
        self._log.forget(self._key, self._bell)
