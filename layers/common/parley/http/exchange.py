"""One HTTP request and its answer, as an ASGI application sees them."""

import asyncio
import http
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from parley.encoding import to_json
from parley.http.headers import HEADERS
from parley.http.limits import BrokenOff
from parley.logs import logger

_log = logger("http")

Header = tuple[bytes, bytes]
# The extension of a scope by which a response gives its connection something to stream, and ends.
STREAM = "parley.stream"

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in http.HTTPStatus
}
_BODILESS = (204, 304)
# What no line of a head may hold: it would end the line, or mean something else to somebody.
_CONTROLS = bytes(set(range(32)) - {9} | {127})
_BLANK = b"\r\n\r\n"
# So much of a body is kept that nobody has asked for.
_BODY_BYTES = 1 << 16


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


Afterwards = Callable[[], Awaitable[None]]


class Wire(Protocol):
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

    def answered(self, exchange: "Exchange") -> None:
        """Go on: this exchange is over."""
        ...

    def stream(
        self, exchange: "Exchange", head: bytes, streamed: Streamed, afterwards: Afterwards | None
    ) -> None:
        """Stream the rest of an answer."""
        ...

    def give_up(self) -> None:
        """Close: this answer will not come to its end."""
        ...


class Exchange:
    """A request that is coming in, and the answer to it that is going out.

    `chunked` and `keep` say how its answer ends: by an empty chunk, and with the connection kept.
    """

    __slots__ = (
        "_body",
        "_continue",
        "_given",
        "_gone",
        "_head",
        "_left",
        "_method",
        "_more",
        "_started",
        "_waiter",
        "_wire",
        "chunked",
        "done",
        "keep",
        "modern",
    )  # fmt: skip

    def __init__(self, wire: Wire, method: str, *, modern: bool, keep: bool, expects_continue: bool) -> None:
        """`modern` says that the client knows HTTP/1.1, and so chunks."""
        self._wire = wire
        self._method = method
        self.modern = modern
        self.keep = keep
        self._continue = expects_continue and modern
        self._body = b""
        self._more = True
        self._given = False
        self._waiter: asyncio.Future[None] | None = None
        self._gone = False
        self._started = False
        self._head = b""
        self._left: int | None = None
        self.chunked = False
        self.done = False

    # The request.

    @property
    def whole(self) -> bool:
        """Whether all of the request is here."""
        return not self._more

    @property
    def started(self) -> bool:
        """Whether its answer has begun."""
        return self._started

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
        self._more = False
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
            _log.error("request_broke", exc_info=error, extra={"path": scope["path"]})
        except BaseException:
            if not self.done:
                self._wire.give_up()
            raise
        if self.done or self._gone:
            return
        if self._started:
            self._wire.give_up()
        else:
            self._fail()

    def _fail(self) -> None:
        """Answer for an application that did not."""
        self.refuse(500, "internal", "Something went wrong here.")
        self._wire.answered(self)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with a refusal, the last thing that is said on this connection."""
        self._started = self.done = True
        self.keep = False
        told = refusal(status, code, message, self._wire.default_headers)
        if self._method == "HEAD":
            told = told[: told.index(_BLANK) + len(_BLANK)]
        self._wire.write(told)

    async def receive(self) -> Message:
        """Return the next of what the client does, once there is something."""
        if self._continue and not self._started:
            self._continue = False
            self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self.done or self._body or (not self._given and not self._more)):
            self._wire.resume_reading()
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            # Several may listen, and each may cease to.
            await asyncio.shield(self._waiter)
        if self._gone or self.done:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        self._given = not self._more
        return {"type": "http.request", "body": body, "more_body": self._more}

    async def send(self, message: Message) -> None:
        """Send a part of the answer. The head waits for what comes next: they go out in one write."""
        if self._wire.paused:
            await self._wire.writable()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            if self._started:
                raise RuntimeError("an answer that begins twice")
            self._start(message["status"], message.get("headers", ()))
        elif message["type"] != "http.response.body" or not self._started or self.done:
            raise RuntimeError("a part of an answer that does not belong here")
        else:
            self._write(message.get("body", b""), more=message.get("more_body", False))

    def stream(self, streamed: Streamed, afterwards: Afterwards | None) -> None:
        """Leave the rest of the answer to the connection; `afterwards` is awaited before its end."""
        if self._gone:
            streamed.leave()
            return
        if not self._started or self.done or self._left:
            raise RuntimeError("a stream that has no place in its answer")
        self.done = True
        if self._left == 0:  # an answer without a body, to HEAD for one
            streamed.leave()
            self._wire.write(self._head)
            self._wire.answered(self)
            return
        self._wire.stream(self, self._head, streamed, afterwards)

    def _start(self, status: int, headers: Iterable[Header]) -> None:
        parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        length: int | None = None
        chunked = False
        keep = self.keep
        said_close = False
        lines = 2
        for name, value in (*self._wire.default_headers, *headers):
            lines += 1
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                said_close = b"close" in value.lower()
        if self._method == "HEAD" or status in _BODILESS:
            length = 0
        elif length is None:
            chunked = self.modern
            if chunked:
                lines += 1
                parts.append(b"transfer-encoding: chunked\r\n")
        keep = keep and not said_close and (chunked or length is not None)
        if not keep and not said_close:
            lines += 1
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        if len(head.translate(None, _CONTROLS)) != len(head) - 2 * lines:
            raise RuntimeError("a header that would be more than one")
        self._started = True
        self._head = head
        self._left = length
        self.chunked = chunked
        self.keep = keep

    def _write(self, body: bytes, *, more: bool) -> None:
        if self._method == "HEAD":
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


def chunk(body: bytes, *, last: bool) -> bytes:
    """Return a part of a chunked body (RFC 9112, 7.1)."""
    piece = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return piece + b"0\r\n\r\n" if last else piece


def refusal(status: int, code: str, message: str, headers: Iterable[Header] = ()) -> bytes:
    """Return a whole answer, after which the connection is closed."""
    body = to_json({"error": {"code": code, "message": message, "retryable": status >= 500}})
    its = [*headers, *HEADERS, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    head = b"".join(b"%b: %b\r\n" % header for header in its)
    return b"%b%bconnection: close\r\n\r\n%b" % (_STATUS_LINES[status], head, body)
