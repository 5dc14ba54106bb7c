"""Streams that took their connection over: what is taken when, how they end, and what comes after them."""

import asyncio

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
    echo,
    eventually,
    serving,
    start,
    streaming,
)


async def wait_a_little() -> None:
    """Do work after a stream."""
    await asyncio.sleep(0.02)


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
        assert source.takes == 6
        assert not source.left
        assert served.state.total_requests == 1
        assert len(served.state.connections) == 1


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


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_stream_whose_work_breaks_is_not_brought_to_its_end(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def on_complete() -> None:
        raise error("a bug")

    async with serving(streaming(Source(b"end", ends=True), on_complete)) as served:
        client = await served.client()
        await client.say(STREAM)
        assert await client.rest() == STREAMED + b"3\r\nend\r\n"
    assert [record.message for record in caplog.records] == ["request_broke"] * (error is ValueError)


@pytest.mark.parametrize("work", [wait_a_little, None])
async def test_a_stream_that_broke_off_has_its_connection_broken(work: object) -> None:
    class Limited(Source):
        def take(self) -> bytes:
            taken = super().take()
            self.whole = False
            return taken

    source = Limited(b"one")
    async with serving(streaming(source, work)) as served:  # type: ignore[arg-type]
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n"
        assert served.state.total_requests == 1


async def test_a_stream_that_raises_has_its_connection_broken(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Source):
        def take(self) -> bytes:
            raise ValueError("a bug")

    source = Broken(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM)
        assert await client.rest() == b""
        assert source.left
    assert [record.message for record in caplog.records] == ["request_broke"]


async def test_a_connection_is_kept_after_a_stream() -> None:
    sources: list[Source] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sources.append(Source(b"one"))
        await streaming(sources[-1])(scope, receive, send)

    async with serving(app, idle=0.3) as served:
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
        await client.closed()


@pytest.mark.parametrize("said", [GET, b"\r\n", b"G", b"nonsense", BIG])
async def test_a_client_that_speaks_during_a_stream_is_left_after_it(said: bytes) -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        await client.say(said)
        await client.silent(0.02)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


@pytest.mark.parametrize(
    "said", [GET, POST + b"content-length: 5\r\n\r\nhe", b"GET /a HTTP/1.1\r\nx: ", b"G", b"nonsense\r\n\r\n"]
)
async def test_a_request_behind_a_stream_is_not_answered_nor_completed_later(
    said: bytes,
) -> None:
    paths: list[str] = []
    source = Source(b"one")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await streaming(source)(scope, receive, send)

    async with serving(app) as served:
        client = await served.client()
        await client.say(STREAM + said)
        whole = await client.hear(len(OK))
        source.put(b"two", ends=True)
        await asyncio.gather(client.say(GET), return_exceptions=True)
        whole += await client.rest()
        assert whole.endswith((b"3\r\ntwo\r\n" + LAST, b"6\r\nonetwo\r\n" + LAST))
        assert whole.count(b"HTTP/1.1") == 1
    assert paths == ["/stream"]


async def test_a_pipelined_request_cannot_stream_over_an_earlier_response() -> None:
    gate = asyncio.Event()
    source = Source(b"one", ends=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await gate.wait()
        await streaming(source)(scope, receive, send)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET + STREAM)
        await client.silent(0.02)
        assert not source.begun
        gate.set()
        await client.hears(ECHOED + STREAMED + b"3\r\none\r\n" + LAST)


async def test_an_upload_that_is_not_whole_when_its_stream_begins_ends_the_connection() -> None:
    source = Source(b"one")
    async with serving(streaming(source)) as served:
        client = await served.client()
        await client.say(b"POST /s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (2 * len(BIG)) + BIG)
        await client.hears(STREAMED + b"3\r\none\r\n")
        await client.say(BIG)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_a_stream_may_be_the_last_response() -> None:
    async with serving(streaming(Source(b"one", ends=True))) as served:
        client = await served.client()
        await client.say(STREAM[:-2] + b"connection: close\r\n\r\n")
        head = OK + b"x: y\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        assert await client.rest() == head + b"3\r\none\r\n" + LAST


@pytest.mark.parametrize("work", [wait_a_little, None])
async def test_a_client_of_http_1_0_has_a_stream_without_chunks(work: object) -> None:
    source = Source(b"one")
    async with serving(streaming(source, work)) as served:  # type: ignore[arg-type]
        client = await served.client()
        await client.say(b"GET /stream HTTP/1.0\r\n\r\n")
        await client.hears(OK + b"x: y\r\nconnection: close\r\n\r\none")
        source.put(b"two", ends=True)
        assert await client.rest() == b"two"


@pytest.mark.parametrize(
    ("method", "status", "head"),
    [
        (b"HEAD", 200, OK + b"x: y\r\n\r\n"),
        (b"GET", 204, b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n"),
        (b"GET", 304, b"HTTP/1.1 304 Not Modified\r\nx: y\r\n\r\n"),
    ],
)
async def test_a_response_without_a_body_streams_nothing(method: bytes, status: int, head: bytes) -> None:
    source = Source(b"one")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await echo(scope, receive, send)
            return
        await start(send, (b"x", b"y"), status=status)
        scope["extensions"]["parley.stream"](source, None)

    async with serving(app) as served:
        client = await served.client()
        for _ in range(2):
            await client.say(method + STREAM[3:])
            await client.hears(head)
        await client.say(GET)
        await client.hears(ECHOED)
        assert served.state.total_requests == 3
        assert source.left
        assert not source.begun


async def test_a_stream_is_not_of_a_length_that_was_said() -> None:
    async def app(scope: Scope, _: Receive, send: Send) -> None:
        await start(send, (b"content-length", b"2"))
        scope["extensions"]["parley.stream"](Source(b"longer", ends=True), None)

    async with serving(app) as served:
        client = await served.client()
        await client.say(GET)
        assert (await client.rest()).startswith(b"HTTP/1.1 500 ")


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("work", [wait_a_little, None])
async def test_a_stream_is_told_that_its_client_left(politely: bool, begun: bool, work: object) -> None:
    source = Source(b"one") if begun else Source()
    async with serving(streaming(source, work)) as served:  # type: ignore[arg-type]
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


async def test_work_goes_on_after_its_client_left() -> None:
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


async def test_a_stream_for_a_client_that_has_left_already_is_not_begun() -> None:
    gate = asyncio.Event()
    source = Source(b"one")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await streaming(source)(scope, receive, send)

    async with serving(app) as served:
        client = await served.client()
        await client.say(STREAM)
        await eventually(lambda: served.state.tasks)
        client.leave()
        await eventually(lambda: not served.state.connections)
        gate.set()
        await served.until_idle()
    assert source.left
    assert not source.begun


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_client_that_does_not_read_is_given_no_more_until_it_does(leaves: bool) -> None:
    source = Source(b"one")
    part = b"x" * 50_000
    async with serving(streaming(source), thin=True) as served:
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        for _ in range(16):
            source.put(part)
        takes = source.takes
        assert takes < 16
        source.put(b"end", ends=True)
        if leaves:
            client.leave()
            await served.until_idle()
            assert source.left
            assert source.takes == takes
            return
        heard = b""
        while not heard.endswith(LAST):
            heard += await client.packet()
        assert b"".join(heard.split(b"\r\n")[1::2]) == part * 16 + b"end"
        await client.say(GET)
        await client.hears(ECHOED)


async def test_a_stream_may_be_quiet_for_longer_than_a_connection_idles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "_REQUEST_SECONDS", 0.1)
    source = Source()
    async with serving(streaming(source), idle=0.1) as served:
        client = await served.client()
        await client.say(GET)
        await client.hears(ECHOED)
        await client.say(STREAM)
        await client.silent(0.25)
        source.put(b"one", ends=True)
        await client.hears(STREAMED + b"3\r\none\r\n" + LAST)
        # And after it, the connection idles as ever.
        await client.closed()


@pytest.mark.parametrize("work", [wait_a_little, None])
async def test_a_stream_is_not_cut_by_the_end_of_the_server(work: object) -> None:
    source = Source(b"one")
    async with serving(streaming(source, work)) as served:  # type: ignore[arg-type]
        client = await served.client()
        await client.say(STREAM)
        await client.hears(STREAMED + b"3\r\none\r\n")
        served.shutdown()
        await client.silent(0.02)
        source.put(b"two", ends=True)
        assert await client.rest() == b"3\r\ntwo\r\n" + LAST


async def test_a_stream_and_what_follows_wait_for_an_earlier_response_to_be_read() -> None:
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
