"""The response that streams: frames go out as they come, and a client that leaves is noticed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Protocol

from fastapi import Response
from starlette.types import Receive, Scope, Send

from parley.http_server.request_cycle import STREAM, OnComplete, Streamed
from parley.support.sse_decoder import CONTENT_TYPE

_HEADERS = [
    (b"content-type", CONTENT_TYPE.encode()),
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Frames(Streamed, Protocol):
    """What is streamed, for servers that cannot do it by themselves as well."""

    def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield what becomes due."""
        ...


class EventStream(Response):
    """Sends what becomes due until that is over or the client leaves; then awaits `on_complete`, if given.

    The response ends after that: on Lambda the sandbox is frozen once it has ended. A connection that can
    stream by itself is given the frames, and nothing stays in memory of what led to it.
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
                more = self._on_complete is not None or not self._frames.over
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            if self._on_complete is not None:
                await self._on_complete()
            if more:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listening.cancel()
            await frames.aclose()

    async def _listen(self, receive: Receive) -> None:
        # A body is of no use here; whoever sends one that is too long is as good as gone.
        with contextlib.suppress(Exception):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._frames.leave()
