"""The transport of one HTTP connection: writes, flow control in both directions, and timeouts."""

import asyncio
from typing import Any, cast

from parley.support.timer import Deadline

# Seconds after which a client that has read none of the written data counts as gone.
_DEAF_SECONDS = 60.0


class Connection(Deadline, asyncio.Protocol):
    """An `asyncio.Protocol` with one deadline for the client.

    `paused` is True while the transport's write buffer is full because the client reads too slowly.
    """

    __slots__ = ("_loop", "_transport", "_unread", "_writable", "paused")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._writable: asyncio.Future[None] | None = None
        self._unread = 0
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._release()
        self._cancel_timer()

    def pause_writing(self) -> None:
        self.paused = True
        self._note_unread()
        self._await_client()

    def resume_writing(self) -> None:
        self._release()
        self._await_client()

    def _release(self) -> None:
        self.paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def writable(self) -> None:
        """Wait until the transport's write buffer has room."""
        while self.paused:
            if self._writable is None or self._writable.done():
                self._writable = self._loop.create_future()
            # Shielded, since several tasks may wait, and the cancellation of one must not cancel the future.
            await asyncio.shield(self._writable)

    def write(self, data: bytes) -> None:
        """Send data; drop it if the connection is lost."""
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading, so that TCP makes the client wait."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def give_up(self) -> None:
        """Close the connection once the write buffer is sent, or abort it when the client stops reading."""
        if self._transport is not None:
            self._transport.close()
            self._note_unread()
            self._reschedule(self._loop.time() + _DEAF_SECONDS)

    def _hang_up(self) -> None:
        """Close the write side, and keep reading for a while (RFC 9112, section 9.6).

        A full close while the client still sends would reset the connection, and the client could lose the
        response.
        """
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
            self._await_client()
        else:
            self.give_up()

    def _await_client(self) -> None:
        """Start the deadline for the client's next step: to read what was written, or to send a request."""
        if self._transport is not None and not self._transport.is_closing():
            self._reschedule(self._loop.time() + (_DEAF_SECONDS if self.paused else self._patience()))

    def _patience(self) -> float:
        """Return the seconds that a client may take for its next step while it is not `paused`."""
        raise NotImplementedError

    def _note_unread(self) -> bool:
        """Record the size of the write buffer, and return whether it has shrunk since the last call."""
        before, self._unread = self._unread, 0
        if self._transport is not None:
            self._unread = self._transport.get_write_buffer_size()
        return self._unread < before

    def _on_deadline(self) -> None:
        transport = self._transport
        if transport is None:
            return
        # A slow reader is not a dead one: abort only if the buffer has not shrunk since the last deadline.
        if self.paused or transport.is_closing():
            if self._note_unread():
                self._reschedule(self._loop.time() + _DEAF_SECONDS)
            else:
                transport.abort()
        elif not transport.is_reading():
            self._await_client()  # the server paused reading, so the client is not late
        else:
            self.give_up()

    def _address(self, name: str) -> tuple[str, int] | None:
        """Return `sockname` or `peername` as ASGI's (host, port); None for a Unix socket."""
        found: Any = None if self._transport is None else self._transport.get_extra_info(name)
        return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
