"""The transport under the SDKs, over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from local.fake_provider import FakeProvider, Script
from local.fake_provider.script import Fault
from parley.providers.http_transport import ProviderTransport, RequestTemplate, StatusError
from parley.providers.sdk_client import error_status
from tests.providers.tls import Deaf

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def client(certificate: Path) -> AsyncIterator[httpx2.AsyncClient]:
    transport = ProviderTransport(ssl.create_default_context(cafile=str(certificate)))
    async with httpx2.AsyncClient(transport=transport, timeout=None) as made:
        yield made


async def read(client: httpx2.AsyncClient, url: str) -> bytes:
    async with client.stream("POST", f"{url}/chat/completions", json=BODY) as response:
        return b"".join([part async for part in response.aiter_bytes()])


async def test_a_transport_reads_to_the_end_and_keeps_the_connection(
    secure: FakeProvider, client: httpx2.AsyncClient
) -> None:
    for _ in range(3):
        assert (await read(client, secure.openai_url)).endswith(b"[DONE]\n\n")
    assert secure.stats.connections == 1


@pytest.mark.parametrize("fault", ["stall", "silence"])
async def test_a_cancelled_request_ends_its_connection_at_once(
    secure: FakeProvider, client: httpx2.AsyncClient, fault: Fault
) -> None:
    secure.script("m", Script(fault=fault, fault_after=1))
    async with Deaf(secure.port) as deaf:
        task = asyncio.create_task(read(client, f"https://localhost:{deaf.port}/v1"))
        await secure.until(lambda: secure.stats.active == 1, timeout=30)
        await asyncio.sleep(0.05)
        deaf.heeds = False
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # TLS would wait half a minute for its goodbye.
        await asyncio.wait_for(deaf.left.wait(), 15)


async def test_a_transport_does_not_follow_to_another_host(
    secure: FakeProvider, client: httpx2.AsyncClient
) -> None:
    secure.script("m", Script(status=307))
    response = await client.post(f"{secure.openai_url}/chat/completions", json=BODY)
    assert response.status_code == 307


async def test_a_transport_distrusts_the_certificate_of_a_stranger(secure: FakeProvider) -> None:
    transport = ProviderTransport(ssl.create_default_context())
    async with httpx2.AsyncClient(transport=transport) as client:
        with pytest.raises(OSError, match="certificate"):
            await read(client, secure.openai_url)


async def test_goes_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head + await reader.read(int(head.lower().partition(b"content-length: ")[2][:1] or 0)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://ada:secret@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        transport = ProviderTransport(ssl.create_default_context())
        async with httpx2.AsyncClient(transport=transport) as client:
            key = {"authorization": "Bearer key"}
            far = await client.post("http://models.example/v1", headers=key, content=b"1")
            near = await client.post(f"http://127.0.0.1:{port}/v1", content=b"2")
            later = await transport.post(RequestTemplate(far.request), b"34")
            assert later.content_type == "text/event-stream"
            assert await later.source.read() == b"data"
            assert await later.source.read() == b""
            await later.source.aclose()
    assert (far.text, near.text) == ("data", "data")
    for by_proxy in (heard[0], heard[2]):
        assert by_proxy.startswith(b"POST http://models.example/v1 ")
        assert b"proxy-authorization: basic " in by_proxy.lower()
        assert b"bearer key" in by_proxy.lower()
    assert heard[1].startswith(b"POST /v1 ")
    assert [request[-2:] for request in heard] == [b"\n1", b"\n2", b"34"]


async def test_a_proxy_has_room_for_every_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata")
        await gate.wait()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=200) as proxy:
        # As many name it: without a scheme.
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        transport = ProviderTransport(ssl.create_default_context())
        template = RequestTemplate(httpx2.Request("POST", "http://models.example/v1"))
        async with asyncio.timeout(60):
            begun = await asyncio.gather(*(transport.post(template, b"") for _ in range(120)))
            assert {await each.source.read() for each in begun} == {b"data"}
        gate.set()
        for each in begun:
            await each.source.aclose()
        await transport.aclose()


@pytest.mark.parametrize("value", ["org\r\nx-evil: 1", "org\n", "a\0b"])
def test_a_header_that_would_end_its_line_is_refused_unquoted(value: str) -> None:
    request = httpx2.Request("POST", "http://models.example/v1", headers=[(b"x-org", value.encode())])
    with pytest.raises(ValueError, match="control") as caught:
        RequestTemplate(request)
    assert "org" not in str(caught.value)


async def test_a_proxy_s_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 429 No\r\nretry-after: 3\r\ncontent-length: 11\r\n\r\n{"error":1}')
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
        transport = ProviderTransport(ssl.create_default_context())
        with pytest.raises(StatusError) as caught:
            await transport.post(RequestTemplate(httpx2.Request("POST", "http://models.example/v1")), b"")
        await transport.aclose()
    found = error_status(caught.value)
    assert found is not None
    assert (found.status, found.headers.get("retry-after"), found.body) == (429, "3", {"error": 1})
