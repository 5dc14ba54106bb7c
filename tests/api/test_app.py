"""A function's application answers the same, whether its handler serves it or FastAPI documents it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from parley.api import health
from parley.api.app import create_app
from parley.api.openapi import documented_app
from parley.api.operations import Operation
from parley.api.responses import json_response
from parley.api.schemas import ChatListQuery, IdempotencyKey, StartBody, StoppedBody, UsageBody
from parley.domain.errors import InvalidRequest, NotFound
from parley.services import Services
from parley.settings import Settings, SettingsError

ORIGIN = "https://chat.example"


async def works(request: Request) -> Response:
    return json_response(UsageBody(1, 2, len(request.query_params)), 201)


async def echo(request: Request) -> Response:
    return Response(await request.body(), headers={"x-own": "yes"})


async def refuses(request: Request) -> Response:
    raise InvalidRequest("No.", field="it")


async def lacks(request: Request) -> Response:
    raise NotFound


async def teapot(request: Request) -> Response:
    raise HTTPException(418, headers={"x-own": "yes"})


async def misconfigured(request: Request) -> Response:
    raise SettingsError("IT is not set.")


async def breaks(request: Request) -> Response:
    raise ValueError


OPERATIONS = [
    *(
        Operation("GET", f"/{endpoint.__name__}", endpoint, {200: None})
        for endpoint in (works, refuses, lacks, teapot, misconfigured, breaks)
    ),
    Operation("POST", "/echo", echo, {200: None}),
]


def unused() -> Any:
    raise AssertionError


async def ask(app: Starlette, method: str, path: str, **more: Any) -> tuple[Any, ...]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.request(method, path, headers={"origin": ORIGIN}, **more)
    return response.status_code, sorted(response.headers.raw), response.content


@pytest.mark.parametrize("settings", [{}, {"allowed_origins": (ORIGIN,), "body_bytes": 10}])
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/works?a=1&b=%C3%A9", b"", 201),
        ("GET", "/wor%6Bs", b"", 201),
        ("GET", "/works/", b"", 404),
        ("GET", "//works", b"", 404),
        ("HEAD", "/works", b"", 405),
        ("PUT", "/works", b"", 405),
        ("OPTIONS", "/works", b"", 405),
        ("GET", "/echo", b"", 405),
        ("POST", "/echo", b"five!", 200),
        ("POST", "/echo", b"more than ten", None),
        ("GET", "/refuses", b"", 400),
        ("GET", "/lacks", b"", 404),
        ("GET", "/teapot", b"", 418),
        ("GET", "/misconfigured", b"", 500),
        ("GET", "/breaks", b"", 500),
        ("GET", "/nowhere", b"", 404),
    ],
)
async def test_a_handler_answers_as_the_application_that_documents_it(
    settings: dict[str, Any], method: str, path: str, body: bytes, status: int | None
) -> None:
    read = Settings(**settings)
    served = await ask(create_app(OPERATIONS, read, unused), method, path, content=body)
    documented = documented_app("Test", OPERATIONS, read, unused)
    assert await ask(documented, method, path, content=body) == served
    if status is None:
        status = 413 if settings else 200
    assert served[0] == status
    below = documented_app("Test", OPERATIONS, read, unused, prefix="/api")
    assert await ask(below, method, f"/api{path}", content=body) == served
    assert (await ask(below, method, path, content=body))[0] in (404, 413)


async def test_an_application_begins_and_ends_with_its_server() -> None:
    for make in (create_app, lambda *given, **more: documented_app("Test", *given, **more)):
        seen: list[str] = []

        @asynccontextmanager
        async def lifespan(_: Starlette, seen: list[str] = seen) -> AsyncIterator[None]:
            seen.append("begun")
            yield
            seen.append("over")

        app = make(OPERATIONS, Settings(), unused, lifespan=lifespan)
        said = asyncio.Queue[dict[str, str]]()
        for word in ("startup", "shutdown"):
            said.put_nowait({"type": f"lifespan.{word}"})

        async def send(message: Any, seen: list[str] = seen) -> None:
            seen.append(message["type"])

        await app({"type": "lifespan", "state": {}}, said.get, send)
        assert seen == ["begun", "lifespan.startup.complete", "over", "lifespan.shutdown.complete"]


async def test_a_setting_that_makes_no_sense_is_logged_and_kept_from_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def services() -> Services:
        raise SettingsError("KEY_SECRET is not set.")

    app = create_app(health.OPERATIONS, Settings(), services)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        with caplog.at_level(logging.ERROR, "parley"):
            answer = await client.get("/health")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert answer.json()["error"]["retryable"] is False
    assert "KEY_SECRET" not in answer.text
    [record] = caplog.records
    assert (record.message, vars(record)["reason"]) == ("misconfigured", "KEY_SECRET is not set.")


def test_the_document_says_of_a_route_what_its_declaration_says() -> None:
    async def start(request: Request) -> Response:
        """Begin something.

        With all that belongs to it.
        """
        raise AssertionError

    operations = [
        Operation(
            "POST", "/things", start, {201: StoppedBody}, refusals=(400,), takes=StartBody,
            query=ChatListQuery, headers={"idempotency-key": IdempotencyKey},
        ),
        Operation("GET", "/hidden", start, {204: None}, hidden=True),
        Operation("GET", "/things", start, {200: "text/event-stream", 204: None}),
    ]  # fmt: skip
    document = documented_app("Test", operations, Settings(), unused, prefix="/api").openapi()
    assert set(document["paths"]) == {"/api/things"}
    described = document["paths"]["/api/things"]["post"]
    assert described["summary"] == "Begin something."
    assert described["description"] == "With all that belongs to it."
    assert [(given["in"], given["name"], given["required"]) for given in described["parameters"]] == [
        ("query", "userId", False), ("query", "before", False), ("query", "limit", False),
        ("header", "idempotency-key", False),
    ]  # fmt: skip
    assert described["requestBody"]["required"] is True
    schemas = document["components"]["schemas"]
    assert set(schemas) >= {"StartBody", "StoppedBody", "ErrorBody", "ErrorDetail", "MessageBody"}
    assert schemas["StartBody"]["required"] == ["modelId"]
    # A query has no null: a parameter that is not required is left out.
    assert [given["schema"] for given in described["parameters"]] == [
        {"type": "string"},
        {"type": "string"},
        {"type": "integer", "minimum": 1, "maximum": 200, "default": 50},
        {"type": "string", "minLength": 1, "maxLength": 200},
    ]
    times = {name: schemas["MessageBody"]["properties"][name] for name in ("createdAt", "completedAt")}
    time = {"type": "string", "format": "date-time"}
    assert times == {"createdAt": time, "completedAt": {"anyOf": [time, {"type": "null"}]}}
    streamed = document["paths"]["/api/things"]["get"]["responses"]
    assert (set(streamed), set(streamed["200"]["content"])) == ({"200", "204"}, {"text/event-stream"})
