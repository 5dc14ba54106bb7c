"""The streaming response: sends frames as they become due, and stops when the client disconnects."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from parley.http_server.stream_protocol import STREAM, OnComplete, Streamed
from parley.support.sse_decoder import CONTENT_TYPE

_HEADERS = [
    (b"content-type", CONTENT_TYPE.encode()),
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Frames(Streamed, Protocol):
    """A stream that servers without the `parley.stream` extension can read as a generator."""

    def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield bytes as they become due."""
        ...


class EventStream(Response):
    """Sends frames until they end or the client leaves, and then awaits `on_complete`.

    The response ends after `on_complete`, since Lambda freezes the sandbox when the response has ended. A
    server with the `parley.stream` extension gets the frames themselves, so that the task, the middleware
    and the request are freed while the response streams.
    """

    def __init__(self, frames: Frames, on_complete: OnComplete | None = None) -> None:
        super().__init__()
        self.raw_headers = list(_HEADERS)
        self._frames = frames
        self._on_complete = on_complete

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        hand_over = scope.get("extensions", {}).get(STREAM)
        if hand_over is not None:
            hand_over(self._frames, self._on_complete)
            return
        listening = asyncio.create_task(self._listen(receive))
        more = True
        frames = self._frames.frames()
        try:
            async for piece in frames:
                more = self._on_complete is not None or not self._frames.whole
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            if self._on_complete is not None:
                await self._on_complete()
            # A stream that broke off is left without its end, so that its server breaks the connection.
            if more and self._frames.whole:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listening.cancel()
            await frames.aclose()

    async def _listen(self, receive: Receive) -> None:
        # A request body is ignored. One that is too long raises, and ends the stream like a disconnect.
        with contextlib.suppress(Exception):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._frames.leave()
