"""The response that streams, at the ASGI seam, and the deadline it may have."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from starlette.types import Scope

from parley.api.event_stream import EventStream
from parley.aws.lambda_context import lambda_deadline
from parley.http_server.stream_protocol import STREAM

SCOPE: Scope = {"type": "http"}


class Frames:
    """Says pieces, at each of which it may do something else."""

    def __init__(self, *pieces: bytes, waits: bool = False, breaks: bool = False) -> None:
        self.over = self.whole = False
        self.closed = False
        self.left = asyncio.Event()
        self._pieces = pieces
        self._waits = waits
        self._breaks = breaks

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            for number, piece in enumerate(self._pieces, start=1):
                self.over = self.whole = number == len(self._pieces) and not self._waits and not self._breaks
                yield piece
            if self._breaks:
                raise ValueError("a bug")
            if self._waits:
                await self.left.wait()
        finally:
            self.closed = True

    def leave(self) -> None:
        self.left.set()

    def begin(self, wake: Callable[[], object]) -> None:
        raise AssertionError("nobody can do that here")

    def take(self) -> bytes:
        raise AssertionError("nobody can do that here")


class Connection:
    """A client that may leave, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.output: list[str] = []

    async def receive(self) -> dict[str, Any]:
        if not self.output:
            self.output.append("request")
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def bodies(self) -> list[tuple[bytes, bool]]:
        return [
            (message["body"], message["more_body"])
            for message in self.sent
            if message["type"] == "http.response.body"
        ]

    async def serve(self, frames: Frames) -> None:
        async def on_complete() -> None:
            self.output.append("afterwards")
            self.sent.append({"type": "afterwards"})

        await EventStream(frames, on_complete)(SCOPE, self.receive, self.send)


async def test_frames_go_out_one_by_one_and_the_end_comes_after_the_work() -> None:
    connection, frames = Connection(), Frames(b"one", b"two")
    await connection.serve(frames)
    start, *rest, end = connection.sent
    assert start["status"] == 200
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "no-store" in headers["cache-control"]
    assert "content-length" not in headers
    assert [message.get("body") for message in rest] == [b"one", b"two", None]
    assert all(message["more_body"] for message in rest[:2])
    assert rest[2]["type"] == "afterwards"
    assert (end["body"], end["more_body"]) == (b"", False)
    assert frames.closed


async def test_without_such_work_the_end_comes_with_the_last_frame() -> None:
    connection, frames = Connection(), Frames(b"one", b"two")
    await EventStream(frames)(SCOPE, connection.receive, connection.send)
    assert connection.bodies() == [(b"one", True), (b"two", False)]
    assert frames.closed


async def test_frames_that_break_off_leave_the_response_without_its_end() -> None:
    connection, frames = Connection(), Frames(b"one", waits=True)
    frames.leave()
    await EventStream(frames)(SCOPE, connection.receive, connection.send)
    assert connection.bodies() == [(b"one", True)]


async def test_a_client_that_leaves_is_noticed() -> None:
    connection, frames = Connection(), Frames(b"one", waits=True)
    serving = asyncio.create_task(connection.serve(frames))
    await asyncio.sleep(0.01)
    assert not serving.done()
    connection.gone.set()
    await asyncio.wait_for(serving, 30)
    assert frames.closed


async def test_a_client_that_sends_what_it_may_not_is_as_good_as_gone() -> None:
    class Chatterbox(Connection):
        async def receive(self) -> dict[str, Any]:
            raise ValueError("too long")

    await asyncio.wait_for(Chatterbox().serve(Frames(b"one", waits=True)), 30)


async def test_a_cancelled_response_closes_its_frames() -> None:
    connection, frames = Connection(), Frames(b"one", waits=True)
    serving = asyncio.create_task(connection.serve(frames))
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert frames.closed
    assert "afterwards" not in connection.output
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_frames_that_break_break_the_response() -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="a bug"):
        await connection.serve(Frames(b"one", breaks=True))
    assert connection.sent[-1]["more_body"]


async def test_a_connection_that_streams_by_itself_is_given_the_frames() -> None:
    connection, frames = Connection(), Frames(b"one")
    given: list[object] = []
    scope = {"type": "http", "extensions": {STREAM: lambda *what: given.extend(what)}}
    await EventStream(frames)(scope, connection.receive, connection.send)
    assert given == [frames, None]
    assert [message["type"] for message in connection.sent] == ["http.response.start"]


@pytest.mark.parametrize(
    "context",
    [
        None,
        "",
        "null",
        "[]",
        "5",
        '"x"',
        "{",
        "{}",
        '{"deadline": null}',
        '{"deadline": "soon"}',
        '{"deadline": []}',
    ],
)
async def test_a_context_without_a_deadline_sets_none(
    context: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "stream")
    assert lambda_deadline(context, 8) is None


async def test_outside_lambda_a_context_is_a_clients_word_and_sets_no_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    assert lambda_deadline(json.dumps({"deadline": (time.time() + 60) * 1000}), 8) is None


@pytest.mark.parametrize(("left", "expected"), [(60, 52), (8, 0), (3, 0), (-100, 0)])
async def test_a_deadline_keeps_a_margin(
    left: float, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "stream")
    loop = asyncio.get_running_loop()
    before = loop.time()
    context = json.dumps({"request_id": "r", "deadline": (time.time() + left) * 1000})
    found = lambda_deadline(context, 8)
    assert found is not None
    assert before + expected - 0.1 <= found <= loop.time() + expected + 0.1
