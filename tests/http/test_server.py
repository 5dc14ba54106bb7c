"""What leaves the server together, over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from parley.http.server import Protocol, _Joining
from tests.harness import eventually

App = Callable[[Any, Any, Any], Awaitable[None]]
HEADERS = [(b"content-type", b"text/plain")]


class Wire(asyncio.Transport):
    """A transport that notes what it is given."""

    def __init__(self) -> None:
        super().__init__({"peername": ("there", 1)})
        self.said: list[bytes | str] = []

    def write(self, data: Any) -> None:
        self.said.append(bytes(data))

    def close(self) -> None:
        self.said.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.said


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def test_a_head_leaves_with_what_follows_it(wire: Wire) -> None:
    joining = _Joining(wire, asyncio.get_running_loop())
    joining.write(b"HTTP/1.1 200 OK\r\n\r\n")
    joining.write(b"first")
    joining.write(b"second")
    assert wire.said == [b"HTTP/1.1 200 OK\r\n\r\nfirst", b"second"]
    await asyncio.sleep(0)
    assert len(wire.said) == 2


async def test_a_head_that_nothing_follows_leaves_at_the_next_turn(wire: Wire) -> None:
    joining = _Joining(wire, asyncio.get_running_loop())
    joining.write(b"HTTP/1.1 200 OK\r\n\r\n")
    assert wire.said == []
    await asyncio.sleep(0)
    assert wire.said == [b"HTTP/1.1 200 OK\r\n\r\n"]
    joining.write(b"later")
    assert wire.said[1:] == [b"later"]


async def test_a_head_leaves_before_its_connection_is_closed(wire: Wire) -> None:
    joining = _Joining(wire, asyncio.get_running_loop())
    joining.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    joining.close()
    assert wire.said == [b"HTTP/1.1 400 Bad Request\r\n\r\n", "closed"]
    assert joining.is_closing()
    assert joining.get_extra_info("peername") == ("there", 1)


@asynccontextmanager
async def served(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))

        async def started() -> bool:
            return server.started

        await eventually(started)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()
            server.should_exit = True
            await serving


REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_an_answer_and_its_connection_are_as_ever() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"HTTP/1.1 in a body", "more_body": True})
        await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"more"})

    async with served(app) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            body = await reader.readuntil(b"0\r\n\r\n")
            assert body == b"12\r\nHTTP/1.1 in a body\r\n4\r\nmore\r\n0\r\n\r\n"
        writer.write(REQUEST * 2)
        for _ in range(2):
            await reader.readuntil(b"0\r\n\r\n")


async def test_a_head_does_not_wait_for_a_body_that_is_late() -> None:
    late = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await late.wait()
        await send({"type": "http.response.body", "body": b"late"})

    async with served(app) as (reader, writer):
        writer.write(REQUEST)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        late.set()
        await reader.readuntil(b"0\r\n\r\n")


async def test_what_is_no_http_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async with served(app) as (reader, writer):
        writer.write(b"nonsense\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 2)).startswith(b"HTTP/1.1 400 Bad Request\r\n")
