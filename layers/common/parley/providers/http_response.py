"""A provider's answer, between the connection that it comes by and whoever reads it."""

import asyncio
from collections.abc import Mapping
from typing import Protocol

# So much may wait for its reader before the provider is made to wait.
_HIGH, _LOW = 1 << 18, 1 << 16


class Disconnected(ConnectionError):
    """The provider closed the connection before its answer was whole."""


class ResponseConnection(Protocol):
    """The connection that an answer comes by."""

    def pause(self) -> None:
        """Have the provider wait."""
        ...

    def resume(self) -> None:
        """Let the provider go on."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Answer:
    """One answer: its status and headers are there, its body comes while it is read."""

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
        """Return what has arrived, once there is any; nothing at the end.

        Raises `OSError`, or httptools' errors where what comes is no HTTP.
        """
        # What arrives may be no more than a part of a chunk's head.
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
        """Take a piece of the body."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > _HIGH and self._connection is not None:
            self._connection.pause()

    def wake(self) -> None:
        """Tell the reader that there is news."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def finish(self) -> None:
        """Note that the body is whole."""
        self.whole = True
        self._connection = None
        self.wake()

    def fail(self, error: Exception) -> None:
        """Note that no more will come."""
        self._error = error
        self._connection = None
        self.wake()

    async def begun(self) -> None:
        """Wait for the status and the headers; raises as `read` does."""
        while not self.status_code:
            if self._error is not None:
                raise self._error
            await self._news()

    def close(self) -> None:
        """End the connection, unless the answer is whole and the connection serves others."""
        if self._connection is not None:
            self._connection.abort()

    async def aclose(self) -> None:
        self.close()
