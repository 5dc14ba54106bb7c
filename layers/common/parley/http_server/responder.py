"""Runs the application for one request, and writes the head of its response together with the body."""

import asyncio
import sys
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parley.http_server.error_response import error_response
from parley.http_server.request_limits import BrokenOff
from parley.http_server.stream_protocol import STREAM, OnComplete, Streamed
from parley.support.logs import logger

_logger = logger("http")
_BODILESS = (204, 304)


class ResponderConnection(Protocol):
    """The connection's methods that a responder uses."""

    transport: asyncio.Transport

    def give_up(self) -> None:
        """Close the connection."""
        ...

    def stream(
        self, cycle: Any, head: bytes, streamed: Streamed, on_complete: OnComplete | None, *, chunked: bool
    ) -> None:
        """Send `head`, and stream the body of this cycle's response."""
        ...


class Responder:
    """An ASGI application around the server's, for one of uvicorn's `RequestResponseCycle`s.

    It stands for the cycle's transport too: uvicorn writes the head of a response by itself, and the head is
    held here until the first part of the body.
    """

    __slots__ = ("_app", "_connection", "_head", "_until_close", "cycle")

    def __init__(self, app: ASGIApp, connection: ResponderConnection, cycle: Any) -> None:
        self._app = app
        self._connection = connection
        self._head: bytes | None = None
        self._until_close = False
        self.cycle = cycle
        cycle.transport = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle
        scope["extensions"] = {STREAM: self._stream}
        if scope["http_version"] == "1.0":
            cycle.waiting_for_100_continue = False  # RFC 9110, section 10.1.1
            send = self._send_to_old
        cancelled = False
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            cancelled = True
        except BrokenOff:
            pass  # `RequestLimits` has logged the reason
        except Exception as error:
            # Not left to uvicorn, which would log it again, and answer in plain text.
            _logger.error("request_broke", exc_info=error, extra={"path": scope["path"]})
        if not (cycle.response_complete or cycle.disconnected):
            self._fail(scope, silent=cancelled)
        # These references make a circle, which only the garbage collector could free.
        scope.pop("extensions", None)
        cycle.transport = self._connection.transport

    def _fail(self, scope: Scope, *, silent: bool) -> None:
        """Send a 500 response if nothing was sent, and close the connection: a cut response is not whole."""
        cycle = self.cycle
        cycle.disconnected = True
        if not (silent or self._head == b""):
            what = (500, "internal", "Something went wrong here.")
            told = error_response(*what, cycle.default_headers, bodiless=scope["method"] == "HEAD")
            self._connection.transport.write(told)
        self._connection.give_up()
        cycle.on_response()

    async def _send_to_old(self, message: Message) -> None:
        """Send to a client of HTTP/1.0, which knows no chunks: closing ends a body of unknown length."""
        cycle = self.cycle
        if message["type"] == "http.response.start":
            named = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not (named or cycle.scope["method"] == "HEAD" or message["status"] in _BODILESS):
                self._until_close = True
                cycle.chunked_encoding = False
                cycle.expected_content_length = sys.maxsize
        elif self._until_close and not message.get("more_body", False):
            cycle.expected_content_length = len(message.get("body", b""))
        await cycle.send(message)

    def _stream(self, streamed: Streamed, on_complete: OnComplete | None) -> None:
        """Hand the body over to the connection, which awaits `on_complete` before the end of the response.

        Raises `RuntimeError` unless the response has just started and has no Content-Length.
        """
        cycle = self.cycle
        if cycle.disconnected or self._connection.transport.is_closing():
            streamed.leave()
            return
        bodiless = cycle.chunked_encoding is None or cycle.scope["method"] == "HEAD"
        if not self._head or not (bodiless or cycle.chunked_encoding or self._until_close):
            raise RuntimeError("a stream that has no place in its response")
        cycle.response_complete = True
        cycle.message_event.set()
        if bodiless:
            streamed.leave()
            if not cycle.keep_alive:
                self.close()
            cycle.on_response()
            return
        head, self._head = self._head, b""
        self._connection.stream(cycle, head, streamed, on_complete, chunked=cycle.chunked_encoding)

    # The transport of the cycle.

    def write(self, data: bytes) -> None:
        """Send a part of the response; hold its head."""
        if self._head is None and self.cycle.response_started:
            self._head = data
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._connection.transport.write(data)

    def flush(self) -> None:
        """Send the head, if it is still held: a response to HEAD has nothing else."""
        if self._head:
            self.write(b"")

    def is_closing(self) -> bool:
        """Return whether the connection is closed or will be."""
        return self._connection.transport.is_closing()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self.flush()
        self._connection.give_up()
