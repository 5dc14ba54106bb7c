"""The protocol of a connection while it streams: it writes what is due, without a task or a request.

A response that streams hands its source over through an extension of the ASGI scope, and returns. The
connection changes its protocol then, as uvicorn's WebSockets do, so that the request, its parser and its
middleware are freed for as long as the stream lasts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from parley.http_server.reading_deadline import ReadingDeadline
from parley.support.logs import logger

_logger = logger("http")
# The key of an ASGI scope extension: a response hands its stream over to the connection and returns.
STREAM = "parley.stream"
_LAST_CHUNK = b"0\r\n\r\n"


class Streamed(Protocol):
    """A source of body bytes that wakes its connection instead of running a task."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come: everything was taken, or the source was left."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the stream came to its end. One that is over without it was broken off."""
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


class StreamProtocol(ReadingDeadline, asyncio.Protocol):
    """Streams one response's body, and gives the connection back to HTTP or closes it.

    A body that broke off ends without its last chunk, so that the client does not take it for whole
    (RFC 9112, section 8).
    """

    __slots__ = ("_again", "_chunked", "_head", "_on_complete", "_paused", "_server", "_streamed")

    def __init__(
        self,
        transport: asyncio.Transport,
        server: Any,
        head: bytes,
        streamed: Streamed,
        on_complete: OnComplete | None,
        *,
        chunked: bool,
        again: Callable[[], Any] | None,
    ) -> None:
        """`server` is uvicorn's `ServerState`. `head` goes out with the first frame. `on_complete` is awaited
        before the end of the response, unless the client leaves earlier. Without `chunked`, closing ends the
        body. `again` makes the protocol of the next request; with None, the connection closes.
        """
        super().__init__(transport)
        self._server = server
        self._head = head
        self._streamed: Streamed | None = streamed
        self._on_complete = on_complete
        self._chunked = chunked
        self._again = again
        self._paused = False

    def begin(self, *, paused: bool) -> None:
        """Take the connection over. `paused` says that its write buffer is full."""
        assert self._streamed is not None
        self.transport.set_protocol(self)
        self._server.connections.add(self)
        if paused:
            self.pause_writing()
        self._streamed.begin(self._pump)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._cancel_timer()
        streamed, self._streamed = self._streamed, None
        if streamed is not None:
            streamed.leave()

    def data_received(self, data: bytes) -> None:
        # A client should send nothing during its stream. What it sends is not kept, so a later request could
        # lack its beginning (request smuggling).
        self._again = None

    def shutdown(self) -> None:
        """Close after the stream. uvicorn calls this method before it stops."""
        self._again = None

    def pause_writing(self) -> None:
        self._paused = True
        self._await_reading()

    def resume_writing(self) -> None:
        self._paused = False
        if self.transport.is_closing():
            return
        self._cancel_timer()
        self._pump()

    def _on_deadline(self) -> None:
        self._abort_unless_read()

    def _pump(self) -> None:
        streamed = self._streamed
        if streamed is None or self._paused:
            return
        try:
            piece = streamed.take()
        except Exception as error:
            _logger.error("request_broke", exc_info=error)
            self._streamed = None
            streamed.leave()
            self.give_up()
            return
        if piece and self._chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        over = streamed.over
        end = b""
        if over:
            self._streamed = None
            if not streamed.whole:
                self._again = None
            elif self._chunked:
                end = _LAST_CHUNK
            if self._on_complete is None:
                piece += end
        # The head and the first frame go out in one write, and so do the last frame and the last chunk.
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self.transport.write(piece)
        if not over:
            return
        if self._on_complete is None:
            self._complete()
        else:
            task = asyncio.get_running_loop().create_task(self._settle(self._on_complete, end))
            self._server.tasks.add(task)
            task.add_done_callback(self._server.tasks.discard)

    async def _settle(self, on_complete: OnComplete, end: bytes) -> None:
        try:
            await on_complete()
        except Exception as error:
            _logger.error("request_broke", exc_info=error)
            self.give_up()
            return
        except BaseException:
            self.give_up()
            raise
        if end and not self.transport.is_closing():
            self.transport.write(end)
        self._complete()

    def _complete(self) -> None:
        """Expect the next request, or close the connection."""
        transport, server = self.transport, self._server
        server.total_requests += 1
        if self._again is None or transport.is_closing():
            self.give_up()
            return
        server.connections.discard(self)
        self._cancel_timer()
        protocol = self._again()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._paused:
            protocol.pause_writing()
