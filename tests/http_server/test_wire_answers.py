"""Connections to browsers: applications that do what they should not, and the end of the server."""

import asyncio
import itertools

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from parley.http_server.protocol import HttpProtocol
from tests.http_server.wire_client import (
    CHUNKED,
    ECHOED,
    GET,
    HELLO,
    LAST,
    OK,
    PATIENCE,
    Gate,
    Header,
    Served,
    answer,
    answered,
    echo,
    eventually,
    halves,
    is_answered_for,
    piece,
    refused,
    serving,
    start,
    turns,
)

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


async def test_an_application_that_returns_without_an_answer_is_answered_for() -> None:
    async def silent(_: Scope, __: Receive, ___: Send) -> None:
        return

    await is_answered_for(silent)


async def test_an_old_client_and_one_that_asks_for_a_head_are_told_that_the_application_broke() -> None:
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


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_what_an_application_does_after_its_answer_harms_no_other(error: type[BaseException]) -> None:
    second = asyncio.Event()

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/after":
            second.set()
            await asyncio.sleep(0.05)
        await answer(send, scope["raw_path"])
        if scope["path"] == "/before":
            await second.wait()
            raise error

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

    await is_answered_for(app)


@pytest.mark.parametrize("wrong", [[START, BODY, START], [START, BODY, {"type": "http.response.trailers"}]])
async def test_a_second_beginning_breaks_an_answer_off(wrong: list[Message]) -> None:
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


@pytest.mark.parametrize(
    "headers",
    [
        ((b"content-length", b"5"), (b"content-length", b"5")),
        ((b"Content-Length", b"5"), (b"content-length", b"6")),
        ((b"transfer-encoding", b"chunked"),),
        ((b"content-length", b"5"), (b"Transfer-Encoding", b"chunked")),
        ((b"content-length", b"five"),),
    ],
)
async def test_an_answer_says_once_how_it_ends(headers: tuple[Header, ...]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, *headers)
        await piece(send, b"hello")

    await is_answered_for(app)


async def test_a_length_may_be_said_in_capitals() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await start(send, (b"Content-Length", b"5"))
        await piece(send, b"hello")

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(OK + b"Content-Length: 5\r\n\r\nhello")


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
    async with serving(halves(gate)) as served:
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
        gate, http=HttpProtocol, port=0, ws="none", log_config=None, lifespan="off", server_header=False
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
    await asyncio.wait_for(serving_, PATIENCE)
    served.leave()


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
