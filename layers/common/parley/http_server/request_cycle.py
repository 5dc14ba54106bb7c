"""One HTTP request and its response: the ASGI `receive` and `send` of one call of the application."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct
from starlette.types import ASGIApp, Message, Scope

from parley.http_server.request_limits import BrokenOff
from parley.http_server.response_head import Header, chunk, error_response, head_of
from parley.support.logs import logger

_logger = logger("http")
# The key of an ASGI scope extension: a response hands its stream over to the connection and returns.
STREAM = "parley.stream"
# Bytes of request body buffered before reading is paused.
_BODY_BYTES = 1 << 16


class RequestHead(Struct, frozen=True):
    """A request's line and fields. `keep` is True if the client allows a persistent connection."""

    method: str
    url: bytes
    version: str
    headers: list[Header]
    keep: bool
    expects_continue: bool


class Streamed(Protocol):
    """A source of body bytes that wakes its connection instead of running a task."""

    @property
    def over(self) -> bool:
        """Whether the stream has ended and everything was taken."""
        ...

    def begin(self, wake: Callable[[], object]) -> None:
        """Start, and call `wake` whenever `take` may return bytes."""
        ...

    def take(self) -> bytes:
        """Return the bytes that are due now; empty if there are none."""
        ...

    def leave(self) -> None:
        """Stop, since the client has left or the response has failed."""
        ...


OnComplete = Callable[[], Awaitable[None]]


class CycleConnection(Protocol):
    """The connection's methods that a request cycle uses."""

    @property
    def default_headers(self) -> list[Header]:
        """The fields that are added to every response."""
        ...

    @property
    def paused(self) -> bool:
        """Whether the transport's write buffer is full."""
        ...

    async def writable(self) -> None:
        """Wait until the write buffer has room."""
        ...

    def write(self, data: bytes) -> None:
        """Send data."""
        ...

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def answered(self, cycle: "RequestCycle") -> None:
        """Continue with the next request: this cycle's response is complete."""
        ...

    def stream(
        self, cycle: "RequestCycle", head: bytes, streamed: Streamed, on_complete: OnComplete | None
    ) -> None:
        """Send the head, and stream the body of this cycle's response."""
        ...

    def give_up(self) -> None:
        """Close the connection: the response stays incomplete."""
        ...


class RequestCycle:
    """A request that is being received, and the response to it.

    - `whole`: the request is complete.
    - `started`: the application has sent the response's status and fields.
    - `done`: the response is complete, or handed over as a stream.
    - `chunked`: the response has the chunked transfer coding (RFC 9112, section 7.1).
    - `keep`: the connection persists after the response.
    """

    __slots__ = (
        "_bodiless", "_body", "_connection", "_continue", "_given", "_gone", "_head", "_left", "_modern",
        "_waiter", "chunked", "done", "keep", "started", "whole",
    )  # fmt: skip

    def __init__(self, connection: CycleConnection, request: RequestHead) -> None:
        self._connection = connection
        self._modern = request.version == "1.1"
        self._bodiless = request.method == "HEAD"
        self.keep = request.keep
        self._continue = request.expects_continue and self._modern
        self._body = b""
        self.whole = False
        self._given = False
        self._waiter: asyncio.Future[None] | None = None
        self._gone = False
        self.started = False
        self._head = b""
        self._left: int | None = None
        self.chunked = False
        self.done = False

    # The request, from the parser.

    def add(self, body: bytes) -> None:
        """Buffer a part of the request's body; pause reading when the buffer is full."""
        if self.done:
            return
        self._body += body
        if len(self._body) > _BODY_BYTES:
            self._connection.pause_reading()
        self._wake()

    def complete(self) -> None:
        """Record that the request is complete."""
        self.whole = True
        self._wake()

    def go(self) -> None:
        """Record that the client has closed the connection."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # The application's side.

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Call the application, and send a 500 response if it returns without having sent one."""
        try:
            await app(scope, self.receive, self.send)
        except BrokenOff:
            pass  # `RequestLimits` has logged the reason
        except Exception as error:
            _logger.error("request_broke", exc_info=error, extra={"path": scope["path"]})
        except BaseException:
            if not self.done:
                self._connection.give_up()
            raise
        if self.done or self._gone:
            return
        # A response without its end must not look complete, so the connection is closed in its middle.
        if self.started:
            self._connection.give_up()
        else:
            self._fail()

    def _fail(self) -> None:
        """Send a 500 response and close the connection."""
        self.started = self.done = True
        self.keep = False
        what = (500, "internal", "Something went wrong here.")
        told = error_response(*what, self._connection.default_headers, bodiless=self._bodiless)
        self._connection.write(told)
        self._connection.answered(self)

    async def receive(self) -> Message:
        """Return ASGI's next event: a part of the request's body, or `http.disconnect`.

        A disconnect also follows the end of the response. If the client expects it, the first call sends
        100 (Continue) (RFC 9110, section 10.1.1).
        """
        if self._continue and not (self.started or self._gone):
            self._continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self.done or self._body or (self.whole and not self._given)):
            self._connection.resume_reading()
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            # Several tasks may wait, and the cancellation of one must not cancel the others' future.
            await asyncio.shield(self._waiter)
        if self._gone or self.done:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        self._given = self.whole
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Message) -> None:
        """Send a part of the response. The head waits for the first part of the body: both are one write.

        Raises `RuntimeError` for events out of order and for a body of another length than Content-Length.
        """
        if self._connection.paused:
            await self._connection.writable()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            if self.started:
                raise RuntimeError("an answer that begins twice")
            fields = (*self._connection.default_headers, *message.get("headers", ()))
            self._head, self._left, self.chunked, self.keep = head_of(
                message["status"],
                fields,
                bodiless=self._bodiless,
                modern=self._modern,
                keep=self.keep,
            )
            self.started = True
        elif message["type"] != "http.response.body" or not self.started or self.done:
            raise RuntimeError("a part of an answer that does not belong here")
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def stream(self, streamed: Streamed, on_complete: OnComplete | None) -> None:
        """Hand the body over to the connection, which awaits `on_complete` before the end of the response.

        Raises `RuntimeError` unless the response has started and has no Content-Length above zero.
        """
        if self._gone:
            streamed.leave()
            return
        if not self.started or self.done or self._left:
            raise RuntimeError("a stream that has no place in its answer")
        self.done = True
        if self._left == 0:  # a response without a body, such as one to HEAD
            streamed.leave()
            self._connection.write(self._head)
            self._connection.answered(self)
            return
        self._connection.stream(self, self._head, streamed, on_complete)

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._bodiless:
            body = b""
        if self.chunked:
            piece = chunk(body, last=not more)
        else:
            piece = body
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("a body of another length than was said")
        head, self._head = self._head, b""
        self._connection.write(head + piece if head else piece)
        if not more:
            self.done = True
            self._wake()
            self._connection.answered(self)
