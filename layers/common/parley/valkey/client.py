"""A pipelined Valkey client: all commands of a process share one connection, and replies come in order.

redis-py takes a connection from a pool for each command, which costs a tenth of a millisecond of work. After
a cancelled command, its reply can go to another command. Here the position of a reply tells its command, even
if that command was cancelled.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from parley.support.logs import logger
from parley.support.timer import Deadline, has_passed
from parley.valkey.login import Login

_logger = logger("valkey")
Argument = str | bytes | int
Command = tuple[Argument, ...]

# Errors of the server, not of one command: it is loading, full, or not the primary.
_FAULTS = {
    "LOADING", "CLUSTERDOWN", "MASTERDOWN", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS",
}  # fmt: skip
# The server is one of several that share the keys, and this key is another's (Valkey's cluster specification,
# "MOVED redirection").
_ELSEWHERE = {"MOVED", "ASK"}
SHARDED = (
    "VALKEY_URL leads to one shard of a cluster, and Parley asks one server alone; name a server that has all"
    " keys, or a cluster's one endpoint for all of them, as ElastiCache Serverless has."
)


class ErrorReply(Exception):
    """The server refused a command. `code` is the reply's first word; the rest may quote data."""

    def __init__(self, reply: str) -> None:
        self.code = reply.partition(" ")[0][:40]
        super().__init__(self.code)


class ServerFault(Exception):
    """The server refuses all commands, or all writes. `code` is the reason."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class PipelinedClient:
    """Sends the commands of one call in one write. Connects when needed, and again after a loss.

    `sharded` says that the server has turned out to have some of the keys only. It is asked no more: a log
    whose keys are anybody's guess would be worse than none.
    """

    def __init__(self, url: str, *, timeout: float, login: Login | None = None) -> None:
        """`timeout`, in seconds, limits a whole call, connecting included. `login` None is the URL's own."""
        options = self._options = parse_url(url)
        self._login = login or Login(url)
        kind = options.pop("connection_class", None)
        # redis-py reads the URL's TLS options, of which there are many.
        self._security: ssl.SSLContext | None = (
            kind(**options).ssl_context.get() if kind is SSLConnection else None
        )
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()
        self.sharded = False

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies in order, `ErrorReply` objects among them.

        Raises `ServerFault`, and `OSError` or `TimeoutError` if the server is away or sends invalid data.
        After a lost connection the commands are sent once more, so every command must be repeatable.
        """
        if self.sharded:
            raise ServerFault("MOVED")
        replies = await self._send(commands)
        for reply in replies:
            if isinstance(reply, ErrorReply) and reply.code in _ELSEWHERE:
                if not self.sharded:
                    self.sharded = True
                    _logger.error("valkey_sharded", extra={"reason": SHARDED})
                await self.close()
                raise ServerFault(reply.code)
            if isinstance(reply, ErrorReply) and reply.code in _FAULTS:
                # After a failover the host name leads to another server. This connection would stay with the
                # old one.
                await self.close()
                self._login.answered(reply.code)
                raise ServerFault(reply.code)
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        deadline = asyncio.get_running_loop().time() + self._timeout
        packed = _pack(commands)
        if not commands:
            return []
        connection = self._connection
        if connection is not None and connection.usable:
            try:
                return await connection.execute(packed, len(commands), deadline)
            except ConnectionError:
                pass  # probably closed by the server while idle
        return await (await self._open(deadline)).execute(packed, len(commands), deadline)

    async def _open(self, deadline: float) -> "_Connection":
        async with asyncio.timeout_at(deadline):
            async with self._opening:
                if self._connection is None or not self._connection.usable:
                    self._connection = await self._connect(deadline)
                return self._connection

    async def _connect(self, deadline: float) -> "_Connection":
        options = self._options
        loop = asyncio.get_running_loop()
        if "path" in options:
            _, connection = await loop.create_unix_connection(_Connection, options["path"])
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            _, connection = await loop.create_connection(_Connection, host, port, ssl=self._security)
        greeting: list[Command] = []
        if credentials := self._login.get_credentials():
            greeting.append(("AUTH", *credentials))
        if options.get("db"):
            greeting.append(("SELECT", options["db"]))
        try:
            for reply in (
                await connection.execute(_pack(greeting), len(greeting), deadline) if greeting else ()
            ):
                if isinstance(reply, ErrorReply):
                    self._login.answered(reply.code)
                    raise ServerFault(reply.code)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


async def is_sharded(url: str, *, prefix: str, timeout: float) -> bool:
    """Return whether the server at `url` has some of the keys only. False also if it does not answer.

    It is asked to write so many keys that no other shard of a cluster would have none of them.
    """
    client = PipelinedClient(url, timeout=timeout)
    try:
        await client.send([("SET", f"{prefix}:{{{number}}}:probe", 1, "PX", 1000) for number in range(32)])
    except (OSError, TimeoutError, ServerFault):
        pass
    finally:
        await client.close()
    return client.sharded


def _pack(commands: Sequence[Command]) -> bytes:
    # hiredis's type stub accepts only commands of one word.
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]


class _Call:
    """The commands of one call, and their replies so far."""

    __slots__ = ("count", "deadline", "future", "replies")

    def __init__(self, count: int, future: "asyncio.Future[list[Any]]", deadline: float) -> None:
        self.count = count
        self.future = future
        self.deadline = deadline
        self.replies: list[Any] = []


class _Connection(Deadline, asyncio.Protocol):
    """A connection with the calls that wait for its replies.

    Replies are parsed in `data_received`, not in a task. So no timeout overtakes a reply that has arrived.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: deque[_Call] = deque()
        self._reader = hiredis.Reader(replyError=ErrorReply, protocolError=ConnectionError)

    @property
    def usable(self) -> bool:
        """Whether commands can be sent. False in any event loop but the connection's own."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._loop is asyncio.get_running_loop()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def execute(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """Send `count` commands and return their replies. Raises `ConnectionError`, `TimeoutError`."""
        if self._transport is None:
            raise ConnectionError("closed")
        call = _Call(count, self._loop.create_future(), deadline)
        self._calls.append(call)
        self._transport.write(packed)
        self._reschedule_earlier(deadline)
        return await call.future

    def _on_deadline(self) -> None:
        waiting = [call.deadline for call in self._calls if not call.future.done()]
        if not waiting:
            return
        if has_passed(min(waiting)):
            # Replies come in order, so all other calls wait for the same silent server.
            self._lose(TimeoutError())
        else:
            self._reschedule(min(waiting))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                call = self._calls[0]
                call.replies.append(reply)
                if len(call.replies) == call.count:
                    self._calls.popleft()
                    if not call.future.done():
                        call.future.set_result(call.replies)
        except (ConnectionError, IndexError):
            self._lose(ConnectionError("an answer that makes no sense"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(ConnectionError("closed"))

    def abort(self) -> None:
        """Close at once. Calls that wait for replies get a `ConnectionError`."""
        self._lose(ConnectionError("closed"))

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._cancel_timer()
        calls, self._calls = self._calls, deque()
        for call in calls:
            if not call.future.done():
                call.future.set_exception(error)
