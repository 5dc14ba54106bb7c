"""The bytes of a provider's response, in the lumps in which they arrive."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from parley.domain.errors import ProviderFault

# How long a response may take to end after its terminal marker, so that its connection serves again.
_END_SECONDS = 0.05


class ByteStream(Protocol):
    """Where a response's bytes come from."""

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end."""
        ...

    async def aclose(self) -> None:
        """Close the connection, unless the response had ended."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A response that has begun, with a status of success.

    `headers` are those that tell when to ask again, where it turns out to be an error all the same.
    """

    content_type: str
    source: ByteStream
    headers: Mapping[str, str] = field(default_factory=dict)


class ResponseBody:
    """A response's body, which turns every exception into the fault it means.

    `content_type` and `headers` are as `Opened` has them, once it has begun.
    """

    __slots__ = ("_fault_of", "_open_response", "_source", "content_type", "headers")

    def __init__(
        self,
        open_response: Callable[[], Awaitable[Opened]],
        fault_of: Callable[[Exception, bool], ProviderFault],
    ) -> None:
        """`fault_of` tells what an exception means; True says that the response had begun."""
        self._open_response = open_response
        self._fault_of = fault_of
        self._source: ByteStream | None = None
        self.content_type = ""
        self.headers: Mapping[str, str] = {}

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end. Raises `ProviderFault`."""
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
        # Outside the handler: no foreign exception, whose texts may quote keys, hangs on to this one.
        raise fault

    async def read_within(self, seconds: float) -> bytes:
        """Return what has arrived, or nothing at the end or after so long. Raises `ProviderFault`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.read()
        return b""

    async def end(self) -> None:
        """Wait shortly for the response to end by itself, so that its connection serves again."""
        with suppress(ProviderFault, TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while await self.read():
                    pass

    async def close(self) -> None:
        """Close the response; its connection too, unless the response had ended."""
        if self._source is not None:
            await self._source.aclose()
