"""Input that is too long, too deep, malformed or strange: rows 20 to 22 of the list of faults."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.fake_provider import reply_to
from tests.client import Client, Refused, text_of
from tests.world import World

_ROOT = Path(__file__).resolve().parents[2]
_JSON = {"content-type": "application/json"}
_SIX_MB = 6 * 1024 * 1024
# Postgres and UTF-8 take neither.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100)


@pytest.fixture
def client(shared: World) -> Client:
    """A client of a server that others use too."""
    shared.model("echo")
    return shared.client(shared.common_server())


async def _post(client: Client, content: Any, path: str = "/chat/start", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.http.post(path, content=content, headers=_JSON | named)


def _refused(response: httpx.Response, status: int, field: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["field"] == field, error
    assert error["retryable"] is False
    assert error["message"]


def _rows(world: World) -> list[Any]:
    return world.sql("select (select count(*) from chats), (select count(*) from messages)")


def _body(**changes: Any) -> bytes:
    return json.dumps({"prompt": "Hello.", "modelId": "echo", "userId": "demo-pro"} | changes).encode()


async def _chunks(size: int, piece: bytes = b"x" * 65536) -> AsyncIterator[bytes]:
    for _ in range(0, size, len(piece)):
        yield piece


async def test_20_a_prompt_over_the_limit(shared: World, client: Client) -> None:
    before = _rows(shared)
    _refused(await _post(client, _body(prompt="é" * 32_001)), 413, "prompt")
    # The limit counts characters, whatever their bytes.
    assert _rows(shared) == before
    started, reading = await client.ask("🦜" * 32_000, "echo")
    assert reading.text == reply_to("🦜" * 32_000)
    page = await client.history(started["chatId"])
    assert text_of(page["messages"][0]) == "🦜" * 32_000


_HUGE: dict[str, tuple[Any, int]] = {
    "6 MB": (b'{"prompt":"' + b"x" * _SIX_MB + b'"}', 413),
    "6 MB in chunks": (_SIX_MB, 413),
    "deep arrays": (b"[" * 100_000 + b"]" * 100_000, 400),
    "deep objects": (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, 400),
    "deep arrays without an end": (b"[" * 200_000, 400),
    "deep in a field": (
        b'{"userId":"demo-pro","modelId":"echo","prompt":"x","more":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}",
        400,
    ),
    "100,000 fields": (b"{" + b",".join(b'"f%d":1' % number for number in range(100_000)) + b"}", 413),
    "20,000 fields": (b"{" + b",".join(b'"f%d":1' % number for number in range(20_000)) + b"}", 400),
    "a number of 200,000 digits": (b'{"prompt":' + b"9" * 200_000 + b"}", 400),
}


async def test_20_huge_and_deep_bodies_cost_no_memory(shared: World, client: Client) -> None:
    process = psutil.Process(shared.common_server().process.pid)
    before = _rows(shared)

    async def send(path: str, content: Any) -> int:
        try:
            return (
                await _post(client, _chunks(content) if type(content) is int else content, path)
            ).status_code
        except httpx.NetworkError:
            # The server answers before it has read all, and may close on a client that goes on writing.
            return 413

    for content, status in _HUGE.values():
        for path in ("/chat/start", "/chat/stop"):
            assert await send(path, content) == status
    used = process.memory_info().rss
    for _ in range(5):
        await asyncio.gather(*(send("/chat/start", content) for content, _ in _HUGE.values()))
    assert process.memory_info().rss - used < 16 * 1024 * 1024
    assert _rows(shared) == before
    await client.ask("Still there?", "echo")


@pytest.mark.parametrize("name", ["6 MB", "6 MB in chunks"])
async def test_20_a_client_that_reads_first_sees_why(shared: World, client: Client, name: str) -> None:
    url = httpx.URL(shared.common_server().url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    length = f"content-length: {_SIX_MB}" if name == "6 MB" else "transfer-encoding: chunked"
    head = f"POST /api/chat/start HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{length}\r\n\r\n"
    writer.write(head.encode())
    for _ in range(5):
        writer.write(b"x" * 65536 if name == "6 MB" else b"10000\r\n" + b"x" * 65536 + b"\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    assert answer.startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_20_a_length_that_is_a_lie(shared: World, client: Client) -> None:
    url = httpx.URL(shared.common_server().url)
    for length in ("-1", "1e3", "9" * 400, "0x10", ""):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            "POST /api/chat/start HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {length}\r\n\r\n{{}}".encode()
        )
        answer = await asyncio.wait_for(reader.read(12), 30)
        assert answer in (b"HTTP/1.1 400", b"HTTP/1.1 413"), length
        writer.close()


_WRONG: list[tuple[str, Any, str]] = [
    ("/chat/start", b"", "body"),
    ("/chat/start", b"{", "body"),
    ("/chat/start", b"null", "body"),
    ("/chat/start", b"[]", "body"),
    ("/chat/start", b'"text"', "body"),
    ("/chat/start", b"{} {}", "body"),
    ("/chat/start", b'{"prompt": "\xff\xfe", "modelId": "echo", "userId": "demo-pro"}', "body"),
    ("/chat/start", b'{"prompt": "\xed\xa0\x80", "modelId": "echo", "userId": "demo-pro"}', "body"),
    ("/chat/start", '{"prompt": "x"}'.encode("utf-16"), "body"),
    ("/chat/start", b'{"prompt": "tab\there", "modelId": "echo", "userId": "demo-pro"}', "body"),
    ("/chat/start", {"prompt": None}, "prompt"),
    ("/chat/start", {"prompt": 7}, "prompt"),
    ("/chat/start", {"prompt": ["x"]}, "prompt"),
    ("/chat/start", {"prompt": {"text": "x"}}, "prompt"),
    ("/chat/start", {"prompt": ""}, "prompt"),
    ("/chat/start", {"prompt": " \n\t\u2003"}, "prompt"),
    ("/chat/start", {"modelId": None}, "modelId"),
    ("/chat/start", {"modelId": 1}, "modelId"),
    ("/chat/start", {"modelId": "no\0model"}, "modelId"),
    ("/chat/start", {"modelId": "no\ud800model"}, "body"),
    ("/chat/start", {"chatId": 1}, "chatId"),
    ("/chat/start", {"regenerate": "yes"}, "regenerate"),
    ("/chat/start", {"regenerate": 1}, "regenerate"),
    ("/chat/start", {"prompt": None, "regenerate": True}, "prompt"),
    ("/chat/start", {"userId": 1}, "userId"),
    ("/chat/start", {"userId": None}, "userId"),
    ("/chat/start", {"userId": ""}, "userId"),
    ("/chat/start", {"userId": "a b"}, "userId"),
    ("/chat/start", {"userId": "a\0b"}, "userId"),
    ("/chat/start", {"userId": "u" * 129}, "userId"),
    ("/chat/start", {"userId": "\ud83e"}, "body"),
    ("/chat/stop", {}, "sessionId"),
    ("/chat/stop", {"sessionId": None}, "sessionId"),
    ("/chat/stop", {"sessionId": 7}, "sessionId"),
    ("/chat/stop", {"sessionId": "x", "userId": 7}, "userId"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), _WRONG, ids=[str(number) for number in range(len(_WRONG))]
)
async def test_21_a_malformed_body(shared: World, client: Client, path: str, body: Any, field: str) -> None:
    before = _rows(shared)
    content = body
    if isinstance(body, dict):
        content = _body(**body) if path == "/chat/start" else json.dumps(body).encode()
    response = await _post(client, content, path)
    _refused(response, 400, field)
    # Nothing of what was sent comes back.
    assert "Hello." not in response.text
    assert _rows(shared) == before


async def test_21_missing_fields(client: Client) -> None:
    whole = {"prompt": "Hello.", "modelId": "echo", "userId": "demo-pro"}
    for field in whole:
        rest = {name: value for name, value in whole.items() if name != field}
        _refused(await _post(client, json.dumps(rest).encode()), 400, field)
    # Names are as documented, not as Python has them.
    _refused(await _post(client, b'{"prompt":"x","model_id":"echo","userId":"demo-pro"}'), 400, "modelId")


@pytest.mark.parametrize("path", ["/chat/start", "/chat/stop"])
@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "json",
        "\xe9",
    ],
)
async def test_21_another_content_type(client: Client, path: str, media_type: str) -> None:
    headers = {b"content-type": media_type.encode("latin-1")}
    response = await client.http.post(path, content=_body(), headers=headers)
    _refused(response, 415, "Content-Type")


async def test_21_a_content_type_with_parameters(client: Client) -> None:
    response = await _post(client, _body(), content_type="Application/JSON ; charset=utf-8")
    assert response.status_code == 201


@pytest.mark.parametrize(
    ("path", "params", "field"),
    [
        ("/chat/history", {}, "chatId"),
        ("/chat/history", {"chatId": "x", "limit": "many"}, "limit"),
        ("/chat/history", {"chatId": "x", "limit": "0"}, "limit"),
        ("/chat/history", {"chatId": "x", "limit": "201"}, "limit"),
        ("/chat/history", {"chatId": "x", "before": "-1"}, "before"),
        ("/chat/history", {"chatId": "x", "before": "9" * 30}, "before"),
        ("/chat/history", {"chatId": "x", "before": "1.5"}, "before"),
        ("/chat/list", {"before": "yesterday"}, "before"),
        ("/chat/list", {"before": "2026-99-99T99:99:99+00:00_abc"}, "before"),
        ("/chat/list", {"before": "0000-01-01T00:00:00+00:00_abc"}, "before"),
        ("/chat/list", {"before": "2026-02-30T00:00:00+00:00_abc"}, "before"),
        ("/chat/list", {"before": "2026-02-28T00:00:00+99:99_abc"}, "before"),
        ("/chat/list", {"before": "0001-01-01T00:00:00+23:59_abc"}, "before"),
        ("/chat/list", {"limit": "1e2"}, "limit"),
        ("/chat/models", {"userId": "a b"}, "userId"),
        ("/chat/models", {"userId": "\0"}, "userId"),
        ("/chat/models", {"userId": None}, "userId"),
        ("/chat/stream", {}, "sessionId"),
    ],
)
async def test_21_malformed_queries(client: Client, path: str, params: dict[str, Any], field: str) -> None:
    query = {name: value for name, value in ({"userId": "demo-pro"} | params).items() if value is not None}
    _refused(await client.http.get(path, params=query), 400, field)


async def test_21_invalid_utf8_in_a_query(client: Client) -> None:
    _refused(await client.http.get("/chat/models?userId=%ff%fe"), 400, "userId")
    for path in ("/chat/history?userId=demo-pro&chatId=%ff", "/chat/stream?sessionId=%ff"):
        assert (await client.http.get(path)).status_code == 404


@pytest.mark.parametrize("key", [b"", b"k" * 201])
async def test_21_an_impossible_idempotency_key(client: Client, key: bytes) -> None:
    headers = {b"content-type": b"application/json", b"idempotency-key": key}
    response = await client.http.post("/chat/start", content=_body(), headers=headers)
    _refused(response, 400, "Idempotency-Key")


async def test_21_a_strange_idempotency_key_is_a_key(client: Client) -> None:
    headers = {b"content-type": b"application/json", b"idempotency-key": b"\xff\xe9 ' -- %s {}"}
    responses = [await client.http.post("/chat/start", content=_body(), headers=headers) for _ in range(2)]
    assert [response.status_code for response in responses] == [201, 201]
    assert responses[0].json() == responses[1].json()


async def test_21_a_place_in_the_list_of_chats_in_any_zone(client: Client) -> None:
    for place in ("2026-02-28T00:00:00+23:59_abc", "9999-12-31T23:59:59.999999+00:00_-_"):
        assert "chats" in await client.get("/chat/list", before=place)


async def test_21_an_unknown_path(client: Client) -> None:
    missing = await client.http.get("/chat/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/%00",
        "/a%00b",
        "/chat/%00",
        "/assets/%00.js",
        "/simple.html%00",
        "/api/%00",
        "/api/chat/stream%00",
        "/" + "a" * 300,
    ],
)
async def test_21_a_path_that_no_file_can_have_is_not_found(shared: World, client: Client, path: str) -> None:
    url = shared.common_server().url
    response = await client.http.get(url + path)
    assert response.status_code == 404, response.text
    assert response.json()["error"]["code"] == "not_found"
    assert "request_broke" not in shared.common_server().output()


@pytest.mark.parametrize(
    "path", ["/api/chat/list/", "/api/chat/start/", "/api/ready/", "/simple.html/", "/sign-in/"]
)
async def test_21_a_slash_too_many_leads_nowhere(shared: World, client: Client, path: str) -> None:
    # A redirect would repeat the name that the client says the server has.
    response = await client.http.get(shared.common_server().url + path, headers={"host": "evil.example"})
    assert response.status_code == 404
    assert "location" not in response.headers
    assert "evil.example" not in response.text


_HANDLER = """
import json, sys
from functions.start.app import handler

