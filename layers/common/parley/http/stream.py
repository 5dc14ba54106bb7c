"""The response that streams: frames go out as they come, and a client that leaves is noticed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

from fastapi import Response
from starlette.types import Receive, Scope, Send

from parley.encoding import from_json
from parley.http.limits import LATER
from parley.sse import CONTENT_TYPE

_HEADERS = [
    (b"content-type", CONTENT_TYPE.encode()),
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Frames(Protocol):
    """Whose frames are sent."""

    @property
    def ended(self) -> bool:
        """Whether the last frame is out."""
        ...

    def leave(self) -> None:
        """Have the frames end: nobody is there any more."""
        ...


class EventStream(Response):
    """Sends frames until they end or the client leaves; then awaits `afterwards`, if there is such work.

    The last, empty piece of the body comes after it: on Lambda the sandbox is frozen once the response has
    ended. Without such work the response ends together with its last frame.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        source: Frames,
        afterwards: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self.raw_headers = list(_HEADERS)
        self._frames = frames
        self._source = source
        self._afterwards = afterwards

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if LATER in scope:
            scope[LATER].append(self._stream)
        else:
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        listening = asyncio.create_task(self._listen(receive))
        more = True
        try:
            async for piece in self._frames:
                more = self._afterwards is not None or not self._source.ended
                await send({"type": "http.response.body", "body": piece, "more_body": more})
            if self._afterwards is not None:
                await self._afterwards()
            if more:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            listening.cancel()
            await self._frames.aclose()

    async def _listen(self, receive: Receive) -> None:
        # A body is of no use here; whoever sends one that is too long is as good as gone.
        with contextlib.suppress(Exception):
            while (await receive())["type"] != "http.disconnect":
                pass
        self._source.leave()


def lambda_deadline(context: str | None, margin: float) -> float | None:
    """Return when this invocation's work must end, in the event loop's time; None outside Lambda.

    Lambda Web Adapter passes the invocation's context as JSON in `x-amzn-lambda-context`, its `deadline`
    in milliseconds since the Unix epoch.
    """
    if not context:
        return None
    try:
        deadline = float(from_json(context)["deadline"])
    except (ValueError, TypeError, KeyError):
        return None
    left = deadline / 1000 - time.time() - margin
    return asyncio.get_running_loop().time() + max(0.0, left)
