"""Connections to browsers: HTTP/1.1 for uvicorn, as lean as a thousand streams in one process ask for.

uvicorn listens, starts and stops the application. Each connection is one of these, by uvicorn's option
`--http parley.http_server.protocol:HttpProtocol`. llhttp parses (RFC 9112). There are no upgrades, no access
log and no bound on the number of connections.
"""

import asyncio
import math
import urllib.parse
from typing import Any

import httptools
from starlette.types import ASGIApp, Scope

from parley.http_server.connection import Connection
from parley.http_server.request_cycle import STREAM, OnComplete, RequestCycle, RequestHead, Streamed
from parley.http_server.request_parser import BadRequest, RequestParser
from parley.http_server.response_head import Header, chunk, refusal
from parley.support.logs import logger

_logger = logger("http")
# A request that has begun is whole after so long.
_REQUEST_SECONDS = 60.0
# So long a client that was refused may still speak.
_LINGER_SECONDS = 1.0
# When so many requests wait for the answer to another one, no more are read; what was read together with
# them waits too, but no more than this.
_MOST_WAITING = 16
_MOST_TOGETHER = 1000


class HttpProtocol(Connection):
    """One connection: a request at a time, or the stream that answers it.

    While it streams, there are no task, request, frame or parser for it: the stream wakes the connection,
    which takes what is due and writes it.
    """

    __slots__ = (
        "_app",
        "_app_state",
        "_chunked",
        "_exchange",
        "_head",
        "_idle_seconds",
        "_incoming",
        "_keep",
        "_on_complete",
        "_queue",
        "_root_path",
        "_state",
        "_streamed",
    )  # fmt: skip

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        """As uvicorn makes its protocols: with its `Config` and its `ServerState`."""
        super().__init__(_loop or asyncio.get_running_loop())
        if not config.loaded:
            config.load()
        self._app: ASGIApp = config.loaded_app
        self._root_path: str = config.root_path
        self._idle_seconds: float = config.timeout_keep_alive
        self._state = server_state
        self._app_state = app_state
        self._keep = True
        self._queue: list[tuple[RequestCycle, Scope]] = []
        self._exchange: RequestCycle | None = None
        self._incoming: RequestParser | None = None
        self._streamed: Streamed | None = None
        self._on_complete: OnComplete | None = None
        self._chunked = False
        self._head = b""

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._state.connections.add(self)
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listen_no_more()
        self._queue.clear()
        self._state.connections.discard(self)
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.leave()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None:
            # Nobody has a word while its reply is streamed; whoever speaks does not get another one.
            self._keep = False
            return
        count = incoming.count
        try:
            incoming.feed(data)
        except BadRequest as error:
            self._refuse(incoming.exchange, error)
        if self._exchange is None:
            self._next()
        if len(self._queue) >= _MOST_WAITING:
            self.pause_reading()
        # What a request takes is counted from its beginning.
        goes_on = incoming.begun and incoming.count == count
        if not self.paused and not goes_on:
            self._await_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._streamed is not None:
            self._pump()

    def resume_reading(self) -> None:
        """Let the client go on, unless it has asked for too much already."""
        if len(self._queue) < _MOST_WAITING:
            super().resume_reading()

    def shutdown(self) -> None:
        """Close as soon as what is under way is answered; uvicorn calls this before it stops."""
        self._keep = False
        self._queue.clear()
        if self._exchange is not None:
            self._exchange.keep = False
        elif self._incoming is not None:
            self.give_up()

    def _patience(self) -> float:
        exchange, incoming = self._exchange, self._incoming
        if exchange is not None and exchange.whole:
            return math.inf
        if self._queue or self._streamed is not None or self._on_complete is not None:
            return math.inf
        if incoming is None:
            return _LINGER_SECONDS
        return _REQUEST_SECONDS if incoming.begun else self._idle_seconds

    def _expect_a_request(self) -> None:
        self._incoming = RequestParser(self._begin)
        self._await_client()

    def _listen_no_more(self) -> None:
        if self._incoming is not None:
            self._incoming.end()
            self._incoming = None

    def _refuse(self, incoming: RequestCycle | None, error: BadRequest) -> None:
        """Answer to what cannot be understood, unless that would break into another answer."""
        if error.too_long:
            what = (431, "too_large", "The head of the request is too long.")
        else:
            what = (400, "invalid_request", "This is no HTTP request.")
        self._keep = False
        self._listen_no_more()
        if self._queue and self._queue[-1][0] is incoming:
            self._queue.pop()
        if self._queue or (self._exchange is not None and self._exchange is not incoming):
            return
        if incoming is None or not (incoming.started or incoming.done):
            self.write(refusal(*what, self.default_headers))
        if incoming is not None:
            incoming.go()
        self._hang_up()

    # What an exchange asks for.

    @property
    def default_headers(self) -> list[Header]:
        """What uvicorn adds to every answer: the date."""
        headers: list[Header] = self._state.default_headers
        return headers

    def answered(self, exchange: RequestCycle) -> None:
        """Go on: this exchange is over."""
        self._exchange = None
        self._state.total_requests += 1
        if not exchange.keep or not (self._keep or self._queue):
            self.give_up()
            return
        self._next()
        self._await_client()
        self.resume_reading()

    def _begin(self, head: RequestHead) -> RequestCycle | None:
        transport = self._transport
        if len(self._queue) >= _MOST_TOGETHER:
            self._keep = False
        if transport is None or not self._keep:
            return None
        url = httptools.parse_url(head.url)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        exchange = RequestCycle(self, head)
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
            "root_path": self._root_path,
            "path": self._root_path + (urllib.parse.unquote(path) if "%" in path else path),
            "raw_path": self._root_path.encode("ascii") + raw_path,
            "query_string": url.query or b"",
            "headers": head.headers,
            "server": self._address("sockname"),
            "client": self._address("peername"),
            "state": self._app_state.copy(),
            "extensions": {STREAM: exchange.stream},
        }
        self._queue.append((exchange, scope))
        return exchange

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
        self, exchange: RequestCycle, head: bytes, streamed: Streamed, on_complete: OnComplete | None
    ) -> None:
        """Stream the rest of an answer, then await `on_complete`, unless the client has left by then."""
        self._exchange = None
        if self._transport is None or self._transport.is_closing():
            streamed.leave()
            return
        if not exchange.keep or self._queue or (self._incoming is not None and self._incoming.begun):
            self._keep = False
        self._listen_no_more()
        self._queue.clear()
        self.resume_reading()
        self._head = head
        self._chunked = exchange.chunked
        self._streamed = streamed
        self._on_complete = on_complete
        self._cancel_timer()
        self._await_client()
        streamed.begin(self._pump)

    def _pump(self) -> None:
        streamed = self._streamed
        if streamed is None or self.paused:
            return
        try:
            piece = streamed.take()
        except Exception as error:
            _logger.error("request_broke", exc_info=error)
            self._streamed = None
            streamed.leave()
            self.give_up()
            return
        over = streamed.over
        last = over and self._on_complete is None
        if self._chunked:
            piece = chunk(piece, last=last)
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self.write(piece)
        if over:
            self._streamed = None
            if self._on_complete is None:
                self._streamed_all()
            else:
                self._spawn(self._settle(self._on_complete))

    async def _settle(self, on_complete: OnComplete) -> None:
        try:
            await on_complete()
        except Exception as error:
            _logger.error("request_broke", exc_info=error)
            self.give_up()
            return
        except BaseException:
            self.give_up()
            raise
        finally:
            self._on_complete = None
        if self._chunked:
            self.write(chunk(b"", last=True))
        self._streamed_all()

    def _streamed_all(self) -> None:
        self._state.total_requests += 1
        if self._keep and self._transport is not None:
            self._expect_a_request()
        else:
            self.give_up()
