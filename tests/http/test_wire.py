"""Connections to browsers, over real sockets: what is said, byte by byte, in both directions."""

import asyncio
import gc
import itertools
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parley.encoding import from_json
from parley.http import wire
from parley.http.exchange import Afterwards
from parley.http.headers import HEADERS
from parley.http.wire import Wire
from tests.http.wire_client import (
    Header,
    Served,
    Source,
    answer,
    answered,
    body_of,
    echo,
    eventually,
    piece,
    serving,
    start,
    turns,
)

GET = b"GET / HTTP/1.1\r\nhost: parley\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: parley\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
ECHOED = answered(b"GET / ")


async def hello(_: Scope, __: Receive, send: Send) -> None:
    """Answer without a look at what was asked."""
    await answer(send, b"hello")


HELLO = answered(b"hello")


def refused(said: bytes, status: int, code: str) -> None:
    """Assert that this is a refusal and nothing else, after which the connection is closed."""
    head, _, body = said.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), said
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    assert set(HEADERS) <= set(headers)
    assert (b"content-type", b"application/json") in headers
    assert (b"content-length", b"%d" % len(body)) in headers
    assert headers.count((b"connection", b"close")) == 1
    error = from_json(body)["error"]
    assert (error["code"], error["retryable"]) == (code, status >= 500)
    assert error["message"]


