"""Connections to browsers: HTTP/1.1 for uvicorn, as lean as a thousand streams in one process ask for.

uvicorn listens, starts and stops the application; each connection is one of these, by its option `--http
parley.http.wire:Wire`. llhttp parses (RFC 9112). There are no upgrades, no access log and no bound on the
number of connections.
"""

import asyncio
import math
import urllib.parse
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Scope

from parley.http.exchange import STREAM, Afterwards, Exchange, Header, Streamed, chunk, refusal
from parley.timed import Timed

# A head that is longer is none of a browser's.
_HEAD_BYTES = 1 << 16
# A request that has begun is whole after so long.
_REQUEST_SECONDS = 60.0
# So many requests wait for the answer to the one before them.
_MOST_WAITING = 16
_FRAMING = (b"content-length", b"transfer-encoding")


class Wire(Timed, asyncio.Protocol):
    """One connection: a request at a time, or the stream that answers it.

    While it streams, there are no task, request, frame or parser for it: the stream wakes the connection,
    which takes what is due and writes it.
    """

    __slots__ = (
        "_afterwards", "_app", "_app_state", "_begun", "_chunked", "_exchange", "_expects", "_fed", "_head",
        "_head_bytes", "_headers", "_idle_seconds", "_incoming", "_keep", "_loop", "_parser", "_queue",
        "_root_path", "_state", "_streamed", "_transport", "_unknown_bytes", "_upgrading", "_url",
        "_writable", "paused",
    )  # fmt: skip

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        """As uvicorn makes its protocols: with its `Config` and its `ServerState`."""
        super().__init__()
        if not config.loaded:
            config.load()
        self._app: ASGIApp = config.loaded_app
        self._root_path: str = config.root_path
        self._idle_seconds: float = config.timeout_keep_alive
        self._state = server_state
        self._app_state = app_state
        self._loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._keep = True
        self.paused = False
        self._writable: asyncio.Future[None] | None = None
        self._queue: list[tuple[Exchange, Scope]] = []
        self._exchange: Exchange | None = None
        self._incoming: Exchange | None = None
        self._streamed: Streamed | None = None
        self._afterwards: Afterwards | None = None
        self._chunked = False
        self._head = b""
        self._parser: httptools.HttpRequestParser | None = None
        self._url = b""
        self._headers: list[Header] = []
        self._expects = False
        self._upgrading: bytes | None = None
        self._begun = False
        self._fed = 0
        self._head_bytes = 0
        self._unknown_bytes = 0

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(self)
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._parser = None
        self._queue.clear()
        self._state.connections.discard(self)
        self._cancel_timer()
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.leave()
        self.resume_writing()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.go()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            # Nobody has a word while its reply is streamed; whoever speaks does not get another one.
            self._keep = False
            return
        self._feed(data)
        if self._exchange is None:
            self._next()
        if len(self._queue) >= _MOST_WAITING:
            self.pause_reading()

    def _feed(self, data: bytes) -> None:
        left: bytes | memoryview = data
        while left and self._parser is not None:
            self._fed = len(left)
            try:
                self._parser.feed_data(left)
                left = b""
            except httptools.HttpParserUpgrade as upgrade:
                left = memoryview(left)[upgrade.args[0] :]
                if self._head_bytes <= _HEAD_BYTES:
                    self._ignore_upgrade()
            except httptools.HttpParserError:
                self._refuse(400, "invalid_request", "This is no HTTP request.")
                return
            self._unknown_bytes += self._fed
            if self._unknown_bytes > _HEAD_BYTES or self._head_bytes > _HEAD_BYTES:
                self._refuse(431, "too_large", "The head of the request is too long.")

    def _ignore_upgrade(self) -> None:
        """Go on without what was asked for (RFC 9110, 7.8): the parser leaves the body to whoever grants it.

        Another parser is told how the body is framed, and reads it.
        """
        framing = self._upgrading or b""
        self._new_parser()
        head = b"POST / HTTP/1.1\r\n%b\r\n" % framing
        self._fed = len(head)
        assert self._parser is not None
        self._parser.feed_data(head)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._streamed is not None:
            self._pump()

    def shutdown(self) -> None:
        """Close as soon as what is under way is answered; uvicorn calls this before it stops."""
        self._keep = False
        self._queue.clear()
        if self._exchange is not None:
            self._exchange.keep = False
        elif self._parser is not None:
            self._close()

    def _on_due(self) -> None:
        # Nothing was asked for too long, or a request does not come to its end. The next one may wait until
        # this one is answered.
        if self._exchange is None or self._exchange is self._incoming:
            self._close()

    def _expect_a_request(self) -> None:
        self._new_parser()
        self._set_due(self._loop.time() + self._idle_seconds)

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        # What comes after a request that is the last one is for nobody.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._begun = False
        self._unknown_bytes = self._head_bytes = 0

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer to what cannot be understood, unless that would break into another answer."""
        self._keep = False
        self._parser = None
        incoming, self._incoming = self._incoming, None
        if self._queue and self._queue[-1][0] is incoming:
            self._queue.pop()
        if self._exchange is None and not self._queue:
            if incoming is None or not incoming.done:
                self.write(refusal(status, code, message, self.default_headers))
            self._close()
        elif self._exchange is incoming and incoming is not None:
            if not incoming.started:
                incoming.refuse(status, code, message)
            self._close()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._begun = True
        if self._head_bytes <= _HEAD_BYTES:  # else nobody asks any more
            self._head_bytes = 0
        self._url = b""
        self._headers = []
        self._expects = False
        self._set_due(self._loop.time() + _REQUEST_SECONDS)

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._incoming is None:  # and not in a trailer
            name = name.lower()
            self._headers.append((name, value.rstrip(b" \t")))
            if name == b"expect":
                self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        parser, transport = self._parser, self._transport
        if self._upgrading is not None:
            self._upgrading = None  # of a request that is known already
            return
        if parser is None or transport is None or not self._keep:
            return
        if self._head_bytes > _HEAD_BYTES:
            self._keep = False  # and nothing of what follows is for anybody
            return
        headers, self._headers = self._headers, []
        url = httptools.parse_url(self._url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "root_path": self._root_path,
            "path": self._root_path + (urllib.parse.unquote(path) if "%" in path else path),
            "raw_path": self._root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "headers": headers,
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "state": self._app_state.copy(),
        }
        modern = version >= "1.1"
        exchange = Exchange(
            self,
            scope["method"],
            modern=modern,
            keep=modern and parser.should_keep_alive(),
            expects_continue=self._expects,
        )
        scope["extensions"] = {STREAM: exchange.stream}
        self._incoming = exchange
        self._queue.append((exchange, scope))
        if parser.should_upgrade():
            framing = [header for header in headers if header[0] in _FRAMING]
            self._upgrading = b"".join(b"%b: %b\r\n" % header for header in framing)

    def on_body(self, body: bytes) -> None:
        self._unknown_bytes = -self._fed
        if self._incoming is not None:
            self._incoming.add(body)

    def on_message_complete(self) -> None:
        if self._upgrading is not None:
            return  # its body is still to come
        # What was fed is known by now; what the next request has of it does not count.
        self._unknown_bytes = -self._fed
        self._begun = False
        if self._incoming is not None:
            self._incoming.complete()
            self._incoming = None
        if self._queue or self._exchange is not None:
            self._set_due(math.inf)
        else:  # it was answered before it was whole
            self._set_due(self._loop.time() + self._idle_seconds)

    # What an exchange asks for.

    @property
    def default_headers(self) -> list[Header]:
        """What uvicorn adds to every answer: the date."""
        return cast("list[Header]", self._state.default_headers)

    async def writable(self) -> None:
        """Wait while the client does not keep up."""
        while self.paused:
            if self._writable is None or self._writable.done():
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Have the client wait."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the client go on, unless it has asked for too much already."""
        if (
            self._transport is not None
            and len(self._queue) < _MOST_WAITING
            and not self._transport.is_closing()
        ):
            self._transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on: this exchange is over."""
        self._exchange = None
        self._state.total_requests += 1
        if not exchange.keep or not (self._keep or self._queue):
            self._close()
            return
        if self._begun:
            self._set_due(self._loop.time() + _REQUEST_SECONDS)
        elif not self._queue:
            self._set_due(self._loop.time() + self._idle_seconds)
        self._next()
        self.resume_reading()

    def give_up(self) -> None:
        """Close: this answer will not come to its end."""
        self._close()

    def _next(self) -> None:
        if self._queue:
            exchange, scope = self._queue.pop(0)
            self._exchange = exchange
            self._spawn(exchange.run(self._app, scope))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    # The stream.

    def stream(
        self, exchange: Exchange, head: bytes, streamed: Streamed, afterwards: Afterwards | None
    ) -> None:
        """Stream the rest of an answer."""
        self._exchange = None
        if self._transport is None or self._transport.is_closing():
            streamed.leave()
            return
        if not exchange.keep or self._queue or self._begun:
            self._keep = False
        self._parser = self._incoming = None
        self._queue.clear()
        self.resume_reading()
        self._url = b""
        self._cancel_timer()
        self._head = head
        self._chunked = exchange.chunked
        self._streamed = streamed
        self._afterwards = afterwards
        streamed.begin(self._pump)

    def _pump(self) -> None:
        streamed = self._streamed
        if streamed is None or self.paused:
            return
        try:
            piece = streamed.take()
        except BaseException:
            self._streamed = None
            streamed.leave()
            self._close()
            raise
        over = streamed.over
        last = over and self._afterwards is None
        if self._chunked:
            piece = chunk(piece, last=last)
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self.write(piece)
        if over:
            self._streamed = None
            if self._afterwards is None:
                self._streamed_all()
            else:
                self._spawn(self._settle(self._afterwards))

    async def _settle(self, afterwards: Afterwards) -> None:
        self._afterwards = None
        try:
            await afterwards()
        finally:
            self.write(chunk(b"", last=True) if self._chunked else b"")
            self._streamed_all()

    def _streamed_all(self) -> None:
        self._state.total_requests += 1
        if self._keep and self._transport is not None:
            self._expect_a_request()
        else:
            self._close()


def _address(name: Any) -> tuple[str, int] | None:
    """Return a socket's address as ASGI wants it: two parts, or none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
