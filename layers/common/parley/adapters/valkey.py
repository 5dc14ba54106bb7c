"""The log in Valkey (or Redis 7): streams whose entry ids are cursors."""

import itertools
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from parley.adapters import valkey_scripts as scripts
from parley.adapters.breaker import Breaker
from parley.adapters.entries import end_of_bytes, end_to_bytes, reply_of_bytes, reply_to_bytes
from parley.adapters.valkey_watch import Watcher
from parley.bell import Bell
from parley.conversation import Reply
from parley.encoding import from_json, to_json
from parley.errors import LogUnavailable
from parley.ports import Fenced, Flushed, Follow, Hit, Slice, Wait, Watch, Write

# uvloop answers a write to a connection that just broke with a bare RuntimeError.
_BROKEN = (RedisConnectionError, RuntimeError)
_FAULTS = (
    *_BROKEN, RedisTimeoutError, OSError, TimeoutError,
    BusyLoadingError, ClusterDownError, MasterDownError, OutOfMemoryError, ReadOnlyError,
)  # fmt: skip


# One for every command under way at once; a burst must not look like a Valkey that is away.
_MOST_CONNECTIONS = 4096


class ValkeyLog:
    """`ports.Log` in Valkey. Keys share one hash tag a generation, so a cluster keeps them together."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout: float,
        lease_seconds: float,
        cache_seconds: int,
        log_seconds: int = 900,
        linger_seconds: int = 60,
    ) -> None:
        self._prefix = prefix
        self._lease_ms = round(lease_seconds * 1000)
        self._cache_ms = cache_seconds * 1000
        self._log_ms = log_seconds * 1000
        self._linger_ms = linger_seconds * 1000
        # One retry, at once: a connection that the server closed while idle is replaced unseen.
        self._client = redis.asyncio.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 1, supported_errors=_BROKEN),  # type: ignore[arg-type]
            driver_info=None,
            max_connections=_MOST_CONNECTIONS,
        )
        self._breaker = Breaker(timeout, self._probe, faults=_FAULTS, refusals=(RedisError, ValueError))
        self._watcher = Watcher(self._client)
        self._join = self._client.register_script(scripts.JOIN)
        self._write = self._client.register_script(scripts.WRITE)
        self._read = self._client.register_script(scripts.READ)
        self._abandon = self._client.register_script(scripts.ABANDON)
        self._stop = self._client.register_script(scripts.STOP)

    def _keys(self, key: str) -> list[str]:
        stem = f"{self._prefix}:{{{key}}}:"
        return [stem + part for part in ("done", "log", "lease", "attached", "stops")]

    def _channel(self, key: str) -> str:
        return f"{self._prefix}:{{{key}}}"

    async def _run(self, script: AsyncScript, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self._breaker.call(lambda: script(keys=keys, args=arguments))

    async def join(
        self, key: str, session_id: str, owner: str, *, epoch: int, may_create: bool
    ) -> Hit | Follow | Write | Wait:
        keys = self._keys(key)
        arguments = [session_id, owner, epoch, int(may_create), self._lease_ms, self._log_ms]
        for _ in range(2):
            answer = await self._run(self._join, keys, arguments)
            try:
                match answer[0]:
                    case b"hit":
                        return Hit(reply_of_bytes(answer[1]))
                    case b"follow":
                        return Follow(int(answer[1]))
                    case b"write":
                        return Write(int(answer[1]), takeover=bool(answer[2]))
                    case b"wait":
                        return Wait()
            except ValueError:
                # Corrupt, or an older version's: worth nothing.
                await self._breaker.call(lambda: self._client.delete(keys[0]))
        raise LogUnavailable

    async def flush(
        self, key: str, epoch: int, owner: str, position: int, text: str, whole: Sequence[str]
    ) -> Flushed | Fenced:
        return await self._append(key, epoch, owner, position, text, whole, b"", b"", self._log_ms)

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        return await self._append(
            key,
            reply.epoch,
            owner,
            len(reply.text),
            reply.text[flushed:],
            [reply.text],
            end_to_bytes(reply.end),
            reply_to_bytes(reply) if reply.cacheable and self._cache_ms else b"",
            self._linger_ms,
        )

    async def _append(
        self,
        key: str,
        epoch: int,
        owner: str,
        position: int,
        text: str,
        whole: Sequence[str],
        end: bytes,
        done: bytes,
        ttl_ms: int,
    ) -> Flushed | Fenced:
        arguments = [
            epoch, owner, position, text, 0, self._lease_ms, ttl_ms, self._channel(key),
            end, done, self._cache_ms,
        ]  # fmt: skip
        answer = await self._run(self._write, self._keys(key), arguments)
        if answer[0] == b"lost":
            # `whole` may have grown meanwhile; the entry must end at `position`.
            arguments[3:5] = ["".join(whole)[:position], 1]
            answer = await self._run(self._write, self._keys(key), arguments)
        if answer[0] == b"fenced":
            return Fenced()
        try:
            return Flushed(_names(answer[1]), int(answer[2]))
        except (ValueError, LookupError):
            raise LogUnavailable from None

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        answer = await self._run(self._read, self._keys(key), [epoch, position])
        try:
            if answer[0] == b"rows":
                return _slice(answer[1], position, _names(answer[2]), alive=bool(answer[3]))
            if answer[0] == b"done":
                reply = reply_of_bytes(answer[1])
                return Slice(reply.text[position:], reply.end, True, False, frozenset())
        except ValueError:
            pass
        return Slice("", None, False, True, frozenset())

    async def abandon(self, key: str, owner: str) -> bool:
        return bool(await self._run(self._abandon, self._keys(key), [owner, self._channel(key)]))

    async def watch(self, key: str, bell: Bell) -> Watch:
        return await self._breaker.call(lambda: self._watcher.watch(self._channel(key), bell))

    async def stop(self, key: str, session_id: str) -> int:
        attached, stops = self._keys(key)[3:]
        arguments = [session_id, self._log_ms, self._channel(key)]
        return int(await self._run(self._stop, [attached, stops], arguments))

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        value = to_json([source, reply_to_bytes(reply).decode()])
        await self._breaker.call(lambda: self._client.hset(self._parked, session_id, value))

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        found = await self._breaker.call(lambda: self._scan(limit))
        replies = []
        for name, value in found.items():
            session_id = name.decode("utf-8", "replace")
            try:
                match from_json(value):
                    case [str(source), str(reply)]:
                        replies.append((session_id, reply_of_bytes(reply.encode()), source))
                    case _:
                        raise ValueError("not a parked reply")
            except ValueError:
                await self.unpark(session_id)
        return replies

    async def _scan(self, limit: int) -> dict[bytes, bytes]:
        """Return up to `limit` entries, however many the server gives at a time."""
        found: dict[bytes, bytes] = {}
        cursor: Any = 0
        part: Any
        while True:
            cursor, part = await self._client.hscan(self._parked, cursor, count=limit)
            found |= part
            if not int(cursor) or len(found) >= limit:
                return dict(itertools.islice(found.items(), limit))

    async def unpark(self, session_id: str) -> None:
        await self._breaker.call(lambda: self._client.hdel(self._parked, session_id))

    @property
    def _parked(self) -> str:
        return f"{self._prefix}:parked"

    async def _probe(self) -> None:
        # A write, since a server that is full or a replica answers reads.
        await self._client.set(f"{self._prefix}:probe", 1, px=1000)

    async def check(self) -> None:
        await self._breaker.call(self._probe)

    async def close(self) -> None:
        await self._watcher.close()
        await self._breaker.close()
        await self._client.aclose()


def _names(members: Sequence[bytes]) -> frozenset[str]:
    return frozenset(member.decode() for member in members)


def _slice(rows: Sequence[Any], position: int, stops: frozenset[str], *, alive: bool) -> Slice:
    """Put entries together; one that was written twice overlaps, and is cut."""
    pieces: list[str] = []
    end = None
    for entry_id, (name, value) in rows:
        if name == b"e":
            end = end_of_bytes(value)
        elif name == b"t":
            text = value.decode()
            upto = int(entry_id.partition(b"-")[2])
            begin = upto - len(text)
            if begin > position:
                raise ValueError("the log has a hole")
            if upto > position:
                pieces.append(text[position - begin :])
                position = upto
    return Slice("".join(pieces), end, alive, False, stops)
