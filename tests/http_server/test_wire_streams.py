"""Streams over connections to browsers: what is taken when, and what comes after them."""

import asyncio
import gc

import pytest
from starlette.types import Receive, Scope, Send

from parley.http_server import protocol
from tests.http_server.wire_client import (
    BIG,
    ECHOED,
    GET,
    LAST,
    OK,
    POST,
    STREAM,
    STREAMED,
    Source,
    answer,
    answered,
    body_of,
    eventually,
    serving,
    start,
    streaming,
)


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

    async def on_complete() -> None:
        begun.set()
        await gate.wait()

    source = Source(b"one")
    async with serving(streaming(source, on_complete)) as served:
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
    async def on_complete() -> None:
        raise ValueError("a bug")

    async with serving(streaming(Source(b"end", ends=True), on_complete)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\nend\r\n")
        assert await client.hear(len(LAST)) in (LAST, b"")
        client.finish()
        await served.until_idle()
        gc.collect()
        # That it is told to somebody will do.
        served.errors.clear()


async def test_work_that_is_cancelled_ends_its_connection() -> None:
    async def on_complete() -> None:
        await asyncio.Event().wait()

    async with serving(streaming(Source(b"end", ends=True), on_complete)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\nend\r\n")
        await eventually(lambda: served.state.tasks)
        for task in served.state.tasks:
            task.cancel()
        await client.closed()


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
async def test_who_spoke_already_before_a_stream_is_left_after_it(said: bytes) -> None:
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
    async def on_complete() -> None:
        await asyncio.sleep(0.02)

    source = Source(b"one")
    async with serving(streaming(source, on_complete if waits else None)) as served:
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
async def test_an_answer_that_has_no_body_streams_nothing(status: int, first: bytes) -> None:
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
    async def on_complete() -> None: ...

    source = Source(b"one") if begun else Source()
    async with serving(streaming(source, on_complete if waits else None)) as served:
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

    async def on_complete() -> None:
        await gate.wait()
        done.set()

    async with serving(streaming(Source(b"end", ends=True), on_complete)) as served:
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


@pytest.mark.parametrize("more", [b"", b"G", b"GET / HTTP/1.1\r\n", POST + b"content-length: 5\r\n\r\nhe"])
async def test_a_stream_may_be_quiet_for_longer_than_a_connection_idles(
    more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.1)
    source = Source()
    async with serving(streaming(source), idle=0.1) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(GET)
            await client.hears(ECHOED)
        await client.say(STREAM + more)
        await client.silent(0.25)
        source.put(b"one", ends=True)
        await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
        # And after it, the connection idles as ever.
        await client.closed()


@pytest.mark.parametrize("waits", [True, False])
async def test_a_stream_is_not_cut_by_the_end_of_the_server(waits: bool) -> None:
    async def on_complete() -> None:
        await asyncio.sleep(0.02)

    source = Source(b"one")
    async with serving(streaming(source, on_complete if waits else None)) as served:
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
