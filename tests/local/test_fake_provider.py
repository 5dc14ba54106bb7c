"""The fake provider itself: what it says on the wire, byte for byte where that is the point."""

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from local.fake_provider import FakeProvider, Script, reply_to, tokens_of
from local.fake_provider.script import script_in_name
from parley.support.sse_decoder import Decoder


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        yield provider


async def talk(fake: FakeProvider, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(fake.host, fake.port)
    writer.write(data)
    return reader, writer


def request(path: str, body: object, *, key: str = "k", method: str = "POST") -> bytes:
    data = json.dumps(body).encode()
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: fake",
        f"Authorization: Bearer {key}",
        f"Content-Length: {len(data)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + data


def question(model: str, prompt: str = "Hi there") -> dict[str, object]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}


async def whole(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return a response's status and body, its HTTP chunks joined."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    if b"Content-Length" in head:
        return status, await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, body


async def ask(fake: FakeProvider, path: str, body: object, **more: str) -> tuple[int, bytes]:
    reader, writer = await talk(fake, request(path, body, **more))
    try:
        return await whole(reader)
    finally:
        writer.close()


async def test_the_fake_echoes_in_openai_s_chunks(fake: FakeProvider) -> None:
    status, body = await ask(fake, "/v1/chat/completions", question("any"))
    events = [event.data for event in Decoder().feed(body)]
    chunks = [json.loads(data) for data in events[:-1]]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert (status, text, events[-1]) == (200, reply_to("Hi there"), b"[DONE]")
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


async def test_echoes_in_anthropic_events(fake: FakeProvider) -> None:
    _, body = await ask(fake, "/v1/messages", question("any"))
    events = Decoder().feed(body)
    assert [event.event for event in events if event.event != "content_block_delta"] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    deltas = [
        json.loads(event.data)["delta"]["text"] for event in events if event.event == "content_block_delta"
    ]
    assert "".join(deltas) == reply_to("Hi there")


def test_tokens_join_to_the_text() -> None:
    text = " a  b\n\nc\u2028d \t"
    assert "".join(tokens_of(text)) == text


async def test_a_model_s_name_may_carry_a_script(fake: FakeProvider) -> None:
    _, body = await ask(fake, "/v1/chat/completions", question("fake?tokens=7&finish=length"))
    assert body.count(b'"delta":{"content":') == 7
    assert b'"finish_reason":"length"' in body


def test_a_name_with_a_senseless_script_is_refused() -> None:
    assert script_in_name("gpt-5") is None
    assert script_in_name("fake?tokens=a|b") == Script(tokens=("a", "b"))
    with pytest.raises(ValueError):
        script_in_name("fake?speed=fast")


async def test_the_fake_fails_so_many_times(fake: FakeProvider) -> None:
    fake.script("m", Script(status=529, status_times=2, retry_after="3"))
    statuses = [(await ask(fake, "/v1/messages", question("m")))[0] for _ in range(3)]
    assert statuses == [529, 529, 200]
    assert fake.stats.calls_by_model["m"] == 3


async def test_the_fake_wants_its_key() -> None:
    async with FakeProvider(api_key="right") as fake:
        assert (await ask(fake, "/v1/chat/completions", question("m"), key="wrong"))[0] == 401
        assert (await ask(fake, "/v1/chat/completions", question("m"), key="right"))[0] == 200


async def test_the_fake_keeps_what_it_was_asked(fake: FakeProvider) -> None:
    await ask(fake, "/v1/chat/completions", question("m"))
    (received,) = fake.requests
    assert received.path == "/v1/chat/completions"
    assert received.headers["authorization"] == "Bearer k"
    assert received.body == question("m")


async def test_the_fake_s_packets_split_anywhere(fake: FakeProvider) -> None:
    fake.script("m", Script(tokens=("👩‍🚀",), packet_bytes=1, packet_delay=0.0001))
    reader, writer = await talk(fake, request("/v1/chat/completions", question("m")))
    sizes = []
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        data += (got := await reader.read(65536))
        sizes.append(len(got))
    assert "👩‍🚀".encode() in data
    assert len(sizes) > 20
    writer.close()


async def test_the_fake_counts_who_leaves_early(fake: FakeProvider) -> None:
    fake.script("m", Script(fault="stall", fault_after=1))
    reader, writer = await talk(fake, request("/v1/chat/completions", question("m")))
    await reader.readuntil(b'"content":"You"')
    assert (fake.stats.active, fake.stats.open_connections) == (1, 1)
    writer.close()
    await fake.until(lambda: fake.stats.closed_early == 1, timeout=30)
    assert (fake.stats.active, fake.stats.open_connections) == (0, 0)


async def test_the_fake_resets_in_the_middle(fake: FakeProvider) -> None:
    fake.script("m", Script(fault="reset", fault_after=1))
    reader, _ = await talk(fake, request("/v1/chat/completions", question("m")))
    await reader.readuntil(b'"content":"You"')
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_refuses_and_listens_again(fake: FakeProvider) -> None:
    port = fake.port
    await fake.refuse()
    with pytest.raises(OSError):
        await asyncio.open_connection(fake.host, port)
    await fake.listen()
    assert (await ask(fake, "/v1/messages", question("m")))[0] == 200


async def test_is_controlled_over_http(fake: FakeProvider) -> None:
    script = {"model": "m", "script": {"status": 500}}
    assert await ask(fake, "/_script", script) == (200, b"{}")
    assert (await ask(fake, "/v1/messages", question("m")))[0] == 500
    stats = json.loads((await ask(fake, "/_stats", {}, method="GET"))[1])
    assert (stats["calls"], stats["callsByModel"], stats["answered"]) == (1, {"m": 1}, 1)
    requests = json.loads((await ask(fake, "/_requests", {}, method="GET"))[1])
    assert requests[0]["body"] == question("m")
    assert (await ask(fake, "/_script", {"model": "m", "script": {"pace": 1}}))[0] == 400
    assert await ask(fake, "/_reset", {}) == (200, b"{}")
    assert (await ask(fake, "/v1/messages", question("m")))[0] == 200
    assert fake.stats.calls == 1
    assert (await ask(fake, "/elsewhere", {}))[0] == 404


async def test_the_fake_runs_by_itself() -> None:
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local.fake_provider", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        port = int(line.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request("/v1/messages", question("m")))
        assert (await whole(reader))[0] == 200
        writer.close()
    finally:
        process.kill()
        await process.wait()


def test_a_script_is_json() -> None:
    script = Script(tokens=("a",), fault="cut")
    assert msgspec.json.decode(msgspec.json.encode(script), type=Script) == script
