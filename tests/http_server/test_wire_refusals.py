"""Connections to browsers: what cannot be understood is refused, and breaks into no answer."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from parley.http_server import protocol
from tests.http_server.wire_client import (
    BIG,
    CHUNKED,
    ECHOED,
    GET,
    HELLO,
    OK,
    POST,
    Gate,
    answer,
    answered,
    echo,
    halves,
    hello,
    piece,
    refused,
    serving,
    start,
)


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen for long to who was refused."""
    monkeypatch.setattr(protocol, "_LINGER_SECONDS", 0.1)


# What cannot be understood.

NONSENSE = [
    b"SSH-2.0-OpenSSH\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"get / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.2\r\n\r\n",
    b"GET / HTTP/1.1 \r\n\r\n",
    b"GET / a HTTP/1.1\r\n\r\n",
    b"GET a HTTP/1.1\r\n\r\n",
    b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\n\r\n",
    b"GET /\x7f HTTP/1.1\r\n\r\n",
    b"CONNECT parley:443 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\nhost: parley\n\n",
    b"GET / HTTP/1.1\r\nx\r\n\r\n",
    b"GET / HTTP/1.1\r\nx : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nx y: z\r\n\r\n",
    b"GET / HTTP/1.1\r\n: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: y\rz: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: y\nz: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nx: y\r\n z\r\n\r\n",
    b"GET / HTTP/1.1\r\n x: y\r\n\r\n",
    POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    POST + b"content-length: 5, 6\r\n\r\nhello!",
    POST + b"content-length: +5\r\n\r\nhello",
    POST + b"content-length: -5\r\n\r\nhello",
    POST + b"content-length: 0x5\r\n\r\nhello",
    POST + b"content-length:\r\n\r\n" + GET,
    POST + b"content-length: 99999999999999999999\r\n\r\n",
    POST + b"content-length : 5\r\n\r\nhello",
    POST + b"content-length: 1\r\n 0\r\n\r\nhello",
    POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_is_refused_and_its_connection_closed(nonsense: bytes, size: int) -> None:
    gate = Gate()
    gate.open.set()
    async with serving(gate) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(answered(b"/"))
        packets = [nonsense[at : at + size] for at in range(0, len(nonsense), size)]
        said = asyncio.create_task(client.rest())
        await asyncio.gather(client.say_in_packets(packets), return_exceptions=True)
        refused(await said, 400, "invalid_request")
    assert gate.came == 1


async def test_nonsense_does_not_break_into_an_answer() -> None:
    gate = asyncio.Event()
    async with serving(halves(gate)) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(CHUNKED + b"3\r\none\r\n")
        await client.say(b"nonsense\r\n\r\n")
        await client.silent()
        await client.say(GET)
        gate.set()
        assert await client.rest() == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_nonsense_does_not_take_the_place_of_an_answer() -> None:
    gate = Gate()
    async with serving(gate) as served:
        client = await served.client()
        await client.say(b"GET /a HTTP/1.1\r\n\r\n")
        await client.silent(0.02)
        await client.say(b"nonsense\r\n\r\n")
        await client.silent()
        gate.open.set()
        assert await client.rest() == answered(b"/a")


async def test_a_request_is_answered_though_nonsense_comes_with_it() -> None:
    async with serving(hello) as served:
        client = await served.client()
        await client.say(GET + b"nonsense\r\n\r\n")
        said = await client.rest()
        assert said.startswith(HELLO)
        if said != HELLO:
            refused(said[len(HELLO) :], 400, "invalid_request")


BAD_CHUNKS = [
    b"nonsense",
    b"-1\r\n",
    b"0x3\r\nabc",
    b"3 \r\nabc",
    b"3\nabc\n",
    b"3\r\nabcd\r\n",
    b"3\r\nabc0\r\n",
    b"3;x\ny\r\nabc",
    b"\r\n",
    b"fffffffffffffffff\r\n",
    b"0\r\nx\r\n\r\n",
]


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@pytest.mark.parametrize("together", [True, False])
async def test_a_body_that_is_malformed_is_refused_and_its_reader_told(bad: bytes, together: bool) -> None:
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())
        await answer(send, b"nobody hears this")

    good = POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n"
    async with serving(app) as served:
        client = await served.client()
        await client.say_in_packets([good + bad] if together else [good, bad])
        refused(await client.rest(), 400, "invalid_request")
        await served.until_idle()
    if not together:
        assert heard.pop() == {"type": "http.disconnect"}
        assert all(message["more_body"] for message in heard)
        assert b"".join(message["body"] for message in heard) in (b"he", b"heabc")


