"""Connections to browsers: how long who is waited for, and clients that leave or do not read."""

import asyncio
import gc

import pytest
from starlette.types import Message, Receive, Scope, Send

from parley.http_server import connection, protocol
from parley.http_server.protocol import HttpProtocol
from tests.http_server.wire_client import (
    BIG,
    CHUNKED,
    ECHOED,
    GET,
    HELLO,
    LAST,
    OK,
    PATIENCE,
    POST,
    STREAM,
    STREAMED,
    Source,
    answer,
    answered,
    body_of,
    echo,
    eventually,
    hello,
    piece,
    serving,
    start,
    streaming,
    turns,
)

# Patience.


async def test_who_asks_nothing_is_not_kept() -> None:
    async with serving(hello, idle=0.1) as served:
        began = asyncio.get_running_loop().time()
        client = await served.client()
        await client.say(b"\r\n")
        await client.closed()
        assert asyncio.get_running_loop().time() - began > 0.09


@pytest.mark.parametrize("asked", [GET, POST + b"content-length: 5\r\n\r\nhello"])
async def test_who_asks_nothing_more_is_not_kept(asked: bytes) -> None:
    async with serving(hello, idle=0.6) as served:
        loop = asyncio.get_running_loop()
        client = await served.client()
        for _ in range(3):
            await asyncio.sleep(0.25)
            began = loop.time()
            await client.say(asked)
            await client.hears(HELLO)
        await client.closed()
        assert loop.time() - began > 0.55


async def test_who_completes_an_upload_that_was_answered_is_not_kept() -> None:
    async with serving(hello, idle=0.1) as served:
        client = await served.client()
        await client.say(POST + b"content-length: 5\r\n\r\nhe")
        await client.hears(HELLO)
        await client.silent(0.2)
        await client.say(b"llo")
        await client.closed()


@pytest.mark.parametrize("asked", [GET, POST + b"content-length: 5\r\n\r\nhello"])
async def test_who_waits_for_an_answer_is_kept(asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.1)

    async def slow(_: Scope, __: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        await answer(send, b"hello")

    async with serving(slow, idle=0.1) as served:
        client = await served.client()
        await client.say(asked)
        await client.hears(HELLO)


@pytest.mark.parametrize(
    "part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nx: ", GET[:-2], b"\r\nGET "]
)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_request_that_does_not_come_to_its_end_is_not_waited_for(
    before: bytes, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.15)
    async with serving(hello) as served:
        client = await served.client()
        if before:
            await client.say(before)
            await client.hears(HELLO)
        began = asyncio.get_running_loop().time()
        await client.say(part)
        await client.closed()
        assert asyncio.get_running_loop().time() - began > 0.1


@pytest.mark.parametrize(
    "asked",
    [POST + b"content-length: 5\r\n\r\nhe", POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n"],
)
async def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(
    asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.15)
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())

    async with serving(app) as served:
        client = await served.client()
        await client.say(asked)
        await client.closed()
        await served.until_idle()
    assert heard == [
        {"type": "http.request", "body": b"he", "more_body": True},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize(
    "part", [b"GET /b HTTP/1.1\r\nx", b"POST /b HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe"]
)
async def test_who_waits_for_an_answer_is_kept_though_the_next_request_is_not_whole(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.15)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/a":
            await asyncio.sleep(0.3)
        await body_of(receive)
        await answer(send, scope["raw_path"])

    async with serving(app, idle=0.1) as served:
        client = await served.client()
        await client.say(b"GET /a HTTP/1.1\r\n\r\n" + part)
        await client.hears(answered(b"/a"))
        # It has to become whole from then on.
        await client.closed()


async def test_a_request_may_take_longer_than_a_connection_idles() -> None:
    async with serving(echo, idle=0.1) as served:
        client = await served.client()
        for packet in (b"GET ", b"/ HTTP/1.1\r\n", b"\r\n"):
            await client.say(packet)
            await asyncio.sleep(0.08)
        await client.hears(ECHOED)


# Clients that leave, or do not read.


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize(
    "asked", [GET, POST + b"content-length: 5\r\n\r\nhe", POST + b"content-length: 1\r\n\r\nh"]
)
async def test_a_client_that_leaves_is_noticed_by_who_listens(asked: bytes, politely: bool) -> None:
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())
        heard.append(await receive())
        # To whom it may concern.
        await piece(send, b"two", more=True)
        await piece(send, b"three")

    async with serving(app) as served:
        client = await served.client()
        await client.say(asked)
        await client.hears(CHUNKED + b"3\r\none\r\n")
        await asyncio.sleep(0.02)
        if politely:
            client.finish()
        else:
            client.leave()
        await served.until_idle()
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect", "http.disconnect"]
    assert served.state.total_requests == 0


