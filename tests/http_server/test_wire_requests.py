"""What is asked over a connection to a browser, and how the connection ends."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from parley.http_server import protocol
from tests.http_server.wire_client import (
    BIG,
    CHUNKED,
    ECHOED,
    GET,
    HELLO,
    LAST,
    OK,
    POST,
    POST_BIG,
    Gate,
    Header,
    answer,
    answered,
    body_of,
    echo,
    hello,
    piece,
    refused,
    serving,
    start,
)

# What is asked.

UPLOAD = b"POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", b"GET /a "),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost:parley\r\nx:\r\n\r\n", b"GET /a "),
        (b"GET http://parley/a?b HTTP/1.1\r\nhost: parley\r\n\r\n", b"GET /a "),
        (b"GET http://parley HTTP/1.1\r\nhost: parley\r\n\r\n", b"GET / "),
        (b"OPTIONS * HTTP/1.1\r\nhost: parley\r\n\r\n", b"OPTIONS * "),
        (b"DELETE /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"DELETE /a "),
        (b"POST /a HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello", b"POST /a hello"),
        (b"PUT /a HTTP/1.1\r\nContent-Length:  5\r\n\r\n\r\n\0\xff\n", b"PUT /a \r\n\0\xff\n"),
        (UPLOAD + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"POST /a hello"),
        (UPLOAD + b"0\r\n\r\n", b"POST /a "),
        (UPLOAD + b"005;x=y\r\nhello\r\n0;z\r\n\r\n", b"POST /a hello"),
        (UPLOAD + b"5\r\nhello\r\n0\r\nt: r\r\n\r\n", b"POST /a hello"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
async def test_requests_of_every_form_are_understood(request_: bytes, body: bytes, size: int) -> None:
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            await client.say_in_packets(request_[at : at + size] for at in range(0, len(request_), size))
            await client.hears(answered(body))
        assert served.state.total_requests == 2
        assert len(served.state.connections) == 1


async def test_an_application_is_told_all_of_a_request() -> None:
    scopes: list[Scope] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        scope["state"]["own"] = True
        await hello(scope, receive, send)

    trailed = POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx-trailer: t\r\n\r\n"
    async with serving(noting, app_state={"shared": 1}) as served:
        client = await served.client()
        await client.say(
            trailed + b"GET /a?b=%20c HTTP/1.1\r\nX-One: 1\r\nhost: h\r\nx-one:\t2 \r\nx-raw: \xff\r\n\r\n"
        )
        await client.hears(HELLO * 2)
    first, second = scopes
    assert [name for name, _ in first["headers"]] == [b"host", b"transfer-encoding"]
    assert second.pop("extensions").keys() == {"parley.stream"}
    assert second == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "root_path": "",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"b=%20c",
        "headers": [(b"x-one", b"1"), (b"host", b"h"), (b"x-one", b"2"), (b"x-raw", b"\xff")],
        "server": ("127.0.0.1", served.port),
        "client": ("127.0.0.1", client.port),
        "state": {"shared": 1, "own": True},
    }
    assert first["state"] is not second["state"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/a%20b", "/a b", b""),
        (b"/%C3%A4%e2%82%ac", "/ä€", b""),
        (b"/a%2Fb%25", "/a/b%", b""),
        (b"/%ff%zz%", "/\ufffd%zz%", b""),
        (b"//a/../b", "//a/../b", b""),
        (b"/%0d%0a%00", "/\r\n\0", b""),
        (b"/a+b?c=%C3%A4&d?/+", "/a+b", b"c=%C3%A4&d?/+"),
        (b"/?", "/", b""),
    ],
)
@pytest.mark.parametrize("root", ["", "/root"])
async def test_paths_are_decoded_and_kept_raw_too(root: str, target: bytes, path: str, query: bytes) -> None:
    seen: list[Any] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(scope[name] for name in ("root_path", "path", "raw_path", "query_string"))
        await hello(scope, receive, send)

    async with serving(noting, root_path=root) as served:
        client = await served.client()
        await client.say(b"GET %b HTTP/1.1\r\n\r\n" % target)
        await client.hears(HELLO)
    assert seen == [root, root + path, root.encode() + target.partition(b"?")[0], query]


async def test_requests_share_a_connection_but_not_their_answers() -> None:
    async with serving(echo) as served:
        first, second = await served.client(), await served.client()
        for number in range(5):
            for client in (first, second):
                await client.say(b"POST /%d HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc" % number)
                await client.hears(answered(b"POST /%d abc" % number))
        await first.silent()
        assert len(served.state.connections) == 2


async def test_pipelined_requests_are_answered_in_their_order_and_one_at_a_time() -> None:
    active = 0

    async def slow_at_first(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal active
        active += 1
        assert active == 1
        await asyncio.sleep(0.05 if scope["path"] == "/0" else 0)
        body = await body_of(receive)
        active -= 1
        await answer(send, scope["raw_path"] + body)

    asked = b"".join(b"POST /%d HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi" % number for number in range(500))
    async with serving(slow_at_first) as served:
        client = await served.client()
        await client.say(asked)
        await client.hears(b"".join(answered(b"/%dhi" % number) for number in range(500)))
        await client.say(b"GET /last HTTP/1.1\r\n\r\n")
        await client.hears(answered(b"/last"))
        await client.silent()
        assert served.state.total_requests == 501


async def test_a_request_that_comes_while_another_is_answered_waits() -> None:
    gate = Gate()
    async with serving(gate) as served:
        client = await served.client()
        for number in range(3):
            await client.say(b"GET /%d HTTP/1.1\r\n\r\n" % number)
            await client.silent(0.02)
        assert gate.came == 1
        gate.open.set()
        await client.hears(answered(b"/0") + answered(b"/1") + answered(b"/2"))


async def test_who_pipelines_without_end_is_held_back() -> None:
    gate = Gate()
    asked = b"GET / HTTP/1.1\r\nx: %b\r\n\r\n" % (b"y" * 1000)

    async def some(scope: Scope, receive: Receive, send: Send) -> None:
        if gate.came < 100:
            gate.came += 1
            await asyncio.sleep(0.002)
            await answer(send, b"")
        else:
            await gate(scope, receive, send)

    async with serving(some, thin=True) as served:
        client = await served.client()
        saying = asyncio.create_task(client.say(asked * 8000))
        await client.hears(answered(b"") * 100)
        await asyncio.sleep(0.05)
        assert not saying.done()
        # What was answered, what the kernel holds, and little more.
        assert client.sent < 1_000_000
        saying.cancel()
        gate.open.set()


async def test_no_more_than_so_many_requests_come_in_one_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_MOST_TOGETHER", 20)
    async with serving(hello) as served:
        client = await served.client()
        await client.say(GET * 30)
        assert await client.rest() == HELLO * 20


# How a connection ends.


async def test_a_request_may_be_the_last_one() -> None:
    gate = Gate()
    gate.open.set()
    async with serving(gate) as served:
        client = await served.client()
        await client.say(b"GET /a HTTP/1.1\r\nConnection: Close\r\n\r\nGET /b HTTP/1.1\r\n\r\n")
        assert await client.rest() == OK + b"content-length: 2\r\nconnection: close\r\n\r\n/a"
    assert gate.came == 1


@pytest.mark.parametrize("value", [b"close", b"Close", b"x, close"])
async def test_an_answer_may_be_the_last_one(value: bytes) -> None:
    async def last(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"connection", value), (b"content-length", b"2"))
        await piece(send, b"hi")

    async with serving(last) as served:
        client = await served.client()
        await client.say(GET * 2)
        assert await client.rest() == OK + b"connection: " + value + b"\r\ncontent-length: 2\r\n\r\nhi"


@pytest.mark.parametrize(
    ("version", "length"),
    [
        (b" HTTP/1.0", ()),
        (b" HTTP/1.0", ((b"content-length", b"5"),)),
        (b" HTTP/0.9", ()),
        (b"", ()),
    ],
)
async def test_an_old_client_gets_no_chunks_and_is_left(version: bytes, length: tuple[Header, ...]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"x", b"y"), *length)
        await piece(send, b"he", more=True)
        await piece(send, b"llo")

    said = b"content-length: 5\r\n" if length else b""
    async with serving(app) as served:
        client = await served.client()
        await client.say(b"GET /" + version + b"\r\nconnection: keep-alive\r\n\r\n")
        whole = await client.rest()
        # What is older than 1.0 need not be understood.
        if version == b" HTTP/1.0" or not whole.startswith(b"HTTP/1.1 400 "):
            assert whole == OK + b"x: y\r\n" + said + b"connection: close\r\n\r\nhello"


@pytest.mark.parametrize(
    ("status", "first"), [(204, b"HTTP/1.1 204 No Content\r\n"), (304, b"HTTP/1.1 304 Not Modified\r\n")]
)
async def test_answers_that_have_no_body(status: int, first: bytes) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"x", b"y"), status=status)
        await piece(send, b"")

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(first + b"x: y\r\n\r\n")
        await client.silent()


async def test_a_status_without_a_name_is_sent_without_one() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"0"), status=299)
        await piece(send, b"")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(b"HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("length", [(), ((b"content-length", b"5"),)])
async def test_the_answer_to_head_is_a_head(length: tuple[Header, ...]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, *length)
        await piece(send, b"he", more=True)
        await piece(send, b"llo")

    head = OK + (b"content-length: 5\r\n" if length else b"") + b"\r\n"
    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(b"HEAD / HTTP/1.1\r\n\r\n")
            await client.hears(head)
        await client.silent()


async def test_an_answer_without_a_length_is_chunked() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        for body in (b"", b"one", b"", b"x" * 26):
            await piece(send, body, more=True)
        await piece(send, b"two")

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(CHUNKED + b"3\r\none\r\n1a\r\n" + b"x" * 26 + b"\r\n3\r\ntwo\r\n0\r\n\r\n")
        await client.silent()


async def test_a_head_waits_for_what_comes_next_and_each_piece_goes_out_at_once() -> None:
    gate = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        for body in (b"one", b"two"):
            await gate.wait()
            gate.clear()
            await piece(send, body, more=True)
        await gate.wait()
        await piece(send, b"")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        for number, packet in enumerate((CHUNKED + b"3\r\none\r\n", b"3\r\ntwo\r\n", LAST)):
            await client.silent(0.02)
            gate.set()
            assert await client.packet() == packet
            assert client.writes() == number + 1


@pytest.mark.parametrize(
    ("parts", "heard"),
    [
        ([b"hello!"], b""),
        ([b"hell"], b""),
        ([b""], b""),
        ([b"hello!", b""], b""),
        ([b"he", b"llo!"], b"he"),
        ([b"he", b"llo!", b""], b"he"),
        ([b"he", b"ll"], b"he"),
        ([b"he", b"llo", b"!"], b"hello"),
    ],
)
async def test_an_answer_of_another_length_than_it_said_ends_the_connection(
    parts: list[bytes], heard: bytes
) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"5"))
        for body in parts[:-1]:
            await piece(send, body, more=True)
        await piece(send, parts[-1])

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        whole = await client.rest()
        assert whole in (b"", OK + b"content-length: 5\r\n\r\n" + heard)
        assert not heard or whole


# Before a body.


async def test_who_waits_to_be_told_to_go_on_is_told_when_the_body_is_wanted() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (echo if scope["path"] == "/reads" else hello)(scope, receive, send)

    expecting = b" HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"
    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(b"POST /reads" + expecting)
            await client.hears(b"HTTP/1.1 100 Continue\r\n\r\n")
            await client.silent(0.02)
            await client.say_in_packets([b"he", b"llo"])
            await client.hears(answered(b"POST /reads hello"))
            await client.say(b"POST /not" + expecting)
            await client.hears(HELLO)
            await client.say(b"hello")
        await client.silent(0.02)


async def test_nobody_is_told_to_go_on_in_the_middle_of_an_answer() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        await piece(send, await body_of(receive))

    async with serving(app) as served:
        client = await served.client()
        await client.say(POST + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        await client.hears(CHUNKED + b"3\r\none\r\n")
        await client.silent(0.02)
        await client.say(b"hello")
        await client.hears(b"5\r\nhello\r\n" + LAST)


async def test_an_expectation_is_one_in_capitals_too() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(POST + b"Expect: 100-Continue\r\ncontent-length: 5\r\n\r\n")
        await client.hears(b"HTTP/1.1 100 Continue\r\n\r\n")
        await client.say(b"hello")
        await client.hears(answered(b"POST / hello"))


async def test_an_old_client_is_not_told_to_go_on() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(b"POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello")
        said = await client.rest()
        assert said == OK + b"content-length: 12\r\nconnection: close\r\n\r\nPOST / hello"


# Bodies that are long.


@pytest.mark.parametrize("after", [0.0, 0.02])
async def test_a_body_that_nobody_reads_does_not_disturb_the_next_request(after: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await echo(scope, receive, send)
            return
        await asyncio.sleep(after)
        await answer(send, b"hello")

    async with serving(app, thin=True) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(POST_BIG)
            await client.hears(HELLO)
            await client.say(GET)
            await client.hears(ECHOED)
            await client.say(POST_BIG + GET)
            await client.hears(HELLO + ECHOED)


@pytest.mark.parametrize("chunked", [True, False])
async def test_who_reads_slowly_gets_all_of_a_body_and_holds_its_sender_back(chunked: bool) -> None:
    reading = asyncio.Event()
    bodies: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await echo(scope, receive, send)
            return
        await reading.wait()
        more = True
        while more:
            message = await receive()
            bodies.append(message["body"])
            more = message["more_body"]
            await asyncio.sleep(0)
        await answer(send, b"hello")

    body = BIG * 4
    asked = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    if chunked:
        asked = POST + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n" % (len(BIG), BIG) * 4 + LAST
    async with serving(app, thin=True) as served:
        client = await served.client()
        saying = asyncio.create_task(client.say(asked))
        await asyncio.sleep(0.2)
        assert not saying.done()
        assert client.sent < len(BIG)
        reading.set()
        await saying
        await client.hears(HELLO)
        await client.say(GET)
        await client.hears(ECHOED)
    assert b"".join(bodies) == body
    assert max(map(len, bodies)) < len(BIG)


async def test_a_body_that_was_kept_when_the_client_left_is_not_waited_for() -> None:
    reading = asyncio.Event()
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        await reading.wait()
        while not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())

    async with serving(app, thin=True) as served:
        client = await served.client()
        saying = asyncio.create_task(client.say(POST_BIG))
        await asyncio.sleep(0.05)
        saying.cancel()
        client.leave()
        reading.set()
        await served.until_idle()
    assert heard[-1] == {"type": "http.disconnect"}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
async def test_an_upload_may_be_answered_before_it_is_whole(chunked: bool, together: bool) -> None:
    asked = POST + b"content-length: 10\r\n\r\n01234"
    rest = b"56789"
    if chunked:
        asked, rest = POST + b"transfer-encoding: chunked\r\n\r\n5\r\n01234\r\n", b"5\r\n56789\r\n" + LAST
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            await echo(scope, receive, send)
            return
        await answer(send, b"hello")
        heard.append(await receive())

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(asked)
            await client.hears(HELLO)
            await client.silent(0.02)
            await client.say_in_packets([rest + GET] if together else [rest, GET])
            await client.hears(ECHOED)
    assert heard == [{"type": "http.disconnect"}] * 2


# Upgrades.

UPGRADE = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"


async def test_whoever_asks_for_another_protocol_gets_a_plain_answer() -> None:
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(b"GET /a HTTP/1.1\r\n" + UPGRADE + b"\r\n")
            await client.hears(answered(b"GET /a "))
            await client.say(b"GET /b HTTP/1.1\r\n" + UPGRADE + b"\r\n" + GET)
            await client.hears(answered(b"GET /b ") + ECHOED)
        # Who takes the other protocol for granted is not understood.
        await client.say(b"GET /a HTTP/1.1\r\n" + UPGRADE + b"\r\n\x81\x85")
        assert await client.rest() == answered(b"GET /a ")


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "rest",
    [
        b"content-length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nt: r\r\n\r\n",
        b"content-length: 0\r\n\r\n",
    ],
)
async def test_a_body_is_not_lost_by_asking_for_another_protocol(rest: bytes, size: int) -> None:
    asked = POST + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n" + rest
    body = b"" if b": 0" in rest else b"hello"
    async with serving(echo) as served:
        client = await served.client()
        for _ in range(2):
            await client.say_in_packets(asked[at : at + size] for at in range(0, len(asked), size))
            await client.hears(answered(b"POST / " + body))
        await client.say(asked + GET + asked)
        await client.hears(answered(b"POST / " + body) + ECHOED + answered(b"POST / " + body))


async def test_many_requests_may_ask_for_an_upgrade_at_once() -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say((b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n") * 1000)
        await client.hears(ECHOED * 1000)


@pytest.mark.parametrize(
    "smuggled",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"transfer-encoding: chunked\r\n\r\nnonsense" + GET,
    ],
)
async def test_nothing_is_smuggled_by_an_upgrade(smuggled: bytes) -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(POST + UPGRADE + smuggled)
        refused(await client.rest(), 400, "invalid_request")
