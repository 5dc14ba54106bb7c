"""A connection's socket: what is written, who has to wait for whom, and for how long."""

import asyncio
from typing import Any, cast

from parley.support.timer import Deadline

# A client that has read nothing of what was written, for so long, is not there any more.
_DEAF_SECONDS = 60.0


class Connection(Deadline, asyncio.Protocol):
    """`paused` says that the client does not keep up."""

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
        """Let the client go on."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def give_up(self) -> None:
        """Close, once what was written has been sent."""
        if self._transport is not None:
            self._transport.close()
            self._note_unread()
            self._reschedule(self._loop.time() + _DEAF_SECONDS)

    def _hang_up(self) -> None:
        """Close once the client has read what it was told: to close while it speaks would take that from it.

        See RFC 9112, 9.6.
        """
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()
            self._await_client()
        else:
            self.give_up()

    def _await_client(self) -> None:
        """Set how long the client may take to do what is its turn now."""
        if self._transport is not None and not self._transport.is_closing():
            self._reschedule(self._loop.time() + (_DEAF_SECONDS if self.paused else self._patience()))

    def _patience(self) -> float:
        """Return how long a client that keeps up may take to do what is its turn, in seconds."""
        raise NotImplementedError

    def _note_unread(self) -> bool:
        """Note how much of what was written is still here, and return whether it is less than before."""
        before, self._unread = self._unread, 0
        if self._transport is not None:
            self._unread = self._transport.get_write_buffer_size()
        return self._unread < before

    def _on_deadline(self) -> None:
        transport = self._transport
        if transport is None:
            return
        if self.paused or transport.is_closing():
            if self._note_unread():
                self._reschedule(self._loop.time() + _DEAF_SECONDS)
            else:
                transport.abort()
        elif not transport.is_reading():
            self._await_client()  # it is we who have it wait
        else:
            self.give_up()

    def _address(self, name: str) -> tuple[str, int] | None:
        """Return an address of the socket as ASGI wants it: two parts, or none."""
        found: Any = None if self._transport is None else self._transport.get_extra_info(name)
        return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