class Gate:
    """An application that answers when it is let; counts who came."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.came = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came += 1
        await self.open.wait()
        await answer(send, scope["path"].encode())


# What is asked.

UPLOAD = b"POST /a HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET /a HTTP/1.1\r\n\r\n", b"GET /a "),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost:parley\r\nx:\r\n\r\n", b"GET /a "),
        (b"GET http://parley/a?b HTTP/1.1\r\nhost: parley\r\n\r\n", b"GET /a "),
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
async def test_requests_of_every_form(request_: bytes, body: bytes, size: int) -> None:
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


async def test_a_status_without_a_name() -> None:
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


# Applications that do what they should not.


async def test_an_application_that_breaks_is_answered_for_and_the_connection_closed() -> None:
    async def breaks(_: Scope, __: Receive, ___: Send) -> None:
        raise ValueError("a secret")

    async with serving(breaks) as served:
        client = await served.client()
        await client.say(GET * 2)
        said = await client.rest()
        refused(said, 500, "internal")
        assert b"secret" not in said


async def test_so_is_one_that_returns_without_an_answer() -> None:
    async def silent(_: Scope, __: Receive, ___: Send) -> None:
        return

    async with serving(silent) as served:
        client = await served.client()
        await client.say(GET)
        refused(await client.rest(), 500, "internal")


async def test_an_old_client_and_one_that_asks_for_a_head_are_told_too() -> None:
    async def breaks(_: Scope, __: Receive, ___: Send) -> None:
        raise ValueError

    async with serving(breaks) as served:
        client = await served.client()
        await client.say(b"GET / HTTP/1.0\r\n\r\n")
        refused(await client.rest(), 500, "internal")
        client = await served.client()
        await client.say(b"HEAD / HTTP/1.1\r\n\r\n")
        head, end, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert (end, body) == (b"\r\n\r\n", b"")


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("begun", [True, False])
async def test_an_answer_that_breaks_off_is_not_brought_to_an_end(raises: bool, begun: bool) -> None:
    async def breaks(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        if begun:
            await piece(send, b"one", more=True)
        if raises:
            raise ValueError

    async with serving(breaks) as served:
        client = await served.client()
        await client.say(GET * 2)
        said = await client.rest()
        if begun:
            assert said == CHUNKED + b"3\r\none\r\n"
        elif said:
            refused(said, 500, "internal")


async def test_what_an_application_does_after_its_answer_harms_no_other() -> None:
    second = asyncio.Event()

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/after":
            second.set()
            await asyncio.sleep(0.05)
        await answer(send, scope["raw_path"])
        if scope["path"] == "/before":
            await second.wait()
            raise ValueError

    async with serving(breaks) as served:
        client = await served.client()
        await client.say(b"GET /before HTTP/1.1\r\n\r\nGET /after HTTP/1.1\r\n\r\n")
        await client.hears(answered(b"/before") + answered(b"/after"))


BODY: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.mark.parametrize("wrong", [[BODY], [{"type": "websocket.accept"}]])
async def test_an_answer_begins_with_its_beginning(wrong: list[Message]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        for message in wrong:
            await send(message)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        refused(await client.rest(), 500, "internal")


@pytest.mark.parametrize("wrong", [[START, BODY, START], [START, BODY, {"type": "http.response.trailers"}]])
async def test_and_has_only_one(wrong: list[Message]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        for message in wrong:
            await send(message)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        assert await client.rest() == CHUNKED + b"1\r\nx\r\n"


async def test_what_follows_a_whole_answer_is_refused() -> None:
    caught: list[Exception] = []

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"hello")
        for message in (BODY, START):
            try:
                await send(message)
            except RuntimeError as error:
                caught.append(error)

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(CHUNKED + b"5\r\nhello\r\n" + LAST)
        await client.silent(0.02)
    assert len(caught) == 4


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"y\r\nset-cookie: z"),
        (b"x", b"y\r\n\r\nbody"),
        (b"x", b"y\nset-cookie: z"),
        (b"x", b"y\rz"),
        (b"x", b"y\0z"),
        (b"x", b"y\x7f"),
        (b"x", b"\x1b[0m"),
        (b"x", b"y\r\n"),
        (b"x", b"\n"),
        (b"x: y\r\nset-cookie", b"z"),
        (b"x\n", b"z"),
        (b"content-length", b"5\r\nset-cookie: z"),
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


async def test_other_headers_pass_as_they_are() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"x", b"\ta\tb "), (b"x", b"\xe4\xff"), (b"y", b""), (b"content-length", b"0"))
        await piece(send, b"")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(OK + b"x: \ta\tb \r\nx: \xe4\xff\r\ny: \r\ncontent-length: 0\r\n\r\n")


async def test_who_hears_that_a_header_is_refused_may_answer_otherwise() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        with pytest.raises(RuntimeError):
            await start(send, (b"x", b"y\n"))
        await answer(send, b"hello")

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(HELLO)


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

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        await gate.wait()
        await piece(send, b"two")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(CHUNKED + b"3\r\none\r\n")
        await client.say(b"nonsense\r\n\r\n")
        await client.silent()
        await client.say(GET)
        gate.set()
        assert await client.rest() == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_nor_does_it_take_the_place_of_one() -> None:
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


async def test_once_its_answer_has_begun_that_only_breaks_off() -> None:
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


async def test_and_after_it_there_is_no_second_answer() -> None:
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
async def test_a_head_may_be_long(size: int) -> None:
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


# Bodies that are long.

SIZE = 700_000
BIG = bytes(range(256)) * (SIZE // 256)
POST_BIG = POST + b"content-length: %d\r\n\r\n" % len(BIG) + BIG


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


async def test_many_may_ask_for_it_at_once() -> None:
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
async def test_nor_is_anything_smuggled_by_it(smuggled: bytes) -> None:
    async with serving(echo) as served:
        client = await served.client()
        await client.say(POST + UPGRADE + smuggled)
        refused(await client.rest(), 400, "invalid_request")


# Patience.


async def test_who_asks_nothing_is_not_kept() -> None:
    async with serving(hello, idle=0.1) as served:
        began = asyncio.get_running_loop().time()
        client = await served.client()
        await client.say(b"\r\n")
        await client.closed()
        assert 0.09 < asyncio.get_running_loop().time() - began < 2


@pytest.mark.parametrize("asked", [GET, POST + b"content-length: 5\r\n\r\nhello"])
async def test_nor_is_who_asks_nothing_more(asked: bytes) -> None:
    async with serving(hello, idle=0.15) as served:
        loop = asyncio.get_running_loop()
        client = await served.client()
        for _ in range(3):
            await asyncio.sleep(0.08)
            await client.say(asked)
            await client.hears(HELLO)
        began = loop.time()
        await client.closed()
        assert 0.1 < loop.time() - began < 2


async def test_who_completes_an_upload_that_was_answered_is_not_kept_either() -> None:
    async with serving(hello, idle=0.1) as served:
        client = await served.client()
        await client.say(POST + b"content-length: 5\r\n\r\nhe")
        await client.hears(HELLO)
        await client.silent(0.2)
        await client.say(b"llo")
        await client.closed()


@pytest.mark.parametrize("asked", [GET, POST + b"content-length: 5\r\n\r\nhello"])
async def test_who_waits_for_an_answer_is_kept(asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_REQUEST_SECONDS", 0.1)

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
    monkeypatch.setattr(wire, "_REQUEST_SECONDS", 0.15)
    async with serving(hello) as served:
        client = await served.client()
        if before:
            await client.say(before)
            await client.hears(HELLO)
        began = asyncio.get_running_loop().time()
        await client.say(part)
        await client.closed()
        assert 0.1 < asyncio.get_running_loop().time() - began < 2


@pytest.mark.parametrize(
    "asked",
    [POST + b"content-length: 5\r\n\r\nhe", POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n"],
)
async def test_nor_is_a_body(asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_REQUEST_SECONDS", 0.15)
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
    monkeypatch.setattr(wire, "_REQUEST_SECONDS", 0.15)

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
async def test_though_it_has_asked_for_more_before(together: bool) -> None:
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
        await asyncio.wait([first, second], timeout=1)
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
            assert not any(type(one) is Wire for one in gc.get_objects())
        finally:
            gc.enable()


# The end of the server.


async def test_a_connection_that_is_idle_ends_with_the_server() -> None:
    async with serving(echo) as served:
        clients = [await served.client() for _ in range(3)]
        await clients[0].say(GET)
        await clients[0].hears(ECHOED)
        await clients[1].say(GET[:-2])
        await eventually(lambda: len(served.state.connections) == 3)
        await turns()
        served.shutdown()
        for client in clients:
            await client.closed()


async def test_an_answer_that_is_under_way_is_not_cut_by_the_end() -> None:
    gate = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send)
        await piece(send, b"one", more=True)
        await gate.wait()
        await piece(send, b"two")

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(CHUNKED + b"3\r\none\r\n")
        served.shutdown()
        await client.say(GET)
        await client.silent(0.02)
        gate.set()
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_an_answer_that_has_not_begun_says_that_it_is_the_last() -> None:
    gate = Gate()
    async with serving(gate) as served:
        client = await served.client()
        await client.say(GET * 2)
        await eventually(lambda: gate.came)
        served.shutdown()
        await client.silent(0.02)
        gate.open.set()
        assert await client.rest() == OK + b"content-length: 1\r\nconnection: close\r\n\r\n/"
    assert gate.came == 1


async def test_work_that_is_cancelled_at_the_end_ends_its_connection() -> None:
    gate = Gate()
    async with serving(gate) as served:
        client = await served.client()
        await client.say(GET)
        await eventually(lambda: gate.came)
        served.shutdown()
        for task in served.state.tasks:
            task.cancel()
        await client.closed()


async def test_uvicorn_serves_with_it_and_stops() -> None:
    gate = Gate()
    config = uvicorn.Config(
        gate, http=Wire, port=0, ws="none", log_config=None, lifespan="off", server_header=False
    )
    server = uvicorn.Server(config)
    serving_ = asyncio.create_task(server._serve())
    await eventually(lambda: server.started)
    served = Served(server.server_state, server.servers[0].sockets[0].getsockname()[1], narrow=False)
    client, idle = await served.client(), await served.client()
    await client.say(GET)
    await eventually(lambda: gate.came)
    server.should_exit = True
    await idle.closed()
    assert not serving_.done()
    gate.open.set()
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(OK + b"date: ")
    assert body == b"/"
    await asyncio.wait_for(serving_, 5)
    served.leave()


# Streams.


def streaming(source: Source, afterwards: Afterwards | None = None, *headers: Header) -> ASGIApp:
    """Return an application that has its connection stream; `/` is answered as ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await echo(scope, receive, send)
        else:
            await start(send, (b"x", b"y"), *headers)
            scope["extensions"]["parley.stream"](source, afterwards)

    return app