@pytest.mark.parametrize("together", [True, False])
async def test_a_client_that_leaves_is_noticed_though_it_has_asked_for_more(together: bool) -> None:
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        heard.append(await receive())
        heard.append(await receive())

    async with serving(app) as served:
        client = await served.client()
        await client.say_in_packets([GET + GET] if together else [GET, GET])
        await eventually(lambda: heard)
        client.finish()
        await served.until_idle()
    assert [message["type"] for message in heard] == ["http.request", "http.disconnect"]


async def test_who_listens_hears_that_an_answer_is_whole() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        listening = asyncio.ensure_future(receive())
        await turns()
        await answer(send, b"hello")
        assert (await listening)["type"] == "http.disconnect"

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(HELLO)
            await eventually(lambda: not served.state.tasks)


async def test_everybody_who_listens_hears_that_a_client_left() -> None:
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        async def listen() -> None:
            heard.append(await receive())

        await receive()
        first, second, third = (asyncio.create_task(listen()) for _ in range(3))
        await turns()
        third.cancel()
        await asyncio.wait([first, second], timeout=PATIENCE)
        first.cancel()
        second.cancel()

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await asyncio.sleep(0.02)
        client.finish()
        await served.until_idle()
    assert heard == [{"type": "http.disconnect"}] * 2


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_does_not_read_holds_its_answer_back(leaves: bool) -> None:
    sent = 0
    part = b"x" * 20_000

    async def app(_: Scope, __: Receive, send: Send) -> None:
        nonlocal sent
        await start(send, (b"content-length", b"%d" % (len(part) * 100)))
        for number in range(100):
            await piece(send, part, more=number < 99)
            sent += 1

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(GET)
        await asyncio.sleep(0.2)
        assert 0 < sent < 50
        assert len(served.state.tasks) == 1
        if leaves:
            client.leave()
            await served.until_idle()
        else:
            await client.hears(OK + b"content-length: 2000000\r\n\r\n" + part * 100)
            await client.say(GET)
            await client.hears(OK + b"content-length: 2000000\r\n\r\n" + part * 100)


async def test_a_slow_reader_gets_all_of_an_answer_though_its_connection_idles() -> None:
    body = b"x" * 2_000_000

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await answer(send, body)

    async with serving(app, thin=True, idle=0.1) as served:
        client = await served.client()
        await client.say(GET)
        await asyncio.sleep(0.3)
        assert await client.rest() == answered(body)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_a_client_that_reads_nothing_for_long_is_left(
    path: bytes, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_DEAF_SECONDS", 0.2)
    source = Source(BIG * 4)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await streaming(source)(scope, receive, send)
        else:
            await start(send, (b"content-length", b"%d" % (len(BIG) * 4)))
            for number in range(4):
                await piece(send, BIG, more=number < 3)

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, b"connection: close\r\n" if last else b""))
        await eventually(lambda: served.state.connections)
        await asyncio.sleep(0.1)
        assert served.state.connections
        await served.until_idle()
    assert source.left == source.begun


@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_a_client_that_reads_slowly_is_not_deaf(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_DEAF_SECONDS", 0.5)
    source = Source(BIG, ends=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await streaming(source)(scope, receive, send)
        else:
            await answer(send, BIG)

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(b"GET %b HTTP/1.0\r\n\r\n" % path)
        said = b""
        while part := await client.hear(16_000):
            said += part
            await asyncio.sleep(0.02)
        assert said.endswith(b"\r\n\r\n" + BIG)


@pytest.mark.parametrize("more", [GET, b"GET"])
async def test_who_reads_nothing_gains_no_time_by_saying_more(
    more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_DEAF_SECONDS", 0.2)

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await answer(send, BIG)

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(GET)
        for packet in (more, b" ", b" ") * 3:
            await asyncio.sleep(0.05)
            await asyncio.gather(client.say(packet), return_exceptions=True)
        await served.until_idle()


async def test_a_request_has_its_time_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.2)
    async with serving(hello) as served:
        client = await served.client()
        # It ends while it is still spoken to, or else never.
        said = asyncio.create_task(client.rest())
        while not said.done():
            await asyncio.gather(client.say(b"G" if not client.sent else b"E"), return_exceptions=True)
            await asyncio.sleep(0.02)
        await said


async def test_a_body_that_we_have_wait_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 2.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(2.5)
        monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 60.0)
        await answer(send, b"%d" % len(await body_of(receive)))

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(POST + b"content-length: %d\r\n\r\n" % len(BIG) + BIG)
        await client.hears(answered(b"%d" % len(BIG)))


async def test_nothing_of_a_connection_stays() -> None:
    async with serving(streaming(Source(b"one", ends=True))) as served:
        gc.collect()
        gc.disable()
        try:
            client = await served.client()
            await client.say(GET)
            await client.hears(ECHOED)
            await client.say(STREAM)
            await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
            client.finish()
            await served.until_idle()
            await turns()
            assert not any(type(one) is HttpProtocol for one in gc.get_objects())
        finally:
            gc.enable()
