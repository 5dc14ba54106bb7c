"""The bytes of a provider's response, in the lumps in which they arrive."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from parley.bell import Bell
from parley.errors import ProviderFault

if TYPE_CHECKING:
    import httpx2

# A reader that pauses for longer lets the provider wait, as TCP would.
_MOST_BYTES = 1024 * 1024
# How long a response may take to end after its terminal marker, so that its connection serves again.
_END_SECONDS = 0.05


class Body:
    """A response that a task of its own reads.

    HTTP libraries hand out one HTTP chunk at a time, though a busy process finds many in one read of
    the network; what the task found without waiting is one lump here. It also ties everything that the
    libraries bind to a task to this one, whichever tasks read.
    """

    def __init__(
        self,
        open_response: Callable[[], Awaitable["httpx2.Response"]],
        fault_of: Callable[[Exception, bool], ProviderFault],
    ) -> None:
        """`fault_of` tells what an exception means; True says that the response had begun."""
        self._open_response = open_response
        self._fault_of = fault_of
        self._parts: list[bytes] = []
        self._size = 0
        self._over = False
        self._fault: ProviderFault | None = None
        self._news = Bell()
        self._room = Bell()
        self._task = asyncio.create_task(self._pump())

    async def read(self, timeout: float | None = None) -> bytes:
        """Return what has arrived, once there is any; nothing at the end, or when `timeout` seconds passed.

        Raises the `ProviderFault` that ended the response, after what came before it.
        """
        while not self._parts:
            if self._fault is not None:
                raise self._fault
            if self._over or not await self._news.wait(timeout):
                return b""
        lump = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        self._room.ring()
        return lump

    async def end(self) -> None:
        """Wait shortly for the response to end by itself, then close it."""
        if not self._over:
            await asyncio.wait([self._task], timeout=_END_SECONDS)
        await self.close()

    async def close(self) -> None:
        """Close the response; its connection too, unless the response had ended."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _pump(self) -> None:
        begun = False
        try:
            response = await self._open_response()
            begun = True
            try:
                async for part in response.aiter_bytes():
                    self._parts.append(part)
                    self._size += len(part)
                    self._news.ring()
                    while self._size > _MOST_BYTES:
                        await self._room.wait()
            finally:
                await response.aclose()
        except ProviderFault as fault:
            self._fault = fault
        except Exception as error:
            self._fault = self._fault_of(error, begun)
        finally:
            self._over = True
            self._news.ring()