async def test_a_bad_body_after_its_answer_has_begun_breaks_the_answer_off() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        while (await receive())["type"] == "http.request":
            pass

    async with serving(app) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await client.hears(CHUNKED + b"3\r\none\r\n")
        await client.say(b"nonsense")
        await client.closed()


async def test_a_bad_body_after_its_answer_gets_no_second_answer() -> None:
    async with serving(hello) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await client.hears(HELLO)
        await client.say(b"nonsense")
        await client.closed()


LONG = b"y" * 70_000


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + LONG[:60_000] + b" HTTP/1.1\r\nx: " + LONG[:10_000] + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + LONG + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + LONG + b": x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 12_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + LONG,
        POST + b"content-length: 5\r\nx: " + LONG + b"\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nx: " + LONG + b"\r\n\r\n" + GET,
        b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\nx: " + LONG + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_head_that_is_too_long_is_refused(before: bytes, head: bytes, size: int) -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(before)
        if before:
            await client.hears(ECHOED)
        said = asyncio.create_task(client.rest())
        packets = [head[at : at + size] for at in range(0, len(head), size)]
        await asyncio.gather(client.say_in_packets(packets), return_exceptions=True)
        refused(await said, 431, "too_large")


@pytest.mark.parametrize("size", [1000, 1 << 20])
async def test_a_long_head_within_the_bound_is_read(size: int) -> None:
    head = b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000 + b"\r\n\r\n"
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(3):
            await client.say_in_packets([head[at : at + size] for at in range(0, len(head), size)])
            await client.hears(ECHOED)
        await client.say(head * 3)
        await client.hears(ECHOED * 3)


async def test_a_trailer_is_bounded_as_a_head_is() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ")
        said = asyncio.create_task(client.hear(len(OK)))
        await asyncio.gather(client.say_in_packets([LONG] * 10 + [b"\r\n\r\n"]), return_exceptions=True)
        assert await said != OK


async def test_who_was_refused_may_end_the_sentence_but_is_not_listened_to_for_long() -> None:
    async with serving(hello) as served:
        client = await served.client()
        await client.say(b"nonsense\r\n\r\n")
        await client.say(BIG)
        refused(await client.rest(), 400, "invalid_request")
        await served.until_idle()


@pytest.mark.parametrize("coding", [b"gzip", b"identity"])
async def test_what_is_framed_strangely_is_refused_with_an_upgrade_too(coding: bytes) -> None:
    async with serving(hello) as served:
        strange = (
            POST + b"connection: upgrade\r\nupgrade: x\r\ntransfer-encoding: " + coding + b"\r\n\r\nhello"
        )
        client = await served.client()
        await client.say(strange)
        refused(await client.rest(), 400, "invalid_request")
        client = await served.client()
        await client.say(GET + strange)
        assert await client.rest() == HELLO


async def test_nobody_is_told_to_go_on_after_a_refusal() -> None:
    failed: list[Exception] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await asyncio.sleep(0.02)
        try:
            assert (await receive())["type"] == "http.disconnect"
        except Exception as error:
            failed.append(error)

    async with serving(app) as served:
        client = await served.client()
        await client.say(POST + b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.say(b"nonsense")
        refused(await client.rest(), 400, "invalid_request")
    assert failed == []
