"""Connections to providers: one question at a time each, its answer's bytes handed on as they arrive.

HTTP/1.1 as far as a question needs it (RFC 9112): one POST with a body of known length, and whatever
answer llhttp can parse. No redirects, no cookies, no compression, no proxies.
"""

import asyncio
import contextlib
import math
import socket
from ssl import SSLContext
from typing import Any, NamedTuple, cast

import httptools

from parley.providers.http_response import Answer, Disconnected
from parley.support.timer import Deadline

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30.0
# So long one of several addresses is tried before the next.
_TURN_SECONDS = 1.0
# An answer's head that is longer is none of a provider's.
_HEAD_BYTES = 1 << 16


class Origin(NamedTuple):
    """Where a provider is."""

    host: str
    port: int
    secure: bool


class ConnectionPool:
    """Connections, kept for the next question as long as providers keep them."""

    def __init__(self, ssl_context: SSLContext) -> None:
        self._ssl_context = ssl_context
        self._idle: dict[Origin, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def send(self, origin: Origin, head: bytes, body: bytes) -> Answer:
        """Send a request whose head lacks its last line, the body's length; return the answer's beginning.

        Raises `OSError`, `TimeoutError` where nobody takes the connection, and httptools' errors.
        """
        connection = self._take(origin) or await self._connect(origin)
        answer = connection.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        try:
            await answer.begun()
        except BaseException:
            answer.close()
            raise
        return answer

    def _take(self, origin: Origin) -> "Connection | None":
        idle = self._idle.get(origin, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin) -> "Connection":
        connection = Connection(self, origin)
        connecting = asyncio.create_task(self._open(connection, origin))
        self._opening.add(connecting)
        connecting.add_done_callback(self._opening.discard)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # asyncio's race for a host's addresses may lose the winner's socket when it is cancelled, so it
            # comes to its end.
            connecting.add_done_callback(connection.unwanted)
            raise
        return connection

    async def _open(self, connection: "Connection", origin: Origin) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self._ssl_context if origin.secure else None}
        async with asyncio.timeout(CONNECT_SECONDS):
            if isinstance(loop, asyncio.BaseEventLoop):
                options["happy_eyeballs_delay"] = 0.25
                await loop.create_connection(lambda: connection, origin.host, origin.port, **options)
                return
            # uvloop knows no such race: an address that nobody answers at must not take all the time.
            if origin.secure:
                options["server_hostname"] = origin.host
            *others, last = await _addresses(origin)
            for address in others:
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(_TURN_SECONDS):
                        await loop.create_connection(lambda: connection, address, origin.port, **options)
                        return
            await loop.create_connection(lambda: connection, last, origin.port, **options)

    def opened(self, connection: "Connection") -> None:
        """Note a connection."""
        self._all.add(connection)

    def keep(self, connection: "Connection") -> None:
        """Keep a connection whose answer is whole."""
        self._idle.setdefault(connection.origin, []).append(connection)

    def lost(self, connection: "Connection") -> None:
        """Forget a connection."""
        self._all.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    async def close(self) -> None:
        """Close every connection."""
        for connecting in self._opening:
            connecting.cancel()
        for connection in list(self._all):
            connection.abort()


async def _addresses(origin: Origin) -> list[str]:
    """Return a host's addresses, in the order in which the system would have them tried."""
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Connection(Deadline, asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_answer",
        "_ends_with_connection",
        "_head",
        "_head_bytes",
        "_in_head",
        "_interim",
        "_loop",
        "_parser",
        "_pool",
        "_transport",
        "origin",
    )  # fmt: skip

    def __init__(self, pool: ConnectionPool, origin: Origin) -> None:
        super().__init__()
        self.origin = origin
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._head: dict[str, str] = {}
        self._head_bytes = 0
        self._in_head = True
        self._interim = False
        self._ends_with_connection = False

    @property
    def usable(self) -> bool:
        """Whether the next question may go this way; a timer may be late, where the process was frozen."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._loop.time() < self._deadline
        )

    def send(self, request: bytes) -> Answer:
        """Send a request; nothing else may be under way."""
        answer = self._answer = Answer(self)
        self._reschedule(math.inf)
        if self._transport is None:
            answer.fail(Disconnected("closed"))
            return answer
        self._parser = httptools.HttpResponseParser(self)
        # What servers at home write, and other clients read.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._in_head = True
        self._head_bytes = 0
        self._transport.write(request)
        return answer

    def pause(self) -> None:
        """Have the provider wait."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Let the provider go on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def unwanted(self, connecting: "asyncio.Task[None]") -> None:
        """Close: who wanted this connection is gone."""
        if not connecting.cancelled():
            connecting.exception()  # nobody else asks for it
        self.abort()

    def abort(self) -> None:
        """Close at once, without a goodbye for whose answer one would wait."""
        self._lose(Disconnected("closed"))

    def _on_deadline(self) -> None:
        self.abort()  # idle for too long

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:
            self._lose(Disconnected("an answer to no question"))
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._lose(ValueError("an upgrade that nobody asked for"))
        except httptools.HttpParserError as error:
            self._lose(error)
        else:
            if self._in_head and self._head_bytes > _HEAD_BYTES:
                self._lose(ValueError("a head without end"))
        answer.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        answer, parser = self._answer, self._parser
        if exc is None and answer is not None and parser is not None and self._ends_with_connection:
            self._answer = None
            answer.finish()
        self._lose(exc if isinstance(exc, OSError) else Disconnected("closed"))

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        answer, self._answer = self._answer, None
        self._parser = None
        self._cancel_timer()
        if transport is not None:
            transport.abort()
        self._pool.lost(self)
        if answer is not None:
            answer.fail(error)

    # What the parser tells.

    def on_message_begin(self) -> None:
        if self._answer is None:
            # A second answer to one question, together with the end of the first.
            self.abort()
            return
        self._head = {}
        self._in_head = True
        self._ends_with_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # and not in a trailer
            self._head[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        self._interim = status < 200
        if not self._interim and self._answer is not None:
            self._in_head = False
            # Where neither is said, the end of the connection is that of the body (RFC 9112, 6.3).
            self._ends_with_connection = not {"content-length", "transfer-encoding"} & self._head.keys()
            self._answer.headers, self._head = self._head, {}
            self._answer.status_code = status

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.add(body)

    def on_message_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if self._interim or answer is None or parser is None:
            return
        self._answer = None
        lasts = parser.should_keep_alive()
        answer.finish()
        if lasts and self._transport is not None:
            self._transport.resume_reading()
            self._reschedule(self._loop.time() + KEEPALIVE_SECONDS)
            self._pool.keep(self)
        else:
            self.abort()
