"""What every request passes through, at the ASGI seam."""

import logging
from collections.abc import Awaitable, Callable
from io import StringIO
from typing import Any

import pytest
from starlette.requests import Request as Starlette
from starlette.types import Receive, Scope, Send

from parley.http_server.request_limits import BrokenOff, RequestLimits
from parley.support.encoding import from_json
from parley.support.logs import JsonFormatter

MOST = 100
SECRET = "a prompt that nobody may see"
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body's length."""
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"no-cache")]})
    await send({"type": "http.response.body", "body": b"%d" % length})


class Answer:
    """What the server would have sent."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        [start] = [message for message in messages if message["type"] == "http.response.start"]
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        assert len(self.headers) == len(start["headers"])
        self.body = b"".join(message.get("body", b"") for message in messages)


class Request:
    """One request whose body comes in pieces; counts how many were asked for."""

    def __init__(self, *pieces: bytes, length: bytes | None = None) -> None:
        self.pieces = list(pieces)
        self.taken = 0
        self.sent: list[dict[str, Any]] = []
        headers = [] if length is None else [(b"content-length", length)]
        self.scope: Scope = {"type": "http", "path": "/chat/start", "method": "POST", "headers": headers}

    async def receive(self) -> dict[str, Any]:
        self.taken += 1
        body = self.pieces[self.taken - 1] if self.taken <= len(self.pieces) else b""
        return {"type": "http.request", "body": body, "more_body": self.taken < len(self.pieces)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def answer(self, app: App = echo) -> Answer:
        await RequestLimits(app, MOST)(self.scope, self.receive, self.send)
        return Answer(self.sent)


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    error: dict[str, Any] = from_json(answer.body)["error"]
    return error


@pytest.mark.parametrize("pieces", [[b""], [b"x" * MOST], [b"x"] * MOST])
async def test_a_body_within_the_bound_passes(pieces: list[bytes]) -> None:
    answer = await Request(*pieces).answer()
    assert (answer.status, answer.body) == (200, b"%d" % sum(map(len, pieces)))


@pytest.mark.parametrize(
    "length",
    [
        b"101",
        b"9" * 18,
        b"9" * 19,
        b"9" * 5000,
        b"-1",
        b"+1",
        b"1.0",
        b"",
        b"x",
        b"1 1",
        "²".encode("latin-1"),
    ],
)
async def test_a_length_that_is_too_long_or_none_is_refused_unread(length: bytes) -> None:
    request = Request(b"x", length=length)
    answer = await request.answer()
    assert answer.status == 413
    assert error_of(answer) == {
        "code": "too_large", "message": "The body is longer than 100 bytes.",
        "retryable": False, "field": "body",
    }  # fmt: skip
    assert request.taken == 0


async def test_a_body_longer_than_it_said_is_refused_as_soon_as_it_is() -> None:
    request = Request(*[b"x" * 60] * 100, length=b"60")
    answer = await request.answer()
    assert answer.status == 413
    assert request.taken == 2


@pytest.fixture
def said() -> StringIO:
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logging.getLogger("parley.http").handlers = [handler]
    return out


async def test_a_bug_is_answered_and_its_words_go_nowhere(said: StringIO) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError(SECRET)

    answer = await Request().answer(breaks)
    assert answer.status == 500
    assert error_of(answer) == {
        "code": "internal", "message": "Something went wrong here.", "retryable": True,
    }  # fmt: skip
    entry = from_json(said.getvalue())
    assert (entry["message"], entry["error"], entry["path"]) == ("request_broke", "ValueError", "/chat/start")
    assert SECRET not in said.getvalue()


@pytest.mark.parametrize("started", [False, True])
async def test_a_client_that_leaves_within_its_body_is_no_bug(said: StringIO, started: bool) -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await Starlette(scope, receive).body()

    request = Request(b"half of a", b"body")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"} if request.taken else await request.receive()

    await RequestLimits(reads, MOST)(request.scope, receive, request.send)
    assert request.taken == 1
    assert len(request.sent) == started
    assert said.getvalue() == ""


async def test_an_answer_that_breaks_off_is_cut_and_its_words_go_nowhere(said: StringIO) -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError(SECRET)

    with pytest.raises(BrokenOff) as caught:
        await Request().answer(breaks)
    assert caught.value.__suppress_context__
    assert SECRET not in str(caught.value)
    assert SECRET not in said.getvalue()


async def test_request_limits_leave_what_is_no_request_untouched() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    request = Request()
    await RequestLimits(app, MOST)({"type": "lifespan"}, request.receive, request.send)
    assert seen == ["lifespan"]