class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self): return 10000

answers = []
for event in json.load(sys.stdin):
    answers.append(handler(event, Context()))
print(json.dumps(answers))
"""


def test_21_a_base64_body_is_decoded(demo_database_url: str, valkey_url: str) -> None:
    event = json.loads((_ROOT / "events" / "start.json").read_text())

    def with_body(body: bytes, **headers: str) -> dict[str, Any]:
        changed: dict[str, Any] = {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        return {**event, **changed, "headers": event["headers"] | {"idempotency-key": "base64"} | headers}

    def body(prompt: str) -> bytes:
        return json.dumps({"prompt": prompt, "modelId": "demo", "userId": "demo-free"}).encode()

    # The same request again, which as plain text finds the first one's session.
    plain = event | {"body": body("🦜 said 'é'").decode(), "headers": with_body(b"")["headers"]}
    events = [
        with_body(body("🦜 said 'é'")),
        plain,
        with_body(b"\xff\xfe"),
        with_body(b"x" * 500_000),
        with_body(b"{}", **{"content-type": "text/plain"}),
        with_body(b"[" * 100_000),
    ]
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": f"{_ROOT / 'layers' / 'common'}{os.pathsep}{_ROOT}",
        "DATABASE_URL": demo_database_url, "VALKEY_URL": valkey_url, "AUTH_MODE": "trusted",
        "ALLOW_TRUSTED": "true", "DEMO_MODEL": "true", "KEY_SECRET": "s" * 32,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _HANDLER],
        input=json.dumps(events).encode(),
        env=env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = json.loads(done.stdout.decode().splitlines()[-1])
    assert [answer["statusCode"] for answer in answers] == [201, 201, 400, 413, 415, 400]
    assert answers[0]["body"] == answers[1]["body"]
    fields = [json.loads(answer["body"])["error"]["field"] for answer in answers[2:]]
    assert fields == ["body", "body", "Content-Type", "body"]


@pytest.mark.parametrize(
    "prompt",
    ["a\0b", "\0", "\ud800", "a\udfff b", "\ude00\ud83d"],
    ids=["nul", "nul-only", "high", "low", "swapped"],
)
async def test_22_nul_and_lone_surrogates_are_refused(shared: World, client: Client, prompt: str) -> None:
    before = _rows(shared)
    content = _body(prompt=prompt)
    assert b"\\u" in content
    response = await _post(client, content)
    assert response.status_code == 400
    assert response.json()["error"]["field"] in ("prompt", "body")
    assert _rows(shared) == before


async def test_22_an_escaped_pair_is_a_character(client: Client) -> None:
    assert b"\\ud83e\\udd9c" in _body(prompt="🦜")
    response = await _post(client, _body(prompt="🦜"))
    page = await client.history(response.json()["chatId"])
    assert text_of(page["messages"][0]) == "🦜"


@settings(
    max_examples=25, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(texts=st.lists(_TEXT.filter(str.strip), min_size=1, max_size=6))
def test_22_everything_else_comes_back_exactly(shared: World, texts: list[str]) -> None:
    """Prompts and replies alike, in the stream, in the history and in the database."""

    async def round_trip(client: Client, text: str) -> None:
        try:
            started, reading = await client.ask(text, "echo")
        except Refused as refused:
            raise AssertionError(repr(text)) from refused
        page = await client.history(started["chatId"])
        assert text_of(page["messages"][0]) == text
        assert text_of(page["messages"][1]) == reading.text == reply_to(text)
        again = await client.read(started["sessionId"])
        assert again.text == reading.text

    async def round_trips() -> None:
        client = Client(shared.common_server().url)
        try:
            await asyncio.gather(*(round_trip(client, text) for text in texts))
        finally:
            await client.close()

    shared.model("echo")
    asyncio.run(round_trips())


_STRANGE = [
    "\r\n\r\ndata: {}\n\n", "x\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e", "\ufeff\ufffe\uffff\U0010ffff",
    "e\u0301 \u00e9 👩‍🚀 🇩🇪 \u202etxet", "\x01\x02\x7f\x80\x9f", "'; drop table users; --",
    "%s %(x)s {} \\u0000 \\", "</script><img src=x onerror=alert(1)>", " leading and trailing \n", "﷽" * 100,
]  # fmt: skip


async def test_22_strange_text_comes_back_exactly(shared: World, client: Client) -> None:
    for text in _STRANGE:
        started, reading = await client.ask(text, "echo")
        page = await client.history(started["chatId"])
        assert text_of(page["messages"][0]) == text
        assert text_of(page["messages"][1]) == reading.text == reply_to(text)
        [[stored]] = shared.sql(
            "select parts -> 0 ->> 'text' from messages where id = %s", started["messageId"]
        )
        assert stored == text
