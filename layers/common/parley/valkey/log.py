"""The log in Valkey (or Redis 7): streams whose entry ids are cursors."""

import asyncio
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Watch
from parley.domain.results import Append, Fenced, Flushed, Follow, Hit, Slice, Wait, Write
from parley.support.encoding import from_json, to_json
from parley.support.logs import logger
from parley.support.wakeup import Wakeup
from parley.valkey import scripts
from parley.valkey.circuit_breaker import CircuitBreaker
from parley.valkey.client import Argument, Command, ErrorReply, PipelinedClient, ServerFault
from parley.valkey.codec import cached_of_bytes, end_to_bytes, reply_of_bytes, reply_to_bytes
from parley.valkey.replies import begun_of, flushed_of, slice_of
from parley.valkey.scripts import Script
from parley.valkey.subscriptions import Subscriptions

_logger = logger("valkey")


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
        self._timeout = timeout
        self._lease_ms = round(lease_seconds * 1000)
        self._cache_ms = cache_seconds * 1000
        self._log_ms = log_seconds * 1000
        self._linger_ms = linger_seconds * 1000
        self._client = PipelinedClient(url, timeout=timeout)
        self._breaker = CircuitBreaker(self._probe, faults=(OSError, TimeoutError, RedisError, ServerFault))
        # Subscriptions have a connection of their own, whose answers come unasked.
        self._subscriber = redis.asyncio.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 1),
            driver_info=None,
        )
        self._subscriptions = Subscriptions(self._subscriber)

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
        """Run a script with each call's keys and arguments, and return the answers, refusals among them."""
        commands: list[Command] = [("EVALSHA", script.sha, *call) for call in calls]
        answers = await self._send(commands)
        if any(isinstance(answer, ErrorReply) and answer.code == "NOSCRIPT" for answer in answers):
            # To run a script twice changes nothing more, so all of them may go again.
            _, *answers = await self._send([("SCRIPT", "LOAD", script.source), *commands])
        return answers

    async def join(
        self, key: str, session_id: str, owner: str, *, epoch: int, may_create: bool, read: bool = False
    ) -> Hit | Follow | Write | Wait:
        keys = self._keys(key)
        arguments: list[Argument] = [
            session_id, owner, epoch, int(may_create), self._lease_ms, self._log_ms, int(read),
        ]  # fmt: skip
        for _ in range(2):
            answer = await self._run(scripts.JOIN, keys, arguments)
            try:
                match answer[0]:
                    case b"hit":
                        return Hit(cached_of_bytes(answer[1]))
                    case b"follow":
                        return Follow(int(answer[1]), begun_of(answer[2:]))
                    case b"write":
                        return Write(int(answer[1]), takeover=bool(answer[2]))
                    case b"wait":
                        return Wait()
            except ValueError:
                # Corrupt, or an older version's: worth nothing.
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
            return cached_of_bytes(value)
        except ValueError:
            await self._ask("DEL", done)  # as `join` does
            return None
        except (TypeError, AttributeError):
            raise LogUnavailable from None

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        return await self._write(appends)

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        append = Append(key, reply.epoch, owner, len(reply.text), reply.text[flushed:], [reply.text])
        done = reply_to_bytes(reply) if reply.cacheable and self._cache_ms else b""
        [outcome] = await self._write([append], end_to_bytes(reply.end), done)
        if outcome is None:
            raise LogUnavailable
        return outcome

    async def _write(
        self, appends: Sequence[Append], end: bytes = b"", done: bytes = b""
    ) -> list[Flushed | Fenced | None]:
        """Write appends, and all of a text whose log was lost."""
        answers = await self._run_all(scripts.WRITE, [self._append(append, end, done) for append in appends])
        lost = [index for index, answer in enumerate(answers) if answer == [b"lost"]]
        if lost:
            seeds = [self._append(appends[index], end, done, seed=True) for index in lost]
            for index, answer in zip(lost, await self._run_all(scripts.WRITE, seeds), strict=True):
                answers[index] = answer
        return [flushed_of(answer) for answer in answers]

    def _append(self, append: Append, end: bytes, done: bytes, *, seed: bool = False) -> Command:
        key, epoch, owner, position, text, whole = append
        if seed:
            # `whole` may have grown meanwhile; the entry must end at `position`.
            text = "".join(whole)[:position]
        return (
            5, *self._keys(key), epoch, owner, position, text, int(seed), self._lease_ms,
            self._linger_ms if end else self._log_ms, self._channel(key), end, done, self._cache_ms,
        )  # fmt: skip

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        answer = await self._run(scripts.READ, self._keys(key), [epoch, position])
        try:
            if answer[0] == b"rows":
                return slice_of(answer[1], answer[2], answer[3], position)
            if answer[0] == b"done":
                reply = reply_of_bytes(answer[1])
                return Slice(reply.text[position:], reply.end, True, False, frozenset())
        except ValueError:
            pass
        except (TypeError, IndexError, AttributeError):
            raise LogUnavailable from None
        return Slice("", None, False, True, frozenset())

    async def abandon(self, key: str, owner: str) -> bool:
        return bool(await self._run(scripts.ABANDON, self._keys(key), [owner, self._channel(key)]))

    async def watch(self, key: str, wakeup: Wakeup) -> Watch:
        async def subscribe() -> Watch:
            async with asyncio.timeout(self._timeout):
                return await self._subscriptions.watch(self._channel(key), wakeup)

        return await self._breaker.call(subscribe)

    async def stop(self, key: str, session_id: str) -> int:
        attached, stops = self._keys(key)[3:]
        arguments: list[Argument] = [session_id, self._log_ms, self._channel(key)]
        return _number(await self._run(scripts.STOP, [attached, stops], arguments))

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        value = to_json([source, reply_to_bytes(reply).decode()])
        await self._ask("HSET", self._parked, session_id, value)

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        found = await self._scan(limit)
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
        cursor: Argument = 0
        while True:
            answer = await self._ask("HSCAN", self._parked, cursor, "COUNT", limit)
            try:
                cursor, part = answer
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
        # A write, since a server that is full or a replica answers reads.
        [answer] = await self._client.send([("SET", f"{self._prefix}:probe", 1, "PX", 1000)])
        if isinstance(answer, ErrorReply):
            raise ServerFault(answer.code)

    async def check(self) -> None:
        await self._breaker.call(self._probe)

    async def close(self) -> None:
        await self._subscriptions.close()
        await self._breaker.close()
        await self._client.close()
        await self._subscriber.aclose()


def _taken(answer: Any) -> Any:
    """Return an answer; one that refuses this command alone is for the caller as no log at all."""
    if isinstance(answer, ErrorReply):
        _logger.warning("log_refused", extra={"error": answer.code})
        raise LogUnavailable
    return answer


def _number(answer: Any) -> int:
    """Return a number that a server which talks nonsense may not have given."""
    try:
        return int(answer)
    except (ValueError, TypeError):
        raise LogUnavailable from None


@functools.lru_cache(maxsize=1024)
def _keys_of(channel: str) -> tuple[str, ...]:
    return tuple(f"{channel}:{part}" for part in ("done", "log", "lease", "attached", "stops"))