STREAM = b"GET /stream HTTP/1.1\r\nhost: parley\r\n\r\n"
STREAMED = OK + b"x: y\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_a_stream_goes_out_as_it_comes_and_without_a_task() -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM)
        assert await client.packet() == STREAMED + b"3\r\none\r\n"
        assert client.writes() == 1
        assert not served.state.tasks
        for number in range(3):
            source.put(b"%d" % number, b"x" * 30)
            assert await client.packet() == b"1f\r\n%d%b\r\n" % (number, b"x" * 30)
            assert client.writes() == 2 + number
        source.put()
        await client.silent(0.02)
        source.put(b"end", ends=True)
        assert await client.packet() == b"3\r\nend\r\n" + LAST
        assert client.writes() == 5
        await client.silent(0.02)
        assert source.takes == 6
        assert not source.left
        assert served.state.total_requests == 1


async def test_a_stream_may_be_over_when_it_begins() -> None:
    async with serving(streaming(Source(b"one", b"two", ends=True))) as served:
        client = await served.client()
        await client.say(STREAM)
        assert await client.packet() == STREAMED + b"6\r\nonetwo\r\n" + LAST


@pytest.mark.parametrize("old", [True, False])
async def test_a_stream_may_end_with_nothing(old: bool) -> None:
    source = Source()
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(b"GET /stream HTTP/1.0\r\n\r\n" if old else STREAM)
        await eventually(lambda: source.begun)
        source.put(ends=True)
        await client.hears(OK + b"x: y\r\nconnection: close\r\n\r\n" if old else STREAMED + LAST)
        if old:
            await client.closed()


