"""Reads a provider's response, and turns every exception into a `ProviderFault`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from parley.domain.errors import ProviderFault

# Seconds for a response to end after its terminal marker. Only a response that ended frees its connection.
_END_SECONDS = 0.05


class ByteStream(Protocol):
    """A response's body as a stream of bytes."""

    async def read(self) -> bytes:
        """Return the bytes that have arrived, at least one; b"" at the end of the body."""
        ...

    async def aclose(self) -> None:
        """Close the connection, unless the response is complete."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A response with a 2xx status whose headers have come.

    `headers` are only those about retries. They are needed where the body turns out to be an error.
    """

    content_type: str
    source: ByteStream
    headers: Mapping[str, str] = field(default_factory=dict)


class ResponseBody:
    """A response's body. The first read sends the request.

    `content_type` and `headers` are those of `Opened`, and empty until the headers have come.
    """

    __slots__ = ("_fault_of", "_open_response", "_source", "content_type", "headers")

    def __init__(
        self,
        open_response: Callable[[], Awaitable[Opened]],
        fault_of: Callable[[Exception, bool], ProviderFault],
    ) -> None:
        """`fault_of` maps an exception to a fault; its second argument tells whether headers had come."""
        self._open_response = open_response
        self._fault_of = fault_of
        self._source: ByteStream | None = None
        self.content_type = ""
        self.headers: Mapping[str, str] = {}

    async def read(self) -> bytes:
        """Return the bytes that have arrived, at least one; b"" at the end. Raises `ProviderFault`."""
        try:
            if self._source is None:
                opened = await self._open_response()
                self._source = opened.source
                self.content_type, self.headers = opened.content_type, opened.headers
            return await self._source.read()
        except ProviderFault:
            raise
        except Exception as error:
            fault = self._fault_of(error, self._source is not None)
        # Raised outside the handler, so that no SDK's exception is its `__context__`: their texts may quote
        # keys.
        raise fault

    async def read_within(self, seconds: float) -> bytes:
        """As `read`, but b"" also when `seconds` have passed. Raises `ProviderFault`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.read()
        return b""

    async def end(self) -> None:
        """Wait up to `_END_SECONDS` for the response to end, so that its connection can be used again."""
        with suppress(ProviderFault, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while await self.read():
                    pass

    async def close(self) -> None:
        """Close the response. Closes its connection too, unless the response is complete."""
        if self._source is not None:
            await self._source.aclose()
