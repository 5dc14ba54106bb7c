"""The log in Valkey (or Redis 7): one stream for each generation, whose entry ids are cursors."""

import asyncio
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Watch
from parley.domain.results import Append, Fenced, Flushed, Follow, Hit, ReaderCount, Slice, Wait, Write
from parley.support.logs import logger
from parley.support.wakeup import Wakeup
from parley.valkey import scripts
from parley.valkey.circuit_breaker import CircuitBreaker
from parley.valkey.client import Argument, Command, ErrorReply, PipelinedClient, ServerFault
from parley.valkey.codec import (
    cached_of_bytes,
    done_of_bytes,
    done_to_bytes,
    end_to_bytes,
    parked_of_bytes,
    parked_to_bytes,
)
from parley.valkey.login import Login, Renew
from parley.valkey.macs import Macs
from parley.valkey.replies import arrivals_of, begun_of, ended, flushed_of, slice_of
from parley.valkey.scripts import Script
from parley.valkey.subscriptions import Subscriptions

_logger = logger("valkey")
# Lua's numbers are exact up to here, and Postgres takes them. Only another hand begins a later epoch.
_LAST_EPOCH = 2**53


class ValkeyLog:
    """`ports.Log` in Valkey.

    All keys of a generation share one hash tag, so a cluster keeps them on one node. `timeout` is in seconds.
    `cache_seconds` 0 caches nothing. A log is kept for `log_seconds` after its last write, and for
    `linger_seconds` after its end. Text, ends and replies that do not verify by `macs` are as if they were
    not there. `renew` is for a URL whose login may be refused one day, and renewed.
    """

    def __init__(
        self,
        url: str,
        *,
        macs: Macs,
        prefix: str,
        timeout: float,
        lease_seconds: float,
        cache_seconds: int,
        log_seconds: int = 900,
        linger_seconds: int = 60,
        renew: Renew | None = None,
    ) -> None:
        self._macs = macs
        self._prefix = prefix
        self._timeout = timeout
        self._lease_ms = round(lease_seconds * 1000)
        self._cache_ms = cache_seconds * 1000
        self._log_ms = log_seconds * 1000
        self._linger_ms = linger_seconds * 1000
        self._login = Login(url, renew)
        self._client = PipelinedClient(url, timeout=timeout, login=self._login)
        self._breaker = CircuitBreaker(
            self._probe_again, faults=(OSError, TimeoutError, RedisError, ServerFault)
        )
        # Subscriptions need their own connection, because pub/sub messages come without a command.
        self._subscriber = redis.asyncio.Redis.from_url(
            self._login.address if renew else url,
            credential_provider=self._login if renew else None,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 1),
            driver_info=None,
        )
        self._subscriptions = Subscriptions(self._subscriber, self._login)

    def _keys(self, key: str) -> tuple[str, ...]:
        return _keys_of(self._channel(key))

    def _channel(self, key: str) -> str:
        return f"{self._prefix}:{{{key}}}"

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        return await self._breaker.call(lambda: self._client.send(commands))

    async def _ask(self, *command: Argument) -> Any:
        return _taken((await self._send([command]))[0])

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        return _taken((await self._run_all(script, [(len(keys), *keys, *arguments)]))[0])

    async def _run_all(self, script: Script, calls: Sequence[Command]) -> list[Any]:
        """Run a script once for each call's keys and arguments. Return the replies, errors among them."""
        commands: list[Command] = [("EVALSHA", script.sha, *call) for call in calls]
        results = await self._send(commands)
        if any(isinstance(result, ErrorReply) and result.code == "NOSCRIPT" for result in results):
            # Every script is idempotent, so all of the calls can be repeated.
            _, *results = await self._send([("SCRIPT", "LOAD", script.source), *commands])
        return results

    async def join(
        self, key: str, session_id: str, owner: str, *, epoch: int, may_create: bool, read: bool = False
    ) -> Hit | Follow | Write | Wait:
        keys = self._keys(key)
        arguments: list[Argument] = [
            session_id, owner, epoch, int(may_create), self._lease_ms, self._log_ms, int(read),
        ]  # fmt: skip
        unreadable: Argument = ""
        # Other attempts follow the deletion of a corrupt reply, and an ended epoch that cannot be read.
        for _ in range(3):
            result = await self._run(scripts.JOIN, keys, [*arguments, unreadable])
            try:
                match result[0]:
                    case b"hit":
                        return Hit(cached_of_bytes(result[1], key, self._macs))
                    case b"follow":
                        following, content = _epoch(result[1]), result[2:]
                        begun = begun_of(content, key, following, self._macs)
                        if begun is None and may_create and ended(content) and not unreadable:
                            unreadable = result[1]
                            continue
                        return Follow(following, begun)
                    case b"write":
                        return Write(_epoch(result[1]), takeover=bool(result[2]))
                    case b"wait":
                        return Wait()
            except ValueError:
                # A corrupt reply, or one of an older version, is of no use.
                await self._ask("DEL", keys[0])
            except (TypeError, IndexError, AttributeError):
                break
        raise LogUnavailable

    async def cached(self, key: str) -> Reply | None:
        if not self._cache_ms:
            return None
        done = self._keys(key)[0]
        value = await self._ask("GET", done)
        if value is None:
            return None
        try:
            return cached_of_bytes(value, key, self._macs)
        except ValueError:
            await self._ask("DEL", done)  # as in `join`
            return None
        except (TypeError, AttributeError):
            raise LogUnavailable from None

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        return await self._write(appends)

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        append = Append(key, reply.epoch, owner, len(reply.text), reply.text[flushed:], [reply.text])
        done = done_to_bytes(reply, key, self._macs) if reply.cacheable and self._cache_ms else b""
        [outcome] = await self._write([append], end_to_bytes(reply.end), done)
        if outcome is None:
            raise LogUnavailable
        return outcome

    async def _write(
        self, appends: Sequence[Append], end: bytes = b"", done: bytes = b""
    ) -> list[Flushed | Fenced | None]:
        """Write appends. If a log was lost, write its whole text."""
        results = await self._run_all(scripts.WRITE, [self._append(append, end, done) for append in appends])
        lost = [index for index, result in enumerate(results) if result == [b"lost"]]
        if lost:
            seeds = [self._append(appends[index], end, done, seed=True) for index in lost]
            for index, result in zip(lost, await self._run_all(scripts.WRITE, seeds), strict=True):
                results[index] = result
        return [flushed_of(result) for result in results]

    def _append(self, append: Append, end: bytes, done: bytes, *, seed: bool = False) -> Command:
        key, epoch, owner, position, text, whole = append
        if seed:
            # `whole` may have grown during the first attempt, but the entry's id says `position`.
            text = "".join(whole)[:position]
        added = text.encode()
        call: Command = (
            5, *self._keys(key), epoch, owner, position, added, int(seed), self._lease_ms,
            self._linger_ms if end else self._log_ms, self._channel(key), end, done, self._cache_ms,
            self._macs.make(b"t", key, epoch, position, added) if added else b"",
        )  # fmt: skip
        return (*call, self._macs.make(b"e", key, epoch, position + 1, end)) if end else call

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        if epoch > _LAST_EPOCH:
            raise LogUnavailable
        result = await self._run(scripts.READ, self._keys(key), [epoch, position])
        try:
            if result[0] == b"rows":
                return slice_of(result[1], result[2], result[3], key, epoch, position, self._macs)
            if result[0] == b"done":
                reply = done_of_bytes(result[1], key, self._macs)
                return Slice(reply.text[position:], reply.end, True, False, frozenset())
        except ValueError:
            # A hole, a corrupt entry, or one of another hand: the epoch counts as gone.
            pass
        except (TypeError, IndexError, AttributeError):
            raise LogUnavailable from None
        return Slice("", None, False, True, frozenset())

    async def abandon(self, key: str, owner: str) -> bool:
        return bool(await self._run(scripts.ABANDON, self._keys(key), [owner, self._channel(key)]))

    async def watch(self, key: str, wakeup: Wakeup) -> Watch:
        async def subscribe() -> Watch:
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._subscriptions.watch(self._channel(key), wakeup)
            except AuthenticationError:
                # The breaker opens, and its next probe fetches a newer login.
                self._login.refused = True
                raise

        return await self._breaker.call(subscribe)

    async def attached(self, key: str) -> frozenset[str]:
        members = await self._ask("SMEMBERS", self._keys(key)[3])
        try:
            return frozenset(member.decode() for member in members)
        except (TypeError, ValueError, AttributeError):
            raise LogUnavailable from None

    async def stop(self, key: str, session_id: str) -> int:
        attached, stops = self._keys(key)[3:]
        arguments: list[Argument] = [session_id, self._log_ms, self._channel(key)]
        return _number(await self._run(scripts.STOP, [attached, stops], arguments))

    async def count_readers(
        self, counts: Sequence[ReaderCount], limit: int, seconds: float
    ) -> list[list[int] | None]:
        keep = round(seconds * 1000)
        calls: list[Command] = [
            (
                1, f"{self._channel(session_id)}:readers", limit, keep, len(left), *left,
                *(part for reader in here for part in reader),
            )
            for session_id, here, left in counts
        ]  # fmt: skip
        results = await self._run_all(scripts.READERS, calls)
        return [arrivals_of(result, len(count.here)) for result, count in zip(results, counts, strict=True)]

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        value = parked_to_bytes(reply, source, session_id, self._macs)
        await self._ask_parked("HSET", self._parked, session_id, value)

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        while found := await self._scan(limit):
            replies = []
            for name, value in found.items():
                session_id = name.decode("utf-8", "replace")
                parked = await self._parked_of(session_id, name, value)
                if parked is not None:
                    replies.append((session_id, *parked))
            # Where all of them were dropped, others may be left.
            if replies:
                return replies
        return []

    async def parked_of(self, session_id: str) -> tuple[Reply, str] | None:
        value = await self._ask_parked("HGET", self._parked, session_id)
        return None if value is None else await self._parked_of(session_id, session_id, value)

    async def _parked_of(self, session_id: str, name: Argument, value: Any) -> tuple[Reply, str] | None:
        """Decode a parked reply. One of no use to anybody is deleted: it is in the way of the others.

        `name` is the field's own: another hand's may be no text.
        """
        try:
            return parked_of_bytes(value, session_id, self._macs)
        except ValueError:
            await self._drop("HDEL", self._parked, name)
            return None
        except (TypeError, AttributeError):
            raise LogUnavailable from None

    async def _ask_parked(self, *command: Argument) -> Any:
        """Ask of the parked replies. Their key is deleted where it is of another type, and can hold none.

        Nobody but another hand can have made it so, and no orphan would be ended any more.
        """
        [result] = await self._send([command])
        if isinstance(result, ErrorReply) and result.code == "WRONGTYPE":
            await self._drop("DEL", self._parked)
            return await self._ask(*command)
        return _taken(result)

    async def _drop(self, *command: Argument) -> None:
        _logger.warning("parked_reply_dropped")
        await self._ask(*command)

    async def _scan(self, limit: int) -> dict[bytes, bytes]:
        """Return up to `limit` entries. HSCAN's COUNT is a hint: the server may return more or fewer."""
        found: dict[bytes, bytes] = {}
        cursor: Argument = 0
        while True:
            result = await self._ask_parked("HSCAN", self._parked, cursor, "COUNT", limit)
            try:
                cursor, part = result
                found |= zip(part[::2], part[1::2], strict=True)
            except (ValueError, TypeError):
                raise LogUnavailable from None
            if not _number(cursor) or len(found) >= limit:
                return dict(itertools.islice(found.items(), limit))

    async def unpark(self, session_id: str) -> None:
        await self._ask("HDEL", self._parked, session_id)

    @property
    def _parked(self) -> str:
        return f"{self._prefix}:parked"

    async def _probe(self) -> None:
        # A write, because a full server and a replica still answer reads.
        [result] = await self._client.send([("SET", f"{self._prefix}:probe", 1, "PX", 1000)])
        if isinstance(result, ErrorReply):
            raise ServerFault(result.code)

    async def _probe_again(self) -> None:
        """Probe for the circuit breaker, in whose own task there is time to fetch a newer login."""
        try:
            await self._probe()
        except ServerFault:
            await self._login.renew_refused()
            raise
        await self._login.renew_refused()

    async def check(self) -> None:
        await self._breaker.call(self._probe)

    async def close(self) -> None:
        await self._subscriptions.close()
        await self._breaker.close()
        await self._client.close()
        await self._subscriber.aclose()


def _taken(result: Any) -> Any:
    """Return a result. Raises `LogUnavailable` if the server refused this command alone."""
    if isinstance(result, ErrorReply):
        _logger.warning("log_refused", extra={"error": result.code})
        raise LogUnavailable
    return result


def _epoch(result: Any) -> int:
    """Return a log's epoch. Raises `LogUnavailable` for one that no server began: it could not be stored."""
    epoch = _number(result)
    if not 0 < epoch <= _LAST_EPOCH:
        _logger.warning("log_refused", extra={"error": "epoch"})
        raise LogUnavailable
    return epoch


def _number(result: Any) -> int:
    """Return a result as an integer. Raises `LogUnavailable` if the server sent something else."""
    try:
        return int(result)
    except (ValueError, TypeError):
        raise LogUnavailable from None


@functools.lru_cache(maxsize=1024)
def _keys_of(channel: str) -> tuple[str, ...]:
    return tuple(f"{channel}:{part}" for part in ("done", "log", "lease", "attached", "stops"))
