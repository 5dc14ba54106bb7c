"""uvicorn's HTTP/1.1 as this server has it, on sockets: what is refused, and what one connection may take."""

import asyncio
import gc

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from parley.http_server import protocol, reading_deadline
from parley.http_server.protocol import HttpProtocol
from parley.http_server.request_limits import RequestLimits
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
    Header,
    Served,
    Source,
    answer,
    answered,
    body_of,
    echo,
    eventually,
    hello,
    piece,
    refused,
    serving,
    start,
    streaming,
    turns,
)

HOST = b"host: parley\r\n"


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not listen for long to who was refused."""
    monkeypatch.setattr(protocol, "_LINGER_SECONDS", 0.1)


# Requests.

UPGRADE = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nhost: t\r\n\r\n"


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (GET, b"GET / "),
        (b"\r\nGET http://parley/a?b HTTP/1.1\r\nHost:[::1]:80\r\nx:\r\n\r\n", b"GET /a "),
        (b"OPTIONS * HTTP/1.1\r\nhost:\r\n\r\n", b"OPTIONS * "),
        (POST + b"Content-Length:  5\r\n\r\n\r\n\0\xff\n", b"POST / \r\n\0\xff\n"),
        (POST + CHUNKS, b"POST / hello"),
        (POST + UPGRADE + b"content-length: 5\r\n\r\nhello", b"POST / hello"),
        (POST + UPGRADE + CHUNKS, b"POST / hello"),
        (b"GET / HTTP/1.1\r\nhost: parley\r\n" + UPGRADE + b"\r\n", b"GET / "),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
async def test_a_request_is_read_however_it_is_split(asked: bytes, body: bytes, size: int) -> None:
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            await client.say_in_packets(asked[at : at + size] for at in range(0, len(asked), size))
            await client.hears(answered(body))
        await client.say(asked * 3)
        await client.hears(answered(body) * 3)
        assert served.state.total_requests == 5
        assert len(served.state.connections) == 1


async def test_fields_of_a_trailer_section_are_none_of_the_request() -> None:
    scopes: list[Scope] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        scopes.append(scope)
        await answer(send, b"hello")

    async with serving(noting) as served:
        client = await served.client()
        await client.say(POST + CHUNKS)
        await client.hears(HELLO)
    assert [name for name, _ in scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def slow_at_first(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.02 if scope["path"] == "/0" else 0)
        await answer(send, scope["raw_path"] + await body_of(receive))

    asked = [b"POST /%d HTTP/1.1\r\n%bcontent-length: 2\r\n\r\nhi" % (number, HOST) for number in range(50)]
    async with serving(slow_at_first) as served:
        client = await served.client()
        await client.say(b"".join(asked))
        await client.hears(b"".join(answered(b"/%dhi" % number) for number in range(50)))


async def test_more_pipelined_requests_than_the_bound_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_MOST_PIPELINED", 20)
    async with serving(hello) as served:
        client = await served.client()
        await client.say(GET * 30)
        last = OK + b"content-length: 5\r\nconnection: close\r\n\r\nhello"
        assert await client.rest() == HELLO * 20 + last
        assert served.state.total_requests == 21


async def test_a_body_waits_for_its_reader() -> None:
    reading = asyncio.Event()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await reading.wait()
        await answer(send, b"%d" % len(await body_of(receive)))

    async with serving(app, thin=True) as served:
        client = await served.client()
        saying = asyncio.create_task(client.say(POST + b"content-length: %d\r\n\r\n" % len(BIG) + BIG))
        await asyncio.sleep(0.1)
        assert not saying.done()
        reading.set()
        await saying
        await client.hears(answered(b"%d" % len(BIG)))


# Requests that are refused.

NONSENSE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"get / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nhost: a\r\n\r\n",
    b"GET /\xc3\xa4 HTTP/1.1\r\nhost: a\r\n\r\n",
    b"CONNECT parley:443 HTTP/1.1\r\nhost: parley\r\n\r\n",
    b"GET / HTTP/1.1\nhost: parley\n\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: y\nz: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
    # RFC 9112, section 3.2.
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a:b\r\n\r\n",
    # RFC 9112, section 6.3: what does not have one length has none.
    POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    POST + b"content-length: 5, 6\r\n\r\nhello!",
    POST + b"content-length: +5\r\n\r\nhello",
    POST + b"content-length:\r\n\r\n" + GET,
    POST + b"content-length: 99999999999999999999\r\n\r\n",
    POST + b"content-length : 5\r\n\r\nhello",
    POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: gzip\r\n\r\nhello",
    POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + UPGRADE + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + UPGRADE + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
]


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_is_refused_and_its_connection_closed(nonsense: bytes, size: int) -> None:
    async with serving(hello) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(HELLO)
        packets = [nonsense[at : at + size] for at in range(0, len(nonsense), size)]
        said = asyncio.create_task(client.rest())
        await asyncio.gather(client.say_in_packets(packets), return_exceptions=True)
        refused(await said, 400, "invalid_request")
        assert served.state.total_requests == 1


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    "nonsense", [b"nonsense\r\n\r\n", POST + b"transfer-encoding: chunked\r\n\r\nnonsense"]
)
async def test_nonsense_does_not_break_into_an_earlier_response(nonsense: bytes, begun: bool) -> None:
    gate = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        if begun:
            await piece(send, b"one", more=True)
        await gate.wait()
        await piece(send, b"two")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET + nonsense)
        head = OK + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        if begun:
            await client.hears(head + b"3\r\none\r\n")
        await client.silent(0.02)
        await client.say(GET)
        gate.set()
        assert await client.rest() == (b"" if begun else head) + b"3\r\ntwo\r\n" + LAST
        assert served.state.total_requests == 1


@pytest.mark.parametrize(
    "bad", [b"nonsense", b"-1\r\n", b"3\r\nabcd\r\n", b"3;x\ny\r\nabc", b"0\r\nx\r\n\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_malformed_body_is_refused_and_its_reader_told(bad: bytes, together: bool) -> None:
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())
        await answer(send, b"nobody hears this")

    good = POST + b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(app) as served:
        client = await served.client()
        await client.say(good + (bad if together else b"2\r\nhe\r\n"))
        if not together:
            await client.hears(b"HTTP/1.1 100 Continue\r\n\r\n")
            await client.say(bad)
        refused(await client.rest(), 400, "invalid_request")
        await served.until_idle()
    assert heard[-1] == {"type": "http.disconnect"}


@pytest.mark.parametrize("how", ["leaves", "finishes", "is malformed"])
async def test_a_body_that_is_never_whole_leaves_no_line_in_the_log(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, _: Send) -> None:
        begun.set()
        try:
            await Request(scope, receive).body()
        finally:
            ended.set()

    async with serving(RequestLimits(app, 1000)) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await begun.wait()
        if how == "leaves":
            client.leave()
        elif how == "finishes":
            client.finish()
        else:
            await client.say(b"nonsense")
            refused(await client.rest(), 400, "invalid_request")
        await ended.wait()
        await served.until_idle()
    assert caplog.records == []


@pytest.mark.parametrize("whole", [True, False])
async def test_a_malformed_body_gets_no_second_response(whole: bool) -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=not whole)
        while (await receive())["type"] == "http.request":
            pass

    async with serving(app) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await client.hears(CHUNKED + b"3\r\none\r\n" + (LAST if whole else b""))
        await client.say(b"nonsense")
        await client.closed()


LONG = b"y" * 70 * 1024


@pytest.mark.parametrize("size", [1000, 1 << 20])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + LONG[:60_000] + b" HTTP/1.1\r\n" + HOST + b"x: " + LONG[:10_000] + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + LONG + b": x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 12_000 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"x: " + LONG,
        POST + b"content-length: 5\r\nx: " + LONG + b"\r\n\r\nhello" + GET,
        POST + UPGRADE + b"x: " + LONG + b"\r\n\r\n",
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
    head = b"GET / HTTP/1.1\r\n" + HOST + b"x: " + b"y" * 62 * 1024 + b"\r\n\r\n"
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            await client.say_in_packets([head[at : at + size] for at in range(0, len(head), size)])
            await client.hears(ECHOED)
        await client.say(head * 3)
        await client.hears(ECHOED * 3)


async def test_a_trailer_section_is_bounded_as_a_head_is() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ")
        said = asyncio.create_task(client.rest())
        await asyncio.gather(client.say_in_packets([LONG] * 10 + [b"\r\n\r\n"]), return_exceptions=True)
        refused(await said, 431, "too_large")


async def test_a_refused_client_may_finish_its_request_and_hears_the_refusal() -> None:
    async with serving(hello) as served:
        client = await served.client()
        await client.say(b"nonsense\r\n\r\n")
        await client.say(BIG)
        refused(await client.rest(), 400, "invalid_request")


# Responses.


async def test_head_and_body_go_out_in_one_write() -> None:
    async with serving(hello) as served:
        client = await served.client()
        for number in range(3):
            await client.say(GET)
            assert await client.packet() == HELLO
            assert client.writes() == number + 1


@pytest.mark.parametrize("length", [(), ((b"content-length", b"5"),)])
async def test_a_response_to_head_is_a_head(length: tuple[Header, ...]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, *length)
        await piece(send, b"he", more=True)
        await piece(send, b"llo")

    head = OK + (b"content-length: 5\r\n" if length else b"")
    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
            await client.hears(head + b"\r\n")
        await client.say(b"HEAD / HTTP/1.0\r\n\r\n")
        assert await client.rest() == head + b"connection: close\r\n\r\n"


@pytest.mark.parametrize("length", [(), ((b"Content-Length", b"5"),)])
async def test_a_client_of_http_1_0_gets_no_chunks(length: tuple[Header, ...]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"x", b"y"), *length)
        await piece(send, b"he", more=True)
        await piece(send, b"llo")

    said = b"content-length: 5\r\n" if length else b""
    async with serving(app) as served:
        client = await served.client()
        await client.say(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert await client.rest() == OK + b"x: y\r\n" + said + b"connection: close\r\n\r\nhello"


async def test_a_client_of_http_1_0_is_not_told_to_go_on() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello")
        assert await client.rest() == OK + b"content-length: 12\r\nconnection: close\r\n\r\nPOST / hello"


@pytest.mark.parametrize("where", ["before", "head", "body"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("raises", [True, False])
async def test_a_bug_in_the_application_is_answered_in_json_or_breaks_the_response(
    method: bytes, where: str, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(_: Scope, __: Receive, send: Send) -> None:
        if where != "before":
            await start(send)
        if where == "body":
            await piece(send, b"one", more=True)
        if raises:
            raise ValueError("a bug")

    async with serving(breaks) as served:
        client = await served.client()
        await client.say(method + b" / HTTP/1.1\r\nhost: a\r\n\r\n" + GET)
        said = await client.rest()
        if method == b"HEAD":
            head, end, body = said.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 500 ")
            assert b"\r\nconnection: close" in head
            assert (end, body) == (b"\r\n\r\n", b"")
        elif where == "body":
            assert said == CHUNKED + b"3\r\none\r\n"
        else:
            refused(said, 500, "internal")
        assert served.state.total_requests == 1
    # uvicorn says nothing more of it, which would quote the exception.
    assert [record.message for record in caplog.records] == ["request_broke"] * raises


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"y\r\nset-cookie: z"),
        (b"x", b"y\r\n\r\nbody"),
        (b"x", b"y\nset-cookie: z"),
        (b"x", b"y\0z"),
        (b"x: y\r\nset-cookie", b"z"),
        (b"x\n", b"z"),
    ],
)
async def test_a_header_cannot_become_two(header: Header) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"a", b"b"), header, (b"c", b"d"))
        await piece(send, b"hello")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        said = await client.rest()
        refused(said, 500, "internal")
        assert b"set-cookie" not in said


# Deadlines.


@pytest.mark.parametrize("before", [b"", b"\r\n", GET, POST + b"content-length: 5\r\n\r\nhello"])
async def test_an_idle_connection_is_closed(before: bytes) -> None:
    async with serving(hello, idle=0.1) as served:
        client = await served.client()
        began = asyncio.get_running_loop().time()
        await client.say(before)
        assert await client.rest() == (HELLO if before.strip() else b"")
        assert asyncio.get_running_loop().time() - began > 0.09


@pytest.mark.parametrize(
    "part", [b"G", GET[:-2], b"\r\nGET ", POST + b"content-length: 5\r\n\r\nhe", POST + UPGRADE + b"x"]
)
@pytest.mark.parametrize("before", [b"", GET])
async def test_a_request_has_its_time_as_a_whole(
    before: bytes, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.2)
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await answer(send, b"hello")
            return
        while "http.disconnect" not in heard:
            heard.append((await receive())["type"])

    async with serving(app) as served:
        client = await served.client()
        if before:
            await client.say(before)
            await client.hears(HELLO)
        await client.say(part)
        # It ends while the client goes on to speak, or else never.
        said = asyncio.create_task(client.rest())
        while not said.done():
            await asyncio.gather(client.say(b"x" if b"x" in part else b""), return_exceptions=True)
            await asyncio.sleep(0.02)
        assert await said == b""
        await served.until_idle()
    assert heard[-1:] in ([], ["http.disconnect"])


async def test_a_client_is_not_late_while_the_server_has_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Long enough for a busy machine to bring what a connection takes unasked.
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 2.0)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(4)
        monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 60.0)
        await answer(send, b"%d" % len(await body_of(receive)))

    async with serving(slow, idle=2, thin=True) as served:

        async def one(asked: bytes, more: bytes, length: int) -> None:
            client = await served.client()
            await client.say(asked + more)
            await client.hears(answered(b"%d" % length))

        await asyncio.gather(
            one(GET, b"", 0),
            one(GET, GET[:9], 0),
            one(POST + b"content-length: %d\r\n\r\n" % len(BIG), BIG, len(BIG)),
        )


@pytest.mark.parametrize("more", [b"", GET, b"GET"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_a_client_that_reads_nothing_for_long_is_let_go(
    path: bytes, last: bool, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_deadline, "_DEAF_SECONDS", 0.2)
    source = Source(BIG * 4)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await streaming(source)(scope, receive, send)
        else:
            await answer(send, BIG)

    close = b"connection: close\r\n" if last else b""
    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (path, HOST, close) + more)
        await eventually(lambda: served.state.connections)
        await asyncio.sleep(0.1)
        assert served.state.connections
        await served.until_idle()
    assert source.left == source.begun


@pytest.mark.parametrize("path", [b"/", b"/stream"])
async def test_a_client_that_reads_slowly_gets_all(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_deadline, "_DEAF_SECONDS", 0.5)
    source = Source(BIG, ends=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await streaming(source)(scope, receive, send)
        else:
            await answer(send, BIG)

    async with serving(app, thin=True, idle=0.1) as served:
        client = await served.client()
        await client.say(b"GET %b HTTP/1.0\r\n\r\n" % path)
        said = b""
        while part := await client.hear(16_000):
            said += part
            await asyncio.sleep(0.02)
        assert said.endswith(b"\r\n\r\n" + BIG)


@pytest.mark.parametrize("asked", [GET, GET + GET, POST + b"content-length: 5\r\n\r\nhe"])
async def test_an_application_that_listens_hears_that_its_client_left(asked: bytes) -> None:
    heard: list[str] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while heard[-1:] != ["http.disconnect"]:
            heard.append((await receive())["type"])

    async with serving(app) as served:
        client = await served.client()
        await client.say(asked)
        await eventually(lambda: heard)
        client.finish()
        await served.until_idle()
    assert served.state.total_requests == 0


async def test_nothing_of_a_connection_stays_for_the_garbage_collector() -> None:
    async with serving(streaming(Source(b"one", ends=True))) as served:
        gc.collect()
        gc.disable()
        try:
            client = await served.client()
            await client.say(GET)
            await client.hears(ECHOED)
            await client.say(STREAM)
            await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
            await client.say(GET)
            await client.hears(ECHOED)
            client.finish()
            await served.until_idle()
            await turns()
            left = {type(one).__name__ for one in gc.get_objects()}
            assert not left & {"HttpProtocol", "StreamProtocol", "Responder", "RequestResponseCycle"}
        finally:
            gc.enable()


# The end of the server.


async def test_the_server_ends_idle_connections_and_waits_for_responses() -> None:
    gate = asyncio.Event()

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        await gate.wait()
        await piece(send, b"two")

    config = uvicorn.Config(
        app, http=HttpProtocol, port=0, ws="none", log_config=None, lifespan="off", server_header=False
    )
    server = uvicorn.Server(config)
    serving_ = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    served = Served(server.server_state, server.servers[0].sockets[0].getsockname()[1], narrow=False)
    client, idle, begun = [await served.client() for _ in range(3)]
    await client.say(GET)
    await begun.say(GET[:-2])
    head = await client.packet()
    assert head.startswith(OK + b"date: ")
    assert b"server" not in head
    server.should_exit = True
    await idle.closed()
    await begun.closed()
    assert not serving_.done()
    gate.set()
    assert await client.rest() == b"3\r\ntwo\r\n" + LAST
    await asyncio.wait_for(serving_, PATIENCE)
    served.leave()


async def test_work_that_is_cancelled_at_the_end_ends_its_connection() -> None:
    async def app(_: Scope, __: Receive, ___: Send) -> None:
        await asyncio.Event().wait()

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await eventually(lambda: served.state.tasks)
        await turns()
        served.shutdown()
        for task in served.state.tasks:
            task.cancel()
        await client.closed()
