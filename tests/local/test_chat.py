"""The terminal client against a server that says what each test wants, over real sockets."""

import asyncio
import contextlib
import json
import math
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest

from local import chat

GREETING = (
    b'id: 1-0\ndata: {"type":"start","source":"provider"}\n\ndata: {"type":"typing"}\n\n'
    b'data: {"type":"status","state":"thinking","elapsedMs":10000}\n\n'
)
TOKENS = (
    b'id: 1-0\ndata: {"type":"start","source":"provider"}\n\n'
    b'id: 1-5\ndata: {"type":"token","content":"Hello"}\n\n'
)
REST = (
    b'id: 1-5\ndata: {"type":"start","source":"joined"}\n\n'
    b'id: 1-12\ndata: {"type":"token","content":", \\u001b[2Jyou"}\n\n'
    b'data: {"type":"done","finishReason":"stop","usage":null,"messageId":"m","saved":true}\n\n'
)


def answer(status: int, body: bytes, kind: str, *, whole: bool = True, more: str = "") -> bytes:
    """Return a response; one that is not whole breaks off before its promised end."""
    length = len(body) + (0 if whole else 100)
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}\r\n".encode()
        + body
    )


def stream(body: bytes, *, whole: bool = True) -> bytes:
    return answer(200, body, "text/event-stream", whole=whole)


def refusal(status: int, message: str, *, retryable: bool, more: str = "") -> bytes:
    body = json.dumps({"error": {"code": "x", "message": message, "retryable": retryable}}).encode()
    return answer(status, body, "application/json", more=more)


@dataclass
class Script:
    """Answers requests in order, one a connection, and keeps them."""

    answers: list[bytes]
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "content-length: " in head:
            await reader.readexactly(int(head.lower().split("content-length: ")[1].split("\r\n")[0]))
        self.requests.append(head)
        writer.write(self.answers.pop(0) if self.answers else b"")
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[httpx.AsyncClient]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits."""
    monkeypatch.setattr(chat, "_FIRST_WAIT_SECONDS", 0.001)


async def test_a_drop_is_resumed_where_it_stood(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script([stream(TOKENS, whole=False), stream(REST)])
    async with client_of(script) as client:
        assert await chat.show(client, "s")
    shown = capsys.readouterr()
    assert shown.out == "Hello, [2Jyou"  # and no escape for the terminal to obey
    assert "from provider, stop" in shown.err
    assert "last-event-id" not in script.requests[0].lower()
    assert "last-event-id: 1-5\r\n" in script.requests[1].lower()


async def test_a_stream_that_closes_well_without_an_end_is_a_drop_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = Script([stream(TOKENS), refusal(503, "busy", retryable=True), stream(REST)])
    async with client_of(script) as client:
        assert await chat.show(client, "s")
    assert capsys.readouterr().out == "Hello, [2Jyou"


@pytest.mark.parametrize(("steady", "doublings"), [(math.inf, [1, 2, 3, 4]), (0.0, [1, 1, 1, 1])])
async def test_streams_that_are_soon_let_go_are_waited_for_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, steady: float, doublings: list[int]
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(chat, "_STEADY_SECONDS", steady)
    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(random, "uniform", lambda *_: 1.0)
    async with client_of(Script([*[stream(TOKENS)] * 4, stream(REST)])) as client:
        assert await chat.show(client, "s")
    assert [pause for pause in pauses if pause] == [0.001 * 2**number for number in doublings]


@pytest.mark.parametrize("whole", [True, False])
async def test_streams_that_live_are_read_on_however_often_a_silent_model_brings_no_text(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(chat, "_ALIVE_SECONDS", 0.0)
    async with client_of(Script([*[stream(GREETING, whole=whole)] * 12, stream(REST)])) as client:
        assert await chat.show(client, "s")


@pytest.mark.parametrize("whole", [True, False])
async def test_the_chat_gives_up_a_server_that_only_greets_and_hangs_up(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setattr(chat, "_ALIVE_SECONDS", math.inf)
    script = Script([stream(GREETING, whole=whole)] * 20)
    async with client_of(script) as client:
        with pytest.raises(chat.Refused, match="gave up"):
            await chat.show(client, "s")
    assert len(script.requests) == 8


async def test_nothing_left_to_read_is_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script([stream(TOKENS, whole=False), answer(204, b"", "text/plain")])
    async with client_of(script) as client:
        assert await chat.show(client, "s")
    assert capsys.readouterr().out == "Hello"


async def test_what_the_model_is_at_is_told_and_an_unknown_state_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    states = (
        b'data: {"type":"status","state":"retrying"}\n\n'
        b'data: {"type":"status","state":"thinking","elapsedMs":12345}\n\n'
        b'data: {"type":"status","state":"of-a-later-server"}\n\n'
    )
    async with client_of(Script([stream(states + TOKENS + REST)])) as client:
        assert await chat.show(client, "s")
    shown = capsys.readouterr()
    assert shown.out == "Hello, [2Jyou"
    assert shown.err.startswith("[retrying]\n[thinking, 12 s]\n\n\n[from provider")


@pytest.mark.parametrize(
    ("wait", "told"),
    [(b"", "\n[It is busy.]\n"), (b',"retryAfterMs":16500', "\n[It is busy. Try again in 17 s.]\n")],
)
async def test_an_error_is_told_with_when_to_come_again(
    capsys: pytest.CaptureFixture[str], wait: bytes, told: str
) -> None:
    error = b'data: {"type":"error","code":"x","message":"It is busy.","retryable":true,"saved":true%b}\n\n'
    async with client_of(Script([stream(error % wait)])) as client:
        assert not await chat.show(client, "s")
    assert capsys.readouterr().err == told


def models(*given: tuple[str, bool]) -> bytes:
    body = [
        {"id": name, "available": can, "unavailableBecause": None if can else "model_not_configured"}
        for name, can in given
    ]
    return answer(200, json.dumps({"models": body}).encode(), "application/json")


async def test_the_chat_asks_the_first_model_that_its_user_can_ask() -> None:
    script = Script([b"", models(("gone", False), ("mine", True), ("other", True))])
    async with client_of(script) as client:
        assert await chat.first_model(client, "demo-free") == "mine"
    assert script.requests[0].startswith("GET /api/chat/models?userId=demo-free ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("mine", False)], r"no model that me can ask: mine \(model_not_configured\)"),
        ([], "none is on offer"),
    ],
)
async def test_a_chat_with_nobody_to_ask_says_so(given: list[tuple[str, bool]], said: str) -> None:
    async with client_of(Script([models(*given)])) as client:
        with pytest.raises(chat.Refused, match=said):
            await chat.first_model(client, "me")


async def test_a_start_is_repeated_with_the_same_key() -> None:
    script = Script([b"", answer(201, b'{"sessionId":"s"}', "application/json")])
    async with client_of(script) as client:
        assert await chat.start(client, {"prompt": "Hi"}) == {"sessionId": "s"}
    keys = [line for head in script.requests for line in head.lower().split("\r\n") if "idempotency" in line]
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_a_refusal_is_final_and_in_the_servers_words() -> None:
    script = Script([refusal(403, "Not in the plan.", retryable=False)])
    async with client_of(script) as client:
        with pytest.raises(chat.Refused, match=r"^Not in the plan\.$"):
            await chat.start(client, {"prompt": "Hi"})


async def test_the_chat_gives_up_a_stream_that_never_works() -> None:
    async with client_of(Script([])) as client:
        with pytest.raises(chat.Refused, match="gave up"):
            async for _ in chat.follow(client, "s"):
                pass
