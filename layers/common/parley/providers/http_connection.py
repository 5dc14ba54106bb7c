"""HTTP/1.1 connections to providers (RFC 9112): one request at a time, its response read as it arrives.

A request is one POST with a body of known length. A response is any that llhttp can parse. There are no
redirects, no cookies, no compression and no proxies.
"""

import asyncio
import contextlib
import math
import socket
from ssl import SSLContext
from typing import Any, NamedTuple, cast

import httptools

from parley.providers.http_response import Disconnected, Response
from parley.support.timer import Deadline

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30.0
# Seconds for one of several addresses of a host, before the next is tried.
_TURN_SECONDS = 1.0
# Bytes of a response's head. No provider's is longer.
_HEAD_BYTES = 1 << 16


class Origin(NamedTuple):
    """The scheme, host and port of a provider (RFC 9110, 4.3.1). `secure` means https."""

    host: str
    port: int
    secure: bool


class ConnectionPool:
    """Idle connections by origin. A connection is used again until the provider or a timer closes it."""

    def __init__(self, ssl_context: SSLContext) -> None:
        self._ssl_context = ssl_context
        self._idle: dict[Origin, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def send(self, origin: Origin, head: bytes, body: bytes) -> Response:
        """Send a request, and return its response once the status and the headers have come.

        `head` ends before its last field, Content-Length, which this method adds. Raises `OSError`,
        `TimeoutError` where no connection opens within `CONNECT_SECONDS`, and httptools' errors.
        """
        connection = self._take(origin) or await self._connect(origin)
        response = connection.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        try:
            await response.begun()
        except BaseException:
            response.close()
            raise
        return response

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
            # A cancelled race for a host's addresses can leak the socket of the address that won. So the race
            # runs to its end, and its connection is closed then.
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
            # uvloop has no such race. An address that does not answer must not use up the whole timeout.
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
        """Add a connection that has opened."""
        self._all.add(connection)

    def keep(self, connection: "Connection") -> None:
        """Make a connection idle: its response is complete."""
        self._idle.setdefault(connection.origin, []).append(connection)

    def lost(self, connection: "Connection") -> None:
        """Remove a connection that has closed."""
        self._all.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    async def close(self) -> None:
        """Close every connection, and cancel those that are still opening."""
        for connecting in self._opening:
            connecting.cancel()
        for connection in list(self._all):
            connection.abort()


async def _addresses(origin: Origin) -> list[str]:
    """Return a host's addresses, in the system's order of preference."""
    found = await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Connection(Deadline, asyncio.Protocol):
    """A connection to one origin, with at most one request on it."""

    __slots__ = (
        "_ends_with_connection",
        "_head",
        "_head_bytes",
        "_in_head",
        "_interim",
        "_loop",
        "_parser",
        "_pool",
        "_response",
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
        self._response: Response | None = None
        self._head: dict[str, str] = {}
        self._head_bytes = 0
        self._in_head = True
        self._interim = False
        self._ends_with_connection = False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent.

        Compares the deadline too: a timer fires late in a process that was frozen.
        """
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._loop.time() < self._deadline
        )

    def send(self, request: bytes) -> Response:
        """Send a request, and return its response, still empty. No other request may be in progress."""
        response = self._response = Response(self)
        self._reschedule(math.inf)
        if self._transport is None:
            response.fail(Disconnected("closed"))
            return response
        self._parser = httptools.HttpResponseParser(self)
        # Self-hosted servers send such headers, line ends and chunk sizes. Other clients accept them.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._in_head = True
        self._head_bytes = 0
        self._transport.write(request)
        return response

    def pause(self) -> None:
        """Stop reading, so that the provider has to wait."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def unwanted(self, connecting: "asyncio.Task[None]") -> None:
        """Close this connection when `connecting` is done: its caller was cancelled."""
        if not connecting.cancelled():
            connecting.exception()  # retrieved, or asyncio logs it as lost
        self.abort()

    def abort(self) -> None:
        """Close at once. A TLS shutdown would have to wait for the provider."""
        self._lose(Disconnected("closed"))

    def _on_deadline(self) -> None:
        self.abort()  # idle too long: `send` clears the deadline

    # The event loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        response, parser = self._response, self._parser
        if response is None or parser is None:
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
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        response, parser = self._response, self._parser
        # A clean close is the end of a body without a length. A reset is not.
        if exc is None and response is not None and parser is not None and self._ends_with_connection:
            self._response = None
            response.finish()
        self._lose(exc if isinstance(exc, OSError) else Disconnected("closed"))

    def _lose(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        response, self._response = self._response, None
        self._parser = None
        self._cancel_timer()
        if transport is not None:
            transport.abort()
        self._pool.lost(self)
        if response is not None:
            response.fail(error)

    # The parser calls these.

    def on_message_begin(self) -> None:
        if self._response is None:
            # A second response to one request, in one read with the end of the first.
            self.abort()
            return
        self._head = {}
        self._in_head = True
        self._ends_with_connection = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not in a trailer section (RFC 9112, 7.1.2)
            self._head[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        self._interim = status < 200
        if not self._interim and self._response is not None:
            self._in_head = False
            # A body with neither field ends with the connection (RFC 9112, 6.3).
            self._ends_with_connection = not {"content-length", "transfer-encoding"} & self._head.keys()
            self._response.headers, self._head = self._head, {}
            self._response.status_code = status

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._response.add(body)

    def on_message_complete(self) -> None:
        response, parser = self._response, self._parser
        if self._interim or response is None or parser is None:
            return
        self._response = None
        lasts = parser.should_keep_alive()
        response.finish()
        if lasts and self._transport is not None:
            self._transport.resume_reading()
            self._reschedule(self._loop.time() + KEEPALIVE_SECONDS)
            self._pool.keep(self)
        else:
            self.abort()
