"""A provider's HTTP response: the buffer between its connection, which writes, and one reader."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

# Bytes that may wait for the reader. Reading from the provider pauses above `_HIGH`. A read resumes it where
# more than `_LOW` had waited.
_HIGH, _LOW = 1 << 18, 1 << 16


class Disconnected(ConnectionError):
    """The provider closed the connection before the response was complete."""


class ResponseConnection(Protocol):
    """The connection that a response arrives on."""

    def pause(self) -> None:
        """Stop reading, so that the provider has to wait."""
        ...

    def resume(self) -> None:
        """Resume reading."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Response:
    """One response: its status and headers, and its body while it arrives.

    `status_code` is 0 until the headers have come. `whole` is true once the body is complete.
    """

    __slots__ = ("_connection", "_error", "_parts", "_size", "_waiter", "headers", "status_code", "whole")

    def __init__(self, connection: ResponseConnection) -> None:
        self.status_code = 0
        self.headers: Mapping[str, str] = {}
        self.whole = False
        self._connection: ResponseConnection | None = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Return all bytes that wait, at least one; b"" at the end of the body.

        Raises `OSError`, or httptools' errors where the bytes are not HTTP.
        """
        # Woken at every read of the socket, which may hold only a part of a chunk's header (RFC 9112, 7.1).
        while not self._parts and not self.whole:
            if self._error is not None:
                raise self._error
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        if self._size > _LOW and self._connection is not None:
            self._connection.resume()
        self._size = 0
        return data

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def add(self, data: bytes) -> None:
        """Add bytes of the body."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > _HIGH and self._connection is not None:
            self._connection.pause()

    def wake(self) -> None:
        """Wake the reader, if one waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def finish(self) -> None:
        """Mark the body as complete."""
        self.whole = True
        self._connection = None
        self.wake()

    def fail(self, error: Exception) -> None:
        """End the response with `error`, which the reader gets after the bytes that had arrived."""
        self._error = error
        self._connection = None
        self.wake()

    async def begun(self) -> None:
        """Wait for the status and the headers. Raises as `read` does."""
        while not self.status_code:
            if self._error is not None:
                raise self._error
            await self._news()

    def close(self) -> None:
        """Close the connection, unless the response is complete: the connection may serve another by then."""
        if self._connection is not None:
            self._connection.abort()

    async def aclose(self) -> None:
        self.close()


Answer = Response
