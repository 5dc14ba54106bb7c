"""The fault proxy does what it says, or the tests that use it prove nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.client import eventually
from tests.faults.proxy import FaultProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with FaultProxy(f"echo://user:word@127.0.0.1:{port}/path") as made:
        yield made
    server.close()


@pytest.fixture
async def streams(proxy: FaultProxy) -> AsyncIterator[Streams]:
    """A connection through the proxy that has been used."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _echo((reader, writer), b"hello") == b"hello"
    yield reader, writer
    writer.close()


async def _echo(streams: Streams, data: bytes, timeout: float = 30) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), timeout)


async def _unheard(streams: Streams, data: bytes) -> None:
    with pytest.raises(TimeoutError):
        await _echo(streams, data, 0.2)


def test_the_proxy_s_url_leads_through_the_proxy(proxy: FaultProxy) -> None:
    assert proxy.url == f"echo://user:word@127.0.0.1:{proxy.port}/path"


async def test_the_proxy_delays(proxy: FaultProxy, streams: Streams) -> None:
    proxy.delay(0.1)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    assert await _echo(streams, b"late") == b"late"
    assert loop.time() - begin >= 0.2


@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_the_proxy_stalls_and_delivers_later(proxy: FaultProxy, streams: Streams, way: str) -> None:
    proxy.stall(*(() if way == "both" else (getattr(proxy, way),)))
    await _unheard(streams, b"held")
    await proxy.heal()
    assert await asyncio.wait_for(streams[0].readexactly(4), 30) == b"held"


async def test_the_proxy_corrupts(proxy: FaultProxy, streams: Streams) -> None:
    proxy.corrupt(proxy.down)
    heard = await _echo(streams, b"abc")
    assert sorted(one ^ other for one, other in zip(heard, b"abc", strict=True)) == [0, 0, 0xFF]
    await proxy.heal()
    assert await _echo(streams, b"abc") == b"abc"


async def test_the_proxy_cuts_in_good_order(proxy: FaultProxy, streams: Streams) -> None:
    proxy.cut()
    assert await asyncio.wait_for(streams[0].read(), 30) == b""


async def test_the_proxy_resets(proxy: FaultProxy, streams: Streams) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(streams[0].read(), 30)


async def test_half_open_connections_are_lost_and_new_ones_work(proxy: FaultProxy, streams: Streams) -> None:
    proxy.half_open()
    await _unheard(streams, b"lost")
    await proxy.heal()
    await _unheard(streams, b"still lost")
    fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _echo(fresh, b"new") == b"new"
    fresh[1].close()


async def test_the_proxy_refuses_new_connections(proxy: FaultProxy, streams: Streams) -> None:
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _echo(streams, b"present") == b"present"
    await proxy.heal()
    fresh = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _echo(fresh, b"again") == b"again"
    fresh[1].close()


async def test_the_proxy_passes_ends_on(proxy: FaultProxy, streams: Streams) -> None:
    streams[1].write_eof()
    assert await asyncio.wait_for(streams[0].read(), 30) == b""
    await eventually(lambda: proxy.open_connections == 0)
