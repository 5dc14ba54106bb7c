"""An HTTP/1.1 protocol for uvicorn that keeps little memory for each of a thousand streams.

uvicorn listens, and starts and stops the application. Its option `--http
parley.http_server.protocol:HttpProtocol` selects this protocol. llhttp parses requests (RFC 9112). There are
no upgrades, no access log and no bound on the number of connections.
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
from parley.http_server.response_head import Header, chunk, error_response
from parley.support.logs import logger

_logger = logger("http")
# Seconds a client has to send a complete request.
_REQUEST_SECONDS = 60.0
# Seconds we keep reading after an error response, so that the client can receive it.
_LINGER_SECONDS = 1.0
# Pipelined requests at which reading pauses, and the most to which one read may bring the queue.
_MOST_WAITING = 16
_MOST_TOGETHER = 1000


class HttpProtocol(Connection):
    """One connection, which serves one request at a time or streams one response.

    A streaming connection keeps no task, request, stack frame or parser. The stream calls `_pump`, which
    takes the bytes that are due and writes them.
    """

    __slots__ = (
        "_app", "_app_state", "_chunked", "_cycle", "_head", "_idle_seconds", "_keep", "_on_complete",
        "_parser", "_queue", "_root_path", "_state", "_streamed",
    )  # fmt: skip

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        """Take uvicorn's arguments for a protocol: its `Config`, its `ServerState` and the lifespan state."""
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
        self._cycle: RequestCycle | None = None
        self._parser: RequestParser | None = None
        self._streamed: Streamed | None = None
        self._on_complete: OnComplete | None = None
        self._chunked = False
        self._head = b""

    # Callbacks of the event loop.

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
        cycle, self._cycle = self._cycle, None
        if cycle is not None:
            cycle.go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            # A client should send nothing during its stream. If it does, close the connection afterwards.
            self._keep = False
            return
        count = parser.count
        try:
            parser.feed(data)
        except BadRequest as error:
            self._refuse(parser.cycle, error)
        if self._cycle is None:
            self._next()
        if len(self._queue) >= _MOST_WAITING:
            self.pause_reading()
        # A request's time starts with its first byte: more bytes of the same request do not extend it.
        goes_on = parser.begun and parser.count == count
        if not self.paused and not goes_on:
            self._await_client()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._streamed is not None:
            self._pump()

    def resume_reading(self) -> None:
        """Read again, unless too many pipelined requests wait."""
        if len(self._queue) < _MOST_WAITING:
            super().resume_reading()

    def shutdown(self) -> None:
        """Close after the current response. uvicorn calls this method before it stops."""
        self._keep = False
        self._queue.clear()
        if self._cycle is not None:
            self._cycle.keep = False
        elif self._parser is not None:
            self.give_up()

    def _patience(self) -> float:
        cycle, parser = self._cycle, self._parser
        # While the server has the next step, the client has no deadline.
        if cycle is not None and cycle.whole:
            return math.inf
        if self._queue or self._streamed is not None or self._on_complete is not None:
            return math.inf
        if parser is None:
            return _LINGER_SECONDS
        return _REQUEST_SECONDS if parser.begun else self._idle_seconds

    def _expect_a_request(self) -> None:
        self._parser = RequestParser(self._begin)
        self._await_client()

    def _listen_no_more(self) -> None:
        if self._parser is not None:
            self._parser.end()
            self._parser = None

    def _refuse(self, cycle: RequestCycle | None, error: BadRequest) -> None:
        """Send an error response for a malformed request, unless another response is being sent."""
        if error.too_long:
            what = (431, "too_large", "The head of the request is too long.")
        else:
            what = (400, "invalid_request", "This is no HTTP request.")
        self._keep = False
        self._listen_no_more()
        # Earlier pipelined requests are answered first; the connection then closes without this error.
        if self._queue and self._queue[-1][0] is cycle:
            self._queue.pop()
        if self._queue or (self._cycle is not None and self._cycle is not cycle):
            return
        if cycle is None or not (cycle.started or cycle.done):
            self.write(error_response(*what, self.default_headers))
        if cycle is not None:
            cycle.go()
        self._hang_up()

    # Methods for the request cycle (`CycleConnection`).

    @property
    def default_headers(self) -> list[Header]:
        """The fields that uvicorn adds to every response, such as Date."""
        headers: list[Header] = self._state.default_headers
        return headers

    def answered(self, cycle: RequestCycle) -> None:
        """Continue with the next request after this cycle's response, or close the connection."""
        self._cycle = None
        self._state.total_requests += 1
        if not cycle.keep or not (self._keep or self._queue):
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
        cycle = RequestCycle(self, head)
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
            "extensions": {STREAM: cycle.stream},
        }
        self._queue.append((cycle, scope))
        return cycle

    def _next(self) -> None:
        if self._queue:
            cycle, scope = self._queue.pop(0)
            self._cycle = cycle
            self._spawn(cycle.run(self._app, scope))

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    # The stream.

    def stream(
        self, cycle: RequestCycle, head: bytes, streamed: Streamed, on_complete: OnComplete | None
    ) -> None:
        """Send `head`, stream the body, and await `on_complete` before the end of the response.

        `on_complete` is not awaited if the client has closed the connection before the stream ends.
        """
        self._cycle = None
        if self._transport is None or self._transport.is_closing():
            streamed.leave()
            return
        if not cycle.keep or self._queue or (self._parser is not None and self._parser.begun):
            self._keep = False
        # A request that has begun loses its first part with the parser. On a connection that was kept, its
        # rest would be read as a request of its own (request smuggling): hence no `_keep` above.
        self._listen_no_more()
        self._queue.clear()
        self.resume_reading()
        self._head = head
        self._chunked = cycle.chunked
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
        # The head and the first frame go out in one write.
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