async def test_a_stream_ends_after_the_work_that_comes_afterwards() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def afterwards() -> None:
        begun.set()
        await gate.wait()

    source = Source(b"one")
    async with serving(streaming(source, afterwards)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        await client.silent(0.02)
        assert not begun.is_set()
        source.put(b"end", ends=True)
        await client.hears(b"3\r\nend\r\n")
        await client.silent(0.02)
        assert begun.is_set()
        assert len(served.state.tasks) == 1
        gate.set()
        await client.hears(LAST)
        await client.say(GET)
        await client.hears(ECHOED)


async def test_work_that_breaks_does_not_leave_the_connection_hanging() -> None:
    async def afterwards() -> None:
        raise ValueError("a bug")

    async with serving(streaming(Source(b"end", ends=True), afterwards)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\nend\r\n")
        assert await client.hear(len(LAST)) in (LAST, b"")
        client.finish()
        await served.until_idle()
        gc.collect()
        # That it is told to somebody will do.
        served.errors.clear()


async def test_a_stream_is_followed_by_the_next_request() -> None:
    sources: list[Source] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sources.append(Source(b"one"))
        await streaming(sources[-1])(scope, receive, send)

    async with serving(app) as served:
        client = await served.client()
        for _ in range(3):
            await client.say(STREAM)
            await client.hears(STREAMED + b"3\r\none\r\n")
            sources[-1].put(b"two", ends=True)
            await client.hears(b"3\r\ntwo\r\n" + LAST)
            for body in (b"hello", BIG):
                await client.say(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
                await client.hears(answered(b"POST / " + body))
        assert served.state.total_requests == 9
        assert len(served.state.connections) == 1


async def test_a_stream_may_answer_a_post() -> None:
    source = Source(b"one", ends=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await streaming(source)(scope, receive, send)

    async with serving(app) as served:
        client = await served.client()
        await client.say_in_packets([b"POST /s HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe", b"llo"])
        await client.hears(STREAMED + b"3\r\none\r\n" + LAST)


@pytest.mark.parametrize("said", [GET, b"\r\n", b"G", b"nonsense", BIG])
async def test_who_speaks_during_a_stream_is_left_after_it(said: bytes) -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        await client.say(said)
        await client.silent(0.02)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


@pytest.mark.parametrize("said", [GET, POST + b"content-length: 5\r\n\r\nhe", b"GET / HTTP/1.1\r\nx", b"G"])
async def test_so_is_who_spoke_already_before_it(said: bytes) -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM + said)
        await client.hears(STREAMED + b"3\r\none\r\n")
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_what_was_begun_before_a_stream_is_not_taken_for_a_beginning_after_it() -> None:
    async with serving(streaming(Source(b"one", ends=True))) as served:
        client = await served.client()
        await client.say(STREAM + b"GET /a HTTP/1.1\r\nx: ")
        await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
        await asyncio.gather(client.say(b"GET / HTTP/1.1\r\n\r\n"), return_exceptions=True)
        await client.closed()


async def test_an_upload_that_is_not_whole_when_its_stream_begins_ends_the_connection() -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(b"POST /s HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (2 * len(BIG)) + BIG)
        await client.hears(STREAMED + b"3\r\none\r\n")
        await client.say(BIG)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_a_stream_may_be_the_last_answer() -> None:
    async with serving(streaming(Source(b"one", ends=True))) as served:
        client = await served.client()
        await client.say(STREAM[:-2] + b"connection: close\r\n\r\n")
        said = await client.rest()
        head = OK + b"x: y\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        assert said == head + b"3\r\none\r\n" + LAST


@pytest.mark.parametrize("waits", [True, False])
async def test_an_old_client_has_a_stream_without_chunks(waits: bool) -> None:
    async def afterwards() -> None:
        await asyncio.sleep(0.02)

    source = Source(b"one")
    async with serving(streaming(source, afterwards if waits else None)) as served:
        client = await served.client()
        await client.say(b"GET /stream HTTP/1.0\r\n\r\n")
        await client.hears(OK + b"x: y\r\nconnection: close\r\n\r\none")
        source.put(b"two", ends=True)
        assert await client.rest() == b"two"


async def test_who_asks_for_the_head_of_a_stream_gets_no_more() -> None:
    source = Source(b"one", ends=True)
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(b"HEAD /stream HTTP/1.1\r\n\r\n")
        await client.hears(OK + b"x: y\r\n\r\n")
        await client.say(GET)
        await client.hears(ECHOED)
        assert source.left or not source.begun


@pytest.mark.parametrize(
    ("status", "first"), [(204, b"HTTP/1.1 204 No Content\r\n"), (304, b"HTTP/1.1 304 Not Modified\r\n")]
)
async def test_nor_does_an_answer_that_has_no_body(status: int, first: bytes) -> None:
    source = Source(b"one")

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await start(send, (b"x", b"y"), status=status)
        scope["extensions"]["parley.stream"](source, None)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(first + b"x: y\r\n\r\n")
        await client.silent(0.02)
        assert source.left or not source.begun


async def test_a_stream_is_not_of_a_length_that_was_said() -> None:
    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"2"))
        scope["extensions"]["parley.stream"](Source(b"longer", ends=True), None)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        assert b"longer" not in await client.rest()


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("waits", [True, False])
async def test_a_stream_is_told_that_its_client_left(politely: bool, begun: bool, waits: bool) -> None:
    async def afterwards() -> None: ...

    source = Source(b"one") if begun else Source()
    async with serving(streaming(source, afterwards if waits else None)) as served:
        client = await served.client()
        await client.say(STREAM)
        await eventually(lambda: source.begun)
        if begun:
            await client.hears(STREAMED + b"3\r\none\r\n")
        takes = source.takes
        if politely:
            client.finish()
        else:
            client.leave()
        await served.until_idle()
        assert source.left
        assert source.takes == takes
        source.put(b"two", ends=True)
        assert source.takes == takes


async def test_a_client_may_leave_while_its_stream_has_ended_but_for_the_work() -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    async def afterwards() -> None:
        await gate.wait()
        done.set()

    async with serving(streaming(Source(b"end", ends=True), afterwards)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\nend\r\n")
        client.leave()
        await eventually(lambda: not served.state.connections)
        gate.set()
        await eventually(done.is_set)


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_client_that_does_not_read_is_given_no_more_until_it_does(leaves: bool, ends: bool) -> None:
    source = Source(b"one")
    part = b"x" * 50_000
    async with serving(streaming(source), thin=True) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        for _ in range(8):
            source.put(part)
        takes = source.takes
        assert takes < 9
        for _ in range(8):
            source.put(part)
        await asyncio.sleep(0.02)
        assert source.takes == takes
        if ends:
            source.put(b"end", ends=True)
        if leaves:
            client.leave()
            await served.until_idle()
            assert source.left
            assert source.takes == takes
            return
        heard = b""
        while heard.count(b"x") < len(part) * 16:
            heard += await client.packet()
        if not ends:
            source.put(b"end", ends=True)
        while not heard.endswith(LAST):
            heard += await client.packet()
        assert source.takes > takes
        assert b"".join(heard.split(b"\r\n")[1::2]) == part * 16 + b"end"
        await client.say(GET)
        await client.hears(ECHOED)


async def test_a_stream_for_a_client_that_has_left_already_is_nobodys() -> None:
    gate = asyncio.Event()
    source = Source(b"one")
    raised: list[BaseException] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        try:
            await streaming(source)(scope, receive, send)
        except BaseException as error:
            raised.append(error)
            raise

    async with serving(app) as served:
        client = await served.client()
        await client.say(STREAM)
        await eventually(lambda: served.state.tasks)
        client.leave()
        await eventually(lambda: not served.state.connections)
        gate.set()
        await served.until_idle()
    assert source.takes == 0
    assert source.left or not source.begun
    assert raised == []


async def test_a_stream_that_breaks_ends_its_connection() -> None:
    class Broken(Source):
        def take(self) -> bytes:
            raise ValueError("a bug")

    source = Broken(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM)
        said = await client.rest()
        assert not said.endswith(LAST)
        await served.until_idle()
        assert source.left
        # That it is told to somebody will do.
        served.errors.clear()


async def test_a_stream_may_be_quiet_for_longer_than_a_connection_idles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "_REQUEST_SECONDS", 0.1)
    source = Source()
    async with serving(streaming(source), idle=0.1) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(ECHOED)
        await client.say(STREAM)
        await client.silent(0.3)
        source.put(b"one", ends=True)
        await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
        # And after it, the connection idles as ever.
        await client.closed()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_stream_is_not_cut_by_the_end_of_the_server(waits: bool) -> None:
    async def afterwards() -> None:
        await asyncio.sleep(0.02)

    source = Source(b"one")
    async with serving(streaming(source, afterwards if waits else None)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        served.shutdown()
        await client.silent(0.02)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_a_stream_may_follow_an_answer_that_the_client_has_not_read() -> None:
    body = b"x" * 500_000
    source = Source(b"one", ends=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (answer(send, body) if scope["path"] == "/" else streaming(source)(scope, receive, send))

    async with serving(app, thin=True) as served:
        client = await served.client()
        await client.say(GET)
        await eventually(lambda: served.state.total_requests)
        await client.say(STREAM)
        await asyncio.sleep(0.05)
        assert source.takes == 0
        await client.hears(answered(body) + STREAMED + b"3\r\none\r\n" + LAST)


# Whatever the packets, whatever the event loop.


def _asked(number: int, method: str, body: bytes, chunk: int) -> tuple[bytes, bytes]:
    line = b"%b /%d HTTP/1.1\r\nhost: parley\r\n" % (method.encode(), number)
    if chunk:
        parts = [body[at : at + chunk] for at in range(0, len(body), chunk)]
        line += b"transfer-encoding: chunked\r\n\r\n"
        asked = line + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + LAST
    elif body or method != "GET":
        asked = line + b"content-length: %d\r\n\r\n" % len(body) + body
    else:
        asked = line + b"\r\n"
    return asked, answered(b"%b /%d %b" % (method.encode(), number, body))


REQUESTS = st.lists(
    st.tuples(st.sampled_from(["GET", "POST"]), st.binary(max_size=50), st.integers(0, 20)),
    min_size=1,
    max_size=6,
)


@given(requests=REQUESTS, cuts=st.lists(st.floats(0, 1), max_size=20))
@settings(max_examples=100, deadline=None)
def test_however_requests_are_split_their_answers_are_the_same(
    requests: list[tuple[str, bytes, int]], cuts: list[float]
) -> None:
    both = [_asked(number, *request) for number, request in enumerate(requests)]
    asked = b"".join(one for one, _ in both)
    places = sorted({0, *(int(cut * len(asked)) for cut in cuts), len(asked)})

    async def ask() -> None:
        async with serving(echo) as served:
            client = await served.client()
            await client.say_in_packets(asked[at:end] for at, end in itertools.pairwise(places))
            await client.hears(b"".join(expected for _, expected in both))
            assert served.state.total_requests == len(requests)

    asyncio.run(ask())


def test_another_event_loop_will_do() -> None:
    source = Source(b"one")

    async def ask() -> None:
        async with serving(streaming(source), thin=True) as served:
            client = await served.client()
            await client.say(GET * 50 + POST_BIG)
            await client.hears(ECHOED * 50 + answered(b"POST / " + BIG))
            await client.say(STREAM)
            await client.hears(STREAMED + b"3\r\none\r\n")
            source.put(b"two", ends=True)
            await client.hears(b"3\r\ntwo\r\n" + LAST)
            await client.say(b"nonsense\r\n\r\n")
            refused(await client.rest(), 400, "invalid_request")

    uvloop.run(ask())
