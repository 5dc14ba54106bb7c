"""The bytes of a provider's response, in the lumps in which they arrive."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from parley.errors import ProviderFault

# How long a response may take to end after its terminal marker, so that its connection serves again.
_END_SECONDS = 0.05


class Source(Protocol):
    """Where a response's bytes come from."""

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end."""
        ...

    async def aclose(self) -> None:
        """Close the connection, unless the response had ended."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A response that has begun, and that is none of an error."""

    content_type: str
    source: Source


class Body:
    """A response's body, which turns every exception into the fault it means."""

    __slots__ = ("_fault_of", "_open_response", "_source")

    def __init__(
        self,
        open_response: Callable[[], Awaitable[Opened]],
        fault_of: Callable[[Exception, bool], ProviderFault],
    ) -> None:
        """`fault_of` tells what an exception means; True says that the response had begun."""
        self._open_response = open_response
        self._fault_of = fault_of
        self._source: Source | None = None

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end. Raises `ProviderFault`."""
        try:
            if self._source is None:
                self._source = (await self._open_response()).source
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
        """Wait shortly for the response to end by itself."""
        with suppress(ProviderFault):
            while await self.read_within(_END_SECONDS):
                pass

    async def close(self) -> None:
        """Close the response; its connection too, unless the response had ended."""
        if self._source is not None:
            await self._source.aclose()
