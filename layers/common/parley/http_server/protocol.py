"""uvicorn's HTTP/1.1, with bounds on what one connection may take, and streams that take their socket over.

uvicorn's option `--http parley.http_server.protocol:HttpProtocol` selects this protocol. There are no
upgrades and no access log.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from parley.http_server.error_response import error_response
from parley.http_server.reading_deadline import ReadingDeadline
from parley.http_server.responder import Responder
from parley.http_server.stream_protocol import OnComplete, Streamed, StreamProtocol

# Seconds a client has to send a complete request.
_REQUEST_SECONDS = 60.0
# Seconds we keep reading after an error response, so that the client can receive it.
_LINGER_SECONDS = 1.0
# Bytes of a request's line and fields, or of a body's framing and trailers. No browser sends more.
_HEAD_BYTES = 1 << 16
# Requests that may wait for the response to an earlier one.
_MOST_PIPELINED = 100
_VERSIONS = ("1.0", "1.1")
# RFC 9110, section 7.2: a name or an address, and a port.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(?::[0-9]*)?[ \t]*", re.ASCII)


class _HeadTooLong(Exception):
    pass


class _Flow(FlowControl):
    """uvicorn's flow control, which calls `on_resume` when the server has begun to read again."""

    def __init__(self, transport: Any, on_resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self.on_resume: Callable[[], None] | None = on_resume

    def resume_reading(self) -> None:
        was_paused = self.read_paused
        super().resume_reading()
        if was_paused and self.on_resume is not None:
            self.on_resume()


class HttpProtocol(ReadingDeadline, HttpToolsProtocol):
    """One connection, while it does not stream.

    uvicorn's `cycle` is that of the newest request, which may wait behind others in the `pipeline`.
    """

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        HttpToolsProtocol.__init__(self, config, server_state, app_state, _loop)
        ReadingDeadline.__init__(self, self.transport)
        self.access_log = False  # a request line holds a session id
        # Of the request whose response is being made.
        self._responder: Responder | None = None
        # Of the request that is being received: the loop's time of its first byte, and its cycle.
        self._begun: float | None = None
        self._receiving: Any = None
        self._refused = False
        # Bytes read since the last part of a body or the last complete request, and those of the last read.
        # Only framing and fields can make the first grow, so it bounds heads, chunk extensions and trailers.
        self._unframed = 0
        self._read = 0

    # Callbacks of the event loop.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport, self._reads_again)
        self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._flow.on_resume = None
        self._cancel_timer()
        self.pipeline.clear()
        # uvicorn tells the newest request alone.
        if self._responder is not None:
            self._responder.cycle.disconnected = True
            self._responder.cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._read = len(data)
        self._unframed += self._read
        begun = self._begun
        rest: bytes | memoryview = data
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                    self._ignore_upgrade()
            if self._unframed > _HEAD_BYTES:
                raise _HeadTooLong
        except _HeadTooLong:
            self._refuse(too_long=True)
        except httptools.HttpParserError as error:
            self._refuse(too_long=isinstance(error.__context__, _HeadTooLong))
        else:
            # A request's time starts with its first byte: more bytes of the same request do not extend it.
            if not self.flow.write_paused and (begun is None or begun != self._begun):
                self._await_client()

    def _reads_again(self) -> None:
        """Give the client its time for the rest of a request anew: it could send nothing."""
        if self._begun is not None and not self.flow.write_paused and not self.transport.is_closing():
            self._begun = self.loop.time()
            self._await_client()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._await_client()

    def shutdown(self) -> None:
        """Close after the responses that are due. uvicorn calls this method before it stops."""
        if self.cycle is None or self.cycle.response_complete:
            self.give_up()
        else:
            self.cycle.keep_alive = False

    def _await_client(self) -> None:
        """Set the deadline of the client's next step: to complete its request, or to begin one."""
        cycle = self.cycle
        if self._begun is not None:
            when = self._begun + _REQUEST_SECONDS
        elif cycle is None or cycle.response_complete:
            when = self.loop.time() + (_LINGER_SECONDS if self._refused else self.timeout_keep_alive)
        else:
            when = math.inf
        self._reschedule(when)

    def _on_deadline(self) -> None:
        cycle = self.cycle
        if self.flow.write_paused or self.transport.is_closing():
            self._abort_unless_read()
        elif self.flow.read_paused or (cycle and not cycle.response_complete and not cycle.more_body):
            # The server has the next step, so the client is not late: its time starts anew.
            self._begun = self.loop.time()
            self._await_client()
        else:
            self.give_up()

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = self.loop.time()
        self._receiving = None

    def on_headers_complete(self) -> None:
        parser = self.parser
        if self._read > _HEAD_BYTES or self._unframed > _HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > _HEAD_BYTES:
                raise _HeadTooLong
        version = parser.get_http_version()
        hosts = [value for name, value in self.headers if name == b"host"]
        # RFC 9112, section 3.2.
        fits = len(hosts) == 1 and _HOST.fullmatch(hosts[0]) if hosts else version == "1.0"
        if not fits or version not in _VERSIONS or len(self.pipeline) >= _MOST_PIPELINED:
            raise ValueError
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise ValueError
            return  # `_ignore_upgrade` repeats this head
        super().on_headers_complete()
        self._receiving = self.cycle
        # The application has the list: no fields of a trailer section shall come into it.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unframed = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._unframed = 0
        self._begun = self._receiving = None

    def _should_upgrade(self) -> bool:
        """Have uvicorn's callbacks pass a request over that asks for an upgrade."""
        return True

    def _ignore_upgrade(self) -> None:
        """Read a request again without its wish for an upgrade, as RFC 9110, section 7.8 allows.

        llhttp stops behind the head, and would take a body for the next request.
        """
        version = self.parser.get_http_version().encode()
        head = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        head += [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"".join(head) + b"\r\n")

    def _refuse(self, *, too_long: bool) -> None:
        """Send an error response for a malformed request, unless another response is being sent."""
        cycle, receiving = self.cycle, self._receiving
        self._refused = True
        self._begun = self._receiving = None
        if receiving is None:
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False  # earlier requests are answered first
                return
        elif self.pipeline and self._responder is not None:
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._responder.cycle
            self.cycle.keep_alive = False
            return
        else:
            self.cycle = None  # type: ignore[assignment]
            receiving.disconnected = True
            receiving.waiting_for_100_continue = False
            receiving.message_event.set()
        if receiving is None or not receiving.response_started:
            if too_long:
                what = (431, "too_large", "The head of the request is too long.")
            else:
                what = (400, "invalid_request", "This is no HTTP request.")
            self.transport.write(error_response(*what, self.server_state.default_headers))
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the write side, and keep reading for a while (RFC 9112, section 9.6).

        A full close while the client still sends would reset the connection, and the client could lose the
        response.
        """
        if not self.transport.can_write_eof():
            self.give_up()
            return
        self.transport.write_eof()
        if self.flow.write_paused:
            self._await_reading()
        else:
            self._await_client()

    # Responses.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._responder = responder = Responder(app, self, cycle)
        super()._start_asgi_task(cycle, cast("Any", responder))

    def on_response_complete(self) -> None:
        responder, self._responder = self._responder, None
        if responder is not None:
            responder.flush()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if not self.flow.write_paused:
            self._await_client()

    def stream(
        self, cycle: Any, head: bytes, streamed: Streamed, on_complete: OnComplete | None, *, chunked: bool
    ) -> None:
        """Hand the connection over to a `StreamProtocol`."""
        again = None
        # Of a request that has begun, the first part is lost with the parser. On a connection that was kept,
        # its rest would be read as a request of its own (request smuggling).
        if cycle.keep_alive and not self.pipeline and self._begun is None:
            again = functools.partial(HttpProtocol, self.config, self.server_state, self.app_state, self.loop)
        stream = StreamProtocol(
            self.transport, self.server_state, head, streamed, on_complete, chunked=chunked, again=again
        )
        self.connections.discard(self)
        self._cancel_timer()
        self.flow.resume_reading()
        self._flow.on_resume = None
        self.pipeline.clear()
        self.parser = self.cycle = self.scope = self._responder = None  # type: ignore[assignment]
        stream.begin(paused=self.flow.write_paused)
