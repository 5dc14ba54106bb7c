"""Closes connections, and aborts those whose client reads nothing of what was written."""

import asyncio

from parley.support.timer import Deadline

# Seconds after which a client that has read none of the written data counts as gone.
_DEAF_SECONDS = 60.0


class ReadingDeadline(Deadline):
    """A connection's deadline, with the client's time to read what was written. `transport` is asyncio's."""

    __slots__ = ("_unread", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        self._unread = 0

    def give_up(self) -> None:
        """Close the connection once the write buffer is sent, or abort it when the client stops reading."""
        if not self.transport.is_closing():
            self.transport.close()
            self._await_reading()

    def _await_reading(self) -> None:
        """Give the client time to read some of the write buffer."""
        self._unread = self.transport.get_write_buffer_size()
        self._reschedule(asyncio.get_running_loop().time() + _DEAF_SECONDS)

    def _abort_unless_read(self) -> None:
        """Abort the connection, unless the client has read since `_await_reading`: a slow one is not gone."""
        if self.transport.get_write_buffer_size() < self._unread:
            self._await_reading()
        else:
            self.transport.abort()
