"""The response that streams, at the ASGI seam, and the deadline it may have."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Scope

from parley.http.stream import EventStream, lambda_deadline

SCOPE: Scope = {"type": "http"}


class Connection:
    """A client that may leave, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.said: list[str] = []
        self.left = asyncio.Event()
        self.ended = False

    def leave(self) -> None:
        self.left.set()

    async def receive(self) -> dict[str, Any]:
        if not self.said:
            self.said.append("request")
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    async def serve(self, frames: AsyncGenerator[bytes, None]) -> None:
        async def afterwards() -> None:
            self.said.append("afterwards")
            self.sent.append({"type": "afterwards"})

        await EventStream(frames, self, afterwards)(SCOPE, self.receive, self.send)


async def test_frames_go_out_one_by_one_and_the_end_comes_after_the_work() -> None:
    connection = Connection()
    at_each: list[int] = []

    async def frames() -> AsyncGenerator[bytes, None]:
        for piece in (b"one", b"two"):
            at_each.append(len(connection.bodies()))
            yield piece

    await connection.serve(frames())
    assert at_each == [0, 1]
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


async def test_without_such_work_the_end_comes_with_the_last_frame() -> None:
    connection = Connection()
    closed = []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            connection.ended = True
            yield b"two"
        finally:
            closed.append(True)

    await EventStream(frames(), connection)(SCOPE, connection.receive, connection.send)
    assert [(message["body"], message["more_body"]) for message in connection.sent[1:]] == [
        (b"one", True), (b"two", False),
    ]  # fmt: skip
    assert closed == [True]


async def test_frames_that_break_off_end_the_response_too() -> None:
    connection = Connection()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"one"

    await EventStream(frames(), connection)(SCOPE, connection.receive, connection.send)
    assert [(message["body"], message["more_body"]) for message in connection.sent[1:]] == [
        (b"one", True), (b"", False),
    ]  # fmt: skip


async def test_a_client_that_leaves_is_noticed() -> None:
    connection = Connection()
    closed = []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            await connection.left.wait()
        finally:
            closed.append(True)

    serving = asyncio.create_task(connection.serve(frames()))
    await asyncio.sleep(0.01)
    assert not serving.done()
    connection.gone.set()
    await asyncio.wait_for(serving, 1)
    assert closed == [True]


async def test_a_client_that_sends_what_it_may_not_is_as_good_as_gone() -> None:
    class Chatterbox(Connection):
        async def receive(self) -> dict[str, Any]:
            raise ValueError("too long")

    connection = Chatterbox()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"one"
        await connection.left.wait()

    await asyncio.wait_for(connection.serve(frames()), 1)


async def test_a_cancelled_response_closes_its_frames() -> None:
    connection = Connection()
    closed = []

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    serving = asyncio.create_task(connection.serve(frames()))
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert closed == [True]
    assert "afterwards" not in connection.said
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_frames_that_break_break_the_response() -> None:
    connection = Connection()

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await connection.serve(frames())
    assert connection.sent[-1]["more_body"]


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
async def test_no_deadline_outside_lambda(context: str | None) -> None:
    assert lambda_deadline(context, 8) is None


@pytest.mark.parametrize(("left", "expected"), [(60, 52), (8, 0), (3, 0), (-100, 0)])
async def test_a_deadline_keeps_a_margin(left: float, expected: float) -> None:
    context = json.dumps({"request_id": "r", "deadline": (time.time() + left) * 1000})
    found = lambda_deadline(context, 8)
    assert found is not None
    assert found - asyncio.get_running_loop().time() == pytest.approx(expected, abs=0.5)
