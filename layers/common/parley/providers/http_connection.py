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
from parley.support.timer import Timed

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 30.0
# So long one of several addresses is tried before the next.
_TURN_SECONDS = 1.0
# An answer's head that is longer is none of a provider's.
_HEAD_BYTES = 1 << 16


class Place(NamedTuple):
    """Where a provider is."""

    host: str
    port: int
    secure: bool


class Wires:
    """Connections, kept for the next question as long as providers keep them."""

    def __init__(self, ssl_context: SSLContext) -> None:
        self._ssl_context = ssl_context
        self._idle: dict[Place, list[_Wire]] = {}
        self._all: set[_Wire] = set()
        self._opening: set[asyncio.Task[None]] = set()

    async def send(self, place: Place, head: bytes, body: bytes) -> Answer:
        """Send a request whose head lacks its last line, the body's length; return the answer's beginning.

        Raises `OSError`, `TimeoutError` where nobody takes the connection, and httptools' errors.
        """
        wire = self._take(place) or await self._connect(place)
        answer = wire.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        try:
            await answer.begun()
        except BaseException:
            answer.close()
            raise
        return answer

    def _take(self, place: Place) -> "_Wire | None":
        idle = self._idle.get(place, [])
        while idle:
            wire = idle.pop()
            if wire.usable:
                return wire
            wire.abort()
        return None

    async def _connect(self, place: Place) -> "_Wire":
        wire = _Wire(self, place)
        connecting = asyncio.create_task(self._open(wire, place))
        self._opening.add(connecting)
        connecting.add_done_callback(self._opening.discard)
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # asyncio's race for a host's addresses may lose the winner's socket when it is cancelled, so it
            # comes to its end.
            connecting.add_done_callback(wire.unwanted)
            raise
        return wire

    async def _open(self, wire: "_Wire", place: Place) -> None:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": self._ssl_context if place.secure else None}
        async with asyncio.timeout(CONNECT_SECONDS):
            if isinstance(loop, asyncio.BaseEventLoop):
                options["happy_eyeballs_delay"] = 0.25
                await loop.create_connection(lambda: wire, place.host, place.port, **options)
                return
            # uvloop knows no such race: an address that nobody answers at must not take all the time.
            if place.secure:
                options["server_hostname"] = place.host
            *others, last = await _addresses(place)
            for address in others:
                with contextlib.suppress(OSError):
                    async with asyncio.timeout(_TURN_SECONDS):
                        await loop.create_connection(lambda: wire, address, place.port, **options)
                        return
            await loop.create_connection(lambda: wire, last, place.port, **options)

    def opened(self, wire: "_Wire") -> None:
        """Note a connection."""
        self._all.add(wire)

    def keep(self, wire: "_Wire") -> None:
        """Keep a connection whose answer is whole."""
        self._idle.setdefault(wire.place, []).append(wire)

    def lost(self, wire: "_Wire") -> None:
        """Forget a connection."""
        self._all.discard(wire)
        idle = self._idle.get(wire.place, [])
        if wire in idle:
            idle.remove(wire)

    async def close(self) -> None:
        """Close every connection."""
        for connecting in self._opening:
            connecting.cancel()
        for wire in list(self._all):
            wire.abort()


async def _addresses(place: Place) -> list[str]:
    """Return a host's addresses, in the order in which the system would have them tried."""
    found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Wire(Timed, asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_answer", "_ends_with_connection", "_head", "_head_bytes", "_in_head", "_interim", "_loop",
        "_parser", "_transport", "_wires", "place",
    )  # fmt: skip

    def __init__(self, wires: Wires, place: Place) -> None:
        super().__init__()
        self.place = place
        self._wires = wires
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
            self._transport is not None and not self._transport.is_closing() and self._loop.time() < self._due
        )

    def send(self, request: bytes) -> Answer:
        """Send a request; nothing else may be under way."""
        answer = self._answer = Answer(self)
        self._set_due(math.inf)
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

    def _on_due(self) -> None:
        self.abort()  # idle for too long

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._wires.opened(self)

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
        self._wires.lost(self)
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
            self._set_due(self._loop.time() + KEEPALIVE_SECONDS)
            self._wires.keep(self)
        else:
            self.abort()
