"""One HTTP request and its answer, as an ASGI application sees them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct
from starlette.types import ASGIApp, Message, Scope

from parley.http_server.request_limits import BrokenOff
from parley.http_server.response_head import Header, chunk, head_of, refusal
from parley.support.logs import logger

_logger = logger("http")
# The extension of a scope by which a response gives its connection something to stream, and ends.
STREAM = "parley.stream"
# So much of a body is kept that nobody has asked for.
_BODY_BYTES = 1 << 16


class RequestHead(Struct, frozen=True):
    """A request's head. `keep` says that its client may go on after it."""

    method: str
    url: bytes
    version: str
    headers: list[Header]
    keep: bool
    expects_continue: bool


class Streamed(Protocol):
    """What a connection streams: it is woken when there may be something to take."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        ...

    def begin(self, wake: Callable[[], object]) -> None:
        """Have `wake` called whenever there may be something to take."""
        ...

    def take(self) -> bytes:
        """Return what is due now, or nothing."""
        ...

    def leave(self) -> None:
        """Stop: nobody takes any more."""
        ...


OnComplete = Callable[[], Awaitable[None]]


class CycleConnection(Protocol):
    """The connection, as an exchange needs it."""

    @property
    def default_headers(self) -> list[Header]:
        """What is added to every answer."""
        ...

    @property
    def paused(self) -> bool:
        """Whether the client does not keep up."""
        ...

    async def writable(self) -> None:
        """Wait while the client does not keep up."""
        ...

    def write(self, data: bytes) -> None:
        """Send."""
        ...

    def pause_reading(self) -> None:
        """Have the client wait."""
        ...

    def resume_reading(self) -> None:
        """Let the client go on."""
        ...

    def answered(self, exchange: "RequestCycle") -> None:
        """Go on: this exchange is over."""
        ...

    def stream(
        self, exchange: "RequestCycle", head: bytes, streamed: Streamed, on_complete: OnComplete | None
    ) -> None:
        """Stream the rest of an answer."""
        ...

    def give_up(self) -> None:
        """Close: this answer will not come to its end."""
        ...


class RequestCycle:
    """A request that is coming in, and the answer to it that is going out.

    `whole` says that all of the request is here, `started` and `done` how far the answer is, `chunked` and
    `keep` how that ends: by an empty chunk, and with the connection kept.
    """

    __slots__ = (
        "_bodiless", "_body", "_continue", "_given", "_gone", "_head", "_left", "_modern", "_waiter",
        "_wire", "chunked", "done", "keep", "started", "whole",
    )  # fmt: skip

    def __init__(self, wire: CycleConnection, request: RequestHead) -> None:
        self._wire = wire
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

    # The request.

    def add(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self.done:
            return
        self._body += body
        if len(self._body) > _BODY_BYTES:
            self._wire.pause_reading()
        self._wake()

    def complete(self) -> None:
        """Note that the request is whole."""
        self.whole = True
        self._wake()

    def go(self) -> None:
        """Note that the client has left."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the application calls.

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have the application answer, and answer for it where it does not."""
        try:
            await app(scope, self.receive, self.send)
        except BrokenOff:
            pass  # it is logged
        except Exception as error:
            _logger.error("request_broke", exc_info=error, extra={"path": scope["path"]})
        except BaseException:
            if not self.done:
                self._wire.give_up()
            raise
        if self.done or self._gone:
            return
        if self.started:
            self._wire.give_up()
        else:
            self._fail()

    def _fail(self) -> None:
        """Answer for an application that did not."""
        self.started = self.done = True
        self.keep = False
        what = (500, "internal", "Something went wrong here.")
        told = refusal(*what, self._wire.default_headers, bodiless=self._bodiless)
        self._wire.write(told)
        self._wire.answered(self)

    async def receive(self) -> Message:
        """Return the next of what the client does, once there is something."""
        if self._continue and not (self.started or self._gone):
            self._continue = False
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self.done or self._body or (self.whole and not self._given)):
            self._wire.resume_reading()
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            # Several may listen, and each may cease to.
            await asyncio.shield(self._waiter)
        if self._gone or self.done:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        self._given = self.whole
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Message) -> None:
        """Send a part of the answer. The head waits for what comes next: they go out in one write."""
        if self._wire.paused:
            await self._wire.writable()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            if self.started:
                raise RuntimeError("an answer that begins twice")
            fields = (*self._wire.default_headers, *message.get("headers", ()))
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
        """Leave the rest of the answer to the connection; `on_complete` is awaited before its end."""
        if self._gone:
            streamed.leave()
            return
        if not self.started or self.done or self._left:
            raise RuntimeError("a stream that has no place in its answer")
        self.done = True
        if self._left == 0:  # an answer without a body, to HEAD for one
            streamed.leave()
            self._wire.write(self._head)
            self._wire.answered(self)
            return
        self._wire.stream(self, self._head, streamed, on_complete)

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
        self._wire.write(head + piece if head else piece)
        if not more:
            self.done = True
            self._wake()
            self._wire.answered(self)
