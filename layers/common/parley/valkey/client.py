"""One connection to Valkey that all commands of a process share, answered in the order they were sent.

redis-py takes a connection from a pool for each command, which costs a tenth of a millisecond of work and
has two of them answer each other where one was cancelled. Here an answer finds its command by its place,
whether anybody still waits for it or not.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from parley.support.timer import Deadline, has_passed

Argument = str | bytes | int
Command = tuple[Argument, ...]

# What concerns the server and not this command: it is away, full, or not the one to write to.
_FAULTS = {
    "LOADING", "CLUSTERDOWN", "MASTERDOWN", "OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOAUTH", "WRONGPASS",
}  # fmt: skip


class ErrorReply(Exception):
    """The server refused a command; `code` is the first word of its answer, for the rest may quote data."""

    def __init__(self, answer: str) -> None:
        self.code = answer.partition(" ")[0][:40]
        super().__init__(self.code)


class ServerFault(Exception):
    """The server refuses all commands, or all that write; `code` is why."""

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(code)


class PipelinedClient:
    """Sends commands, those of one call in one write; connects when needed, and again after a loss."""

    def __init__(self, url: str, *, timeout: float) -> None:
        """`timeout`, in seconds, is for a whole call, connecting included."""
        options = self._options = parse_url(url)
        kind = options.pop("connection_class", None)
        # The options of a URL may say much about certificates, which redis-py knows how to read.
        self._security: ssl.SSLContext | None = (
            kind(**options).ssl_context.get() if kind is SSLConnection else None
        )
        self._timeout = timeout
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers in order, `ErrorReply` objects among them.

        Raises `OSError` or `TimeoutError` where the server is away or talks nonsense, `ServerFault`. A call
        whose connection was lost is sent again, once: every command has to bear that.
        """
        answers = await self._send(commands)
        for answer in answers:
            if isinstance(answer, ErrorReply) and answer.code in _FAULTS:
                # After a failover the name leads to another server, but this connection never would.
                await self.close()
                raise ServerFault(answer.code)
        return answers

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
                pass  # closed by the server while it was idle, most likely
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
        if options.get("password"):
            user = (options["username"],) if options.get("username") else ()
            greeting.append(("AUTH", *user, options["password"]))
        if options.get("db"):
            greeting.append(("SELECT", options["db"]))
        try:
            for answer in (
                await connection.execute(_pack(greeting), len(greeting), deadline) if greeting else ()
            ):
                if isinstance(answer, ErrorReply):
                    raise ServerFault(answer.code)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.abort()
            self._connection = None


def _pack(commands: Sequence[Command]) -> bytes:
    # Its stub knows commands of one word only.
    return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]


class _Call:
    """Commands that were sent together, and their answers so far."""

    __slots__ = ("answers", "count", "deadline", "future")

    def __init__(self, count: int, future: "asyncio.Future[list[Any]]", deadline: float) -> None:
        self.count = count
        self.future = future
        self.deadline = deadline
        self.answers: list[Any] = []


class _Connection(Deadline, asyncio.Protocol):
    """A connection. Answers are read here, not in a task, so that one that came is never late by a timer."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._calls: deque[_Call] = deque()
        self._reader = hiredis.Reader(replyError=ErrorReply, protocolError=ConnectionError)

    @property
    def usable(self) -> bool:
        """Whether commands can be sent; never so in another event loop than the connection's own."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._loop is asyncio.get_running_loop()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def execute(self, packed: bytes, count: int, deadline: float) -> list[Any]:
        """Send `count` commands and return their answers; raises `ConnectionError`, `TimeoutError`."""
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
            # Everybody else waits for the same silent server.
            self._lose(TimeoutError())
        else:
            self._reschedule(min(waiting))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                call = self._calls[0]
                call.answers.append(answer)
                if len(call.answers) == call.count:
                    self._calls.popleft()
                    if not call.future.done():
                        call.future.set_result(call.answers)
        except (ConnectionError, IndexError):
            self._lose(ConnectionError("an answer that makes no sense"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(ConnectionError("closed"))

    def abort(self) -> None:
        """Close at once; whoever waits for an answer gets a `ConnectionError`."""
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
