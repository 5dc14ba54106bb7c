"""What was built works in Lambda's runtime. `make runtime-check` runs this, on a build for this host."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from parley.support.sse_decoder import Decoder
from tests.deploy.emulator import Function, event, running, streaming


@pytest.fixture
def start(tmp_path: Path, demo_database_url: str) -> Iterator[Function]:
    with running(tmp_path, "StartFunction", DATABASE_URL=demo_database_url) as function:
        yield function


@pytest.fixture
def history(tmp_path: Path, demo_database_url: str) -> Iterator[Function]:
    with running(tmp_path, "HistoryFunction", DATABASE_URL=demo_database_url) as function:
        yield function


def asking(**changes: Any) -> dict[str, Any]:
    return {**event("start"), **changes}


def test_start_in_plain_text_and_in_base64(start: Function) -> None:
    status, first, headers = start.http(event("start"))
    assert status == 201, first
    assert headers["content-type"] == "application/json"
    assert {"sessionId", "chatId", "messageId", "replyId", "expiresAt"} <= first.keys()
    # The same request again, in the same sandbox: the same session.
    assert start.http(event("start"))[1]["sessionId"] == first["sessionId"]
    encoded = event("start-base64")
    assert encoded["isBase64Encoded"]
    assert encoded["cookies"]
    status, second, _ = start.http(encoded)
    assert status == 201
    assert second["sessionId"] != first["sessionId"]
    assert start.http(event("stop"))[0] == 404
    stop = event("stop") | {"body": json.dumps({"sessionId": first["sessionId"]})}
    assert start.http(stop)[0] == 202
    # No prompt and no session id in what CloudWatch would keep.
    log = start.log.read_text()
    assert "What is AI?" not in log
    assert first["sessionId"] not in log


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"body": "{"}, 400, "invalid_request"),
        ({"body": "{}"}, 400, "invalid_request"),
        ({"body": None}, 400, "invalid_request"),
        ({"body": base64.b64encode(b"\xff\xfe").decode(), "isBase64Encoded": True}, 400, "invalid_request"),
        ({"rawPath": "/chat/other"}, 404, "not_found"),
        (
            {"body": json.dumps({"prompt": "x" * 300_000, "modelId": "demo", "userId": "demo-free"})},
            413,
            "too_large",
        ),
    ],
)
def test_the_start_function_refuses_with_a_status_and_a_code(
    changes: dict[str, Any], status: int, code: str, start: Function
) -> None:
    changed = asking(**changes)
    if "rawPath" in changes:
        changed["requestContext"]["http"]["path"] = changes["rawPath"]
    answered, body, _ = start.http(changed)
    assert (answered, body["error"]["code"]) == (status, code), body


def test_history_reads_what_start_wrote(start: Function, history: Function) -> None:
    _, started, _ = start.http(event("start"))
    status, models, _ = history.http(event("models"))
    assert status == 200
    assert "demo" in {model["id"] for model in models["models"]}
    assert history.http(event("history"))[0] == 404
    read = event("history") | {"rawQueryString": f"chatId={started['chatId']}&userId=demo-free"}
    status, page, _ = history.http(read)
    assert status == 200
    assert page["activeSessionId"] == started["sessionId"]
    assert [message["role"] for message in page["messages"]] == ["user", "assistant"]


def test_without_a_token_nothing_is_served_in_jwt_mode(tmp_path: Path, demo_database_url: str) -> None:
    settings = {"AUTH_MODE": "jwt", "JWT_ISSUER": "https://issuer.example", "JWT_AUDIENCE": "parley"}
    with running(tmp_path, "HistoryFunction", DATABASE_URL=demo_database_url, **settings) as function:
        status, body, _ = function.http(event("models"))
        assert (status, body["error"]["code"]) == (401, "unauthorized")


def test_without_an_issuer_nothing_starts_and_the_log_says_why(tmp_path: Path) -> None:
    with running(tmp_path, "StartFunction", AUTH_MODE="jwt") as function:
        with pytest.raises(httpx.HTTPStatusError, match="502"):
            function.invoke(event("start"))
        assert "AUTH_MODE=jwt needs JWT_ISSUER." in function.log.read_text()


def test_a_database_that_is_away_is_a_503(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    with running(tmp_path, "StartFunction", DATABASE_URL=url, DATABASE_TIMEOUT="2") as function:
        status, body, headers = function.http(event("start"))
        assert (status, body["error"]["code"]) == (503, "unavailable")
        assert int(headers["retry-after"]) > 0


def test_the_purge_function_purges(tmp_path: Path, demo_database_url: str) -> None:
    with running(tmp_path, "PurgeFunction", DATABASE_URL=demo_database_url) as function:
        # Twice: a sandbox is used again.
        for _ in range(2):
            counts = function.invoke(event("purge"))
            assert set(counts.values()) == {0}, counts


class Answers:
    """Takes the answers to CloudFormation as its bucket would."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.types: list[str | None] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                length = int(self.headers["content-length"])
                answers.bodies.append(json.loads(self.rfile.read(length)))
                answers.types.append(self.headers.get("content-type"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/answer?X-Amz-Signature=1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers()
    yield answers
    answers.close()


def test_migrate_answers_cloudformation(tmp_path: Path, own_empty_database: str, answers: Answers) -> None:
    asked = event("migrate") | {"ResponseURL": answers.url}
    with running(tmp_path, "MigrateFunction", DATABASE_URL=own_empty_database) as function:
        function.invoke(asked)
        function.invoke(asked | {"RequestType": "Update"})
        function.invoke(asked | {"RequestType": "Delete", "PhysicalResourceId": "schema"})
        loaded = function.invoke({"Catalogue": {"plans": [PLAN], "models": [MODEL]}})
    created, updated, deleted = answers.bodies
    assert answers.types == ["", "", ""]
    assert [answer["Status"] for answer in answers.bodies] == ["SUCCESS"] * 3
    assert {answer["PhysicalResourceId"] for answer in answers.bodies} == {"schema"}
    for name in ("StackId", "RequestId", "LogicalResourceId"):
        assert {answer[name] for answer in answers.bodies} == {asked[name]}
    assert created["Data"]["Applied"].startswith("0001_")
    assert updated["Data"]["Applied"] == deleted["Data"]["Applied"] == ""
    assert loaded["Data"]["Applied"] == "demo"
    with psycopg.connect(own_empty_database) as connection:
        assert connection.execute("select id from models").fetchall() == [("demo",)]


PLAN = {"id": "free", "title": "Free", "default": True, "requests_per_minute": 10}
MODEL = {
    "id": "demo", "title": "Demo", "provider": "demo", "name": "demo",
    "plans": ["free"], "max_output_tokens": 100, "context_characters": 1000,
}  # fmt: skip


def test_a_failed_migration_fails_the_stack(
    tmp_path: Path, own_empty_database: str, answers: Answers
) -> None:
    with psycopg.connect(own_empty_database) as connection:
        connection.execute("create table plans ()")
    asked = event("migrate") | {"ResponseURL": answers.url}
    with running(tmp_path, "MigrateFunction", DATABASE_URL=own_empty_database) as function:
        function.invoke(asked)
    (answer,) = answers.bodies
    assert answer["Status"] == "FAILED"
    assert answer["Reason"] == "DuplicateTable; see /aws/lambda/MigrateFunction"


def test_stream_as_the_adapter_starts_it(tmp_path: Path, start: Function, demo_database_url: str) -> None:
    _, started, _ = start.http(event("start"))
    session = started["sessionId"]
    context = {
        "deadline": int(time.time() * 1000) + 60_000,
        "request_id": "1",
        "invoked_function_arn": "arn:aws:lambda:eu-west-1:123456789012:function:parley-stream",
    }
    headers = {
        "x-amzn-lambda-context": json.dumps(context),
        "x-amzn-request-context": json.dumps(event("stream")["requestContext"]),
    }
    settings = {"DATABASE_URL": demo_database_url, "DEMO_TOKENS_PER_SECOND": "40"}
    with streaming(tmp_path, **settings) as (url, log), httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/ready").status_code == 204
        assert client.post("/not-http", json={}).status_code == 404
        assert client.get("/chat/stream", params={"sessionId": "x" * 32}).status_code == 404
        arrivals: list[float] = []
        events: list[dict[str, Any]] = []
        decoder = Decoder()
        query = {"sessionId": session}
        with client.stream("GET", "/chat/stream", params=query, headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            for chunk in response.iter_raw():
                for one in decoder.feed(chunk):
                    events.append(json.loads(one.data))
                    arrivals.append(time.monotonic())
        assert events[0]["type"] == "start"
        assert events[-1]["type"] == "done"
        assert events[-1]["saved"]
        # It was not kept back until it was whole.
        assert arrivals[-1] - arrivals[0] > 0.5
        assert session not in log.read_text()


def test_stream_ends_before_lambda_does(tmp_path: Path, start: Function, demo_database_url: str) -> None:
    _, started, _ = start.http(event("start"))
    settings = {
        "DATABASE_URL": demo_database_url,
        "DEMO_TOKENS_PER_SECOND": "2",
        "DEADLINE_MARGIN_SECONDS": "27",
    }
    deadline = time.time() + 30
    context = json.dumps({"deadline": int(deadline * 1000)})
    with streaming(tmp_path, **settings) as (url, _), httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.get(
            f"{url}/chat/stream",
            params={"sessionId": started["sessionId"]},
            headers={"x-amzn-lambda-context": context},
        )
        assert time.time() < deadline
        last = list(Decoder().feed(answer.content))[-1]
        assert json.loads(last.data)["finishReason"] == "truncated"
