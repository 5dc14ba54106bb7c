"""The floor of a relay on a framework: Starlette on uvicorn, with the bare client of the other floors."""

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench.floor.upstream_client import UpstreamClient

_upstream = UpstreamClient(os.environ["OPENAI_BASE_URL"])


async def _events(model: str, prompt: str) -> AsyncIterator[bytes]:
    arrived: asyncio.Queue[str | None] = asyncio.Queue()
    await _upstream.ask(model, prompt, arrived.put_nowait, lambda: arrived.put_nowait(None))
    while (text := await arrived.get()) is not None:
        yield b'data: {"type":"token","content":%b}\n\n' % msgspec.json.encode(text)
    yield b'data: {"type":"done"}\n\n'


async def _relay(request: Request) -> StreamingResponse:
    query = request.query_params
    return StreamingResponse(_events(query["model"], query["prompt"]), media_type="text/event-stream")


app = Starlette(routes=[Route("/relay", _relay)])
